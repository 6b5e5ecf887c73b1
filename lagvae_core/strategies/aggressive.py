"""Aggressive training of a lagging inference network.

An outer update is one optimiser step on the main objective, as opposed to the inner steps that train the encoder alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.errors import Diverged
from lagvae_core.settings import AddedField, Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Loss, Trainer, Update

__all__ = ["Aggressive"]


class Aggressive(Strategy):
    """The encoder takes many steps before each decoder step until inference has caught up; then plain training follows.

    Source: He et al. 2019, Algorithm 1, with constants from the published code where the paper gives none.

    - `budget` is `converge` or a number of encoder steps (Appendix E: 10, 30, 50, 70); 0 is the plain VAE.
    - `converge` compares the mean loss per unit (word, pixel or feature) of consecutive windows of `check` steps and
      stops at the first increase, or after `max_inner` - 1 steps. A window has 10 steps in the paper; in the code it
      has 15 steps for text and 10 for images, which are the defaults of `check`; vectors are treated like images.
    - In the aggressive phase, the outer update changes the decoder only. The first inner step uses the batch of the
      outer update. With `inner_batches` `stored`, every later inner step uses a batch drawn uniformly from all stored
      batches, so examples in small batches are drawn more often; this is the published code for text. With `fresh`, it
      uses new examples of the training set, drawn without replacement; this is the published code for images, and
      available for images and vectors, whose examples have one shape.
    - The aggressive phase ends permanently when the mutual information of the validation set (`mi_batch`) meets the
      criterion `mi_stop` after an epoch. `text`: the value is below the value of the previous epoch minus `mi_tol`.
      `image`: in five epochs the value has been below the best value so far minus `mi_tol`. `paper`: the value is not
      above the value of the previous epoch minus `mi_tol`. Before the first epoch both reference values are 0. `auto`
      is `text` for text and `image` for images and vectors. Near collapse the estimate is noise around 0, so with
      `text` the phase can end after one epoch by chance; `mi_tol` 0.01 prevents this.
    - `clip_scope` applies to the inner steps. `all` clips by the joint gradient norm of encoder and decoder, as in the
      code, and therefore also computes the decoder's gradient; `per_module` clips by the norm of the encoder's gradient
      alone and costs about half as much.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"update"})
    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Algorithm 1"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.INNER_LOOP})

    kind: Literal["aggressive"] = "aggressive"
    budget: Annotated[
        Literal["converge"] | Annotated[int, Field(ge=0)],
        Field(description="encoder steps before each decoder step: a number or `converge`"),
        Tunable(choices=(10, 30, 50, 70, "converge")),
    ] = "converge"
    check: Annotated[
        int | None,
        Field(ge=1, description="inner steps per window of the convergence test; null: 15 for text, else 10"),
    ] = None
    max_inner: Annotated[int, Field(ge=2, description="exclusive upper bound on the inner steps of `converge`")] = 100
    mi_stop: Annotated[
        Literal["auto", "text", "image", "paper"], Field(description="criterion that ends the aggressive phase")
    ] = "auto"
    mi_tol: Annotated[float, Field(ge=0, description="tolerated decrease in the mutual information [nats]")] = 0.0
    clip_scope: Annotated[
        Literal["all", "per_module"],
        Field(description="parameters whose joint gradient norm is clipped in an inner step"),
    ] = "all"
    inner_batches: Annotated[
        Literal["stored", "fresh"],
        Field(description="source of the examples of inner steps: stored batches, or new draws (images and vectors)"),
        AddedField(),
    ] = "stored"
    allow_untested: Annotated[
        bool, Field(description="whether combinations that are untested with an inner loop are allowed")
    ] = False

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"update": AggressiveUpdate(self, context.domain.unit == "word")}

    def settled_epoch(self, context: ConfigContext) -> int:
        """Return the epoch after the last one of the aggressive phase, found by its criterion from the curve."""
        update = AggressiveUpdate(self, words=context.unit == "word")
        for number, epoch in enumerate(context.curve):
            if not update.active:
                return number + 1
            if epoch["valid_mi_batch"] is None:
                return context.epochs + 1
            update.after_epoch({"mi_batch": epoch["valid_mi_batch"]})
        return context.epochs + 1 if update.active else len(context.curve) + 1

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.inner_batches == "fresh" and context.unit == "word":
            yield Incompatibility(
                "E09",
                f"aggressive.inner_batches = fresh needs examples of one shape, but data.kind is {context.data_kind}; "
                "set aggressive.inner_batches = stored",
            )
        if self.allow_untested:
            return
        for other in context.with_trait(Trait.UNTESTED_WITH_INNER_LOOP):
            yield Incompatibility(
                "E13",
                f"aggressive has not been tested with {other.kind}, which learns or records something in outer updates "
                "only; set aggressive.allow_untested = true to run this combination anyway",
            )


class AggressiveUpdate(Update):
    """The inner loop and the criterion that ends the aggressive phase; once `active` is false, it stays false."""

    def __init__(self, config: Aggressive, words: bool) -> None:
        self._config = config
        self._check = config.check or (15 if words else 10)
        self._rule = ("text" if words else "image") if config.mi_stop == "auto" else config.mi_stop
        self.active = config.budget != 0
        self._previous_mi = 0.0
        self._best_mi = 0.0
        self._below_best = 0

    def __call__(self, learner: Trainer, batch: Batch, weight: float) -> Loss:
        if self.active:
            with learner.inner_loop(decoder_gradients=self._config.clip_scope == "all"):
                self._train_encoder(learner, batch, weight)
        loss = learner.loss(batch, weight)
        learner.descend(loss, encoder=not self.active, decoder=True)
        return loss

    def _train_encoder(self, learner: Trainer, batch: Batch, weight: float) -> None:
        budget = self._config.budget
        last_step = self._config.max_inner - 1 if isinstance(budget, str) else budget
        window: list[Tensor] = []
        units, previous = 0, math.inf
        for step in range(1, last_step + 1):
            loss = learner.loss(batch, weight)
            learner.descend(loss, encoder=True, decoder=False, clip_scope=self._config.clip_scope)
            if step < last_step:
                window.append(loss.total.detach() * batch.size)
                units += batch.units
                fresh = self._config.inner_batches == "fresh"
                batch = learner.random_examples(batch.size) if fresh else learner.random_batch()
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
            self.active = mi >= self._previous_mi - self._config.mi_tol
        elif self._rule == "paper":
            self.active = mi > self._previous_mi - self._config.mi_tol
        else:
            self._below_best += mi < self._best_mi - self._config.mi_tol
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
