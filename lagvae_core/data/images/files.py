"""Files of images: what may be in them, and what is wrong with one that cannot be meant."""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
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
_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)


@dataclass(frozen=True, eq=False)
class Images:
    """The three splits of a file: grey levels [N, H, W], bytes to 255 or floats to 1, and labels if there are any."""

    levels: Mapping[str, Levels]
    labels: Mapping[str, tuple[str, ...]] | None


def read_images(path: Path) -> Images:
    """The images of an .npz or a torch file.

    Raises DataError, with all mistakes of all arrays, where it is missing, unreadable or not what `ImageData` says.
    """
    readers: dict[str, Callable[[Path, _Issues], _Arrays]] = {".npz": _read_npz, ".pt": _read_torch}
    readers[".pth"] = _read_torch
    issues = _Issues(path)
    reader = readers.get(path.suffix.lower())
    if not path.is_file():
        issues.add(None, "be a file", f"There is none at {path.absolute()}.")
    elif reader is None:
        issues.add(None, f"end in {', '.join(readers)}", "Save the images with numpy.savez_compressed.")
    arrays = {} if issues.found or reader is None else reader(path, issues)
    levels: dict[str, Levels] = {}
    for split in SPLITS:
        grey = _levels(split, arrays[split], issues) if split in arrays else None
        if grey is not None:
            levels[split] = grey
    _check_sizes(levels, issues)
    _check_greys(levels, issues)
    labels = _labels(arrays, issues)
    if issues.found:
        raise DataError(issues.found)
    return Images(levels, labels)


class _Issues:
    """What was found to be wrong with one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[ValidationIssue] = []

    def add(self, array: str | None, message: str, hint: str) -> None:
        where = str(self.path) if array is None else f"{self.path}, array {array}"
        self.found.append(ValidationIssue("data.path", message, hint, where))


def _read_npz(path: Path, issues: _Issues) -> _Arrays:
    if not zipfile.is_zipfile(path):
        issues.add(None, "be a whole .npz file", "It is none; save the images with numpy.savez_compressed.")
        return {}
    arrays: _Arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in names:
                if name.removesuffix("_labels") in SPLITS:
                    _take(archive, name, arrays, issues)
    except _DAMAGED as error:
        issues.add(None, "be a whole .npz file", f"It cannot be read: {error}.")
        return {}
    _check_names(names, issues)
    return arrays


def _take(archive: Mapping[str, NDArray[Any]], name: str, arrays: _Arrays, issues: _Issues) -> None:
    """Read one array; one of Python objects, which ragged lists become, stays unread."""
    try:
        arrays[name] = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        hint = "It is an array of Python objects, as ragged lists become; such are never read."
        issues.add(name, "be an array of numbers of one shape", hint)


def _read_torch(path: Path, issues: _Issues) -> _Arrays:
    try:
        with warnings.catch_warnings(action="ignore"):  # at old formats; what is wrong is told below
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        issues.add(None, "hold plain tensors", "It holds other objects, which are never read; save tensors alone.")
        return {}
    except _DAMAGED as error:
        issues.add(None, "be a whole torch file", f"It cannot be read: {error}.")
        return {}
    if isinstance(content, list | tuple) and len(content) == len(SPLITS):
        content = dict(zip(SPLITS, content, strict=True))
    if not isinstance(content, dict):
        hint = f"It holds a {type(content).__name__}; save [train, valid, test]."
        issues.add(None, "hold three tensors, as a list or by name", hint)
        return {}
    _check_names(content, issues)
    arrays: _Arrays = {}
    for name in (name for name in content if str(name).removesuffix("_labels") in SPLITS):
        value = content[name]
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype != torch.bfloat16:
            arrays[name] = value.detach().resolve_neg().numpy()
        else:
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            issues.add(name, "be a tensor of bytes, booleans or floats", f"It is a {kind}; convert it.")
    return arrays


def _check_names(names: Any, issues: _Issues) -> None:
    missing = [split for split in SPLITS if split not in names]
    if missing:
        held = ", ".join(sorted(map(str, names))) or "nothing"
        issues.add(None, f"hold the arrays {', '.join(SPLITS)}", f"It lacks {', '.join(missing)} and holds {held}.")


def _levels(split: str, array: NDArray[Any], issues: _Issues) -> Levels | None:
    """The images [N, H, W] as bytes or float32, or None and what is wrong with them."""
    if array.dtype not in (np.uint8, np.bool_) and not np.issubdtype(array.dtype, np.floating):
        hint = f"It holds {array.dtype}; convert it by astype(numpy.uint8), or divide by the largest grey."
        issues.add(split, "hold bytes from 0 to 255, booleans, or floats from 0 to 1", hint)
        return None
    shape = array.shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1) or 0 in shape[1:]:
        issues.add(split, "have the shape N x 1 x H x W or N x H x W", f"It has {list(shape)}; reshape it.")
        return None
    if shape[0] == 0:
        issues.add(split, "hold at least one image", "It is empty; move images there from another split.")
        return None
    array = array.reshape(shape[0], *shape[-2:])
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(WHITE)
    return array if array.dtype == np.uint8 else _from_floats(split, array, issues)


def _from_floats(split: str, array: NDArray[Any], issues: _Issues) -> Levels | None:
    finite_N = np.isfinite(array).all((1, 2))
    if not finite_N.all():
        hint = f"Image {int(np.argmin(finite_N))} (from 0) is the first of {int((~finite_N).sum())} that are not."
        issues.add(split, "be finite in every pixel", hint)
        return None
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        issues.add(split, "hold floats from 0 to 1", f"It holds {low:g} to {high:g}; divide by the largest grey.")
        return None
    levels = np.rint(array * float(WHITE)).astype(np.uint8)
    exact = np.abs(levels / float(WHITE) - array).max() < 1e-6
    return levels if exact else array.astype(np.float32)


def _check_sizes(levels: Mapping[str, Levels], issues: _Issues) -> None:
    train = levels.get("train")
    for split, grey in levels.items():
        if train is not None and grey.shape[1:] != train.shape[1:]:
            message = f"must hold images of {train.shape[1]} x {train.shape[2]} pixels, as train does"
            issues.add(split, message, f"They have {grey.shape[1]} x {grey.shape[2]}; resize them.")


def _check_greys(levels: Mapping[str, Levels], issues: _Issues) -> None:
    """Bytes that are 0 and 1 throughout the file mean black and white, but would read as black and nearly black."""
    if len(levels) == len(SPLITS) and all(grey.dtype == np.uint8 and grey.max() == 1 for grey in levels.values()):
        issues.add(None, "hold bytes from 0 to 255", "They are 0 and 1; save black and white images as booleans.")


def _labels(arrays: _Arrays, issues: _Issues) -> dict[str, tuple[str, ...]] | None:
    """The labels of every split; None where no split has any."""
    names = [f"{split}_labels" for split in SPLITS]
    if not any(name in arrays for name in names):
        return None
    labels: dict[str, tuple[str, ...]] = {}
    for split, name in zip(SPLITS, names, strict=True):
        found, images = arrays.get(name), arrays.get(split)
        if found is None:
            issues.add(name, "be there where another split has labels", "Add it, or remove the other labels.")
        elif found.dtype.kind not in "iuUSb" or found.ndim != 1:
            hint = f"It is {found.dtype} of shape {list(found.shape)}."
            issues.add(name, "hold one integer or text for each image", hint)
        elif images is not None and images.ndim and len(found) != len(images):
            issues.add(name, "hold one label for each image", f"It has {len(found)} for {len(images)} images.")
        else:
            texts = found.astype(str).tolist()
            labels[split] = tuple(" ".join(text.split()) for text in texts)
    if len(labels) == len(SPLITS):
        _check_classes(labels, issues)
    return labels


def _check_classes(labels: Mapping[str, tuple[str, ...]], issues: _Issues) -> None:
    known = set(labels["train"])
    for split in SPLITS[1:]:
        foreign = sorted(set(labels[split]) - known)
        if foreign:
            hint = f"It also holds {', '.join(foreign[:5])}{', ...' if len(foreign) > 5 else ''}."
            issues.add(f"{split}_labels", "hold labels that train_labels has", hint)
