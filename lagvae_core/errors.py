"""The exceptions of lagvae.

LagvaeError
├── UserError (ValueError)      what the user gave is wrong; carries every mistake at once
│   ├── ConfigError             a configuration, a sweep file, a command line
│   └── DataError               a data file
├── CheckpointError (ValueError)  a checkpoint that is damaged or belongs to another trial
├── StoreError (OSError)        where results lie cannot be reached, read or written
└── Diverged (ArithmeticError)  training left the finite numbers, or a divergence rule fired
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Diverged",
    "LagvaeError",
    "Mistake",
    "StoreError",
    "UserError",
    "gathered",
]


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: where it stands, what it is, the law that it breaks and how to mend it.

    `key` is written as the user typed it, `law` continues "must ...", `remedy` is a whole sentence.
    """

    key: str
    value: object
    law: str
    remedy: str = ""

    def __str__(self) -> str:
        shown = repr(self.value)
        shown = shown if len(shown) <= 200 else shown[:197] + "..."
        return f"{self.key} must {self.law}, but is {shown}. {self.remedy}".rstrip()


class LagvaeError(Exception):
    """Everything that lagvae raises on purpose."""


class UserError(LagvaeError, ValueError):
    """The user's input is wrong. `mistakes` lists all of them; the message shows one a line."""

    def __init__(self, mistakes: Iterable[Mistake | str], source: str = "") -> None:
        self.mistakes = tuple(mistakes)
        self.source = source
        assert self.mistakes, "a UserError without a mistake"
        lines = [str(m) for m in self.mistakes]
        if len(lines) == 1:
            text = f"{source}: {lines[0]}" if source else lines[0]
        else:
            head = f"{source}: " if source else ""
            text = "\n".join([f"{head}{len(lines)} mistakes.", *(f"  {line}" for line in lines)])
        super().__init__(text)


class ConfigError(UserError):
    """A configuration, a sweep file or a command line that cannot be meant."""


class DataError(UserError):
    """A data file that is missing, unreadable or not what its kind says."""


@contextmanager
def gathered(mistakes: list[Mistake | str]) -> Iterator[None]:
    """A block whose UserError goes no further, and its mistakes into `mistakes`, so that others may be told beside."""
    try:
        yield
    except UserError as error:
        mistakes += error.mistakes


class CheckpointError(LagvaeError, ValueError):
    """A checkpoint that is damaged or belongs to another trial."""


class StoreError(LagvaeError, OSError):
    """Where results lie cannot be reached, read or written; the message says why, and what to do."""


class Diverged(LagvaeError, ArithmeticError):
    """Training diverged; the message names the rule and the outer step."""
