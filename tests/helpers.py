"""Helpers for several test files: a tiny trial, its data, a checkpoint in memory and deliberate interruptions."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lagvae_core import TrialConfig, TrialRecord, testing, train
from lagvae_core.config.trial import parse_trial
from lagvae_core.data import Batch, DataConfig, Dataset
from lagvae_core.errors import ConfigError, UserError, ValidationIssue
from lagvae_core.models.gaussian import LOG_2PI, Draw, NormalPrior, Prior, Proposal
from lagvae_core.models.lstm import LstmDecoder
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies.trained_model import TrainedModel
from lagvae_core.testing import TINY_DATA, TINY_MODELS, TINY_STRATEGIES, TINY_VECTORS, tiny_trial
from lagvae_core.training.checkpoint import MemoryCheckpoint
from lagvae_core.training.record import Progress
from lagvae_core.training.trial import Trial

essence, tiny_image_file = testing.essence, testing.tiny_image_file

SHORT_AGGRESSIVE = {"kind": "aggressive", **TINY_STRATEGIES["aggressive"]}
"""Aggressive training with an inner loop of at most 7 steps, in a phase that lasts longer than two epochs."""

TINY_MODEL, TINY_VECTOR_MODEL = TINY_MODELS["synthetic"], TINY_MODELS["vectors"]


def _accepted(kind: str, data: dict[str, Any]) -> bool:
    try:
        parse_trial({"data": data, "strategies": [kind]})
    except ConfigError:
        return False
    return True


IMAGE_STRATEGIES = frozenset(
    kind
    for kind in CATALOGUE
    if not _accepted(kind, TINY_DATA) and _accepted(kind, {"kind": "images", "path": "images.npz"})
)
"""Strategies for images only."""

VECTOR_STRATEGIES = frozenset(
    kind
    for kind in CATALOGUE
    if kind not in IMAGE_STRATEGIES and not _accepted(kind, TINY_DATA) and _accepted(kind, TINY_VECTORS)
)
"""Strategies for vectors only."""


def tiny(*strategies: str | dict[str, Any], seed: int = 0, **sections: dict[str, Any]) -> TrialConfig:
    """Return a configuration that trains in a tenth of a second, on images or vectors if a strategy is only for these.

    Args:
        strategies: The strategies, by kind or with their fields.
        seed: Seed of the trial.
        sections: Changed fields of the sections data, model, training and evaluation.
    """
    kinds = {strategy if isinstance(strategy, str) else strategy["kind"] for strategy in strategies}
    only = {"images": IMAGE_STRATEGIES, "vectors": VECTOR_STRATEGIES} if "data" not in sections else {}
    on = next((name for name, restricted in only.items() if kinds & restricted), "synthetic")
    return tiny_trial(*strategies, seed=seed, on=on, **sections)


tiny_images = functools.partial(tiny_trial, on="images")
tiny_vectors = functools.partial(tiny_trial, on="vectors")


@functools.cache
def dataset_of(data: DataConfig) -> Dataset:
    """Return the data. They are generated once per process and are not written to the user's cache."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGVAE_CACHE", folder)
        return data.load()


def run(config: TrialConfig, **options: Any) -> TrialRecord:
    """Train `config`; `options` are arguments of `train`."""
    return train(config, dataset=dataset_of(config.data), **options)


def trial_of(config: TrialConfig) -> Trial:
    """Return a trial before its first update, on the CPU."""
    return Trial(config, dataset_of(config.data), torch.device("cpu"))


def trained_of(config: TrialConfig) -> TrainedModel:
    """Train `config` and return its model."""
    trial = trial_of(config)
    trial.fit()
    return TrainedModel.of(trial)


@contextmanager
def rejects(*where: str, error: type[UserError] = ConfigError) -> Iterator[list[ValidationIssue]]:
    """Context manager. The block must raise `error` with exactly one issue for each `where`, in this order.

    It yields a list that holds the issues after the block:

        with rejects("training.momentum") as issues:
            parse_trial({"training": {"momentum": 2}})
        assert issues[0].value == 2
    """
    issues: list[ValidationIssue] = []
    with pytest.raises(error) as caught:
        yield issues
    issues += caught.value.issues
    assert tuple(issue.where for issue in issues) == where, str(caught.value)


class InterruptionError(Exception):
    """A deliberate interruption of a trial."""


class Interruptions:
    """A progress callback that raises once at each place that `selected` accepts.

    Attributes:
        seen: The places at which it has raised.
    """

    def __init__(self, selected: Callable[[Progress], bool]) -> None:
        self.selected = selected
        self.seen: set[Progress] = set()

    def __call__(self, progress: Progress) -> None:
        if self.selected(progress) and progress not in self.seen:
            self.seen.add(progress)
            raise InterruptionError


def everywhere(progress: Progress) -> bool:
    """Select every update, and every eighth example of an evaluation."""
    return progress.phase == "train" or progress.done % 8 == 0


def run_interrupted(
    config: TrialConfig, selected: Callable[[Progress], bool] = everywhere, checkpoint_seconds: float = 0.0
) -> tuple[TrialRecord, set[Progress]]:
    """Train with one interruption at each selected place, resuming each time.

    Returns:
        The record, and the places of the interruptions.
    """
    store, interruptions = MemoryCheckpoint(), Interruptions(selected)
    while True:
        try:
            record = run(config, checkpoint=store, checkpoint_seconds=checkpoint_seconds, progress=interruptions)
            return record, interruptions.seen
        except InterruptionError:
            continue


class SampledPrior(NormalPrior):
    """N(0, I) with a sampled KL in place of the closed form.

    Args:
        by_dimension: Return one KL per dimension, not one per example.
    """

    def __init__(self, by_dimension: bool = False) -> None:
        super().__init__()
        self._kl_by_dimension = by_dimension

    def closed_form(self, q: Proposal) -> bool:
        return False

    def kl(self, q: Proposal, draw: Draw) -> torch.Tensor:
        if not self._kl_by_dimension:
            return Prior.kl(self, q, draw)
        return (draw.log_q() + 0.5 * (draw.z_BSZ.square() + LOG_2PI)).mean(1)


def updates(
    config: TrialConfig, count: int, prepare: Callable[[Trial], None] = lambda trial: None
) -> tuple[list[float], dict[str, torch.Tensor], Trial]:
    """Do `count` outer updates in float64, on the training batches in stored order.

    Args:
        config: Configuration of the trial.
        count: Number of updates.
        prepare: Changes the trial before the first update.

    Returns:
        The losses, the parameters after the last update, and the trial.
    """
    trial = trial_of(config)
    trial.model.double()
    prepare(trial)
    trial.model.train()
    for batch in cycle(trial.train_batches, count):
        trial.train_batch(batch)
    losses = [float(terms[0]) for terms in trial.history]
    return losses, dict(trial.model.named_parameters()), trial


def cycle(batches: Sequence[Batch], count: int) -> Iterator[Batch]:
    """Yield `count` batches, starting again at the first after the last."""
    return itertools.islice(itertools.cycle(batches), count)


def assert_equals_plain_vae(strategy: dict[str, Any], count: int = 20) -> None:
    """Assert that a strategy with neutral options gives the losses and parameters of the plain VAE, bit for bit."""
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
    """Assert that a strategy with a sampled KL equals the plain VAE with a sampled KL; it may add parameters.

    Args:
        strategy: The strategy with neutral options.
        prepare: Changes its trial before the first update.
        by_dimension: Sample the KL of the plain VAE by dimension.
        tolerance: Relative and absolute tolerance of losses and parameters.
        count: Number of updates.
    """

    def sample_kl(trial: Trial) -> None:
        trial.model.prior = SampledPrior(by_dimension)

    losses, parameters, _ = updates(tiny(strategy), count, prepare)
    plain_losses, plain_parameters, _ = updates(tiny(), count, sample_kl)
    closed_losses, _, _ = updates(tiny(), count)
    assert plain_losses != closed_losses
    assert losses == pytest.approx(plain_losses, rel=tolerance, abs=0.0)
    for name, value in plain_parameters.items():
        torch.testing.assert_close(parameters[name], value, rtol=tolerance, atol=tolerance)
