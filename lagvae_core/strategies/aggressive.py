"""Aggressive training of a lagging inference network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.errors import Diverged
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy
from lagvae_core.strategies.slots import Loss, Trainer, Update

__all__ = ["Aggressive"]


OUTER_ONLY = {
    "af_prior": "the prior then learns",
    "scale_vae": "factors are then recorded",
    "vamp_prior": "pseudo-inputs then learn",
}
"""Untested beside an inner loop, by what they do in the outer steps."""


class Aggressive(Strategy):
    """Before each decoder step the encoder alone takes many, until inference has caught up; later as the plain VAE.

    Source: He et al. 2019, Algorithm 1, with the constants of their published code where the paper is silent.

    - `budget` is `converge`, or a number of encoder steps (Appendix E: 10, 30, 50, 70); 0 is the plain VAE.
    - `converge` compares the mean loss per unit (word or image) of consecutive windows of `check` steps and stops at
      the first rise, or after `max_inner` - 1 steps. The paper compares over 10 iterations, the code over 15 (text)
      and 10 (images); None takes the code's.
    - While aggressive, the outer step moves the decoder only. The first inner step uses the outer batch, every later
      one a batch drawn uniformly from the stored ones, which favours sentences in small length buckets.
    - The phase ends for good by the mutual information of the validation set (`mi_batch`) after an epoch. `mi_stop`
      `text`: the first fall below the previous epoch's (which counts as 0 before the first), less `mi_tol`; `image`:
      the fifth epoch below the best so far; `paper`: the first epoch that does not rise. Near collapse the estimate is
      noise around 0, so that the `text` rule can end the phase after one epoch by chance; `mi_tol` 0.01 forgives that.
    - `clip_scope` is for the inner steps. `all` clips by the joint norm of encoder and decoder, as the code does, and
      so needs the decoder's gradient; `per_module` clips by the encoder's own norm, needs none and costs about half.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"update"})
    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Algorithm 1"

    kind: Literal["aggressive"] = "aggressive"
    budget: Annotated[
        Literal["converge"] | Annotated[int, Field(ge=0)],
        Field(description="encoder steps before each decoder step: a number, or `converge`"),
        Tunable(choices=(10, 30, 50, 70, "converge")),
    ] = "converge"
    check: Annotated[int | None, Field(ge=1, description="inner steps in one window of the stop test")] = None
    max_inner: Annotated[int, Field(ge=2, description="`converge` stops before this step")] = 100
    mi_stop: Annotated[Literal["auto", "text", "image", "paper"], Field(description="the rule that ends the phase")] = (
        "auto"
    )
    mi_tol: Annotated[float, Field(ge=0, description="nats by which MI may fall unpunished")] = 0.0
    clip_scope: Annotated[
        Literal["all", "per_module"], Field(description="whose gradient norm clips an inner step")
    ] = "all"
    allow_untested: Annotated[bool, Field(description="permit stacking with scale_vae or a learned prior")] = False

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"update": AggressiveUpdate(self, context.domain.words)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if other.kind in OUTER_ONLY and not self.allow_untested:
                yield Incompatibility(
                    "E13",
                    f"aggressive and {other.kind} are an untested combination; set aggressive.allow_untested = true to "
                    f"run it ({OUTER_ONLY[other.kind]} in outer steps only)",
                )


class AggressiveUpdate(Update):
    """The inner loop and the rule that ends it; `active` never returns once it is false."""

    def __init__(self, setting: Aggressive, words: bool) -> None:
        self._setting = setting
        self._check = setting.check or (15 if words else 10)
        self._rule = ("text" if words else "image") if setting.mi_stop == "auto" else setting.mi_stop
        self.active = setting.budget != 0
        self._previous_mi = 0.0
        self._best_mi = 0.0
        self._below_best = 0

    def __call__(self, learner: Trainer, batch: Batch, weight: float) -> Loss:
        if self.active:
            with learner.inner_loop(decoder_gradients=self._setting.clip_scope == "all"):
                self._train_encoder(learner, batch, weight)
        loss = learner.loss(batch, weight)
        learner.descend(loss, encoder=not self.active, decoder=True)
        return loss

    def _train_encoder(self, learner: Trainer, batch: Batch, weight: float) -> None:
        budget = self._setting.budget
        last_step = self._setting.max_inner - 1 if isinstance(budget, str) else budget
        window: list[Tensor] = []
        units, previous = 0, math.inf
        for step in range(1, last_step + 1):
            loss = learner.loss(batch, weight)
            learner.descend(loss, encoder=True, decoder=False, clip_scope=self._setting.clip_scope)
            if step < last_step:
                window.append(loss.total.detach() * batch.size)
                units += batch.units
                batch = learner.random_batch()
            if budget == "converge" and step % self._check == 0 and step < last_step:
                current = float(torch.stack(window).sum()) / units
                if not math.isfinite(current):
                    update = learner.decoder_steps + 1
                    raise Diverged(
                        f"the loss of the inner loop is {current} after {step} encoder steps at update {update}"
                    )
                if current > previous:
                    return
                previous, units = current, 0
                window.clear()

    def after_epoch(self, validation: Mapping[str, Any]) -> None:
        if not self.active:
            return
        mi = validation["mi_batch"]
        if self._rule == "text":
            self.active = mi >= self._previous_mi - self._setting.mi_tol
        elif self._rule == "paper":
            self.active = mi > self._previous_mi - self._setting.mi_tol
        else:
            self._below_best += mi < self._best_mi - self._setting.mi_tol
            self.active = self._below_best < 5
        self._previous_mi = mi
        self._best_mi = max(self._best_mi, mi)

    def state_dict(self) -> dict[str, Any]:
        return {
            "active": self.active,
            "previous_mi": self._previous_mi,
            "best_mi": self._best_mi,
            "below_best": self._below_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active = state["active"]
        self._previous_mi = state["previous_mi"]
        self._best_mi = state["best_mi"]
        self._below_best = state["below_best"]
