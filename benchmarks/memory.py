"""Measure the memory of the largest tasks: a text of a million sentences, nll_iw at Yahoo's size, MI over a split.

    python benchmarks/memory.py text|nll_iw|mi|all [--sentences N] [--samples K ...] [--json FILE]

Each line is measured in a new process. `MiB` is the increase of its peak resident set after all imports (for nll_iw and
mi, also after model and data are built). Pages mapped from the cache count, although processes share them. Seconds
depend on the machine; the bounds should hold anywhere.

`text`: sentences of 10 words on average from a vocabulary of 20,000 under Zipf's law, in two classes. `cold`: nothing
is cached; `warm`: the text is in the cache. `nll_iw`: 32 latent dimensions, hidden 1,024, embedding 512, vocabulary
20,001, sentences of 80 predicted tokens, a random model. `mi`: 10,000 examples with 32 latent dimensions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lagvae_core.data import BOS, EOS, TextData, TextDomain, TokenBatch
from lagvae_core.evaluation.evaluate import examples_at_a_time, sequences_at_a_time
from lagvae_core.metrics.information import mutual_information, mutual_information_within
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import Streams
from lagvae_core.runtime import peak_resident_bytes
from lagvae_core.strategies.slots import TrainingComponents

LATENT, VOCABULARY, PREDICTED = 32, 20_001, 80


def write_text(folder: Path, sentences: int) -> None:
    """Write `sentences` lines of training text, and a hundredth as many for each of valid and test, piece by piece."""
    random = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(20_000)], dtype=object)
    cumulative = np.cumsum(1.0 / np.arange(1, len(words) + 1))
    for split, lines in (("train", sentences), ("valid", sentences // 100), ("test", sentences // 100)):
        with (folder / f"{split}.txt").open("w") as file:
            for start in range(0, lines, 10_000):
                for _ in range(min(10_000, lines - start)):
                    drawn = np.searchsorted(cumulative, random.random(random.integers(2, 19)) * cumulative[-1])
                    file.write(f"{int(drawn[0]) % 2}\t{' '.join(words[drawn])}\n")


def load(folder: str) -> Callable[[], object]:
    return TextData(path=folder).load


def weigh(samples: int, examples: int) -> Callable[[], object]:
    config = LstmModel(latent_dim=LATENT, hidden=1024, embedding=512)
    components, domain = TrainingComponents(), TextDomain(VOCABULARY)
    decoder = config.decoder(domain, Streams(0)["dropout"], components.options(config))
    model = Vae(config.encoder(domain, None), decoder, components.posterior, components.prior).eval()
    cpu = torch.device("cpu")
    tokens = torch.randint(4, VOCABULARY, (examples, PREDICTED + 1))
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    at_a_time = examples_at_a_time(cpu)
    batches = [
        TokenBatch(tokens[n : n + at_a_time], torch.arange(n, min(n + at_a_time, examples)))
        for n in range(0, examples, at_a_time)
    ]
    weights = {"nll_iw": proposal_weight(model)}
    return lambda: importance_weighted(model, batches, samples, 0, weights, sequences=sequences_at_a_time(cpu))


def inform(examples: int) -> Callable[[], object]:
    q = Gaussian(torch.randn(examples, LATENT), torch.randn(examples, LATENT) - 2.0)
    noise = torch.randn(examples, LATENT)
    groups = list(torch.arange(examples).split(32))
    return lambda: (mutual_information(q, noise), mutual_information_within(q, noise, groups))


TASKS: dict[str, Callable[..., Callable[[], object]]] = {"load": load, "weigh": weigh, "inform": inform}


def measure(task: str, arguments: list[Any]) -> None:
    """Run one task and print its seconds and bytes as JSON."""
    torch.set_num_threads(1)
    run = TASKS[task](*arguments)
    before, started = peak_resident_bytes(), time.perf_counter()
    run()
    print(json.dumps({"seconds": time.perf_counter() - started, "bytes": peak_resident_bytes() - before}))


def measured(what: str, bound: int, task: str, *arguments: Any, **environment: str) -> dict[str, Any]:
    """Run a task in a new process, print its line of the table and return it."""
    command = [sys.executable, __file__, "measure", task, json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    row = {"what": what, "bound": bound, **json.loads(done.stdout)}
    verdict = "" if row["bytes"] <= bound * 2**20 else "  ABOVE THE BOUND"
    print(f"{what:<48}{row['seconds']:>10.1f}{row['bytes'] / 2**20:>10.0f}{bound:>10}{verdict}", flush=True)
    return row


def text(sentences: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder), sentences)
        bound = 100 + 100 * sentences // 1_000_000
        return [
            measured(f"text, {sentences:,} sentences, {state}", bound, "load", folder, LAGVAE_CACHE=f"{folder}/cache")
            for state in ("cold", "warm")
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["text", "nll_iw", "mi", "all"])
    parser.add_argument("--sentences", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{'':<48}{'s':>10}{'MiB':>10}{'bound':>10}")
    rows = []
    if options.what in ("text", "all"):
        rows += text(options.sentences)
    if options.what in ("nll_iw", "all"):
        for samples in options.samples:
            rows.append(measured(f"nll_iw, 1 example, {samples} samples", 2048, "weigh", samples, 1))
        rows.append(measured(f"nll_iw, 4 examples, {options.samples[0]} samples", 2048, "weigh", options.samples[0], 4))
    if options.what in ("mi", "all"):
        rows += [measured(f"mi and mi_batch, {n:,} examples", 500, "inform", n) for n in (1_000, 10_000)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main()
