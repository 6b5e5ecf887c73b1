"""The slots that a remedy fills. A strategy is plain data; its `parts` are the living objects of one trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal
from typing import Protocol as Interface

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.columns import Column
from lagvae_core.data import History, Partition, TokenBatch
from lagvae_core.metrics.encoding import EncodedSplit, Infer
from lagvae_core.metrics.likelihood import LogMean, LogWeight
from lagvae_core.models.decoder import Decoder, InputDropout, Past, Skip, UnitDropout, Wiring
from lagvae_core.models.gaussian import Draw, Inference, NormalPrior, Prior, Proposal
from lagvae_core.models.lstm import Features, LstmDecoder, LstmEncoder, LstmModel
from lagvae_core.models.vae import Posterior, Vae
from lagvae_core.randomness import Streams
from lagvae_core.recipe import TrainingConfig
from lagvae_core.settings import Setting

__all__ = [
    "ClipScope",
    "Decoding",
    "Forward",
    "KlExchange",
    "KlSchedule",
    "KlWeight",
    "LogWeight",
    "Loss",
    "Measurement",
    "Objective",
    "Parts",
    "Penalty",
    "Posterior",
    "Pretraining",
    "Protocol",
    "Refusal",
    "Setup",
    "Side",
    "Strategy",
    "Surroundings",
    "Trainer",
    "Update",
    "grouped_batches",
    "needs_companions",
    "several_penalties",
    "text_only",
    "without_effect",
]

ClipScope = Literal["all", "per_module"]
Side = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Setup:
    """What a strategy may know of the configuration that it stands in, before data or model exist."""

    strategies: tuple[Strategy, ...]
    training: TrainingConfig
    model: LstmModel
    data_kind: str
    partition: Partition = "fixed_random"


@dataclass(frozen=True)
class Surroundings:
    """What a strategy may know of the trial when its parts are built; from `streams` a part takes draws of its own.

    `train_batches` are those of the first epoch, on the trial's device, in their stored order.
    """

    latent_dim: int
    batches_per_epoch: int
    modality: Literal["text", "images"] = "text"
    streams: Streams = field(default_factory=lambda: Streams(0))
    vocabulary: int = 4
    model: LstmModel = field(default_factory=LstmModel)
    train_batches: Sequence[TokenBatch] = ()


@dataclass(frozen=True)
class Loss:
    """The loss of one batch: the scalar that is descended, and its terms in nats an example, rec [B] and kl [B, Z]."""

    total: Tensor
    rec_B: Tensor
    kl_BZ: Tensor


@dataclass(frozen=True)
class Forward:
    """All that was computed on the way to the loss of a batch; what a penalty may use.

    `draw` holds the samples of `inference.q` that were decoded, `rec_B` and `kl_BZ` are nats an example, and `weight`
    is the KL weight of the update.
    """

    batch: TokenBatch
    inference: Inference
    draw: Draw
    rec_B: Tensor
    kl_BZ: Tensor
    weight: float
    model: Vae
    streams: Streams

    @property
    def charged_draw(self) -> Draw:
        """Samples of `inference.charged` from the same noise."""
        same = self.inference.charged is self.inference.q
        return self.draw if same else self.inference.charged.draw(self.draw.noise_BSZ)


class Trainer(Interface):
    """What an update may do; `lagvae_core.learner.Learner` does it."""

    model: Vae
    streams: Streams
    decoder_steps: int

    def loss(self, batch: TokenBatch, weight: float) -> Loss:
        """The training objective of `batch` at KL weight `weight`."""

    def loss_at(self, batch: TokenBatch, inference: Inference, weight: float) -> Loss:
        """The training objective of `batch` with `inference` in the place of the encoder's."""

    def kl_factor(self, weight: float) -> Tensor:
        """What the objective multiplies the KL of an example by at KL weight `weight`, where it is linear in the KL."""

    def history(self, batch: TokenBatch) -> History:
        """What the decoder may see of the past in one pass, corrupted anew at each call."""

    def noise(self, q: Proposal) -> Tensor:
        """Standard normal noise [B, 1, Z] for one posterior sample an example."""

    def step(self, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Step the named parameters against the gradients that they hold, clipped, and clear all gradients."""

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

    def after_epoch(self, validation: Mapping[str, Any]) -> None:
        """Called once an epoch with the validation columns of that epoch."""


class Decoding(Stateful):
    """How a sampled z is decoded in training: one pass, rec [B] = -log p(x|z) in nats, by default.

    The second value is a further term of the loss, a scalar, or None.
    """

    def __call__(self, trainer: Trainer, batch: TokenBatch, z_BSZ: Tensor) -> tuple[Tensor, Tensor | None]:
        return trainer.model.reconstruct(batch, trainer.history(batch), z_BSZ).mean(1), None


class Penalty(nn.Module, ABC):
    """A further term of the training loss. Its parameters, if it has any, learn with the decoder's optimiser."""

    least_batch: int = 1
    """Smaller batches are not trained on."""

    @abstractmethod
    def forward(self, forward: Forward) -> Tensor:
        """The term, a scalar in nats an example."""


@dataclass(frozen=True)
class Pretraining:
    """How many epochs before the first of the trial proper train encoder and decoder as a mere autoencoder.

    The learning rate does not decay in them, and no weights of theirs are measured. After the last the decoder starts
    anew; so do the optimisers, the decay of the learning rate and every schedule. The inference network stays as it is.
    """

    epochs: int = 0

    def in_force(self, parts: Parts, epoch: int) -> Parts:
        """The `parts` that train in `epoch`, counted from 0.

        The loss of an autoencoder is rec alone, whatever objective, penalties, schedule and procedure follow. What
        makes the model, and what the decoder may see of the past, is the same throughout.
        """
        if epoch >= self.epochs:
            return parts
        autoencoder = replace(parts, objective=_Reconstruction(), kl_weight=_NoWeight(), penalties=())
        return replace(autoencoder, decode=Decoding(), update=Update(), refine=as_inferred)


class _Reconstruction(Objective):
    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        return rec_B.mean()


class _NoWeight(KlWeight):
    def __call__(self, step: int) -> float:
        return 0.0


@dataclass(frozen=True)
class Measurement:
    """What a protocol may use: the model in eval mode, the measured split and its encoding.

    `importance_weighted(infer)` is the bound of `nll_iw` with another proposal; `encoded_train()` encodes the training
    set at the first call.
    """

    model: Vae
    batches: Sequence[TokenBatch]
    encoded: EncodedSplit
    encoded_train: Callable[[], EncodedSplit]
    importance_weighted: Callable[[Infer], LogMean]


class Protocol:
    """Columns of a strategy's own beside the default ones, computed on the evaluated split."""

    def log_weights(self, encoded_train: Callable[[], EncodedSplit]) -> dict[str, LogWeight]:
        """Further importance weights by column name, averaged over the same samples as `nll_iw`."""
        return {}

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        """Further columns."""
        return {}


def unchanged(history: History, generator: torch.Generator) -> History:
    """The corrupt slot of the plain VAE."""
    return history


def left_as_built(module: nn.Module, side: Side) -> None:
    """The initialise slot of the plain VAE: encoder and decoder keep the start that they were built with."""


def as_inferred(model: Vae, seed: int) -> Infer:
    """The refine slot of the plain VAE: the encoder's word is final."""
    return model.infer


@dataclass(frozen=True)
class Parts:
    """The slots of one trial. A strategy returns those that it fills; the rest keep these defaults."""

    encoder: Callable[[LstmModel, int, Features | None], nn.Module] = LstmEncoder
    features: Features | None = None
    decoder: Callable[[LstmModel, int, torch.Generator, Wiring], Decoder] = LstmDecoder
    past: Past = "seen"
    skip: Skip | None = None
    input_dropout: InputDropout | None = None
    corrupt: Callable[[History, torch.Generator], History] = unchanged
    decode: Decoding = field(default_factory=Decoding)
    posterior: Posterior = field(default_factory=Posterior)
    prior: Prior = field(default_factory=NormalPrior)
    kl_weight: KlWeight = field(default_factory=KlWeight)
    objective: Objective = field(default_factory=Objective)
    kl_share: float = 1.0
    penalties: tuple[Penalty, ...] = ()
    update: Update = field(default_factory=Update)
    refine: Callable[[Vae, int], Infer] = as_inferred
    encoder_rate: float = 1.0
    pretraining: Pretraining = field(default_factory=Pretraining)
    initialise: Callable[[nn.Module, Side], None] = left_as_built
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

    def wiring(self, model: LstmModel) -> Wiring:
        return Wiring(self.input_dropout or UnitDropout(model.dropout_in), self.past, self.skip)

    def accepts(self, batch_size: int) -> bool:
        """Whether a batch of this size can be trained on now."""
        return self.posterior.accepts(batch_size) and all(p.least_batch <= batch_size for p in self.penalties)

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


def text_only(kind: str, setup: Setup) -> Iterator[Refusal]:
    """For strategies that are about words."""
    if setup.data_kind == "images":
        yield Refusal("E09", f"{kind} is about the words of a text and means nothing on images; remove it")


def needs_companions(kind: str, field: str | None, least: int, setup: Setup) -> Iterator[Refusal]:
    """For strategies that use the statistics of a batch of at least `least`, the value of their `field`, if any."""
    if setup.training.batch_size < least:
        law, remedy = (f"{field} = {least}", f" or lower {kind}.{field}") if field is not None else (f"{least}", "")
        yield Refusal(
            "E12",
            f"{kind} needs the statistics of batches of at least {law}, but training.batch_size is "
            f"{setup.training.batch_size}; raise it{remedy}",
        )


def grouped_batches(kind: str, setup: Setup) -> Iterator[str]:
    """What to know of a strategy that uses the statistics of a batch where each batch holds one group (W4)."""
    if setup.data_kind == "text":
        group, remedy = "sentence length", "every partition of a text has such batches"
    elif setup.partition == "fixed_by_group":
        group, remedy = "group", "data.partition = fixed_random mixes the groups"
    else:
        return
    yield (
        f"W4: {kind} uses the statistics of batches of one {group} each, so that training leaves out how the "
        f"{group}s differ from each other, and evaluation does not; {remedy}."
    )


def without_effect(strategy: Strategy, where: str, *names: str) -> Iterator[Refusal]:
    """For fields that change nothing `where` (such as "in mode code"): they must be left at their defaults."""
    for name in names:
        if getattr(strategy, name) != type(strategy).model_fields[name].default:
            yield Refusal("E18", f"{strategy.kind}.{name} is an unused option {where}; leave it out")


def several_penalties(setup: Setup) -> Iterator[str]:
    """For strategies that add a penalty: the same text from each of them, in whatever order they stand."""
    kinds = sorted(strategy.kind for strategy in setup.strategies if "penalties" in strategy.slots)
    if len(kinds) > 1:
        yield f"W6: {' and '.join(kinds)} each add to the loss; no published weights balance them with one another."


class Strategy(Setting, ABC):
    """A remedy: its fields are its hyperparameters, its docstring its science.

    A subclass gives `kind` a literal default, `slots` the names of the slots that it fills, `paper` its source in one
    line, and `columns` the columns that only it adds to the table. `unmeasured` names default columns that are null
    under it, because the number does not exist or costs too much. `latent` says whether it acts on z, and so has no
    place in a model without one.
    """

    slots: ClassVar[frozenset[str]]
    paper: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]] = ()
    unmeasured: ClassVar[frozenset[str]] = frozenset()
    latent: ClassVar[bool] = True
    kind: Any

    @property
    def pretraining_epochs(self) -> int:
        """How many epochs it trains before the `training.epochs` of the trial proper."""
        return 0

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


class KlExchange(Strategy):
    """Part of the KL is exchanged for a divergence D of the aggregate posterior q(z) from the prior.

    The loss is mean(rec) + (1 - alpha) * w * KL + (alpha + scale - 1) * D, with the KL weight w (Zhao et al. 2017). At
    `alpha` 0 and `scale` 1 this is the plain VAE, and nothing is computed or drawn for D.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"kl_share", "penalties"})

    alpha: Annotated[float, Field(le=1, description="share of the KL that is not paid")] = 0.0
    scale: Annotated[float, Field(ge=0, description="weight of q(z) as a whole (lambda)")] = 1.0

    @abstractmethod
    def penalty(self, weight: float) -> Penalty:
        """weight * D."""

    @property
    def divergence_weight(self) -> float:
        """alpha + scale - 1, where what rounding leaves of a sum of 1 is 0."""
        return round(self.alpha + self.scale - 1.0, 12)

    def parts(self, surroundings: Surroundings) -> dict[str, Any]:
        weight = self.divergence_weight
        return {"kl_share": 1.0 - self.alpha, "penalties": (self.penalty(weight),) if weight > 0 else ()}

    def refusals(self, setup: Setup) -> Iterator[Refusal]:
        if self.divergence_weight < 0:
            yield Refusal(
                "E17",
                f"{self.kind} would reward the divergence from the prior: alpha + scale >= 1 must hold, but got "
                f"{self.alpha} + {self.scale}; raise {self.kind}.scale",
            )
        if self.divergence_weight > 0:
            yield from needs_companions(self.kind, None, 2, setup)

    def warnings(self, setup: Setup) -> Iterator[str]:
        yield from several_penalties(setup)
        if self.divergence_weight > 0:
            yield from grouped_batches(self.kind, setup)
        for other in setup.strategies:
            if self.alpha == 1 and "kl_weight" in other.slots:
                yield (
                    f"{self.kind}: at alpha = 1 no KL is paid, so that the weight of {other.kind} changes nothing in "
                    "the loss."
                )
