"""The exceptions of lagvae, and validation issues.

LagvaeError
├── UserError (ValueError)          invalid input; carries all issues at once
│   ├── ConfigError                 in a configuration, a sweep file or the command line
│   └── DataError                   in a data file
├── CheckpointError (ValueError)    a damaged checkpoint, or one that belongs to a different trial
├── StoreError (OSError)            results that cannot be reached, read or written; exit code 1
├── Interrupted                     training was asked to end early; raised by a progress function
├── Diverged (ArithmeticError)      training diverged: a value is not finite, or a divergence criterion is met
├── LeaseHeldError                  another driver runs the sweep (sweeps.storage.lease)
├── ConnectionFailed                Ray does not start, or no cluster at an address (cluster.connection)
├── AccessDenied                    a cluster that requires a token, or rejects the given one (cluster.access)
├── JobError                        a job request that the cluster did not fulfil (cluster.jobs)
└── PackageTooLarge                 a job package over its size limit (cluster.job_package)

A command that ends with one of these prints the message and exits with the error's `exit_code`, which is 2 unless
the tree above says otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final

__all__ = [
    "MISSING",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Diverged",
    "Interrupted",
    "LagvaeError",
    "StoreError",
    "UserError",
    "ValidationIssue",
    "collect_issues",
    "did_you_mean",
]


class _Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Value of an issue that has no offending value to show."""

MAX_VALUE_CHARACTERS = 200
"""Largest number of characters of a value in a message; longer representations are truncated."""


MAX_SHOWN_ISSUES = 100
"""Largest number of issues in the message of an error; the error carries all of them."""


@dataclass(frozen=True)
class ValidationIssue:
    """One problem in the user's input, shown as `where: message [code], got VALUE. Hint.`

    Args:
        where: The key, option or file, as the user wrote it.
        message: The problem, without a full stop: "must be less than 1".
        hint: A whole sentence on how to fix it; "" if there is nothing to add.
        value: The offending value; `MISSING` if there is none.
        code: Code of the violated validation rule, such as "E12"; docs/messages.md lists all codes.
    """

    where: str
    message: str
    hint: str = ""
    value: object = MISSING
    code: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        if self.code is not None:
            text += f" [{self.code}]"
        if self.value is not MISSING:
            shown = repr(self.value)
            shown = shown if len(shown) <= MAX_VALUE_CHARACTERS else shown[: MAX_VALUE_CHARACTERS - 3] + "..."
            text += f", got {shown}"
        return f"{text}. {self.hint}".rstrip()


class LagvaeError(Exception):
    """Root of all exceptions that lagvae raises on purpose."""

    exit_code: ClassVar[int] = 2
    """Exit code of a command that ends with this error."""


class UserError(LagvaeError, ValueError):
    """Invalid user input. The error carries all issues at once; its message has one line per issue.

    Args:
        issues: The problems; at least one.
        source: The file or command that the issues are about; "" if the issues name it.
    """

    def __init__(self, issues: Iterable[ValidationIssue], source: str = "") -> None:
        self.issues = tuple(issues)
        self.source = source
        assert self.issues, "a UserError needs at least one issue"
        lines = [str(issue) for issue in self.issues]
        if len(lines) == 1:
            text = f"{source}: {lines[0]}" if source else lines[0]
        else:
            head = f"{source}: " if source else ""
            shown = [f"  {line}" for line in lines[:MAX_SHOWN_ISSUES]]
            more = [f"  and {len(lines) - len(shown):,} more."] if len(lines) > len(shown) else []
            text = "\n".join([f"{head}{len(lines):,} problems.", *shown, *more])
        super().__init__(text)


class ConfigError(UserError):
    """An invalid configuration, sweep file or command line."""


class DataError(UserError):
    """A data file that is missing, unreadable or not in the expected format."""


def did_you_mean(word: object, known: Iterable[str], count: int = 1) -> str:
    """Return "Did you mean X?" for a misspelt word.

    Args:
        word: The word that the user wrote.
        known: The words that are valid in its place.
        count: Largest number of suggestions, joined by "or".

    Returns:
        The question, with the most similar known words; "" if none is similar.
    """
    near = difflib.get_close_matches(str(word), list(known), n=count, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else ""


@contextmanager
def collect_issues(issues: list[ValidationIssue]) -> Iterator[None]:
    """Context manager that catches a UserError and appends its issues to `issues`.

    With it, several checks can run one after the other and report their issues together.
    """
    try:
        yield
    except UserError as error:
        issues += error.issues


class CheckpointError(LagvaeError, ValueError):
    """A checkpoint is damaged or belongs to a different trial."""


class StoreError(LagvaeError, OSError):
    """Results cannot be reached, read or written. The message gives the reason and how to fix it."""

    exit_code = 1


class Interrupted(LagvaeError):
    """Training was asked to end early. A progress function raises it, and training saves its checkpoint first."""

    exit_code = 130


class Diverged(LagvaeError, ArithmeticError):
    """Training diverged. The message says which value was out of range, and at which update or epoch."""
