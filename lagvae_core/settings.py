"""Base class of all configuration objects, search ranges of fields, and the settings of training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

__all__ = [
    "AddedField",
    "EvaluationConfig",
    "FrozenConfig",
    "TrainingConfig",
    "Tunable",
    "describe_constraints",
    "identifying_values",
    "tunables",
    "value_before",
]


class FrozenConfig(BaseModel):
    """A frozen pydantic model that rejects unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


@dataclass(frozen=True)
class Tunable:
    """The default search range of a field, as plain data.

    A search uses this range unless the user specifies another. The range has either `low` and `high`, both included, or
    `choices`.

    Args:
        low: Smallest value.
        high: Largest value.
        log: Whether the scale between `low` and `high` is logarithmic.
        choices: The values to choose from.
        step: Distance between the values of the range; None for every number, or every integer, of the range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[int | float | str, ...] = ()
    step: float | None = None

    def __post_init__(self) -> None:
        bounded = self.low is not None and self.high is not None
        assert bounded != bool(self.choices), "a Tunable must have either low and high, or choices"


def tunables(config: type[FrozenConfig]) -> Iterator[tuple[str, Any, Tunable]]:
    """Yield the name, the annotated type and the search range of each tunable field of `config`."""
    for name, field in config.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Tunable):
                yield name, field.annotation, mark


@dataclass(frozen=True)
class AddedField:
    """Mark of a field that was added after results had been stored.

    At the value that means the behaviour before the field existed, the field is left out of the identity of a
    configuration, so that stored runs keep theirs. This value must never change.

    Args:
        before: That value; None for the default of the field.
    """

    before: Any = None


def value_before(field: FieldInfo) -> Any:
    """Return the value of an `AddedField` that means the behaviour before it existed; `...` for any other field."""
    marks = [mark for mark in field.metadata if isinstance(mark, AddedField)]
    return ... if not marks else field.default if marks[0].before is None else marks[0].before


def identifying_values(config: FrozenConfig) -> dict[str, Any]:
    """Return the values of `config` as plain data, without every `AddedField` that means nothing new."""
    values = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value == value_before(field):
            del values[name]
        elif isinstance(value, FrozenConfig):
            values[name] = identifying_values(value)
        elif isinstance(value, tuple) and all(isinstance(item, FrozenConfig) for item in value):
            values[name] = [identifying_values(item) for item in value]
    return values


_CONSTRAINTS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}", "min_length": "at least {} long"}


def describe_constraints(metadata: Iterable[Any]) -> list[str]:
    """Return the constraints of a pydantic field as text, such as [">= 0", "< 1"].

    Args:
        metadata: `FieldInfo.metadata` of the field. Entries that are not bounds are ignored.
    """
    return [
        text.format(getattr(mark, name))
        for mark in metadata
        for name, text in _CONSTRAINTS.items()
        if hasattr(mark, name)
    ]


_Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(FrozenConfig):
    """The basic training procedure, to which the remedies are added.

    Source: He et al. 2019, Appendix B, as implemented in the authors' published code for text. The optimiser is SGD for
    text and Adam for images.

    The validation loss determines when the learning rate decays and which weights are the best. It is rec + kl with one
    sample of z, always at KL weight 1, even if training uses a different weight. An epoch is *bad* if its validation
    loss exceeds a reference, which `decay_reference` selects:

    - `best` (images): the lowest loss so far.
    - `last` (text): the loss of the most recent epoch that was not bad or that ended in a decay.

    After `decay_patience` consecutive bad epochs the learning rate is multiplied by `decay_factor`, but never before
    epoch `decay_min_epoch`. By default, that epoch is 15 for text, as in the published code (the paper does not state
    it), and for reinflection, and 0 for images and synthetic data. A decay restores the best weights, unless
    `reload_best_on_decay` is false, and resets the state of the optimisers. Training stops when decay number
    `max_decays` is due, or after `epochs` epochs.
    """

    optimiser: Annotated[
        Literal["sgd", "adam"], Field(description="optimiser, with separate instances for encoder and decoder")
    ] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, description="initial learning rate of the decoder")] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of SGD")] = 0.0
    adam_betas: Annotated[tuple[_Beta, _Beta], Field(description="beta 1 and beta 2 of Adam, both in [0, 1)")] = (
        0.9,
        0.999,
    )
    batch_size: Annotated[int, Field(ge=1, description="largest number of examples in a training batch")] = 32
    epochs: Annotated[int, Field(ge=1, description="largest number of passes over the training data")] = 100
    clip_norm: Annotated[float, Field(gt=0, description="gradient norm above which gradients are clipped")] = 5.0
    clip_scope: Annotated[
        Literal["all", "per_module"],
        Field(description="parameters whose gradient norm is clipped: all together, or encoder and decoder separately"),
    ] = "all"
    decay_factor: Annotated[
        float, Field(gt=0, le=1, description="factor by which each decay multiplies the learning rate")
    ] = 0.5
    decay_patience: Annotated[
        int, Field(ge=1, description="number of consecutive bad epochs after which the learning rate decays")
    ] = 2
    decay_min_epoch: Annotated[int, Field(ge=0, description="first epoch (from 0) that may end in a decay")] = 15
    decay_reference: Annotated[
        Literal["last", "best"],
        Field(description="loss above which an epoch is bad: the last one that was not bad, or the lowest so far"),
    ] = "last"
    max_decays: Annotated[int, Field(ge=1, description="number of learning-rate decays at which training stops")] = 5
    reload_best_on_decay: Annotated[bool, Field(description="whether a decay restores the best weights")] = True
    kl_explode: Annotated[
        float,
        Field(
            gt=0,
            description="validation KL above which two consecutive epochs at KL weight >= 0.5 count as divergence "
            "[nats]",
        ),
    ] = 1000.0


class EvaluationConfig(FrozenConfig):
    """Settings for the measurement of the trained model."""

    split: Annotated[
        Literal["test", "valid", "train"],
        Field(description="split on which the table's metrics are measured; train shows whether a model can overfit"),
    ] = "test"
    iw_samples: Annotated[int, Field(ge=1, description="number of importance samples per example (K of nll_iw)")] = 500
    mi_batch_size: Annotated[int, Field(ge=2, description="number of examples in each group of mi_batch")] = 32
    limit: Annotated[
        int | None, Field(ge=2, description="number of examples to measure, from the start of the split; null for all")
    ] = None
    seed: Annotated[int, Field(ge=0, description="seed of the evaluation draws, shared by all runs")] = 0
