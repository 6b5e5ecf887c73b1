"""Files of sentences: the interface of all formats, lines of text, and a random share of a file."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lagvae_core.data.files import unreadable
from lagvae_core.data.text.lines import read_lines
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["FileShare", "Sentence", "SentenceFile", "SentenceTable", "TextFile"]

Sentence = tuple[int, str, str]
"""Number of the line or row (from 1), label ("" if there is none), and text."""


@dataclass(frozen=True)
class SentenceFile(ABC):
    """A file of sentences.

    Args:
        path: Location of the file.

    Attributes:
        unit: Part of the file that holds one sentence: "line" or "row".
    """

    path: Path
    unit: ClassVar[str]

    @abstractmethod
    def labelled(self) -> bool:
        """Return whether the file has labels.

        Raises:
            DataError: The file cannot be read.
        """

    @abstractmethod
    def sentences(self, labelled: bool) -> Iterator[Sentence]:
        """Yield all sentences in order, including those without words.

        Args:
            labelled: Whether to separate the label from the sentence.

        Raises:
            DataError: The file or a sentence cannot be read.
        """

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the file's bytes.

        Raises:
            DataError: The file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(self.path, error) from None


@dataclass(frozen=True)
class TextFile(SentenceFile):
    """A file with one sentence per line, plain or compressed; see `read_lines`.

    A labelled line has the form label<TAB>text. Only the first tab is a separator. Form feeds, Unicode's line
    separators and carriage returns inside a line do not end it.
    """

    unit: ClassVar[str] = "line"

    def labelled(self) -> bool:
        return any(_label(line) for _, line in read_lines(self.path))

    def sentences(self, labelled: bool) -> Iterator[Sentence]:
        for number, line in read_lines(self.path):
            if not labelled:
                yield number, "", line
            elif label := _label(line):
                yield number, label, line.partition("\t")[2]
            else:
                yield number, "", line


def _label(line: str) -> str:
    label, tab, _ = line.partition("\t")
    return label.strip() if tab else ""


@dataclass(frozen=True)
class SentenceTable(SentenceFile):
    """A file of rows, with a column of texts and, for labelled sentences, a column of labels.

    Labels are strings, integers or booleans.
    """

    text_column: str
    label_column: str
    unit: ClassVar[str] = "row"

    @abstractmethod
    def rows(self, labelled: bool) -> Iterator[tuple[Any, Any]]:
        """Yield text and label of each row; None for what is missing, and for every label if not `labelled`.

        Raises:
            DataError: The file cannot be read, or a column is missing or unsuitable.
        """

    def sentences(self, labelled: bool) -> Iterator[Sentence]:
        for number, (text, label) in enumerate(self.rows(labelled), start=1):
            if text is None:
                message = f"must have a text in the column {self.text_column!r}, not null"
                hint = "Fill in the missing texts, or remove their rows."
                raise DataError([ValidationIssue(f"{self.path}, row {number}", message, hint)])
            yield number, "" if label is None else str(label).strip(), text

    def column_issues(self, names: Sequence[str], labelled: bool) -> list[ValidationIssue]:
        """Return an issue for each column that the file lacks or has more than once.

        Args:
            names: Columns of the file.
            labelled: Whether the column of labels is needed.
        """
        issues = []
        needed = {"data.text_column": self.text_column} | ({"data.label_column": self.label_column} if labelled else {})
        columns = f"The columns are {', '.join(map(str, names)) or 'none'}."
        for key, name in needed.items():
            others = [other for other in names if other not in needed.values() and names.count(other) == 1]
            if name in names and names.count(name) > 1:
                hint = f"{columns} Rename all but one of them."
                issues.append(ValidationIssue(key, f"must name only one column of {self.path}", hint, name))
            elif name not in names:
                remedy = f" Name one of them: {key}={others[0]}" if len(others) == 1 else ""
                issues.append(ValidationIssue(key, f"must name a column of {self.path}", columns + remedy, name))
        return issues


@dataclass(frozen=True)
class FileShare:
    """The sentences of a file, or a random share of them.

    A sentence belongs to the share if its own uniform draw is at least `low` and below `high`. The draw depends only on
    `seed` and the position of the sentence, so shares with disjoint bounds are disjoint.
    """

    file: SentenceFile
    low: float = 0.0
    high: float = 1.0
    seed: int = 0

    @property
    def is_partial(self) -> bool:
        """Whether the share may lack sentences of the file."""
        return self.high - self.low < 1

    def sentences(self, labelled: bool) -> Iterator[Sentence]:
        """Yield the sentences of the share; see `SentenceFile.sentences`."""
        if not self.is_partial:
            yield from self.file.sentences(labelled)
            return
        draw = np.random.default_rng(self.seed).random
        for sentence in self.file.sentences(labelled):
            if self.low <= draw() < self.high:
                yield sentence
