"""Posterior means during training: snapshots of many examples at intervals, and of one example at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from lagvae_core.data import Batch
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device, sequences_at_a_time
from lagvae_core.metrics.encoding import encode_split, posterior_mean
from lagvae_core.metrics.posterior import posterior_columns
from lagvae_core.metrics.posterior_means import PosteriorMoments, moments_of
from lagvae_core.settings import FrozenConfig
from lagvae_core.training.callbacks import TrainingState, evaluation_mode

__all__ = ["PosteriorMeanRecorder", "Rows", "Snapshots"]

STEP, HALF_WIDTH = 0.25, 7.0
"""Step and half-width of the first grid, in standard deviations of the prior.

To save time, this grid is coarser than the first grid of the study. It is then adapted to each posterior.
"""

Rows = list[dict[str, Any]]
"""Rows of a table."""


class PosteriorMeanRecorder(FrozenConfig):
    """The means of p(z|x) and q(z|x) of validation examples while a model trains.

    Source: He et al. 2019, figures 2, 3 and 6, with the intervals of their published code. A snapshot holds the
    means of the first `examples` of the validation split. It is taken before the first update, every `every` outer
    updates in the first epoch, and after each epoch. An outer update is one optimiser step on the main objective,
    together with the inner encoder steps before it. The trajectory holds the means of the example with index `followed`
    after every optimiser step, including the inner encoder steps of aggressive training. It begins after `updates_from`
    outer updates and covers `updates` outer updates.
    """

    kind: Literal["posterior_means"] = "posterior_means"
    examples: Annotated[int, Field(ge=2, description="number of examples, from the start of the validation split")] = (
        500
    )
    every: Annotated[int, Field(ge=1, description="number of outer updates between snapshots in the first epoch")] = 200
    followed: Annotated[int, Field(ge=0, description="index of the example of the trajectory, from 0")] = 0
    updates: Annotated[
        int, Field(ge=0, description="number of outer updates in the trajectory; 0 for no trajectory")
    ] = 50
    updates_from: Annotated[int, Field(ge=0, description="number of outer updates before the trajectory begins")] = 0
    panels: Annotated[
        tuple[int, ...], Field(description="outer updates at which the means are drawn; if empty, four are chosen")
    ] = ()


class Snapshots:
    """A training callback that computes rows of posterior means and passes them on.

    After an interruption, the rows of some events are computed again. They should replace the earlier rows with the
    same `step`.

    Args:
        config: Which means are recorded, and when.
        snapshot: Called with the rows of each snapshot.
        trajectory: Called with the rows of the trajectory at the end of each outer update.
    """

    def __init__(
        self,
        config: PosteriorMeanRecorder,
        snapshot: Callable[[Rows], None],
        trajectory: Callable[[Rows], None],
    ) -> None:
        self._config, self._snapshot, self._trajectory = config, snapshot, trajectory
        self._last_step = -1
        self._steps: Rows = []
        self._followed: Batch | None = None
        self._p_mean: tuple[int, list[float]] | None = None

    def __call__(self, state: TrainingState) -> None:
        config, event = self._config, state.event
        if self._followed is None:
            self._followed = self._followed_example(state)
        first = config.updates_from
        if first <= state.step < first + config.updates and event in ("start", "step"):
            self._steps.append(self._trajectory_row(state, self._followed))
        if event == "update" and self._steps:
            self._trajectory(self._steps)
            self._steps = []
        due = event in ("start", "epoch") or (event == "update" and state.epoch == 1 and state.step % config.every == 0)
        if due and state.step != self._last_step:
            self._last_step = state.step
            self._snapshot(self._snapshot_rows(state))

    def _followed_example(self, state: TrainingState) -> Batch:
        """Return the example of the trajectory. Raise a ConfigError if it does not exist or the model has no z."""
        split, number = state.dataset.valid, self._config.followed
        issues = []
        if number >= len(split):
            message = f"must be less than {len(split)}, the number of validation examples"
            issues.append(ValidationIssue("posterior_means:followed", message, value=number))
        examples = on_device(split.limit(number + 1), 1, state.device)
        with evaluation_mode(state.model):
            dimensions = state.model.infer(examples[0]).q.size[1]
        if dimensions == 0:
            stack = "+".join(strategy.kind for strategy in state.config.strategies)
            message = f"needs a model with a latent variable, but {stack} has none"
            issues.append(ValidationIssue("--watch posterior_means", message, "Leave out --watch."))
        if issues:
            raise ConfigError(issues)
        return next(example for example in examples if int(example.index_B) == number)

    def _snapshot_rows(self, state: TrainingState) -> Rows:
        """Return one row per example; `kl` and `mi` are computed over all examples and are the same in each row."""
        split = state.dataset.valid.limit(self._config.examples)
        seed = state.config.evaluation.seed
        with evaluation_mode(state.model):
            infer = state.components.refine(state.model, seed)
            encoded = encode_split(state.model, on_device(split, ENCODE_BATCH, state.device), seed, infer=infer)
            groups = [batch.index_B for batch in split.batches(state.config.evaluation.mi_batch_size)]
            columns = posterior_columns(state.model, encoded, groups)
            moments = _moments(state, on_device(split, 1, state.device))
        place = {"run_id": state.run_id, "step": state.step, "epoch": state.epoch}
        whole = {"kl": columns["kl"], "mi": columns["mi"]}
        values = zip(moments.mean_NZ.tolist(), moments.sd_NZ.tolist(), encoded.mean_NZ.tolist(), strict=True)
        return [
            {**place, "example": example, "p_mean": p_mean, "p_sd": p_sd, "q_mean": q_mean, **whole}
            for example, (p_mean, p_sd, q_mean) in enumerate(values)
        ]

    def _trajectory_row(self, state: TrainingState, example: Batch) -> dict[str, Any]:
        """Return the current means of the followed example. p(z|x) changes only if the decoder has changed."""
        seed = state.config.evaluation.seed
        with evaluation_mode(state.model):
            q = state.components.refine(state.model, seed)(example).q
            q_mean, _ = posterior_mean(q, example.index_B, seed)
            if self._p_mean is None or self._p_mean[0] != state.decoder_steps:
                self._p_mean = state.decoder_steps, _moments(state, [example]).mean_NZ[0].tolist()
        return {
            "run_id": state.run_id,
            "step": state.step + (state.event == "step"),
            "encoder_steps": state.encoder_steps,
            "decoder_steps": state.decoder_steps,
            "example": self._config.followed,
            "p_mean": self._p_mean[1],
            "q_mean": q_mean[0].tolist(),
        }


def _moments(state: TrainingState, examples: Sequence[Batch]) -> PosteriorMoments:
    seed = state.config.evaluation.seed
    return moments_of(
        state.model,
        examples,
        seed,
        infer=state.components.refine(state.model, seed),
        step=STEP,
        half_width=HALF_WIDTH,
        sequences=sequences_at_a_time(state.device),
    )
