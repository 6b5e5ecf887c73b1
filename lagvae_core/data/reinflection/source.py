"""Morphological reinflection: files of the SIGMORPHON 2016 shared task."""

from __future__ import annotations

import io
import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.data.base import Batching, Partition
from lagvae_core.data.files import data_folder, unreadable
from lagvae_core.data.reinflection.arrays import ABSENT, Characters, InflectionBatch, InflectionDataset, InflectionSplit
from lagvae_core.data.text.tokens import TokenSplit
from lagvae_core.errors import DataError, ValidationIssue, did_you_mean
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import FrozenConfig

__all__ = ["ReinflectionData"]

SUFFIXES = {"train": "train", "valid": "dev", "test": "test"}
"""Ending of the file name of each split."""

COLUMNS: dict[int, tuple[str, ...]] = {
    1: ("source", "features", "target"),
    2: ("source's features", "source", "features", "target"),
    3: ("source", "features", "target"),
}
"""Columns of a line in the files of each task."""

FEATURE = re.compile(r"[^\s=,{}]+=(\{[^\s=,{}]+\}|[^\s=,{}]+)")
MAX_ISSUES = 5
"""Maximum number of invalid lines of a file that are reported individually."""


class ReinflectionData(FrozenConfig):
    """Pairs of forms of a word; the model produces one form from the other. SIGMORPHON 2016, tasks 1, 2 and 3.

    The data are the files `<language>-task<task>-train`, `-dev` (the validation split) and `-test` of one folder. They
    are UTF-8 with one example per line and columns separated by tabs. The columns of task 1 are lemma (the source),
    features and form (the target). The columns of task 2 are features of the source, source, features of the target,
    and target. The columns of task 3 are source, features of the target, and target. The features of the sources in
    task 2 must have the right syntax but are not used, since no model of this package has an input for them.

    Forms are normalised to Unicode's NFC and split into code points. The vocabulary consists of the characters of the
    training forms used, both sources and targets. Every other character becomes `<unk>`, which no training form
    contains, so the model can never produce a target with such a character. Features are written `key=value` and
    separated by commas; a set such as `aspect={IPFV/PROG}` is one feature. The set of features is that of the whole
    training file, regardless of `limit`. A validation or test file with any other feature is an error.

    Batches are padded and contain examples with targets of similar length. `resplit_random` draws the batches before
    each epoch, and `fixed_random` draws them once. `fixed_by_group` fills each batch with targets of one length, in the
    order of the file.
    """

    batching: ClassVar[Batching | None] = None

    kind: Literal["reinflection"] = "reinflection"
    path: str = Field(min_length=1, description="folder with the files of the shared task")
    language: str = Field(min_length=1, description="language with which the file names begin, such as turkish")
    task: Literal[1, 2, 3] = Field(3, description="number of the task within the shared task")
    limit: int | None = Field(None, ge=1, description="number of leading training examples to use; null: all")
    partition: Partition = Field("resplit_random", description="division of the training examples into batches")

    def load(self) -> InflectionDataset:
        """Read and encode the files.

        Returns:
            The data set. Its report also contains the counts `<split>_dropped_empty` [lines].

        Raises:
            DataError: The folder or a file is missing or unreadable; a file is not UTF-8 or has no example; or a line
                has the wrong number of columns, an empty column, a malformed feature, or a feature that the training
                file lacks. The error carries the issues found in all files, with at most 5 lines of each file.
        """
        folder = data_folder(self.path)
        issues: list[ValidationIssue] = []
        files = {split: self._read(folder, suffix, issues) for split, suffix in SUFFIXES.items()}
        features = tuple(dict.fromkeys(name for row in files["train"].rows for name in row.features))
        for split in ("valid", "test"):
            if not issues:
                issues += _first_issues(files[split].path, _unknown_features(files[split], features))
        if issues:
            raise DataError(issues)
        rows = {split: file.rows for split, file in files.items()}
        rows["train"] = rows["train"][: self.limit]
        characters = Characters.of(form for row in rows["train"] for form in (row.source, row.target))
        splits = {split: _encode(rows_of_split, characters, features) for split, rows_of_split in rows.items()}
        dropped = {f"{split}_dropped_empty": file.empty for split, file in files.items()}
        return InflectionDataset.of(splits, characters, features, dropped)

    def fingerprint(self) -> str:
        """Return the fingerprint of the data; see `DataSource.fingerprint`."""
        return self.load().fingerprint

    def train_batches(self, train: InflectionSplit, batch_size: int, seed: int, epoch: int) -> list[InflectionBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        if self.partition == "fixed_by_group":
            return train.batches(batch_size, by_length=True)
        shuffle = epoch if self.partition == "resplit_random" else 0
        return train.batches(batch_size, seed=derive_seed(seed, "partition", shuffle))

    def _read(self, folder: Path, suffix: str, issues: list[ValidationIssue]) -> _DataFile:
        """Read the file of a split and append all problems with it to `issues`."""
        path = folder / f"{self.language}-task{self.task}-{suffix}"
        file = _DataFile(path)
        if not os.path.isfile(path):  # false for a name that is too long, too
            present = sorted({entry.name.rpartition("-")[0] for entry in folder.glob("*-task?-*")})
            content = f"files of {textwrap.shorten(', '.join(present), 200)}" if present else "no file of the task"
            hint = f"The folder contains {content}. Add the file, or correct data.language or data.task."
            message = f"must be a folder with the file {path.name}"
            issues.append(ValidationIssue("data.path", message, hint, str(folder)))
            return file
        lines = _lines(path, issues)
        if lines is None:
            return file
        wrong_lines: list[ValidationIssue] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                file.empty += 1
                continue
            row = self._parse(line.rstrip("\r\n"), number)
            issue = self._issue(row, f"{path}, line {number}", line.rstrip())
            if issue is None:
                file.rows.append(row)
            else:
                wrong_lines.append(issue)
        issues += _first_issues(path, wrong_lines)
        if not file.rows and not wrong_lines:
            hint = "Choose another file, or download it again."
            issues.append(ValidationIssue(str(path), "must contain at least one example", hint))
        return file

    def _parse(self, line: str, number: int) -> _Row:
        cells = [unicodedata.normalize("NFC", cell.strip(" ")) for cell in line.split("\t")]
        by_column = dict(zip(COLUMNS[self.task], cells, strict=False))
        features = dict.fromkeys(by_column.get("features", "").split(","))
        return _Row(number, cells, by_column.get("source", ""), tuple(features), by_column.get("target", ""))

    def _issue(self, row: _Row, where: str, line: str) -> ValidationIssue | None:
        columns = COLUMNS[self.task]
        layout = f"The columns of task {self.task} are: {', '.join(columns)}."
        if len(row.cells) != len(columns):
            message = f"must have {len(columns)} columns separated by tabs"
            return ValidationIssue(where, message, f"This line has {len(row.cells)}. {layout}", line)
        for name, cell in zip(columns, row.cells, strict=True):
            if not cell:
                return ValidationIssue(where, f'must not be empty in the column "{name}"', layout, line)
            wrong = [part for part in cell.split(",") if not FEATURE.fullmatch(part)]
            if name.endswith("features") and wrong:
                message = "must have features of the form key=value or key={value/value}"
                return ValidationIssue(where, message, f"Correct the feature {wrong[0]!r}. {layout}", line)
        return None


@dataclass(frozen=True)
class _Row:
    """Line `number` of a file: all its cells, and the cells that are used."""

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
    """Return the lines of a UTF-8 file, or None after appending an issue."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{path}, line {line}, byte offset {error.start}"
        hint = "Convert the file to UTF-8, for example with iconv."
        issues.append(ValidationIssue(where, "must be UTF-8 text", hint))
        return None
    except OSError as error:
        issues += unreadable(path, error).issues
        return None
    return io.StringIO(text).readlines()  # unlike str.splitlines, does not split at Unicode's line separators


def _unknown_features(file: _DataFile, features: Sequence[str]) -> Iterator[ValidationIssue]:
    for row in file.rows:
        for name in row.features:
            if name not in features:
                known = f"Known features: {textwrap.shorten(' '.join(features), 200)}."
                where = f"{file.path}, line {row.number}"
                message = "must have only features that occur in the training file"
                yield ValidationIssue(where, message, did_you_mean(name, features) or known, name)


def _first_issues(path: Path, issues: Iterable[ValidationIssue]) -> list[ValidationIssue]:
    """Return the first issues, and one with the number of further invalid lines if there are any."""
    issues = list(issues)
    more = len(issues) - MAX_ISSUES
    rest = [ValidationIssue(str(path), f"has further invalid lines ({more:,})")] if more > 0 else []
    return issues[:MAX_ISSUES] + rest


def _encode(rows: Sequence[_Row], characters: Characters, features: Sequence[str]) -> InflectionSplit:
    numbers: Mapping[str, int] = {name: number for number, name in enumerate(features)}
    tags_NK: NDArray[np.int64] = np.full((len(rows), max(len(row.features) for row in rows)), ABSENT, dtype=np.int64)
    for index, row in enumerate(rows):
        tags_NK[index, : len(row.features)] = [numbers[name] for name in row.features]
    sources, targets = (
        TokenSplit.of(characters.encode(form) for form in forms)
        for forms in ([row.source for row in rows], [row.target for row in rows])
    )
    return InflectionSplit(sources, targets, tags_NK)
