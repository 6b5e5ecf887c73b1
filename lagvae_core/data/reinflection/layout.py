"""Names and columns of files of inflected words: SIGMORPHON 2016, the later shared tasks, and UniMorph."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lagvae_core.data.files import unreadable
from lagvae_core.data.held_out import held_out_remedy
from lagvae_core.errors import ValidationIssue, did_you_mean

__all__ = ["Columns", "Layout", "Size", "columns_of_later_files", "find_files"]

Size = Literal["low", "medium", "high", "small", "large"]
"""Size of a training file, as part of its name."""

SUFFIXES: Mapping[str, str] = {"train": "train", "valid": "dev", "test": "test"}
"""Ending of the file name of each split in SIGMORPHON 2016."""

STEMS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "trn"),
    "valid": ("dev", "valid", "val"),
    "test": ("uncovered-test", "test", "tst"),
}
"""Names of the splits in the files of later shared tasks; a covered test file lacks the target forms."""

_LATER = re.compile(
    r"(?P<language>.+?)(?:_(?P<prefix>small|large))?[-.]"
    rf"(?P<stem>{'|'.join(stem for stems in STEMS.values() for stem in stems)})"
    r"(?:-(?P<suffix>low|medium|high))?(?:\.(?:txt|tsv))?"
)
_TAGS = re.compile(r"[A-Z][A-Z0-9.]*(;\S+)*")
_SHARE_OF_TAGS = 0.9


@dataclass(frozen=True)
class Columns:
    """Columns of a line.

    Args:
        names: Their names, among them source, features and target.
        separator: Character between the features.
        feature: A whole feature.
        rule: What a feature must be, for messages.
        title: Name of the layout, for messages.
    """

    names: tuple[str, ...]
    separator: str
    feature: re.Pattern[str]
    rule: str
    title: str

    def __str__(self) -> str:
        return f"The columns of {self.title} are: {', '.join(self.names)}."


def _columns_of_2016(task: int, *names: str) -> Columns:
    feature = re.compile(r"[^\s=,{}]+=(\{[^\s=,{}]+\}|[^\s=,{}]+)")
    return Columns(names, ",", feature, "features of the form key=value or key={value/value}", f"task {task}")


COLUMNS_OF_2016: Mapping[int, Columns] = {
    1: _columns_of_2016(1, "source", "features", "target"),
    2: _columns_of_2016(2, "source's features", "source", "features", "target"),
    3: _columns_of_2016(3, "source", "features", "target"),
}
"""Columns of the files of each task of SIGMORPHON 2016."""


def columns_of_later_files(rows: Sequence[Sequence[str]]) -> Columns | None:
    """Return the columns of a file of UniMorph or of a shared task since 2017; None if they cannot be recognised.

    The column of the tags, such as N;NOM;PL, is the third (2017 to 2022, UniMorph) or the second (2023). It is the one
    in which nine of ten cells begin with a word in capital letters and digits.

    Args:
        rows: The cells of each line.
    """
    rows = [row for row in rows if len(row) == 3]
    shares = {at: sum(_TAGS.fullmatch(row[at]) is not None for row in rows) / max(1, len(rows)) for at in (1, 2)}
    last, middle = shares[2], shares[1]
    if max(last, middle) < _SHARE_OF_TAGS or last == middle:
        return None
    names = ("source", "target", "features") if last > middle else ("source", "features", "target")
    title = "UniMorph and SIGMORPHON since 2017" if last > middle else "SIGMORPHON since 2023"
    return Columns(names, ";", re.compile(r"[^\s;]+"), "features that are separated by semicolons", title)


@dataclass
class Layout:
    """The files of one language.

    Args:
        files: File of each split that has one.
        columns: Columns of the files; None if their content decides.
        missing: Issue for each split without a file.
        issues: Other issues.
        remarks: What was guessed.
    """

    files: dict[str, Path] = field(default_factory=dict)
    columns: Columns | None = None
    missing: dict[str, ValidationIssue] = field(default_factory=dict)
    issues: list[ValidationIssue] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def find_files(folder: Path, language: str, task: int, size: Size | None) -> Layout:
    """Return the files of a language.

    They are called `turkish-task3-train`, `-dev` and `-test` (SIGMORPHON 2016); or `turkish-train-low`, `turkish-dev`
    and `turkish-uncovered-test`, `tur.trn`, `tur.dev` and `tur.tst`, or similar (the later tasks); or there is one file
    `tur` (UniMorph), which counts as the training file.

    Args:
        folder: A folder that may be listed.
        language: Start of the names.
        task: Task of SIGMORPHON 2016.
        size: Size of the training file if there are several.
    """
    try:
        present = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise unreadable(folder, error) from None
    layout = Layout()
    names_of_2016 = {split: f"{language}-task{task}-{suffix}" for split, suffix in SUFFIXES.items()}
    later = _later_files(present, language)
    if not (later["train"] or language in present) or names_of_2016["train"] in present:
        layout.columns = COLUMNS_OF_2016[task]
        found = {split: [name] if name in present else [] for split, name in names_of_2016.items()}
    else:
        found = later
        if not later["train"]:
            found["train"] = [language]
        if size is not None and later["train"]:
            found["train"] = [name for name in later["train"] if _size(name) == size]
    for split, names in found.items():
        if len(names) == 1:
            layout.files[split] = folder / names[0]
        elif names:
            layout.issues.append(_several(folder, split, names))
        else:
            expected = names_of_2016[split]
            if layout.columns is None:
                named = "-".join([language, STEMS[split][0], *([size] if size and split == "train" else [])])
                expected = f"{named} or {language}.{STEMS[split][-1]}"
            layout.missing[split] = _missing(folder, split, expected, language, present)
    if layout.columns is None and not layout.issues:
        layout.remarks.append(f"read from {', '.join(path.name for path in layout.files.values())}")
    return layout


def _later_files(present: Sequence[str], language: str) -> dict[str, list[str]]:
    """Return the names of the files of each split."""
    found: dict[str, list[str]] = {split: [] for split in STEMS}
    for name in present:
        match = _LATER.fullmatch(name)
        if match is not None and match["language"] == language:
            found[next(split for split, stems in STEMS.items() if match["stem"] in stems)].append(name)
    return found


def _size(name: str) -> str | None:
    match = _LATER.fullmatch(name)
    return (match["suffix"] or match["prefix"]) if match is not None else None


def _several(folder: Path, split: str, names: Sequence[str]) -> ValidationIssue:
    sizes = [size for size in map(_size, names) if size is not None]
    hint = f"The folder contains {' and '.join(names)}. "
    if split == "train" and len(sizes) == len(names) == len(set(sizes)):
        hint += f"Choose one: data.size={sizes[0]}"
    else:
        hint += "Move all but one of them to another folder."
    return ValidationIssue("data.path", f"must be a folder with one file for {split}", hint, str(folder))


def _missing(folder: Path, split: str, expected: str, language: str, present: Sequence[str]) -> ValidationIssue:
    content = textwrap.shorten(", ".join(present), 200, placeholder=" ...") if present else "no file"
    hint = f"The folder contains {content}. "
    languages = {re.split(r"-task\d|[-.]", name)[0] for name in present}
    similar = did_you_mean(language, languages) if language not in languages else ""
    if similar:
        hint += f"{similar} Set data.language."
    elif split == "train":
        hint += "Add the file, or correct data.language or data.task."
    elif split == "test" and any(name.startswith(language) and "covered" in name for name in present):
        hint += "A covered test file lacks the forms. Add the uncovered one, or set data.held_out=0.1."
    else:
        hint += f"Add the file, or {held_out_remedy(split)}."
    return ValidationIssue("data.path", f"must be a folder with the file {expected}", hint, str(folder))
