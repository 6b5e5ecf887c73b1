"""The posterior mean space over training: rows about many examples now and then, and about one at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from lagvae_core.data import Batch
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device, posterior_columns, sequences_at_a_time
from lagvae_core.metrics.encoding import encode_split, posterior_mean
from lagvae_core.metrics.posterior_means import PosteriorMoments, moments_of
from lagvae_core.settings import FrozenConfig
from lagvae_core.training.callbacks import TrainingState, evaluation_mode

__all__ = ["PosteriorMeanRecorder", "Rows", "Snapshots"]

STEP, HALF_WIDTH = 0.25, 7.0
"""Of the first grid: coarser and smaller than a study's, since it fits itself to each posterior all the same."""

Rows = list[dict[str, Any]]


class PosteriorMeanRecorder(FrozenConfig):
    """The means of p(z|x) and q(z|x) of validation examples while a model trains.

    Source: He et al. 2019, figures 2, 3 and 6, with the intervals of their published code. A snapshot is taken before
    the first update, every `every` outer updates in the first epoch, and after each epoch; the first `examples` of the
    validation split are in it. Example number `followed` is seen after every step of an optimiser in the first
    `updates` outer updates from `updates_from` on, the inner ones of aggressive training included.
    """

    kind: Literal["posterior_means"] = "posterior_means"
    examples: Annotated[int, Field(ge=2, description="how many of the validation split, the first ones")] = 500
    every: Annotated[int, Field(ge=1, description="outer updates between snapshots in the first epoch")] = 200
    followed: Annotated[int, Field(ge=0, description="the example whose way is recorded, from 0")] = 0
    updates: Annotated[int, Field(ge=0, description="outer updates of its way; 0 records none")] = 50
    updates_from: Annotated[int, Field(ge=0, description="outer updates before its way begins")] = 0
    panels: Annotated[tuple[int, ...], Field(description="updates that are drawn; none chooses four")] = ()


class Snapshots:
    """A watcher that hands on rows as they come: `snapshot` those of one moment, `way` those of one outer update.

    Rows of a moment that was told before are told again after an interruption; they replace those of the same `step`.
    """

    def __init__(
        self,
        setting: PosteriorMeanRecorder,
        snapshot: Callable[[Rows], None],
        trajectory: Callable[[Rows], None],
    ) -> None:
        self._setting, self._snapshot, self._trajectory = setting, snapshot, trajectory
        self._last_step = -1
        self._steps: Rows = []
        self._followed: Batch | None = None
        self._p_mean: tuple[int, list[float]] | None = None

    def __call__(self, watched: TrainingState) -> None:
        setting, event = self._setting, watched.event
        if self._followed is None:
            self._followed = self._found(watched)
        first = setting.updates_from
        if first <= watched.step < first + setting.updates and event in ("start", "step"):
            self._steps.append(self._place(watched, self._followed))
        if event == "update" and self._steps:
            self._trajectory(self._steps)
            self._steps = []
        due = event in ("start", "epoch") or (
            event == "update" and watched.epoch == 1 and watched.step % setting.every == 0
        )
        if due and watched.step != self._last_step:
            self._last_step = watched.step
            self._snapshot(self._rows(watched))

    def _found(self, watched: TrainingState) -> Batch:
        """The followed example. ConfigError if there is none, or if the model has no z, before anything is trained."""
        split, number = watched.dataset.valid, self._setting.followed
        issues = []
        if number >= len(split):
            message = f"must be one of the {len(split)} validation examples, counted from 0"
            issues.append(ValidationIssue("posterior_means:followed", message, value=number))
        examples = on_device(split.limit(number + 1), 1, watched.device)
        with evaluation_mode(watched.model):
            dimensions = watched.model.infer(examples[0]).q.size[1]
        if dimensions == 0:
            stack = "+".join(strategy.kind for strategy in watched.config.strategies)
            issues.append(
                ValidationIssue("--watch posterior_means", "must watch a model with a latent variable", value=stack)
            )
        if issues:
            raise ConfigError(issues)
        return next(example for example in examples if int(example.index_B) == number)

    def _rows(self, watched: TrainingState) -> Rows:
        """One snapshot; `kl` and `mi` are those of its examples, the same in each row."""
        split = watched.dataset.valid.limit(self._setting.examples)
        seed = watched.config.evaluation.seed
        with evaluation_mode(watched.model):
            infer = watched.components.refine(watched.model, seed)
            encoded = encode_split(watched.model, on_device(split, ENCODE_BATCH, watched.device), seed, infer=infer)
            groups = [batch.index_B for batch in split.batches(watched.config.evaluation.mi_batch_size)]
            columns = posterior_columns(watched.model, encoded, groups)
            moments = _moments(watched, on_device(split, 1, watched.device))
        place = {"run_id": watched.run_id, "step": watched.step, "epoch": watched.epoch}
        whole = {"kl": columns["kl"], "mi": columns["mi"]}
        values = zip(moments.mean_NZ.tolist(), moments.sd_NZ.tolist(), encoded.mean_NZ.tolist(), strict=True)
        return [
            {**place, "example": example, "p_mean": p_mean, "p_sd": p_sd, "q_mean": q_mean, **whole}
            for example, (p_mean, p_sd, q_mean) in enumerate(values)
        ]

    def _place(self, watched: TrainingState, example: Batch) -> dict[str, Any]:
        """Where the followed example is now; p(z|x) moves with the decoder alone."""
        seed = watched.config.evaluation.seed
        with evaluation_mode(watched.model):
            q = watched.components.refine(watched.model, seed)(example).q
            q_mean, _ = posterior_mean(q, example.index_B, seed)
            if self._p_mean is None or self._p_mean[0] != watched.decoder_steps:
                self._p_mean = watched.decoder_steps, _moments(watched, [example]).mean_NZ[0].tolist()
        return {
            "run_id": watched.run_id,
            "step": watched.step + (watched.event == "step"),
            "encoder_steps": watched.encoder_steps,
            "decoder_steps": watched.decoder_steps,
            "example": self._setting.followed,
            "p_mean": self._p_mean[1],
            "q_mean": q_mean[0].tolist(),
        }


def _moments(watched: TrainingState, examples: Sequence[Batch]) -> PosteriorMoments:
    seed = watched.config.evaluation.seed
    return moments_of(
        watched.model,
        examples,
        seed,
        infer=watched.components.refine(watched.model, seed),
        step=STEP,
        half_width=HALF_WIDTH,
        sequences=sequences_at_a_time(watched.device),
    )
