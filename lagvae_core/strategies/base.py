"""The base class of all strategies, and the contexts that are passed to them.

An outer update is one optimiser step on the main objective, as opposed to the inner steps that train the encoder alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from lagvae_core.columns import Column
from lagvae_core.data import DATA_SOURCES, Batch, Batching, Domain, Partition, TextDomain, Unit
from lagvae_core.metrics.posterior import LATENT_COLUMNS
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.model_config import ModelConfig, TokenModel
from lagvae_core.models.without_z import NoEncoder, decoder_without_z
from lagvae_core.randomness import Streams
from lagvae_core.settings import FrozenConfig, TrainingConfig
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait
from lagvae_core.strategies.slots import Penalty, TrainingComponents

__all__ = [
    "DEFAULT",
    "BuildContext",
    "ConfigContext",
    "KlExchange",
    "LanguageModel",
    "Strategy",
    "assemble",
    "needs_batch_statistics",
    "without_effect",
]


DEFAULT = "default"
"""Value that stands for the default of a field of a strategy, in files and on the command line."""


@dataclass(frozen=True)
class ConfigContext:
    """The configuration that contains a strategy, before data are read or the model is built.

    Args:
        strategies: All strategies of the stack.
        training: The training configuration.
        model: The model configuration.
        data_kind: Kind of data whose strategies apply: `data.kind`, or the family of a plugin's kind.
        partition: How the examples are assigned to batches.
        batching: How sentences are grouped into batches; None for data without this option.
        batches_per_epoch: Number of outer updates in one epoch; None until the data are loaded.
        trained_epochs: Number of epochs of the main training; None until it has ended.
        curve: Columns of the epochs of the main training so far, with `epoch` and `step` counted from its start.
    """

    strategies: tuple[Strategy, ...]
    training: TrainingConfig
    model: ModelConfig
    data_kind: str
    partition: Partition = "fixed_random"
    batching: Batching | None = None
    batches_per_epoch: int | None = None
    trained_epochs: int | None = None
    curve: Sequence[Mapping[str, Any]] = ()

    @property
    def unit(self) -> Unit:
        """What a model of these data predicts one by one."""
        return DATA_SOURCES[self.data_kind].unit

    @property
    def epochs(self) -> int:
        """Number of epochs of the main training: planned until it has ended, then actual."""
        return self.training.epochs if self.trained_epochs is None else self.trained_epochs

    @property
    def updates_per_epoch(self) -> float | None:
        """Number of outer updates in one epoch without skipped batches: measured if an epoch is trained, else planned.

        It is None as long as it is unknown.
        """
        return self.curve[-1]["step"] / len(self.curve) if self.curve else self.batches_per_epoch

    @property
    def token_model(self) -> TokenModel:
        """The model configuration, for strategies that act on words."""
        assert isinstance(self.model, TokenModel), "the model must be a model of words"
        return self.model

    def with_trait(self, trait: Trait) -> Iterator[Strategy]:
        """Return the strategies of the stack that have `trait`."""
        return (strategy for strategy in self.strategies if strategy.has(trait))

    def filling(self, *slots: str) -> Iterator[Strategy]:
        """Return the strategies of the stack that fill any of `slots`."""
        return (strategy for strategy in self.strategies if not strategy.slots.isdisjoint(slots))


@dataclass(frozen=True)
class BuildContext:
    """The trial that contains a strategy, at the time its components are built.

    Args:
        latent_dim: Number of dimensions of z.
        batches_per_epoch: Number of outer updates in one epoch.
        streams: Random streams of the trial. Each component that draws random numbers uses its own stream.
        domain: What the data consist of: words (with the size of the vocabulary), images or
            vectors.
        model: The model configuration.
        train_batches: The batches of the first epoch, on the trial's device, in their stored order.
    """

    latent_dim: int
    batches_per_epoch: int
    streams: Streams = field(default_factory=lambda: Streams(0))
    domain: Domain = field(default_factory=lambda: TextDomain(4))
    model: ModelConfig = field(default_factory=LstmModel)
    train_batches: Sequence[Batch] = ()

    @property
    def token_model(self) -> TokenModel:
        """The model configuration, for strategies that act on words."""
        assert isinstance(self.model, TokenModel), "the model must be a model of words"
        return self.model

    @property
    def vocabulary(self) -> int:
        """The size of the vocabulary, for strategies that act on words."""
        assert isinstance(self.domain, TextDomain), "the data must be words"
        return self.domain.vocabulary


def needs_batch_statistics(
    kind: str, field: str | None, least: int, context: ConfigContext
) -> Iterator[Incompatibility]:
    """Reject batches that are too small for the statistics of a strategy (E12).

    Args:
        kind: Kind of the strategy.
        field: The field of the strategy that sets `least`, if any.
        least: The smallest batch size that the strategy accepts.
        context: The configuration that contains the strategy.
    """
    if context.training.batch_size < least:
        source, alternative = (f" ({kind}.{field})", f" or lower {kind}.{field}") if field else ("", "")
        yield Incompatibility(
            "E12",
            f"{kind} needs batches of at least {least} examples{source} for its batch statistics, but "
            f"training.batch_size is {context.training.batch_size}; raise training.batch_size{alternative}",
        )


def without_effect(strategy: Strategy, where: str, *names: str) -> Iterator[Incompatibility]:
    """Reject fields that differ from their defaults but have no effect `where`, for example "in mode code" (E18)."""
    for name in names:
        if getattr(strategy, name) != type(strategy).model_fields[name].default:
            yield Incompatibility("E18", f"{strategy.kind}.{name} has no effect {where}; leave it out")


class Strategy(FrozenConfig, ABC):
    """A remedy against posterior collapse. The fields are its hyperparameters; the docstring explains the method.

    A subclass sets `kind` to a literal default, and these class variables:

    - `slots`: names of the slots that it fills;
    - `paper`: its source in one line;
    - `traits`: properties by which other strategies reject it, warn about it or adapt to it;
    - `models`: kinds of the only models that it supports; empty for all;
    - `columns`: columns that only this strategy adds to the table;
    - `unmeasured`: default columns that are null with it, because the value is undefined or too expensive to compute.

    An override of `incompatibilities` or `warnings` must yield from `super()` first, because the base class checks the
    rules that depend on slots and traits alone.
    """

    slots: ClassVar[frozenset[str]]
    paper: ClassVar[str]
    traits: ClassVar[frozenset[Trait]] = frozenset()
    models: ClassVar[frozenset[str]] = frozenset()
    columns: ClassVar[tuple[Column, ...]] = ()
    unmeasured: ClassVar[frozenset[str]] = frozenset()
    kind: Any

    @model_validator(mode="before")
    @classmethod
    def _leave_out_defaults(cls, values: Any) -> Any:
        """Remove each field with the value `default` that has a default."""
        if not isinstance(values, Mapping):
            return values
        fields = {name for name, field in cls.model_fields.items() if not field.is_required() and name != "kind"}
        return {key: value for key, value in values.items() if not (key in fields and value == DEFAULT)}

    @property
    def pretraining_epochs(self) -> int:
        """Number of epochs of pretraining, before the `training.epochs` of the main training."""
        return 0

    @property
    def final_kl_weight(self) -> float:
        """KL weight at the end of its schedule; 1 if it has no schedule."""
        return 1.0

    @property
    def free_kl(self) -> float | None:
        """KL that each latent dimension may have at no cost in the loss [nats]; None if no KL is free."""
        return None

    @property
    def dropout_rates(self) -> Mapping[str, float]:
        """Dropout rates of the decoder. Under the name of a field of the model, a rate replaces that of the model."""
        return {}

    def has(self, trait: Trait) -> bool:
        """Return whether the strategy has `trait`. Override it for a trait that depends on the fields."""
        return trait in self.traits

    def settled_epoch(self, context: ConfigContext) -> int:
        """Return the first epoch of the main training whose objective no schedule changes any more, from 1.

        The validation results of earlier epochs are not comparable with those of other configurations. Override it for
        a strategy whose objective or update changes with the number of the epoch or update. A quantity that is
        adapted to the model throughout the training, such as a multiplier, is not a schedule.

        Args:
            context: A valid configuration. Its `curve` has the epochs so far, because the end of some phases depends
                on the results.

        Returns:
            At least 1, and `context.epochs` + 1 if the end is not reached within the training or not known yet.
        """
        return 1

    @abstractmethod
    def build(self, context: BuildContext) -> dict[str, Any]:
        """Return a new component for each slot in `slots` and for no other slot, keyed by the name of the slot."""

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        """Yield the reasons why this strategy cannot be used in `context`, a complete configuration."""
        if self.has(Trait.TEXT_ONLY) and context.unit != "word":
            yield Incompatibility(
                "E09", f"{self.kind} applies to text only, but data.kind is {context.data_kind}; remove {self.kind}"
            )
        if self.has(Trait.IMAGES_ONLY) and context.unit != "pixel":
            yield Incompatibility(
                "E09", f"{self.kind} applies to images only, but data.kind is {context.data_kind}; remove {self.kind}"
            )
        if self.has(Trait.GAUSSIAN_LIKELIHOOD) and not context.model.has_gaussian_likelihood:
            change = "set model.likelihood = gaussian" if context.unit == "feature" else f"remove {self.kind}"
            yield Incompatibility(
                "E09",
                f"{self.kind} needs a decoder with a Gaussian likelihood, which the model of kind {context.model.kind} "
                f"does not have here; {change}",
            )
        if self.models and context.model.kind not in self.models:
            supported = " or ".join(sorted(self.models))
            yield Incompatibility(
                "E09",
                f"{self.kind} supports model.kind = {supported} only, but model.kind is {context.model.kind}; remove "
                f"{self.kind} or change the model",
            )

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        """Yield advice on this strategy in `context`, a valid configuration."""
        penalising = sorted(strategy.kind for strategy in context.filling("penalties"))
        if "penalties" in self.slots and len(penalising) > 1:
            # Each of these strategies yields the same text, so that the warning is shown once.
            yield ConfigWarning(
                "W6",
                f"{' and '.join(penalising)} each add a penalty, and no paper gives weights for this combination; tune "
                "the weights together.",
            )
        if self.has(Trait.BATCH_STATISTICS):
            yield from _grouped_batches(self.kind, context)

    def result_warnings(self, metrics: Mapping[str, Any]) -> Iterator[ConfigWarning]:
        """Yield advice on a result of this strategy, given the metrics of a finished trial by column name."""
        yield from ()

    @classmethod
    def name(cls) -> str:
        """Return the value of `kind`."""
        return str(cls.model_fields["kind"].default)


def _grouped_batches(kind: str, context: ConfigContext) -> Iterator[ConfigWarning]:
    """Warn about batch statistics if all examples of a batch belong to one group (W4)."""
    if context.batching == "constant_length":
        content, differing, hint = "sentences of one length", "lengths", "set data.batching = padded to mix lengths"
    elif context.partition == "fixed_by_group":
        content, differing, hint = "examples of one group", "groups", "set data.partition = fixed_random to mix groups"
    else:
        return
    yield ConfigWarning(
        "W4",
        f"{kind} uses batch statistics, but each batch contains only {content}, so training does not regularise the "
        f"differences between {differing}, although evaluation includes them; {hint}.",
    )


class LanguageModel(Strategy):
    """The decoder is trained alone, without z. The latent space has 0 dimensions, and all columns about z are null."""

    slots: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.NO_LATENT_VARIABLE, Trait.WORKS_WITHOUT_Z})
    unmeasured: ClassVar[frozenset[str]] = frozenset(
        {
            *LATENT_COLUMNS,
            "iw_khat",
            "iw_unreliable",
            "kl_weight",
            "kl_weight_final",
            "valid_kl",
            "valid_mi",
            "valid_au",
        }
    )

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"encoder": NoEncoder, "decoder": decoder_without_z}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.strategies:
            if not other.has(Trait.WORKS_WITHOUT_Z):
                yield Incompatibility(
                    "E10",
                    f"{other.kind} acts on the latent variable, but the model of {self.kind} has none; remove "
                    f"{other.kind} or {self.kind}",
                )


class KlExchange(Strategy):
    """Part of the KL is replaced by a divergence D of the aggregate posterior q(z) from the prior.

    The loss is mean(rec) + (1 - alpha) * w * KL + (alpha + scale - 1) * D, with the KL weight w (Zhao et al. 2017). At
    `alpha` 0 and `scale` 1 this is the plain VAE, and nothing is computed or drawn for D.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"kl_share", "penalties"})
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.BATCH_STATISTICS, Trait.REGULARISES_BATCH})

    alpha: Annotated[float, Field(le=1, description="fraction of the KL that is left out of the loss")] = 0.0
    scale: Annotated[
        float, Field(ge=0, description="total weight (lambda) of the divergence of q(z) from the prior")
    ] = 1.0

    @abstractmethod
    def penalty(self, weight: float) -> Penalty:
        """Return the penalty weight * D."""

    @property
    def divergence_weight(self) -> float:
        """The weight of D, alpha + scale - 1, rounded so that it is exactly 0 if alpha + scale is 1."""
        return round(self.alpha + self.scale - 1.0, 12)

    def has(self, trait: Trait) -> bool:
        """Return whether the strategy has `trait`; it needs batch statistics only if the weight of D is positive."""
        return super().has(trait) and (trait is not Trait.BATCH_STATISTICS or self.divergence_weight > 0)

    def build(self, context: BuildContext) -> dict[str, Any]:
        weight = self.divergence_weight
        return {"kl_share": 1.0 - self.alpha, "penalties": (self.penalty(weight),) if weight > 0 else ()}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.divergence_weight < 0:
            yield Incompatibility(
                "E17",
                f"{self.kind} would reward divergence from the prior, because alpha + scale = {self.alpha} + "
                f"{self.scale} is less than 1; raise {self.kind}.scale",
            )
        if self.has(Trait.BATCH_STATISTICS):
            yield from needs_batch_statistics(self.kind, None, 2, context)

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        for other in context.filling("kl_weight"):
            if self.alpha == 1:
                yield ConfigWarning(
                    None,
                    f"{self.kind}: with alpha = 1 the loss contains no KL, so {other.kind} has no effect; remove "
                    f"{other.kind} or lower {self.kind}.alpha.",
                )


def assemble(strategies: tuple[Strategy, ...], context: BuildContext) -> TrainingComponents:
    """Return the components of a stack, in which no two strategies may fill the same exclusive slot."""
    filled: dict[str, Any] = {}
    for strategy in strategies:
        components = strategy.build(context)
        assert set(components) == strategy.slots, (
            f"{strategy.kind} fills {sorted(components)}, but declares {strategy.slots}"
        )
        for slot, value in components.items():
            if slot in TrainingComponents.SHARED:
                filled[slot] = (*filled.get(slot, ()), *value)
            else:
                assert slot not in filled, f"two strategies fill {slot}"
                filled[slot] = value
    return TrainingComponents(**filled)
