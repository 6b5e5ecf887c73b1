"""Morphological reinflection: files of the SIGMORPHON shared tasks and of UniMorph."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.data.base import Batching, Partition, SplitLimits, Unit, remarks_entry
from lagvae_core.data.files import data_folder
from lagvae_core.data.held_out import HeldOut
from lagvae_core.data.reinflection.arrays import ABSENT, Characters, InflectionBatch, InflectionDataset, InflectionSplit
from lagvae_core.data.reinflection.layout import Columns, Layout, Size, columns_of_later_files, find_files
from lagvae_core.data.text.lines import read_lines
from lagvae_core.data.text.tokens import TokenSplit
from lagvae_core.errors import DataError, ValidationIssue, collect_issues, did_you_mean
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import AddedField

__all__ = ["ReinflectionData"]

SPLITS = ("train", "valid", "test")
MAX_ISSUES = 5
"""Maximum number of invalid lines of a file that are reported individually."""


class ReinflectionData(SplitLimits, HeldOut):
    """Pairs of forms of a word; the model produces one form from the other. SIGMORPHON shared tasks and UniMorph.

    The data are files of one folder, in UTF-8 with one example per line and columns separated by tabs:

    - SIGMORPHON 2016: `<language>-task<task>-train`, `-dev` (the validation split) and `-test`. The columns of task 1
      are lemma (the source), features and form (the target). The columns of task 2 are features of the source, source,
      features of the target, and target. The columns of task 3 are source, features of the target, and target. The
      features of the sources in task 2 must have the right syntax but are not used, since no model of this package has
      an input for them. Features are written `key=value` and separated by commas; a set such as `aspect={IPFV/PROG}` is
      one feature.
    - The later shared tasks: `<language>-train-low` (or medium, high; `size` chooses), `<language>-dev` and
      `<language>-uncovered-test`, or `<language>.trn`, `.dev` and `.tst`, or similar. The columns are lemma, form, and
      features such as N;NOM;PL, of which each part is one feature; since 2023 the features come before the form. The
      content of the training file decides about the order.
    - UniMorph: one file called `<language>`, such as `tur`, with the same columns. It has no splits; set `held_out`.

    If the file of valid or test is missing, `held_out` takes that split from train at random.

    Forms are normalised to Unicode's NFC and split into code points. The vocabulary consists of the characters of the
    training forms used, both sources and targets. Every other character becomes `<unk>`, which no training form
    contains, so the model can never produce a target with such a character. The set of features is that of the whole
    training file, regardless of `limit`. In files of SIGMORPHON 2016, a validation or test file with any other feature
    is an error. In later files, whose training files can be very small, it is not: the embeddings of such features are
    untrained, and the report counts them.

    Batches are padded and contain examples with targets of similar length. `resplit_random` draws the batches before
    each epoch, and `fixed_random` draws them once. `fixed_by_group` fills each batch with targets of one length, in the
    order of the file.
    """

    batching: ClassVar[Batching | None] = None
    unit: ClassVar[Unit] = "word"

    kind: Literal["reinflection"] = "reinflection"
    path: str = Field(min_length=1, description="folder with the files of a shared task or of UniMorph")
    language: str = Field(min_length=1, description="language with which the file names begin, such as turkish")
    task: Literal[1, 2, 3] = Field(
        3, description="number of the task within SIGMORPHON 2016; later files have one task"
    )
    size: Annotated[
        Size | None,
        Field(description="size of the training file, if there are several: low, medium, high; null: the only one"),
        AddedField(),
    ] = None
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
        layout = find_files(data_folder(self.path), self.language, self.task, self.size)
        issues = [*layout.issues, *self._missing(layout)]
        files = {split: _read(path, issues) for split, path in layout.files.items()}
        if issues:
            raise DataError(issues)
        train, remarks = files["train"], layout.remarks
        columns = layout.columns or columns_of_later_files([line.cells for line in train.lines])
        if columns is None:
            message = "must have the columns lemma, form and features such as N;NOM;PL, separated by tabs"
            hint = "The features are not recognised. Check data.language, or reorder the columns."
            first = "\t".join(train.lines[0].cells) if train.lines else ""
            raise DataError([ValidationIssue(str(train.path), message, hint, first)])
        if layout.columns is None:
            remarks = [*remarks, f"columns {', '.join(columns.names)}"]
        rows = {split: _rows(file, columns, issues) for split, file in files.items()}
        features = tuple(dict.fromkeys(name for row in rows["train"] for name in row.features))
        if layout.missing:
            rows |= self._held_out(rows["train"], [*layout.missing], issues)
            remarks = [*remarks, *self.held_out_remarks([*layout.missing])]
        if not issues and layout.columns is not None:
            for split in ("valid", "test"):
                if split in files:
                    issues += _first_issues(files[split].path, _unknown_features(files[split], rows[split], features))
        if issues:
            raise DataError(issues)
        known = len(features)
        features = tuple(
            dict.fromkeys([*features, *(name for each in rows.values() for r in each for name in r.features)])
        )
        if len(features) > known:
            remarks = [*remarks, f"{len(features) - known} of {len(features)} features occur in valid or test alone"]
        rows = {split: rows[split][: self.limits[split]] for split in SPLITS}
        characters = Characters.of(form for row in rows["train"] for form in (row.source, row.target))
        splits = {split: _encode(rows_of_split, characters, features) for split, rows_of_split in rows.items()}
        notes: dict[str, int | float | str] = {f"{split}_dropped_empty": file.empty for split, file in files.items()}
        notes |= remarks_entry([*remarks, *self.limit_remarks()])
        return InflectionDataset.of(splits, characters, features, notes)

    def fingerprint(self) -> str:
        """Return the fingerprint of the data; see `DataSource.fingerprint`."""
        return self.load().fingerprint

    def train_batches(self, train: InflectionSplit, batch_size: int, seed: int, epoch: int) -> list[InflectionBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        if self.partition == "fixed_by_group":
            return train.batches(batch_size, by_length=True)
        shuffle = epoch if self.partition == "resplit_random" else 0
        return train.batches(batch_size, seed=derive_seed(seed, "partition", shuffle))

    def _missing(self, layout: Layout) -> list[ValidationIssue]:
        """Return the issues with missing files, or with `held_out` if none is missing."""
        if self.held_out is None or "train" in layout.missing:
            return list(layout.missing.values())
        return [] if layout.issues else self.held_out_issues([*layout.missing])

    def _held_out(
        self, rows: Sequence[_Row], missing: Sequence[str], issues: list[ValidationIssue]
    ) -> dict[str, list[_Row]]:
        """Return the examples of train and of each missing split; append an issue for each that has none."""
        indices = self.held_out_indices(len(rows), missing)
        for split, index in indices.items():
            if rows and not len(index):
                hint = "Choose another fraction, another data.held_out_seed or a larger training file."
                message = f"must leave examples for {split}"
                issues.append(ValidationIssue("data.held_out", message, hint, self.held_out))
        return {split: [rows[number] for number in index] for split, index in indices.items()}


@dataclass(frozen=True)
class _Line:
    """Line `number` of a file: its text and its cells, in Unicode's NFC."""

    number: int
    text: str
    cells: Sequence[str]


@dataclass(frozen=True)
class _Row:
    """The cells of line `number` that are used."""

    number: int
    source: str
    features: tuple[str, ...]
    target: str


@dataclass
class _DataFile:
    path: Path
    lines: list[_Line] = field(default_factory=list)
    empty: int = 0


def _read(path: Path, issues: list[ValidationIssue]) -> _DataFile:
    """Read a file; append an issue if it cannot be read or has no example."""
    file = _DataFile(path)
    with collect_issues(issues):
        for number, line in read_lines(path):
            if line.strip():
                text = line.rstrip("\r\n")
                cells = [unicodedata.normalize("NFC", cell.strip(" ")) for cell in text.split("\t")]
                file.lines.append(_Line(number, line.rstrip(), cells))
            else:
                file.empty += 1
        if not file.lines:
            hint = "Choose another file, or download it again."
            issues.append(ValidationIssue(str(path), "must contain at least one example", hint))
    return file


def _rows(file: _DataFile, columns: Columns, issues: list[ValidationIssue]) -> list[_Row]:
    """Return the examples of a file; append an issue for the first lines that are no example."""
    rows: list[_Row] = []
    wrong: list[ValidationIssue] = []
    for line in file.lines:
        issue = _issue(line, columns, f"{file.path}, line {line.number}")
        if issue is None:
            cells = dict(zip(columns.names, line.cells, strict=True))
            features = tuple(dict.fromkeys(cells["features"].split(columns.separator)))
            rows.append(_Row(line.number, cells["source"], features, cells["target"]))
        else:
            wrong.append(issue)
    issues += _first_issues(file.path, wrong)
    return rows


def _issue(line: _Line, columns: Columns, where: str) -> ValidationIssue | None:
    if len(line.cells) != len(columns.names):
        message = f"must have {len(columns.names)} columns separated by tabs"
        return ValidationIssue(where, message, f"This line has {len(line.cells)}. {columns}", line.text)
    for name, cell in zip(columns.names, line.cells, strict=True):
        if not cell:
            return ValidationIssue(where, f'must not be empty in the column "{name}"', str(columns), line.text)
        wrong = [part for part in cell.split(columns.separator) if not columns.feature.fullmatch(part)]
        if name.endswith("features") and wrong:
            hint = f"Correct the feature {wrong[0]!r}. {columns}"
            return ValidationIssue(where, f"must have {columns.rule}", hint, line.text)
    return None


def _unknown_features(file: _DataFile, rows: Sequence[_Row], features: Sequence[str]) -> Iterator[ValidationIssue]:
    for row in rows:
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
