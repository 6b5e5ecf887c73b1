"""Locating the text file of each split and reading its sentences one at a time."""

from __future__ import annotations

import gzip
import hashlib
import textwrap
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, cast

from lagvae_core.data.files import unreadable
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["SPLITS", "Sentence", "SentenceFile", "TextFile", "find_split_file"]

SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "valid": ("valid", "dev", "val"), "test": ("test",)}
"""Permitted names of the file of each split, without suffix."""

SUFFIXES = (".txt", ".txt.gz", ".parquet")

Sentence = tuple[int, str, str]
"""Number of the line or row (from 1), label ("" if there is none), and text."""


class SentenceFile(ABC):
    """A file of sentences.

    Attributes:
        path: Location of the file.
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


def find_split_file(folder: Path, split: str) -> Path:
    """Return the file of a split.

    Raises:
        DataError: The folder has no file, or several files, for the split.
    """
    names = [stem + suffix for stem in SPLITS[split] for suffix in SUFFIXES]
    present = [name for name in names if (folder / name).exists()]
    if len(present) == 1:
        return folder / present[0]
    if present:
        message = f"must be a folder with only one file for {split}"
        hint = f"The folder contains {' and '.join(present)}. Move all but one of them to another folder."
        raise DataError([ValidationIssue("data.path", message, hint, str(folder))])
    content = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    stems = " or ".join(f"{stem}.txt" for stem in SPLITS[split])
    message = f"must be a folder with a file {stems} (or with the suffix .txt.gz or .parquet)"
    hint = f"The folder contains {textwrap.shorten(content, 200)}. Add or rename the file."
    raise DataError([ValidationIssue("data.path", message, hint, str(folder))])


@dataclass(frozen=True)
class TextFile(SentenceFile):
    """A UTF-8 file with one sentence per line, plain or compressed with gzip.

    A labelled line has the form label<TAB>text. Only the first tab is a separator, and only a newline ends a line: form
    feeds and Unicode's line separators do not.
    """

    path: Path
    unit: ClassVar[str] = "line"

    def labelled(self) -> bool:
        return any(_label(line) for _, line in self._lines())

    def sentences(self, labelled: bool) -> Iterator[Sentence]:
        for number, line in self._lines():
            if not labelled:
                yield number, "", line
            elif label := _label(line):
                yield number, label, line.partition("\t")[2]
            else:
                yield number, "", line

    def _lines(self) -> Iterator[tuple[int, str]]:
        number = 0
        try:
            with self._open() as file:
                start = 0
                for number, raw in enumerate(file, start=1):
                    try:
                        yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                    except UnicodeDecodeError as error:
                        where = f"{self.path}, line {number}, byte offset {start + error.start}"
                        hint = "Convert the file to UTF-8, for example with iconv."
                        raise DataError([ValidationIssue(where, "must be UTF-8 text", hint)]) from None
                    start += len(raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            message = f"must be a complete and undamaged gzip file ({error})"
            hint = "Copy the file again and check it with gzip -t."
            where = f"{self.path}, after line {number}"
            raise DataError([ValidationIssue(where, message, hint)]) from None
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path)) if self.path.suffix == ".gz" else self.path.open("rb")


def _label(line: str) -> str:
    label, tab, _ = line.partition("\t")
    return label.strip() if tab else ""
