"""Reading image files and checking their arrays."""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lagvae_core.data.images.arrays import WHITE
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["SPLITS", "Images", "Levels", "read_images"]

SPLITS = ("train", "valid", "test")
Levels = NDArray[np.uint8] | NDArray[np.float32]
_Arrays = dict[str, NDArray[Any]]
_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)


@dataclass(frozen=True, eq=False)
class Images:
    """Content of an image file.

    Args:
        levels: Grey levels [N, H, W] of each split: uint8 from 0 to 255, or float32 from 0 to 1.
        labels: Labels of each split, one per image; None if the file has none.
    """

    levels: Mapping[str, Levels]
    labels: Mapping[str, tuple[str, ...]] | None


def read_images(path: Path) -> Images:
    """Read the images of an .npz file or a torch file.

    Raises:
        DataError: The file is missing, unreadable or not in the format that `ImageData` describes. The error carries
            all issues found in the arrays.
    """
    readers: dict[str, Callable[[Path, _Issues], _Arrays]] = {".npz": _read_npz, ".pt": _read_torch}
    readers[".pth"] = _read_torch
    issues = _Issues(path)
    reader = readers.get(path.suffix.lower())
    if not path.is_file():
        issues.add(None, "must be an existing file", f"Check the path. It resolves to {path.absolute()}.")
    elif reader is None:
        hint = "Save the images with numpy.savez_compressed."
        issues.add(None, f"must have one of the suffixes {', '.join(readers)}", hint)
    arrays = {} if issues.all or reader is None else reader(path, issues)
    levels: dict[str, Levels] = {}
    for split in SPLITS:
        grey = _levels(split, arrays[split], issues) if split in arrays else None
        if grey is not None:
            levels[split] = grey
    _check_sizes(levels, issues)
    _check_greys(levels, issues)
    labels = _labels(arrays, issues)
    if issues.all:
        raise DataError(issues.all)
    return Images(levels, labels)


class _Issues:
    """Issues with one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[ValidationIssue] = []

    def add(self, array: str | None, message: str, hint: str) -> None:
        """Add an issue about an array, or about the whole file if `array` is None."""
        where = str(self.path) if array is None else f"{self.path}, array {array}"
        self.all.append(ValidationIssue(where, message, hint))


def _read_npz(path: Path, issues: _Issues) -> _Arrays:
    if not zipfile.is_zipfile(path):
        issues.add(None, "must be a complete .npz file", "Save the images with numpy.savez_compressed.")
        return {}
    arrays: _Arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in names:
                if name.removesuffix("_labels") in SPLITS:
                    _read_array(archive, name, arrays, issues)
    except _READ_ERRORS as error:
        issues.add(None, f"must be a complete .npz file ({error})", "Save the images with numpy.savez_compressed.")
        return {}
    _check_names(names, issues)
    return arrays


def _read_array(archive: Mapping[str, NDArray[Any]], name: str, arrays: _Arrays, issues: _Issues) -> None:
    """Read one array. An array of Python objects, which numpy creates from ragged lists, is rejected."""
    try:
        arrays[name] = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        hint = "numpy creates arrays of objects from ragged lists. Convert the array to a type such as uint8."
        issues.add(name, "must be a rectangular array without Python objects, which are never read", hint)


def _read_torch(path: Path, issues: _Issues) -> _Arrays:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about old formats; errors are reported below
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        issues.add(None, "must contain only tensors", "Other objects are never read. Save the tensors alone.")
        return {}
    except _READ_ERRORS as error:
        issues.add(None, f"must be a complete torch file ({error})", "Save the tensors again with torch.save.")
        return {}
    if isinstance(content, list | tuple) and len(content) == len(SPLITS):
        content = dict(zip(SPLITS, content, strict=True))
    if not isinstance(content, dict):
        hint = f"The content has the type {type(content).__name__}. Save [train, valid, test] instead."
        issues.add(None, "must contain three tensors, in a list or a dictionary", hint)
        return {}
    _check_names(content, issues)
    arrays: _Arrays = {}
    for name in (name for name in content if str(name).removesuffix("_labels") in SPLITS):
        value = content[name]
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype != torch.bfloat16:
            arrays[name] = value.detach().resolve_neg().numpy()
        else:
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            hint = f"The type is {kind}. Convert it, for example with tensor.to_dense().float()."
            issues.add(name, "must be a dense tensor that numpy can represent", hint)
    return arrays


def _check_names(names: Iterable[Any], issues: _Issues) -> None:
    names = sorted(map(str, names))
    missing = [split for split in SPLITS if split not in names]
    if missing:
        message = f"must contain the arrays {', '.join(SPLITS)}; missing: {', '.join(missing)}"
        issues.add(None, message, f"The file contains {', '.join(names) or 'nothing'}. Add or rename arrays.")


def _levels(split: str, array: NDArray[Any], issues: _Issues) -> Levels | None:
    """Return the images [N, H, W] as bytes or float32; None if there is an issue."""
    if array.dtype not in (np.uint8, np.bool_) and not np.issubdtype(array.dtype, np.floating):
        hint = f"The type is {array.dtype}. Convert it with astype(numpy.uint8), or divide by the largest grey level."
        issues.add(split, "must contain bytes from 0 to 255, booleans, or floats from 0 to 1", hint)
        return None
    shape = array.shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1) or 0 in shape[1:]:
        hint = f"The shape is {list(shape)}. Reshape the array."
        issues.add(split, "must have the shape N x 1 x H x W or N x H x W", hint)
        return None
    if shape[0] == 0:
        issues.add(split, "must contain at least one image", "Move images from another split to this one.")
        return None
    array = array.reshape(shape[0], *shape[-2:])
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(WHITE)
    return array if array.dtype == np.uint8 else _from_floats(split, array, issues)


def _from_floats(split: str, array: NDArray[Any], issues: _Issues) -> Levels | None:
    finite_N = np.isfinite(array).all((1, 2))
    if not finite_N.all():
        count, first = int((~finite_N).sum()), int(np.argmin(finite_N))
        hint = f"Correct or remove the images with other pixels: {count} of {len(array)}, the first with index {first}."
        issues.add(split, "must contain only finite pixels", hint)
        return None
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        hint = f"The values range from {low:g} to {high:g}. Divide them by the largest grey level."
        issues.add(split, "must contain floats from 0 to 1", hint)
        return None
    levels = np.rint(array * float(WHITE)).astype(np.uint8)
    exact = np.abs(levels / float(WHITE) - array).max() < 1e-6
    return levels if exact else array.astype(np.float32)


def _check_sizes(levels: Mapping[str, Levels], issues: _Issues) -> None:
    train = levels.get("train")
    for split, grey in levels.items():
        if train is not None and grey.shape[1:] != train.shape[1:]:
            message = f"must contain images of {train.shape[1]} x {train.shape[2]} pixels, as train does"
            issues.add(split, message, f"The images have {grey.shape[1]} x {grey.shape[2]} pixels. Resize them.")


def _check_greys(levels: Mapping[str, Levels], issues: _Issues) -> None:
    """Reject a file whose bytes are all 0 or 1: as grey levels, they mean black and almost black, not white."""
    if len(levels) == len(SPLITS) and all(grey.dtype == np.uint8 and grey.max() == 1 for grey in levels.values()):
        hint = "All bytes are 0 or 1. Save black and white images as booleans."
        issues.add(None, "must contain bytes from 0 (black) to 255 (white)", hint)


def _labels(arrays: _Arrays, issues: _Issues) -> dict[str, tuple[str, ...]] | None:
    """Return the labels of every split; None if no split has labels."""
    names = [f"{split}_labels" for split in SPLITS]
    if not any(name in arrays for name in names):
        return None
    labels: dict[str, tuple[str, ...]] = {}
    for split, name in zip(SPLITS, names, strict=True):
        array, images = arrays.get(name), arrays.get(split)
        if array is None:
            hint = "Add this array, or remove the labels of all splits."
            issues.add(name, "must exist, because another split has labels", hint)
        elif array.dtype.kind not in "iuUSb" or array.ndim != 1:
            hint = f"The type is {array.dtype} and the shape {list(array.shape)}. Convert the labels."
            issues.add(name, "must contain one integer, boolean or string per image", hint)
        elif images is not None and images.ndim and len(array) != len(images):
            hint = f"There are {len(array)} labels for {len(images)} images. Add or remove labels."
            issues.add(name, "must contain one label per image", hint)
        else:
            texts = array.astype(str).tolist()
            labels[split] = tuple(" ".join(text.split()) for text in texts)
    if len(labels) == len(SPLITS):
        _check_classes(labels, issues)
    return labels


def _check_classes(labels: Mapping[str, tuple[str, ...]], issues: _Issues) -> None:
    trained = set(labels["train"])
    for split in SPLITS[1:]:
        unknown = sorted(set(labels[split]) - trained)
        if unknown:
            listed = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            hint = f"It also contains {listed}. Split the data differently, or remove the labels of all splits."
            issues.add(f"{split}_labels", "must contain only labels that train_labels contains", hint)
