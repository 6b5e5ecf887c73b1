"""The slots that a remedy fills. A strategy is plain data; its `parts` are the living objects of one trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal
from typing import Protocol as Interface

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.columns import Column
from lagvae_core.data import TokenBatch
from lagvae_core.metrics.encoding import EncodedSplit
from lagvae_core.metrics.likelihood import LogWeight
from lagvae_core.models.gaussian import NormalPrior, Prior
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.vae import Posterior
from lagvae_core.randomness import Streams
from lagvae_core.recipe import TrainingConfig
from lagvae_core.settings import Setting

__all__ = [
    "ClipScope",
    "KlSchedule",
    "KlWeight",
    "LogWeight",
    "Loss",
    "Objective",
    "Parts",
    "Posterior",
    "Protocol",
    "Refusal",
    "Setup",
    "Strategy",
    "Surroundings",
    "Trainer",
    "Update",
]

ClipScope = Literal["all", "per_module"]


@dataclass(frozen=True)
class Setup:
    """What a strategy may know of the configuration that it stands in, before data or model exist."""

    strategies: tuple[Strategy, ...]
    training: TrainingConfig
    model: LstmModel
    data_kind: str


@dataclass(frozen=True)
class Surroundings:
    """What a strategy may know of the trial when its parts are built; from `streams` a part takes draws of its own."""

    latent_dim: int
    batches_per_epoch: int
    modality: Literal["text", "images"] = "text"
    streams: Streams = field(default_factory=lambda: Streams(0))


@dataclass(frozen=True)
class Loss:
    """The loss of one batch: the scalar that is descended, and its terms in nats an example, rec [B] and kl [B, Z]."""

    total: Tensor
    rec_B: Tensor
    kl_BZ: Tensor


class Trainer(Interface):
    """What an update may do; `lagvae_core.learner.Learner` does it."""

    decoder_steps: int

    def loss(self, batch: TokenBatch, weight: float) -> Loss:
        """The training objective of `batch` at KL weight `weight`."""

    def descend(self, loss: Loss, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Step the named parameters against the gradient of `loss`."""

    def inner_loop(self, *, decoder_gradients: bool) -> AbstractContextManager[None]:
        """A block in which only the encoder learns."""

    def random_batch(self) -> TokenBatch:
        """A stored batch, drawn uniformly."""


class Stateful:
    """State that a part carries over steps, kept in every checkpoint. Without state, nothing to override."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"{type(self).__name__} keeps no state, but was given {sorted(state)}"


class KlWeight(Stateful):
    """The weight w(t) of the KL term at outer update t, counted from 0. Constant 1 by default."""

    def __call__(self, step: int) -> float:
        return 1.0


class Objective(Stateful):
    """The loss of a batch from rec [B] and kl [B, Z], both in nats: mean(rec + w * kl) by default."""

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        return (rec_B + weight * kl_BZ.sum(1)).mean()

    def after_step(self, kl_BZ: Tensor) -> None:
        """Called once after each outer update with that update's KL."""


class Update(Stateful):
    """One outer update: which parameters step, and how often. Encoder and decoder together, once, by default."""

    def __call__(self, learner: Trainer, batch: TokenBatch, weight: float) -> Loss:
        loss = learner.loss(batch, weight)
        learner.descend(loss, encoder=True, decoder=True)
        return loss

    def after_epoch(self, validation: Mapping[str, float]) -> None:
        """Called once an epoch with the validation columns of that epoch."""


class Protocol:
    """Columns of a strategy's own beside the default ones, computed on the evaluated split."""

    def log_weights(self, encoded_train: Callable[[], EncodedSplit]) -> dict[str, LogWeight]:
        """Further importance weights by column name, averaged over the same samples as `nll_iw`."""
        return {}

    def measure(self, encoded: EncodedSplit, encoded_train: Callable[[], EncodedSplit]) -> dict[str, Any]:
        """Further columns from the encoded split."""
        return {}


def unchanged(inputs_BT: Tensor, generator: torch.Generator) -> Tensor:
    """The corrupt slot of the plain VAE."""
    return inputs_BT


def left_as_built(model: nn.Module) -> None:
    """The initialise slot of the plain VAE: the model's own initialisation stands."""


@dataclass(frozen=True)
class Parts:
    """The slots of one trial. A strategy returns those that it fills; the rest keep these defaults."""

    corrupt: Callable[[Tensor, torch.Generator], Tensor] = unchanged
    posterior: Posterior = field(default_factory=Posterior)
    prior: Prior = field(default_factory=NormalPrior)
    kl_weight: KlWeight = field(default_factory=KlWeight)
    objective: Objective = field(default_factory=Objective)
    penalties: tuple[Callable[[Loss], Tensor], ...] = ()
    update: Update = field(default_factory=Update)
    encoder_rate: float = 1.0
    initialise: Callable[[nn.Module], None] = left_as_built
    protocols: tuple[Protocol, ...] = ()

    SHARED: ClassVar[frozenset[str]] = frozenset({"penalties", "protocols"})
    """Slots to which several strategies may add."""

    @classmethod
    def assemble(cls, strategies: tuple[Strategy, ...], surroundings: Surroundings) -> Parts:
        """The parts of a whole stack; that no exclusive slot is filled twice was settled at validation."""
        filled: dict[str, Any] = {}
        for strategy in strategies:
            parts = strategy.parts(surroundings)
            assert set(parts) == strategy.slots, f"{strategy.kind} fills {sorted(parts)}, declares {strategy.slots}"
            for slot, value in parts.items():
                if slot in cls.SHARED:
                    filled[slot] = (*filled.get(slot, ()), *value)
                else:
                    assert slot not in filled, f"two strategies fill {slot}"
                    filled[slot] = value
        return cls(**filled)

    def stateful(self) -> Iterator[tuple[str, Stateful]]:
        """The slots whose state goes into the checkpoint beside the model's, by name."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Stateful):
                yield entry.name, value


@dataclass(frozen=True)
class Refusal:
    """Why a stack cannot be meant: the code of the rule and a sentence that names the strategies."""

    code: str
    message: str


class Strategy(Setting, ABC):
    """A remedy: its fields are its hyperparameters, its docstring its science.

    A subclass gives `kind` a literal default, `slots` the names of the slots that it fills, `paper` its source in one
    line, and `columns` the columns that only it adds to the table.
    """

    slots: ClassVar[frozenset[str]]
    paper: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]] = ()
    kind: Any

    @abstractmethod
    def parts(self, surroundings: Surroundings) -> dict[str, Any]:
        """The filled slots: names of `Parts` to fresh objects, exactly those of `slots`."""

    def refusals(self, setup: Setup) -> Iterator[Refusal]:
        """What forbids this strategy in `setup`; called once the whole configuration is known."""
        yield from ()

    def warnings(self, setup: Setup) -> Iterator[str]:
        """What may be run but should be known."""
        yield from ()

    @classmethod
    def name(cls) -> str:
        return str(cls.model_fields["kind"].default)


class KlSchedule(Strategy):
    """A KL weight of w_start + (w_end - w_start) * share(t) at outer update t, counted from 0; evaluation has weight 1.

    Nothing but t is remembered. `w_start` = `w_end` = 1 is the plain VAE.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"kl_weight"})

    w_start: Annotated[float, Field(ge=0, le=1, description="weight from which it rises")] = 0.0
    w_end: Annotated[float, Field(ge=0, description="final weight")] = 1.0

    @abstractmethod
    def share(self, step: int, batches_per_epoch: int) -> float:
        """How much of the way from `w_start` to `w_end` is covered at outer update `step`, from 0 to 1."""

    def parts(self, surroundings: Surroundings) -> dict[str, Any]:
        return {"kl_weight": _ScheduledWeight(self, surroundings.batches_per_epoch)}

    def refusals(self, setup: Setup) -> Iterator[Refusal]:
        if self.w_start > self.w_end:
            yield Refusal("E-RANGE", f"w_start <= w_end must hold, but got {self.w_start} > {self.w_end}")


class _ScheduledWeight(KlWeight):
    def __init__(self, schedule: KlSchedule, batches_per_epoch: int) -> None:
        self._schedule = schedule
        self._batches = batches_per_epoch

    def __call__(self, step: int) -> float:
        start, end = self._schedule.w_start, self._schedule.w_end
        return min(end, start + (end - start) * self._schedule.share(step, self._batches))
