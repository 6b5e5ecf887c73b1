"""What every configuration object is made of: frozen, closed to unknown keys, and honest about its search range."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EvaluationConfig", "FrozenConfig", "TrainingConfig", "Tunable", "tunables"]


class FrozenConfig(BaseModel):
    """A frozen pydantic model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


@dataclass(frozen=True)
class Tunable:
    """The range over which a search turns a field when the user names none; plain data.

    Either `low` and `high` (both included; `log` for a logarithmic scale) or `choices`.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[int | float | str, ...] = ()

    def __post_init__(self) -> None:
        bounded = self.low is not None and self.high is not None
        assert bounded != bool(self.choices), "a Tunable has either low and high, or choices"


def tunables(setting: type[FrozenConfig]) -> Iterator[tuple[str, Any, Tunable]]:
    """Name, annotated type and range of each field of `setting` that declares itself tunable."""
    for name, field in setting.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Tunable):
                yield name, field.annotation, mark


_Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(FrozenConfig):
    """The base recipe that every remedy plugs into: He et al. 2019, Appendix B, as their published text code runs it.

    SGD (images: Adam), whose rate is halved when the validation loss has not improved for `decay_patience` epochs, from
    epoch `decay_min_epoch` on (the code's 15 for text; the paper states none; 0 for the synthetic set and images). What
    a loss must not exceed is, for images, the best so far, and else the last that was no worse, or that of a later
    decay. On a decay the best weights come back and the optimisers start anew. Training stops at decay number
    `max_decays` or after `epochs`. The loss that selects and decays is rec + kl at weight 1 with one sample, whatever
    weight is trained with.
    """

    optimiser: Annotated[Literal["sgd", "adam"], Field(description="one optimiser each for encoder and decoder")] = (
        "sgd"
    )
    learning_rate: Annotated[float, Field(gt=0, description="at the start, of the decoder")] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.0
    adam_betas: Annotated[tuple[_Beta, _Beta], Field(description="of Adam, both in [0, 1)")] = (0.9, 0.999)
    batch_size: Annotated[int, Field(ge=1, description="examples in a batch, at most")] = 32
    epochs: Annotated[int, Field(ge=1, description="passes over the training data, at most")] = 100
    clip_norm: Annotated[float, Field(gt=0, description="largest gradient norm")] = 5.0
    clip_scope: Annotated[
        Literal["all", "per_module"],
        Field(description="norm of encoder and decoder together, or each its own"),
    ] = "all"
    decay_factor: Annotated[float, Field(gt=0, le=1, description="learning rate after a decay over before")] = 0.5
    decay_patience: Annotated[int, Field(ge=1, description="epochs without improvement before a decay")] = 2
    decay_min_epoch: Annotated[int, Field(ge=0, description="epoch (from 0) before which no decay happens")] = 15
    decay_reference: Annotated[
        Literal["last", "best"],
        Field(description="loss to improve on: reset at a decay to the last, or the best so far"),
    ] = "last"
    max_decays: Annotated[int, Field(ge=1, description="training stops at this decay")] = 5
    reload_best_on_decay: Annotated[bool, Field(description="return to the best weights at a decay")] = True
    kl_explode: Annotated[
        float,
        Field(gt=0, description="validation KL that, twice running at weight >= 0.5, is divergence [nats]"),
    ] = 1000.0


class EvaluationConfig(FrozenConfig):
    """How the trained model is measured."""

    split: Annotated[Literal["test", "valid"], Field(description="the split behind the table's metrics")] = "test"
    iw_samples: Annotated[int, Field(ge=1, description="importance samples an example (K of nll_iw)")] = 500
    mi_batch_size: Annotated[int, Field(ge=2, description="group size of mi_batch")] = 32
    limit: Annotated[int | None, Field(ge=2, description="measure only the first n examples of the split")] = None
    seed: Annotated[int, Field(ge=0, description="of the evaluation draws; shared by all runs")] = 0
