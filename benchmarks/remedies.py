"""Measure the cost of a remedy: the time of an outer update relative to one of the plain VAE.

    python benchmarks/remedies.py [--size synthetic|yahoo] [--arms ARM ...] [--rounds N] [--threads N] [--json FILE]

An arm has the syntax of `lagvae trial --arm`: `mae`, `aggressive:budget=10`, `bn_vae+kl_linear_epoch`. The default is
each strategy of the catalogue alone, without those that are invalid on words. The sizes are those of steps.py, with two
latent dimensions at `synthetic`, on random tokens. An update is everything that a trial does between two batches.

In each round every arm runs several updates in a row; the order of the arms rotates. The first update of an arm is not
timed, because in a trial an update follows one of its own kind. A second plain VAE runs too; its ratio shows how
reliable the machine is. A ratio is the median over rounds of (arm / plain VAE in the same round), with the standard
error of that median. On one CPU thread the processor time is measured, which other processes disturb less. For arms
with several encoder steps per update, the ratio per encoder step is shown too. An update of `aggressive` includes its
inner loop, so use a small `budget` where steps are slow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steps import timed

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import SPECIALS, TokenDataset, TokenSplit, Vocabulary
from lagvae_core.data.text.tokens import BOS, EOS
from lagvae_core.errors import ConfigError
from lagvae_core.runtime import keep_freed_memory
from lagvae_core.strategies import CATALOGUE
from lagvae_core.training.trial import Trial
from sweeps.spec.arm_syntax import parse_arm_text

PLAIN, CONTROL = "vae", "vae again"


@dataclass(frozen=True)
class Size:
    batch: int
    predicted: int
    vocabulary: int
    model: dict[str, int]
    rounds: int
    in_a_row: int

    def dataset(self, batches: int = 4) -> TokenDataset:
        draw = np.random.default_rng(0)
        words = draw.integers(len(SPECIALS), self.vocabulary, (batches * self.batch, self.predicted - 1))
        split = TokenSplit.of([BOS, *row, EOS] for row in words.tolist())
        vocabulary = Vocabulary((*SPECIALS, *(f"w{number}" for number in range(len(SPECIALS), self.vocabulary))))
        return TokenDataset.of(split, split.limit(self.batch), split.limit(self.batch), vocabulary)


SIZES = {
    "synthetic": Size(16, 11, 1004, {"latent_dim": 2, "hidden": 50, "embedding": 50}, 200, 4),
    "yahoo": Size(32, 80, 20001, {"latent_dim": 32, "hidden": 1024, "embedding": 512}, 5, 1),
}


class Arm:
    """A trial that runs one outer update at each call."""

    def __init__(self, text: str, size: Size, dataset: TokenDataset, device: torch.device) -> None:
        training = {"batch_size": size.batch}
        config = parse_trial({"strategies": parse_arm_text(text), "model": size.model, "training": training})
        self.trial = Trial(config, dataset, device)
        self.trial.model.train()
        self.updates = 0
        self.seconds: list[float] = []

    def __call__(self) -> None:
        self.trial.train_batch(self.trial.train_batches[self.updates % len(self.trial.train_batches)])
        self.trial.history.clear()
        self.updates += 1

    @property
    def encoder_steps(self) -> float:
        """Mean number of encoder steps per outer update."""
        return self.trial.learner.encoder_steps / self.updates


def text_strategies() -> list[str]:
    """Return the kinds of the catalogue that are valid on words."""
    kinds = []
    for kind in CATALOGUE:
        with contextlib.suppress(ConfigError):
            parse_trial({"strategies": [kind]})
            kinds.append(kind)
    return kinds


def processor_time(arm: Arm, updates: int) -> float:
    started = time.process_time()
    for _ in range(updates):
        arm()
    return time.process_time() - started


def wall_time(arm: Arm, updates: int) -> float:
    return sum(timed(arm, arm.trial.device) for _ in range(updates))


def median_with_error(values: list[float]) -> tuple[float, float]:
    """Return the median and its standard error, for values with a nearly normal distribution."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, 1.25 * (high - low) / 1.35 / len(values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="synthetic")
    parser.add_argument("--arms", nargs="+", default=text_strategies(), metavar="ARM")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, size = torch.device(options.device), SIZES[options.size]
    rounds = options.rounds or size.rounds
    kept = keep_freed_memory()
    dataset = size.dataset()
    names = [PLAIN, CONTROL, *(name for name in options.arms if name != PLAIN)]
    arms = {name: Arm(PLAIN if name == CONTROL else name, size, dataset, device) for name in names}
    warm_up = 1 + rounds // 20
    clock = processor_time if device.type == "cpu" and options.threads == 1 else wall_time
    for turn in range(warm_up + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            arms[name]()
            seconds = clock(arms[name], size.in_a_row)
            if turn >= warm_up:
                arms[name].seconds.append(seconds / size.in_a_row)
    what = f"{rounds} rounds of {size.in_a_row}, {device}, {options.threads} threads, freed memory kept: {kept}"
    print(f"{options.size}, {what}")
    print(f"{'':<34}{'ms':>10}{'vae = 1':>18}{'encoder steps':>15}{'each, vae = 1':>15}")
    rows: list[dict[str, Any]] = []
    for name, arm in arms.items():
        ratio, error = median_with_error([a / b for a, b in zip(arm.seconds, arms[PLAIN].seconds, strict=True)])
        milliseconds, inner = 1e3 * statistics.median(arm.seconds), arm.encoder_steps
        each = f"{inner:>15.1f}{ratio / inner:>15.2f}" if inner > 1 else ""
        print(f"{name:<34}{milliseconds:>10.2f}{ratio:>10.3f} ±{error:>6.3f}{each}")
        rows.append({"arm": name, "ms": milliseconds, "ratio": ratio, "error": error, "encoder_steps": inner})
    if options.json:
        options.json.write_text(json.dumps({"size": options.size, "rounds": rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
