"""What several test files share: a tiny trial, its data, a checkpoint in memory and interruptions on purpose."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lagvae_core import TrialConfig, TrialRecord, train
from lagvae_core.config.trial import parse_trial
from lagvae_core.data import DataConfig, Dataset
from lagvae_core.errors import ConfigError, UserError, ValidationIssue
from lagvae_core.models.gaussian import LOG_2PI, Draw, NormalPrior, Prior, Proposal
from lagvae_core.models.lstm import LstmDecoder
from lagvae_core.studies.trained_model import TrainedModel
from lagvae_core.training.record import Progress
from lagvae_core.training.trial import Trial

TINY_DATA = {
    "kind": "synthetic",
    "examples": 64,
    "heldout": 32,
    "vocabulary": 20,
    "length": 5,
    "hidden": 8,
    "embedding": 8,
}
TINY_MODEL = {"latent_dim": 2, "hidden": 8, "embedding": 8, "init_range": 0.3}
TINY_TRAINING = {"epochs": 2, "batch_size": 16}
TINY_EVALUATION = {"iw_samples": 8, "limit": 16}
SHORT_AGGRESSIVE = {"kind": "aggressive", "max_inner": 8, "check": 3, "mi_tol": 10.0}
"""Aggressive with an inner loop of at most 7 steps, in a phase that does not end in two epochs."""


ABOUT_IMAGES = {"pixelcnn_lm"}
"""Strategies that have no place on words."""

TINY_IMAGE_MODEL = {"latent_dim": 2, "kernels": [3, 3, 3], "maps": 4, "encoder_maps": 4, "encoder_hidden": 8}


def tiny(*strategies: str | dict[str, Any], seed: int = 0, **sections: dict[str, Any]) -> TrialConfig:
    """A configuration that trains in a tenth of a second; `sections` change data, model, training, evaluation."""
    if any((s if isinstance(s, str) else s["kind"]) in ABOUT_IMAGES for s in strategies) and "data" not in sections:
        return tiny_images(*strategies, seed=seed, **sections)
    defaults = {"data": TINY_DATA, "model": TINY_MODEL, "training": TINY_TRAINING, "evaluation": TINY_EVALUATION}
    filled = {name: {**values, **sections.get(name, {})} for name, values in defaults.items()}
    return parse_trial({**filled, "strategies": list(strategies), "seed": seed})


def tiny_images(*strategies: str | dict[str, Any], seed: int = 0, **sections: dict[str, Any]) -> TrialConfig:
    """The same on 6 x 6 images: a bright square somewhere on a dark ground."""
    data = {"kind": "images", "path": str(tiny_image_file())}
    defaults = {"data": data, "model": TINY_IMAGE_MODEL, "training": TINY_TRAINING, "evaluation": TINY_EVALUATION}
    filled = {name: {**values, **sections.get(name, {})} for name, values in defaults.items()}
    return parse_trial({**filled, "strategies": list(strategies), "seed": seed})


@functools.cache
def tiny_image_file() -> Path:
    """Grey images of 6 x 6 pixels with the column of the square as label; kept for the life of the process."""
    generator, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 64), ("valid", 32), ("test", 32)):
        corners = generator.integers(0, 4, (count, 2))
        images = generator.integers(0, 40, (count, 1, 6, 6), dtype=np.uint8)
        for image, (row, column) in zip(images, corners, strict=True):
            image[0, row : row + 3, column : column + 3] = generator.integers(200, 256, (3, 3))
        arrays |= {split: images, f"{split}_labels": corners[:, 1]}
    _KEPT.append(folder := tempfile.TemporaryDirectory())
    np.savez(path := Path(folder.name, "images.npz"), **arrays)
    return path


_KEPT: list[Any] = []


@functools.cache
def dataset_of(data: DataConfig) -> Dataset:
    """The data, generated once a process and kept out of every lasting cache."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGVAE_CACHE", folder)
        return data.load()


def run(config: TrialConfig, **options: Any) -> TrialRecord:
    return train(config, dataset=dataset_of(config.data), **options)


def trial_of(config: TrialConfig) -> Trial:
    return Trial(config, dataset_of(config.data), torch.device("cpu"))


def trained_of(config: TrialConfig) -> TrainedModel:
    """The model that the trial of this configuration leaves behind."""
    trial = trial_of(config)
    trial.fit()
    return TrainedModel.of(trial)


def essence(record: TrialRecord | dict[str, Any]) -> dict[str, Any]:
    """The record as JSON, without what the clock and the machine decide."""
    values = record if isinstance(record, dict) else record.to_json()
    data = {name: value for name, value in values["config"]["data"].items() if name != "path"}
    kept = {name: value for name, value in values["cost"].items() if name.endswith("_steps")}
    curve = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in values["curve"]]
    return {**values, "config": {**values["config"], "data": data}, "curve": curve, "cost": kept}


@contextmanager
def rejects(*where: str, error: type[UserError] = ConfigError) -> Iterator[list[ValidationIssue]]:
    """A block that must end with an `error` whose issues are about `where`, in that order; gives the issues after it.

    with rejects("training.momentum") as issues:
        parse_trial({"training": {"momentum": 2}})
    assert issues[0].value == 2
    """
    issues: list[ValidationIssue] = []
    with pytest.raises(error) as caught:
        yield issues
    issues += caught.value.issues
    assert tuple(issue.where for issue in issues) == where, str(caught.value)


class MemoryCheckpoint:
    """A checkpoint store without a disk."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def load(self) -> bytes | None:
        return self.content

    def save(self, content: bytes) -> None:
        self.content = content


class InterruptionError(Exception):
    """The power cut of a test."""


class Interruptions:
    """A progress callback that raises once at each place that `wanted` names."""

    def __init__(self, wanted: Callable[[Progress], bool]) -> None:
        self.wanted = wanted
        self.seen: set[Progress] = set()

    def __call__(self, progress: Progress) -> None:
        if self.wanted(progress) and progress not in self.seen:
            self.seen.add(progress)
            raise InterruptionError


def everywhere(progress: Progress) -> bool:
    """Every update, and evaluation at every eighth example."""
    return progress.phase == "train" or progress.done % 8 == 0


def run_interrupted(
    config: TrialConfig, wanted: Callable[[Progress], bool] = everywhere, checkpoint_seconds: float = 0.0
) -> tuple[TrialRecord, set[Progress]]:
    """The record of a trial that dies at every wanted place once and is started again, and those places."""
    store, interruptions = MemoryCheckpoint(), Interruptions(wanted)
    while True:
        try:
            record = run(config, checkpoint=store, checkpoint_seconds=checkpoint_seconds, progress=interruptions)
            return record, interruptions.seen
        except InterruptionError:
            continue


class SampledPrior(NormalPrior):
    """N(0, I) whose KL is never in closed form: one number an example, or one for each dimension."""

    def __init__(self, by_dimension: bool = False) -> None:
        super().__init__()
        self._whole = not by_dimension

    def closed_form(self, q: Proposal) -> bool:
        return False

    def kl(self, q: Proposal, draw: Draw) -> torch.Tensor:
        if self._whole:
            return Prior.kl(self, q, draw)
        return (draw.log_q() + 0.5 * (draw.z_BSZ.square() + LOG_2PI)).mean(1)


def updates(
    config: TrialConfig, count: int, prepare: Callable[[Trial], None] = lambda trial: None
) -> tuple[list[float], dict[str, torch.Tensor], Trial]:
    """The losses of `count` outer updates in float64, the parameters after them, and the trial.

    `prepare` changes the trial before the first.
    """
    trial = trial_of(config)
    trial.model.double()
    prepare(trial)
    trial.model.train()
    losses = []
    for step, batch in enumerate(cycle(trial.train_batches, count)):
        weight = trial.components.kl_weight(step)
        trial.components.posterior.before_step(weight)
        loss = trial.components.update(trial.learner, batch, weight)
        trial.components.objective.after_step(loss.kl_BZ.detach())
        trial.components.posterior.after_step()
        losses.append(float(loss.total.detach()))
    return losses, dict(trial.model.named_parameters()), trial


def cycle(batches: list[Any], count: int) -> Iterable[Any]:
    return (batches[step % len(batches)] for step in range(count))


def assert_equals_plain_vae(strategy: dict[str, Any], count: int = 20) -> None:
    """A remedy at its neutral setting gives the losses and the parameters of the plain VAE, bit for bit."""
    losses, parameters, _ = updates(tiny(strategy), count)
    plain_losses, plain_parameters, _ = updates(tiny(), count)
    assert losses == plain_losses
    assert parameters.keys() == plain_parameters.keys()
    for name, value in plain_parameters.items():
        assert torch.equal(parameters[name], value), name


@torch.no_grad()
def ignore_z(decoder: LstmDecoder, model: LstmDecoder) -> None:
    """Cut both paths of z through `decoder` and give it the weights of the language model `model`."""
    assert decoder.start is not None
    decoder.start.weight.zero_()
    weights = model.state_dict()
    words = weights.pop("lstm.weight_ih_l0")
    decoder.lstm.weight_ih_l0.zero_()
    decoder.lstm.weight_ih_l0[:, : words.shape[1]].copy_(words)
    decoder.load_state_dict(weights, strict=False)


def assert_equals_sampled_vae(
    strategy: dict[str, Any],
    prepare: Callable[[Trial], None] = lambda trial: None,
    *,
    by_dimension: bool = False,
    tolerance: float = 0.0,
    count: int = 20,
) -> None:
    """The same of a remedy whose KL is by Monte Carlo, beside the plain VAE with such a KL; it may add parameters."""

    def sampled(trial: Trial) -> None:
        trial.model.prior = SampledPrior(by_dimension)

    losses, parameters, _ = updates(tiny(strategy), count, prepare)
    plain_losses, plain_parameters, _ = updates(tiny(), count, sampled)
    closed_losses, _, _ = updates(tiny(), count)
    assert plain_losses != closed_losses
    assert losses == pytest.approx(plain_losses, rel=tolerance, abs=0.0)
    for name, value in plain_parameters.items():
        torch.testing.assert_close(parameters[name], value, rtol=tolerance, atol=tolerance)
