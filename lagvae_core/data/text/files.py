"""The files of a text: which they are, and their sentences, read one after the other and never all at once."""

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

from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["SPLITS", "Sentence", "Source", "TextFile", "file_of"]

SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "valid": ("valid", "dev", "val"), "test": ("test",)}
"""The names, without suffix, that the file of a split may have."""

SUFFIXES = (".txt", ".txt.gz", ".parquet")

Sentence = tuple[int, str, str]
"""Number of its line or row, from 1; label, empty where there is none; text."""


class Source(ABC):
    """One file of sentences. `unit` is what its sentences are counted in."""

    path: Path
    unit: ClassVar[str]

    @abstractmethod
    def labelled(self) -> bool:
        """Whether any sentence has a label, or a place for one; DataError where the file cannot be read."""

    @abstractmethod
    def sentences(self, labelled: bool) -> Iterator[Sentence]:
        """All in their order, those without words too; DataError at the first that cannot be read."""

    def digest(self) -> str:
        """SHA-256 (hex) of the file's bytes; DataError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(self.path, error) from None


def file_of(folder: Path, split: str) -> Path:
    """The one file of a split; DataError where there is none or more than one."""
    names = [stem + suffix for stem in SPLITS[split] for suffix in SUFFIXES]
    found = [name for name in names if (folder / name).exists()]
    if len(found) == 1:
        return folder / found[0]
    if found:
        message = f"must have one file for {split}, and {' and '.join(found)} are there"
        raise DataError([ValidationIssue("data.path", message, "Move all but one of them away.", str(folder))])
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    stems = " or ".join(f"{stem}.txt" for stem in SPLITS[split])
    message = f"must contain a file {stems} (or .txt.gz, or .parquet)"
    raise DataError([ValidationIssue("data.path", message, f"It holds {textwrap.shorten(there, 200)}.", str(folder))])


def unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        [ValidationIssue("data.path", "must hold readable files", f"{error.strerror or error}.", str(path))]
    )


@dataclass(frozen=True)
class TextFile(Source):
    """UTF-8, one sentence a line, plain or under gzip; with labels, label<TAB>text, where the first tab alone counts.

    Nothing but a newline ends a line: no form feed and none of Unicode's line separators.
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
                        hint = "Convert the file, say with iconv."
                        raise DataError([ValidationIssue("data.path", "must hold UTF-8 text", hint, where)]) from None
                    start += len(raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            where = f"{self.path}, after line {number}"
            hint = f"Copy it again, and check it with gzip -t ({error})."
            raise DataError([ValidationIssue("data.path", "must hold whole gzip files", hint, where)]) from None
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path)) if self.path.suffix == ".gz" else self.path.open("rb")


def _label(line: str) -> str:
    label, tab, _ = line.partition("\t")
    return label.strip() if tab else ""
