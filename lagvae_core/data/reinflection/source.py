"""Morphological reinflection: files of the SIGMORPHON 2016 shared task."""

from __future__ import annotations

import difflib
import io
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.data.base import Partition
from lagvae_core.data.reinflection.arrays import ABSENT, Characters, InflectionBatch, InflectionDataset, InflectionSplit
from lagvae_core.data.text.tokens import TokenSplit
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import FrozenConfig

__all__ = ["ReinflectionData"]

SUFFIXES = {"train": "train", "valid": "dev", "test": "test"}
COLUMNS: dict[int, tuple[str, ...]] = {
    1: ("source", "features", "target"),
    2: ("source's features", "source", "features", "target"),
    3: ("source", "features", "target"),
}
FEATURE = re.compile(r"[^\s=,{}]+=(\{[^\s=,{}]+\}|[^\s=,{}]+)")
SHOWN = 5
"""Wrong lines of a file that are told one by one."""


class ReinflectionData(FrozenConfig):
    """From a form of a word and the features of another form to that form: SIGMORPHON 2016, tasks 1, 2 and 3.

    Reads the files `<language>-task<task>-train`, `-dev` (the validation split) and `-test` of one folder: UTF-8, one
    example a line, columns separated by tabs. Task 1: lemma, features, form. Task 2: features of the source, source,
    features of the target, target. Task 3: source, features of the target, target. The source of task 1 is the lemma.
    The features of task 2's sources must be lawful and are not used: no model here has a place for them.

    Forms are brought to Unicode's NFC and cut into code points. The characters are those of the training forms in use,
    sources and targets; any other is read as `<unk>`, which no training form holds, and a target with one is never
    inflected rightly. Features, `key=value` separated by commas, are taken one by one; a set such as
    `aspect={IPFV/PROG}` is one feature. They are those of the whole training file, whatever `limit` leaves of it; a
    file with a further one is refused.

    Batches are padded, examples of like length together. `partition`: anew for each epoch; once; or, as
    `fixed_by_group`, targets of one length to a batch, in the file's order.
    """

    kind: Literal["reinflection"] = "reinflection"
    path: str = Field(min_length=1, description="folder with the files of the shared task")
    language: str = Field(min_length=1, description="as the file names begin, such as turkish")
    task: Literal[1, 2, 3] = Field(3, description="of the shared task")
    limit: int | None = Field(None, ge=1, description="use only the first `limit` training examples")
    partition: Partition = Field("resplit_random", description="how training examples are cut into batches")

    def load(self) -> InflectionDataset:
        """Read and encode the files; the report adds `<split>_dropped_empty`, in lines.

        Raises DataError, with mistakes of all files, where the folder or a file is missing or unreadable, a file is not
        UTF-8 or has no example, or a line has another number of columns, an empty form, something that is not a
        feature, or a feature that the training file lacks.
        """
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            hint = f"There is none at {folder.absolute()}."
            raise DataError([ValidationIssue("data.path", "must be a folder", hint, self.path)])
        issues: list[ValidationIssue] = []
        files = {split: self._read(folder, suffix, issues) for split, suffix in SUFFIXES.items()}
        features = tuple(dict.fromkeys(name for row in files["train"].rows for name in row.features))
        for split in ("valid", "test"):
            if not issues:
                issues += _told(files[split].path, _unknown(files[split], features))
        if issues:
            raise DataError(issues)
        rows = {split: file.rows for split, file in files.items()}
        rows["train"] = rows["train"][: self.limit]
        characters = Characters.of(form for row in rows["train"] for form in (row.source, row.target))
        splits = {split: _encoded(of_split, characters, features) for split, of_split in rows.items()}
        dropped = {f"{split}_dropped_empty": file.empty for split, file in files.items()}
        return InflectionDataset.of(splits, characters, features, dropped)

    def train_batches(self, train: InflectionSplit, batch_size: int, seed: int, epoch: int) -> list[InflectionBatch]:
        """The batches of `epoch` (from 0) in a trial of that `seed`, on the CPU; as many in every epoch."""
        if self.partition == "fixed_by_group":
            return train.batches(batch_size, by_length=True)
        shuffle = epoch if self.partition == "resplit_random" else 0
        return train.batches(batch_size, seed=derive_seed(seed, "partition", shuffle))

    def _read(self, folder: Path, suffix: str, issues: list[ValidationIssue]) -> _DataFile:
        """A split's examples; what is wrong is added to `mistakes`."""
        path = folder / f"{self.language}-task{self.task}-{suffix}"
        file = _DataFile(path)
        if not path.is_file():
            found = sorted({entry.name.rpartition("-")[0] for entry in folder.glob("*-task?-*")})
            hint = f"It holds {textwrap.shorten(', '.join(found), 200) or 'no file of the shared task'}."
            issues.append(ValidationIssue("data.path", f"must have a file {path.name}", hint, str(folder)))
            return file
        lines = _lines(path, issues)
        if lines is None:
            return file
        wrong: list[ValidationIssue] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                file.empty += 1
                continue
            row = self._parsed(line.rstrip("\r\n"), number)
            issue = self._issue(row, f"{path}, line {number}: {line.rstrip()}")
            if issue is None:
                file.rows.append(row)
            else:
                wrong.append(issue)
        issues += _told(path, wrong)
        if not file.rows and not wrong:
            issues.append(ValidationIssue("data.path", "must have an example in every file", "It has none.", str(path)))
        return file

    def _parsed(self, line: str, number: int) -> _Row:
        cells = [unicodedata.normalize("NFC", cell.strip(" ")) for cell in line.split("\t")]
        named = dict(zip(COLUMNS[self.task], cells, strict=False))
        features = dict.fromkeys(named.get("features", "").split(","))
        return _Row(number, cells, named.get("source", ""), tuple(features), named.get("target", ""))

    def _issue(self, row: _Row, where: str) -> ValidationIssue | None:
        columns = COLUMNS[self.task]
        layout = f"A line of task {self.task} is: {', '.join(columns)}."
        if len(row.cells) != len(columns):
            return ValidationIssue(
                "data.path", f"must have {len(columns)} columns, not {len(row.cells)}, between tabs", layout, where
            )
        for name, cell in zip(columns, row.cells, strict=True):
            if not cell:
                return ValidationIssue(
                    "data.path", "must leave no column empty", f"The {name} is missing. {layout}", where
                )
            wrong = [part for part in cell.split(",") if not FEATURE.fullmatch(part)]
            if name.endswith("features") and wrong:
                hint = f"{wrong[0]!r} is not key=value or key={{value/value}}. {layout}"
                return ValidationIssue("data.path", "must have features as key=value between commas", hint, where)
        return None


@dataclass(frozen=True)
class _Row:
    """Line `number` of a file: its cells, and what its columns are named."""

    number: int
    cells: Sequence[str]
    source: str
    features: tuple[str, ...]
    target: str


@dataclass
class _DataFile:
    path: Path
    rows: list[_Row] = field(default_factory=list)
    empty: int = 0


def _lines(path: Path, issues: list[ValidationIssue]) -> list[str] | None:
    """The lines of a UTF-8 file, or None and one more mistake."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{path}, line {line}, byte offset {error.start}"
        issues.append(ValidationIssue("data.path", "must hold UTF-8 text", "Convert the file, say with iconv.", where))
        return None
    except OSError as error:
        issues.append(ValidationIssue("data.path", "must hold readable files", f"{error.strerror}.", str(path)))
        return None
    return io.StringIO(text).readlines()  # not str.splitlines, which also cuts at Unicode's line separators


def _unknown(file: _DataFile, features: Sequence[str]) -> Iterator[ValidationIssue]:
    for row in file.rows:
        for name in row.features:
            if name not in features:
                near = difflib.get_close_matches(name, features, n=1, cutoff=0.5)
                hint = f"Did you mean {near[0]}?" if near else f"Known are {textwrap.shorten(' '.join(features), 200)}."
                where = f"{file.path}, line {row.number}: {name}"
                yield ValidationIssue("data.path", "must have features of the training file alone", hint, where)


def _told(path: Path, wrong: Iterator[ValidationIssue] | list[ValidationIssue]) -> list[ValidationIssue]:
    """The first few, and how many follow."""
    every = list(wrong)
    if len(every) <= SHOWN:
        return every
    rest = f"{path}, {len(every) - SHOWN} further lines"
    return [*every[:SHOWN], ValidationIssue("data.path", "must be mended too", "Only the first are shown.", rest)]


def _encoded(rows: Sequence[_Row], characters: Characters, features: Sequence[str]) -> InflectionSplit:
    number: Mapping[str, int] = {name: position for position, name in enumerate(features)}
    tags_NK: NDArray[np.int64] = np.full((len(rows), max(len(row.features) for row in rows)), ABSENT, dtype=np.int64)
    for position, row in enumerate(rows):
        tags_NK[position, : len(row.features)] = [number[name] for name in row.features]
    sources, targets = (
        TokenSplit.of(characters.encode(form) for form in forms)
        for forms in ([row.source for row in rows], [row.target for row in rows])
    )
    return InflectionSplit(sources, targets, tags_NK)
