"""What every configuration object is made of: frozen, closed to unknown keys, and honest about its search range."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Setting", "Tunable", "tunables"]


class Setting(BaseModel):
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


def tunables(setting: type[Setting]) -> Iterator[tuple[str, Any, Tunable]]:
    """Name, annotated type and range of each field of `setting` that declares itself tunable."""
    for name, field in setting.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Tunable):
                yield name, field.annotation, mark
