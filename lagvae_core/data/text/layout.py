"""Finding the files of each split in a folder by their names."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lagvae_core.data.files import unreadable
from lagvae_core.data.held_out import held_out_remedy
from lagvae_core.data.text.lines import COMPRESSIONS
from lagvae_core.errors import ValidationIssue

__all__ = ["FORMATS", "SPLITS", "Layout", "find_layout"]

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev", "val"),
    "test": ("test",),
}
"""Permitted names of the file of each split, without suffix."""

FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Permitted suffixes. All but .parquet may be followed by the suffix of a compression."""

_NAME = re.compile(
    r"(?:(?P<prefix>[^.].*)[._-])?"
    rf"(?P<stem>{'|'.join(name for names in SPLITS.values() for name in names)})"
    r"(?:-(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?:-[0-9a-f]+)?)?"
    r"(?P<suffix>\.[^/]+)",
    re.IGNORECASE,
)
_SUFFIXES = {suffix + packed for suffix in FORMATS for packed in ("", *COMPRESSIONS)} - {
    ".parquet" + packed for packed in COMPRESSIONS
}
_UNPACK = {
    ".zip": "unzip -p",
    ".zst": "zstd -dc",
    ".tar": "tar -xOf",
    ".tar.gz": "tar -xzOf",
    ".tgz": "tar -xzOf",
}
"""Command that writes the content of a file that is not read to standard output, by suffix."""


@dataclass(frozen=True)
class _Name:
    """The parts of the name of a file, such as ptb.train-00000-of-00002.txt."""

    name: str
    prefix: str
    stem: str
    shard: tuple[int, int] | None
    suffix: str

    @classmethod
    def of(cls, name: str) -> _Name | None:
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        parts = match.groupdict()
        shard = (int(parts["number"]), int(parts["total"])) if parts["number"] else None
        return cls(name, parts["prefix"] or "", parts["stem"].lower(), shard, parts["suffix"].lower())

    @property
    def split(self) -> str:
        return next(split for split, stems in SPLITS.items() if self.stem in stems)

    @property
    def group(self) -> tuple[int, str, str]:
        """Equal for the shards of one file only; sorts by the order of the permitted names."""
        return SPLITS[self.split].index(self.stem), self.suffix, f"of {self.shard[1]}" if self.shard else self.name


@dataclass
class Layout:
    """The files of a folder of text.

    Args:
        files: Paths of the files of each split that has some: one file, or all its shards in their order.
        missing: Issue for each split without files.
        issues: Issues with the files of the other splits.
        remarks: What was guessed.
    """

    files: dict[str, list[Path]] = field(default_factory=dict)
    missing: dict[str, ValidationIssue] = field(default_factory=dict)
    issues: list[ValidationIssue] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def find_layout(folder: Path) -> Layout:
    """Return the files of each split.

    The file of a split is called by the name of the split and the suffix of its format. It may be cut into shards
    (train-00000-of-00002.parquet). If no file has such a name, the names may begin with a prefix that all share
    (ptb.train.txt); this guess is a remark.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        present = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from None
    parsed = [name for name in map(_Name.of, present) if name is not None]
    names = [name for name in parsed if name.suffix in _SUFFIXES]
    prefix, *others = sorted({name.prefix for name in names}) or [""]
    layout = Layout()
    if prefix and others:
        message = "must be a folder with the files of only one corpus"
        hint = f"The folder has files of {', '.join([prefix, *others])}. Move all but one corpus to another folder."
        layout.issues.append(ValidationIssue("data.path", message, hint, str(folder)))
        return layout
    names = [name for name in names if name.prefix == prefix]
    if prefix:
        layout.remarks.append(f"read from {', '.join(name.name for name in names)}")
    if not names and (inner := _folder_with_files(folder, present)):
        hint = f"A folder inside it has such files. Name it: data.path={inner}"
        layout.issues.append(ValidationIssue("data.path", "must be a folder with files of text", hint, str(folder)))
        return layout
    for split in SPLITS:
        groups: dict[tuple[int, str, str], list[_Name]] = {}
        for name in names:
            if name.split == split:
                groups.setdefault(name.group, []).append(name)
        if len(groups) == 1:
            (shards,) = groups.values()
            special = [
                path for shard in shards if os.path.exists(path := folder / shard.name) and not os.path.isfile(path)
            ]
            if special:
                message, hint = "must be a file", "Move it to another folder."
                layout.issues += [ValidationIssue(str(path), message, hint) for path in special]
                continue
            layout.files[split] = [folder / shard.name for shard in shards]
            layout.issues += _shard_issues(folder, shards)
        elif groups:
            files = " and ".join(shards[0].name for _, shards in sorted(groups.items()))
            message = f"must be a folder with only one file for {split}"
            hint = f"The folder contains {files}. Move all but one of them to another folder."
            layout.issues.append(ValidationIssue("data.path", message, hint, str(folder)))
        else:
            layout.missing[split] = _missing(folder, split, present, parsed)
    return layout


def _folder_with_files(folder: Path, present: list[str]) -> Path | None:
    """Return the only folder in `folder` that has a file of train; None if there is none or are several."""
    inner = []
    for name in present:
        with suppress(OSError):
            files = map(_Name.of, os.listdir(folder / name))
            inner += [folder / name] if any(file is not None and file.split == "train" for file in files) else []
    return inner[0] if len(inner) == 1 else None


def _shard_issues(folder: Path, shards: list[_Name]) -> list[ValidationIssue]:
    """Check that the shards are complete."""
    numbers = [name.shard[0] for name in shards if name.shard]
    total = shards[0].shard[1] if shards[0].shard else 0
    missing = [str(number) for number in range(min(total, 1000)) if number not in numbers]
    twice = [str(number) for number in sorted(set(numbers)) if numbers.count(number) > 1]
    where = f"data.path, {shards[0].name}"
    issues = []
    if missing:
        hint = f"Download the missing shards: {textwrap.shorten(', '.join(missing), 100)}."
        issues.append(ValidationIssue(where, f"must be there with all its {total} shards", hint, str(folder)))
    if twice or any(number >= total for number in numbers):
        hint = "The folder has shards of several versions. Move those of all but one version to another folder."
        issues.append(ValidationIssue(where, "must be there with each of its shards once", hint, str(folder)))
    return issues


def _missing(folder: Path, split: str, present: list[str], parsed: list[_Name]) -> ValidationIssue:
    stems = " or ".join(f"{stem}.txt" for stem in SPLITS[split])
    formats = f"{', '.join(FORMATS[1:-1])} or {FORMATS[-1]}"
    message = f"must be a folder with a file {stems} (or with the suffix .txt.gz, {formats})"
    content = textwrap.shorten(", ".join(present) or "nothing", 200)
    hint = f"The folder contains {content}. "
    others = [name.name for name in parsed if name.split == split and name.suffix not in _SUFFIXES]
    if len(others) == 1:
        hint += _conversion(folder, split, others[0])
    elif split == "train":
        hint += "Add or rename the file."
    else:
        hint += f"Add or rename the file, or {held_out_remedy(split)}."
    return ValidationIssue("data.path", message, hint, str(folder))


def _conversion(folder: Path, split: str, name: str) -> str:
    """Return the command that makes the file of a split readable if its suffix is not a known one."""
    old = shlex.quote(str(folder / name))
    for suffix, unpack in _UNPACK.items():
        if name.lower().endswith(suffix):
            inner = name[: -len(suffix)]
            parsed = _Name.of(inner)
            inner = inner if parsed is not None and parsed.suffix in _SUFFIXES else f"{inner}.txt"
            return f"Unpack {name}: {unpack} {old} > {shlex.quote(str(folder / inner))} && rm {old}"
    new = shlex.quote(str(folder / f"{split}.txt"))
    return f"If {name} has one sentence per line, rename it: mv {old} {new}"
