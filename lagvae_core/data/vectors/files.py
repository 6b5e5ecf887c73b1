"""Reading matrices and checking them: shape, type, finite values and labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lagvae_core.data.files import BUNDLED_PREFIX, data_file, is_bundled
from lagvae_core.data.held_out import HeldOut
from lagvae_core.data.memory import IN_MEMORY, Examples, as_array
from lagvae_core.data.raw import SPLITS, RawArrays, draw_held_out, read_labels, read_npz
from lagvae_core.data.text.source import TextData
from lagvae_core.data.text.tokens import SPECIALS, TokenSplit
from lagvae_core.data.vectors.tables import TABLES, add_table, read_table
from lagvae_core.errors import DataError, ValidationIssue, did_you_mean

__all__ = ["BUNDLED", "BUNDLED_SHARE", "Matrices", "read_vectors", "read_word_counts", "take_vectors"]

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""Names of the sets that scikit-learn contains."""

BUNDLED_SHARE = 0.2
"""Fraction of a bundled set in each of valid and test if `held_out` is null; these sets have no splits of their own."""

_CLASSIFIED = frozenset({"breast_cancer", "digits", "iris", "wine"})
_NAMES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
"""Names, without their ending, of the table of each split in a folder."""


@dataclass(frozen=True, eq=False)
class Matrices:
    """Content of a file, a folder or a bundled set.

    Args:
        values: The values [N, X] of each split, float64.
        labels: Labels of each split, one per vector; None if there are none.
        remarks: What was guessed or changed.
    """

    values: Mapping[str, NDArray[np.float64]]
    labels: Mapping[str, tuple[str, ...]] | None
    remarks: tuple[str, ...]


def read_vectors(
    path: str, held_out: HeldOut, *, label: str | None = None, ignored: tuple[str, ...] = (), labels: bool = True
) -> Matrices:
    """Read the matrices that `VectorData` describes.

    Args:
        path: A file, a folder, or `sklearn:NAME`.
        held_out: Whether and how to draw missing splits from train.
        label: Column of labels in tables; None for none.
        ignored: Columns of tables to leave out.
        labels: Whether to read the labels.

    Raises:
        DataError: There are no such data, or they are damaged or not in the format that `VectorData` describes. The
            error carries all issues.
    """
    if is_bundled(path):
        raw = _read_bundled(path)
        if held_out.held_out is None:
            held_out = held_out.model_copy(update={"held_out": BUNDLED_SHARE})
    else:
        found = data_file(path, or_folder=True)
        raw = RawArrays(found, SPLITS if held_out.held_out is None else ("train",), noun="vector")
        if found.is_dir():
            _read_folder(raw, label, ignored)
        elif found.name.endswith(TABLES):
            read_table(raw, "train", found, label, ignored)
        else:
            _read_arrays(raw)
    return _matrices(raw, held_out, path, label, ignored, labels=labels)


def take_vectors(
    given: Mapping[str, Examples],
    held_out: HeldOut,
    *,
    label: str | None = None,
    ignored: tuple[str, ...] = (),
    labels: bool = True,
) -> Matrices:
    """Return vectors that are in memory as `read_vectors` returns those of files; `given` has the splits."""
    raw = RawArrays(Path("vectors in memory"), SPLITS, noun="vector")
    for split, examples in given.items():
        if examples.table is not None:
            add_table(raw, split, Path(f"{split} (in memory)"), examples.table, label, ignored)
            continue
        raw.arrays[split] = as_array(examples.values)
        if examples.labels is not None:
            raw.arrays[f"{split}_labels"] = np.array(examples.labels)
    return _matrices(raw, held_out, IN_MEMORY, label, ignored, labels=labels)


def _matrices(
    raw: RawArrays, held_out: HeldOut, path: str, label: str | None, ignored: tuple[str, ...], *, labels: bool
) -> Matrices:
    """Check the arrays, and draw the splits that are missing."""
    _unused(raw, label, ignored)
    _check(raw)
    missing = [split for split in SPLITS if split not in raw.arrays]
    if missing and held_out.held_out is None and not raw.issues:
        hint = "Add their files, or set data.held_out=0.1 to draw them from train."
        raw.issues.append(ValidationIssue("data.path", f"must have {' and '.join(missing)}", hint, path))
    elif not raw.issues:
        draw_held_out(raw, held_out)
        _check_drawn(raw, held_out)
    by_split = read_labels(raw) if labels else None
    if raw.issues:
        raise DataError(raw.issues)
    values = {split: raw.arrays[split].astype(np.float64) for split in SPLITS}
    return Matrices(values, by_split, tuple(raw.remarks))


def read_word_counts(path: str, held_out: HeldOut, words: int, *, labels: bool = True) -> Matrices:
    """Read texts, and count the occurrences of each word in them.

    Args:
        path: Folder of texts, as `TextData` describes it.
        held_out: Whether and how to draw missing splits from train.
        words: Number of words that are counted, the most frequent of train; others are left out.
        labels: Whether to use the labels.

    Raises:
        DataError: The texts are damaged or not in the format of `TextData`.
    """
    share = {"held_out": held_out.held_out, "held_out_seed": held_out.held_out_seed}
    texts = TextData(path=path, max_vocabulary=words, labels="auto" if labels else "drop", **share).load()
    values, labelled = {}, {}
    for split in SPLITS:
        sentences: TokenSplit = getattr(texts, split)
        counts_NW = np.zeros((len(sentences), len(texts.vocabulary.words) - len(SPECIALS)))
        row_T = np.repeat(np.arange(len(sentences)), np.diff(sentences.offsets))
        counted_T = sentences.tokens >= len(SPECIALS)
        np.add.at(counts_NW, (row_T[counted_T], sentences.tokens[counted_T] - len(SPECIALS)), 1.0)
        values[split] = counts_NW
        if sentences.labels is not None:
            labelled[split] = sentences.labels
    remarks = [f"{values['train'].shape[1]:,} words of texts counted", *filter(None, [texts.report.get("remarks")])]
    return Matrices(values, labelled or None, tuple(map(str, remarks)))


def _unused(raw: RawArrays, label: str | None, ignored: tuple[str, ...]) -> None:
    """Add an issue for each option of tables that is set although the data are no tables."""
    if "train_names" in raw.arrays or raw.issues:
        return
    for key, value in (("data.label_column", label), ("data.ignore", list(ignored))):
        if value:
            message = "must be left out, because the data are not a table with names of columns"
            hint = "Labels of an .npz file are in the arrays train_labels, valid_labels and test_labels."
            raw.issues.append(ValidationIssue(key, message, hint, value))


def _read_bundled(path: str) -> RawArrays:
    name = path.removeprefix(BUNDLED_PREFIX)
    if name not in BUNDLED:
        hint = f"{did_you_mean(name, BUNDLED)} The sets are {', '.join(BUNDLED)}.".lstrip()
        raise DataError([ValidationIssue("data.path", "must name a set that scikit-learn contains", hint, path)])
    from sklearn import datasets

    values, target = getattr(datasets, f"load_{name}")(return_X_y=True)
    raw = RawArrays(Path(path), ("train",), noun="vector")
    raw.arrays["train"] = np.asarray(values)
    if name in _CLASSIFIED:
        raw.arrays["train_labels"] = np.asarray(target)
    return raw


def _read_arrays(raw: RawArrays) -> None:
    if zipfile.is_zipfile(raw.path):
        read_npz(raw)
        return
    message = f"must be an .npz file, a table ({', '.join(TABLES)}) or a folder with the tables train, valid and test"
    hint = "Save the matrices with numpy.savez('vectors.npz', train=x, valid=y, test=z)."
    raw.add(None, message, hint)


def _read_folder(raw: RawArrays, label: str | None, ignored: tuple[str, ...]) -> None:
    for split, names in _NAMES.items():
        found = [raw.path / f"{name}{ending}" for name in names for ending in TABLES]
        found = [path for path in found if path.is_file()]
        if len(found) > 1:
            hint = f"Keep one of {', '.join(path.name for path in found)}."
            raw.issues.append(ValidationIssue("data.path", f"must have one file for {split}", hint, str(raw.path)))
        elif found:
            read_table(raw, split, found[0], label, ignored)
        elif split in raw.required:
            hint = f"Name it {split}.csv, {split}.tsv or {split}.parquet."
            if split != "train":
                hint = f"{hint} Or set data.held_out=0.1 to draw the splits that are missing from train."
            raw.issues.append(ValidationIssue("data.path", f"must have a file for {split}", hint, str(raw.path)))


def _check_drawn(raw: RawArrays, held_out: HeldOut) -> None:
    empty = [split for split in SPLITS if len(raw.arrays[split]) == 0]
    if empty:
        message = f"must leave at least one vector for {' and '.join(empty)}"
        raw.issues.append(ValidationIssue("data.held_out", message, "Use more vectors.", held_out.held_out))


def _check(raw: RawArrays) -> None:
    """Add an issue for each split whose values are not a matrix of finite numbers, as wide as that of train."""
    widths: dict[str, int] = {}
    for split in SPLITS:
        array = raw.arrays.get(split)
        if array is None:
            continue
        if array.dtype.kind not in "biuf":
            raw.add(split, "must contain numbers", f"The type is {array.dtype}. Convert it to float64.")
        elif array.ndim != 2:
            hint = f"The shape is {list(array.shape)}. Reshape it: x = x.reshape(len(x), -1)"
            raw.add(split, "must be a matrix with one vector per row", hint)
        elif 0 in array.shape:
            raw.add(split, "must contain at least one vector with one value", f"The shape is {list(array.shape)}.")
        else:
            with np.errstate(over="ignore"):
                finite_NX = np.isfinite(array.astype(np.float32))
            if finite_NX.all():
                widths[split] = array.shape[1]
                continue
            row, column = np.argwhere(~finite_NX)[0].tolist()
            names = raw.arrays.get("train_names")
            name = column if names is None else names[column]
            found = f"{(~finite_NX).sum():,} are missing, infinite or too large, the first in row {row}, column {name}."
            raw.add(split, "must contain only finite float32 numbers", f"{found} Correct or remove them.")
    for split, width in widths.items():
        if width != widths.get("train", width):
            message = f"must have {widths['train']} values per vector, as train does"
            raw.add(split, message, f"The vectors have {width} values.")
