"""Arrays as they lie in a file or folder, before their content is checked: splits, labels and .npz files."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.data.held_out import HeldOut
from lagvae_core.errors import ValidationIssue

__all__ = ["HOLD_OUT", "SPLITS", "Array", "RawArrays", "check_names", "draw_held_out", "read_labels", "read_npz"]

SPLITS = ("train", "valid", "test")
HOLD_OUT = "or set data.held_out=0.1 to use a random tenth of train for each of valid and test that is missing"
Array = NDArray[Any]

_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass
class RawArrays:
    """Arrays of one file or folder, and the issues with it.

    Args:
        path: The file or folder.
        required: The splits that it must have; others may be drawn from train.
        arrays: The examples of each split, and `<split>_labels` [N] if there are labels.
        issues: What is wrong so far.
        remarks: What was guessed or converted.
        noun: What an example is called in messages.
    """

    path: Path
    required: tuple[str, ...] = SPLITS
    arrays: dict[str, Array] = field(default_factory=dict)
    issues: list[ValidationIssue] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    noun: str = "image"

    def add(self, array: str | None, message: str, hint: str) -> None:
        """Add an issue about an array (in a folder: its split), or about everything if it is None."""
        where = str(self.path)
        if array is not None:
            where += f"{os.sep}{array.removesuffix('_labels')}" if self.path.is_dir() else f", array {array}"
        self.issues.append(ValidationIssue(where, message, hint))


def draw_held_out(raw: RawArrays, held_out: HeldOut) -> None:
    """Draw the splits that are missing from train."""
    missing = [split for split in SPLITS if split not in raw.arrays]
    raw.issues += held_out.held_out_issues(missing)
    train = {name: raw.arrays[name] for name in ("train", "train_labels") if name in raw.arrays}
    if not missing or len({len(array) if array.ndim else 0 for array in train.values()}) != 1:
        return
    raw.remarks += held_out.held_out_remarks(missing)
    for split, index in held_out.held_out_indices(len(train["train"]), missing).items():
        raw.arrays |= {name.replace("train", split): array[index] for name, array in train.items()}


def read_npz(raw: RawArrays) -> None:
    """Read the arrays of an .npz file, or add an issue that says what is wrong with it."""
    try:
        with np.load(raw.path, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in names:
                if name.removesuffix("_labels") in SPLITS:
                    _read_array(archive, name, raw)
    except _READ_ERRORS as error:
        raw.arrays.clear()
        raw.add(None, f"must be a complete .npz file ({error})", "Copy or download it again.")
        return
    check_names(names, raw)


def _read_array(archive: Mapping[str, Array], name: str, raw: RawArrays) -> None:
    """Read one array. An array of Python objects, which numpy creates from ragged lists, is rejected."""
    try:
        raw.arrays[name] = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        hint = "numpy creates arrays of objects from ragged lists. Convert the array to a type such as uint8."
        raw.add(name, "must be a rectangular array without Python objects, which are never read", hint)


def check_names(names: Iterable[Any], raw: RawArrays) -> None:
    """Add an issue if a required split is not among the names of the arrays."""
    names = sorted(map(str, names))
    missing = [split for split in raw.required if split not in names]
    if missing:
        message = f"must contain the arrays {', '.join(raw.required)}; missing: {', '.join(missing)}"
        remedy = "Add or rename arrays." if "train" in missing else f"Add or rename arrays, {HOLD_OUT}."
        raw.add(None, message, f"The file contains {', '.join(names) or 'nothing'}. {remedy}")


def read_labels(raw: RawArrays) -> dict[str, tuple[str, ...]] | None:
    """Return the labels of every split; None if no split has labels."""
    names = [f"{split}_labels" for split in SPLITS]
    if not any(name in raw.arrays for name in names):
        return None
    labels: dict[str, tuple[str, ...]] = {}
    for split, name in zip(SPLITS, names, strict=True):
        array, images = raw.arrays.get(name), raw.arrays.get(split)
        if array is None:
            if images is not None:
                hint = "Add them, or set data.labels=drop to ignore those of the others."
                raw.add(name, "must have labels, because another split has some", hint)
        elif array.dtype.kind not in "iuUSb" or array.ndim != 1:
            hint = f"The type is {array.dtype} and the shape {list(array.shape)}. Convert the labels."
            raw.add(name, f"must contain one integer, boolean or string per {raw.noun}", hint)
        elif images is not None and images.ndim and len(array) != len(images):
            hint = f"There are {len(array)} labels for {len(images)} {raw.noun}s. Add or remove labels."
            raw.add(name, f"must contain one label per {raw.noun}", hint)
        else:
            texts = array.astype(str).tolist()
            labels[split] = tuple(" ".join(text.split()) for text in texts)
    if len(labels) == len(SPLITS):
        _check_classes(labels, raw)
    return labels


def _check_classes(labels: Mapping[str, tuple[str, ...]], raw: RawArrays) -> None:
    trained = set(labels["train"])
    for split in SPLITS[1:]:
        unknown = sorted(set(labels[split]) - trained)
        if unknown:
            listed = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            hint = f"It also contains {listed}. Split the data differently, or set data.labels=drop."
            raw.add(f"{split}_labels", "must contain only labels that train contains", hint)
