"""Estimate of the cost of a run from a few updates, for arms that have no finished run yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import Diverged
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.runtime import choose_device, torch_threads
from lagvae_core.training.measurement import Validation
from lagvae_core.training.trial import Trial
from sweeps.execution.failures import describe_failure
from sweeps.search.budget import RunCost
from sweeps.search.plan import Plan, Run
from sweeps.search.scheduler import RunScheduler
from sweeps.spec.sections import ResourceSpec

__all__ = ["MAX_SECONDS", "MAX_UPDATES", "CostEstimate", "estimate_cost", "first_runs"]

MAX_UPDATES = 20
"""Number of training batches after which the training of an arm ends, besides the first one, which is not timed."""

MAX_SECONDS = 10.0
"""Time after which it ends earlier [s]. It ends after the first two batches at the earliest."""

SAMPLE_SECONDS = 0.5
"""Time that a sample must take before the validation or the final measurement is extrapolated from it [s]."""


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of one run.

    Args:
        updates: Number of timed training batches.
        seconds_train: Time of training, if it takes all epochs [s].
        seconds_validate: Time of the validations after all epochs [s].
        seconds_evaluate: Time of the final measurement [s].
        gradient_evaluations: Number of encoder updates plus number of decoder updates.
    """

    updates: int
    seconds_train: float
    seconds_validate: float
    seconds_evaluate: float
    gradient_evaluations: float

    @property
    def cost(self) -> RunCost:
        """The total cost."""
        seconds = self.seconds_train + self.seconds_validate + self.seconds_evaluate
        return RunCost(seconds, self.gradient_evaluations, estimated=True)


def first_runs(plan: Plan, arms: Collection[str]) -> dict[str, Run]:
    """Return the first missing run of each of `arms`. Arms that have none, or none within the budget, are left out."""
    scheduler = RunScheduler(plan)
    runs: dict[str, Run] = {}
    while len(runs) < len(arms) and (run := scheduler.next_run()) is not None:
        if run.arm in arms:
            runs.setdefault(run.arm, run)
    return runs


def estimate_cost(config: TrialConfig, dataset: Dataset, resources: ResourceSpec) -> CostEstimate | str:
    """Estimate the cost of a run by training for a moment in this process. Nothing is written.

    A GPU is used if the resources include one and this machine has one.

    Args:
        config: Configuration of the run.
        dataset: Its data.
        resources: The resources of a run.

    Returns:
        The estimate, or the reason why there is none.
    """
    device = choose_device("auto" if resources.gpus else "cpu")
    try:
        with torch_threads(resources.cpus):
            return _estimate(Trial(config, dataset, device), _Clock(device))
    except Exception as error:
        # The error only prevents an estimate. If a run fails in the same way, its row contains the full error.
        return str(describe_failure(error)["stop_reason"])


class _Clock:
    """Reads the time once all work on a device is done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def extrapolate(self, work: Callable[[int], object], size: int, first: int) -> float:
        """Return the estimated time of `work(size)` [s], from smaller sizes that grow until the time is sufficient."""
        sample = min(first, size)
        while True:
            start = self.now()
            work(sample)
            seconds = self.now() - start
            if sample == size or seconds >= SAMPLE_SECONDS:
                return seconds * size / sample
            sample = min(4 * sample, size)


def _estimate(trial: Trial, clock: _Clock) -> CostEstimate:
    updates, seconds = _train(trial, clock)
    learner, epochs = trial.learner, trial.config.epochs
    batches = epochs * len(trial.order)
    dataset: Any = trial.dataset

    def validate(examples: int) -> None:
        validation = Validation(trial.config, replace(dataset, valid=dataset.valid.limit(examples)), trial.device)
        validation.columns(trial.model, validation.encode(trial.model, trial.components))

    evaluation = trial.config.evaluation
    split = getattr(dataset, evaluation.split)
    examples = min(len(split), evaluation.limit or len(split))

    def measure(draws: int) -> None:
        samples = max(1, min(evaluation.iw_samples, draws // 8))
        limit = max(2, min(examples, draws // samples))
        short = evaluation.model_copy(update={"iw_samples": samples, "limit": limit})
        part = replace(dataset, train=dataset.train.limit(limit))  # some metrics encode the training split
        evaluate(trial.model, trial.components, part, split, short, trial.device)

    return CostEstimate(
        updates=updates,
        seconds_train=batches * seconds,
        seconds_validate=epochs * clock.extrapolate(validate, len(dataset.valid), first=32),
        seconds_evaluate=clock.extrapolate(measure, examples * evaluation.iw_samples, first=32),
        gradient_evaluations=batches * (learner.encoder_steps + learner.decoder_steps) / trial.position,
    )


def _train(trial: Trial, clock: _Clock) -> tuple[int, float]:
    """Train for a moment. Return the number of timed batches and their mean time [s].

    The first batch is not timed unless it is the only one, because it also allocates memory and optimiser states.
    """
    times = [clock.now()]
    try:
        for _ in trial.updates():
            times.append(clock.now())
            if len(times) > 2 and (len(times) > MAX_UPDATES + 1 or times[-1] - times[0] > MAX_SECONDS):
                break
    except Diverged:
        pass  # the time until then counts
    timed = times[1:] if len(times) > 2 else times
    return len(timed) - 1, (timed[-1] - timed[0]) / (len(timed) - 1)
