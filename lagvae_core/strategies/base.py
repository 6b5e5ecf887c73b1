"""What every strategy is: plain data that fills slots, and says where it has no place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from lagvae_core.columns import LATENT_COLUMNS, Column
from lagvae_core.data import Batch, Batching, Domain, Partition, TextDomain
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.model_config import ModelConfig, TokenModel
from lagvae_core.models.without_z import NoEncoder, decoder_without_z
from lagvae_core.randomness import Streams
from lagvae_core.settings import FrozenConfig, TrainingConfig
from lagvae_core.strategies.slots import KlWeight, Penalty, TrainingComponents

__all__ = [
    "BuildContext",
    "ConfigContext",
    "Incompatibility",
    "KlExchange",
    "KlSchedule",
    "LanguageModel",
    "Strategy",
    "assemble",
    "grouped_batches",
    "images_only",
    "lstm_only",
    "needs_batch_statistics",
    "several_penalties",
    "text_only",
    "without_effect",
]


@dataclass(frozen=True)
class ConfigContext:
    """What a strategy may know of the configuration that it stands in, before data or model exist.

    `batching` is None where the data leave no choice.
    """

    strategies: tuple[Strategy, ...]
    training: TrainingConfig
    model: ModelConfig
    data_kind: str
    partition: Partition = "fixed_random"
    batching: Batching | None = None

    @property
    def token_model(self) -> TokenModel:
        """The model, for strategies that are about words."""
        assert isinstance(self.model, TokenModel), "a model of words"
        return self.model


@dataclass(frozen=True)
class BuildContext:
    """What a strategy may know of the trial when its parts are built; from `streams` a part takes draws of its own.

    `train_batches` are those of the first epoch, on the trial's device, in their stored order.
    """

    latent_dim: int
    batches_per_epoch: int
    streams: Streams = field(default_factory=lambda: Streams(0))
    domain: Domain = field(default_factory=lambda: TextDomain(4))
    model: ModelConfig = field(default_factory=LstmModel)
    train_batches: Sequence[Batch] = ()

    @property
    def token_model(self) -> TokenModel:
        """The model, for strategies that are about words."""
        assert isinstance(self.model, TokenModel), "a model of words"
        return self.model

    @property
    def vocabulary(self) -> int:
        """The number of words, for strategies that are about them."""
        assert isinstance(self.domain, TextDomain), "a domain of words"
        return self.domain.vocabulary


@dataclass(frozen=True)
class Incompatibility:
    """Why a stack cannot be meant: the code of the rule and a sentence that names the strategies."""

    code: str
    message: str


def text_only(kind: str, context: ConfigContext) -> Iterator[Incompatibility]:
    """For strategies that are about words."""
    if context.data_kind == "images":
        yield Incompatibility("E09", f"{kind} is about the words of a text and means nothing on images; remove it")


def images_only(kind: str, context: ConfigContext) -> Iterator[Incompatibility]:
    """For strategies that are about pixels."""
    if context.data_kind != "images":
        yield Incompatibility("E09", f"{kind} is about the pixels of images and means nothing on words; remove it")


def lstm_only(kind: str, context: ConfigContext) -> Iterator[Incompatibility]:
    """For strategies that put something in the place of the LSTM decoder, which is made from its settings."""
    if not isinstance(context.model, LstmModel):
        yield Incompatibility(
            "E09",
            f"{kind} takes the place of the decoder of model.kind = lstm, and knows nothing of what that of "
            f"{context.model.kind} reads; remove it",
        )


def needs_batch_statistics(
    kind: str, field: str | None, least: int, context: ConfigContext
) -> Iterator[Incompatibility]:
    """For strategies that use the statistics of a batch of at least `least`, the value of their `field`, if any."""
    if context.training.batch_size < least:
        message, hint = (f"{field} = {least}", f" or lower {kind}.{field}") if field is not None else (f"{least}", "")
        yield Incompatibility(
            "E12",
            f"{kind} needs the statistics of batches of at least {message}, but training.batch_size is "
            f"{context.training.batch_size}; raise it{hint}",
        )


def grouped_batches(kind: str, context: ConfigContext) -> Iterator[str]:
    """What to know of a strategy that uses the statistics of a batch where each batch holds one group (W4)."""
    if context.batching == "constant_length":
        group, hint = "sentence length", "data.batching = padded mixes the lengths"
    elif context.partition == "fixed_by_group":
        group, hint = "group", "data.partition = fixed_random mixes the groups"
    else:
        return
    yield (
        f"W4: {kind} uses the statistics of batches of one {group} each, so that training leaves out how the "
        f"{group}s differ from each other, and evaluation does not; {hint}."
    )


def without_effect(strategy: Strategy, where: str, *names: str) -> Iterator[Incompatibility]:
    """For fields that change nothing `where` (such as "in mode code"): they must be left at their defaults."""
    for name in names:
        if getattr(strategy, name) != type(strategy).model_fields[name].default:
            yield Incompatibility("E18", f"{strategy.kind}.{name} is an unused option {where}; leave it out")


def several_penalties(context: ConfigContext) -> Iterator[str]:
    """For strategies that add a penalty: the same text from each of them, in whatever order they stand."""
    kinds = sorted(strategy.kind for strategy in context.strategies if "penalties" in strategy.slots)
    if len(kinds) > 1:
        yield f"W6: {' and '.join(kinds)} each add to the loss; no published weights balance them with one another."


class Strategy(FrozenConfig, ABC):
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
    def build(self, context: BuildContext) -> dict[str, Any]:
        """The filled slots: names of `Parts` to fresh objects, exactly those of `slots`."""

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        """What forbids this strategy in `setup`; called once the whole configuration is known."""
        yield from ()

    def warnings(self, context: ConfigContext) -> Iterator[str]:
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

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"kl_weight": _ScheduledWeight(self, context.batches_per_epoch)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if self.w_start > self.w_end:
            yield Incompatibility("E-RANGE", f"w_start <= w_end must hold, but got {self.w_start} > {self.w_end}")


class _ScheduledWeight(KlWeight):
    def __init__(self, schedule: KlSchedule, batches_per_epoch: int) -> None:
        self._schedule = schedule
        self._batches = batches_per_epoch

    def __call__(self, step: int) -> float:
        start, end = self._schedule.w_start, self._schedule.w_end
        return min(end, start + (end - start) * self._schedule.share(step, self._batches))


class LanguageModel(Strategy):
    """The decoder alone, in a model with a latent space of no dimensions, in which what speaks of z is null."""

    slots: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})
    unmeasured: ClassVar[frozenset[str]] = frozenset({*LATENT_COLUMNS, "valid_kl", "valid_mi", "valid_au"})
    latent: ClassVar[bool] = False

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"encoder": NoEncoder, "decoder": decoder_without_z}

    def latent_strategies(self, context: ConfigContext) -> Iterator[Incompatibility]:
        """The strategies beside it that would act on z."""
        for other in context.strategies:
            if other.latent:
                yield Incompatibility(
                    "E10",
                    f"{self.kind} has no latent variable that {other.kind} could act on; remove one of the two",
                )


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

    def build(self, context: BuildContext) -> dict[str, Any]:
        weight = self.divergence_weight
        return {"kl_share": 1.0 - self.alpha, "penalties": (self.penalty(weight),) if weight > 0 else ()}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if self.divergence_weight < 0:
            yield Incompatibility(
                "E17",
                f"{self.kind} would reward the divergence from the prior: alpha + scale >= 1 must hold, but got "
                f"{self.alpha} + {self.scale}; raise {self.kind}.scale",
            )
        if self.divergence_weight > 0:
            yield from needs_batch_statistics(self.kind, None, 2, context)

    def warnings(self, context: ConfigContext) -> Iterator[str]:
        yield from several_penalties(context)
        if self.divergence_weight > 0:
            yield from grouped_batches(self.kind, context)
        for other in context.strategies:
            if self.alpha == 1 and "kl_weight" in other.slots:
                yield (
                    f"{self.kind}: at alpha = 1 no KL is paid, so that the weight of {other.kind} changes nothing in "
                    "the loss."
                )


def assemble(strategies: tuple[Strategy, ...], context: BuildContext) -> TrainingComponents:
    """The parts of a whole stack; that no exclusive slot is filled twice was settled at validation."""
    filled: dict[str, Any] = {}
    for strategy in strategies:
        components = strategy.build(context)
        assert set(components) == strategy.slots, (
            f"{strategy.kind} fills {sorted(components)}, declares {strategy.slots}"
        )
        for slot, value in components.items():
            if slot in TrainingComponents.SHARED:
                filled[slot] = (*filled.get(slot, ()), *value)
            else:
                assert slot not in filled, f"two strategies fill {slot}"
                filled[slot] = value
    return TrainingComponents(**filled)
