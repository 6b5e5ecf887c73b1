"""Reading images and checking their arrays: shape, channels, type, range and labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lagvae_core.data.held_out import HeldOut
from lagvae_core.data.images.arrays import WHITE
from lagvae_core.data.images.containers import read_container
from lagvae_core.data.images.pictures import read_pictures
from lagvae_core.data.images.raw import as_grey
from lagvae_core.data.memory import Examples, as_array
from lagvae_core.data.raw import SPLITS, Array, RawArrays, check_names, draw_held_out, read_labels
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["Images", "Levels", "read_images", "take_images"]

Levels = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Images:
    """Content of an image file or a folder of pictures.

    Args:
        levels: Grey levels [N, H, W] of each split: uint8 from 0 to 255, or float32 from 0 to 1.
        labels: Labels of each split, one per image; None if there are none.
        remarks: What was guessed or converted.
    """

    levels: Mapping[str, Levels]
    labels: Mapping[str, tuple[str, ...]] | None
    remarks: tuple[str, ...]


def read_images(path: Path, held_out: HeldOut, *, luminance: bool = False, labels: bool = True) -> Images:
    """Read the images of an .npz file, a torch file or a folder of pictures.

    Args:
        path: The file or folder, which is readable.
        held_out: Whether and how to draw missing splits from train.
        luminance: Whether to turn colour into its luminance; otherwise, colour is an issue.
        labels: Whether to read the labels.

    Raises:
        DataError: The content is damaged or not in the format that `ImageData` describes. The error carries all issues.
    """
    raw = RawArrays(path, SPLITS if held_out.held_out is None else ("train",))
    if path.is_dir():
        read_pictures(raw, luminance=luminance)
    else:
        read_container(raw)
    return _images(raw, held_out, luminance=luminance, labels=labels)


def take_images(
    given: Mapping[str, Examples], held_out: HeldOut, *, luminance: bool = False, labels: bool = True
) -> Images:
    """Return images that are in memory as `read_images` returns those of files; `given` has the splits.

    In a table, the columns are `image` and, for labelled images, `label`.
    """
    raw = RawArrays(Path("images in memory"), SPLITS if held_out.held_out is None else ("train",))
    for split, examples in given.items():
        values, names = examples.values, examples.labels
        if examples.table is not None:
            if "image" not in examples.names:
                message = "must have a column `image`"
                raise DataError([ValidationIssue(f"{split} (in memory)", message, "Rename it.", examples.names)])
            values = examples.table["image"]
            names = list(examples.table["label"]) if "label" in examples.names else None
        raw.arrays[split] = as_array(values)
        if names is not None:
            raw.arrays[f"{split}_labels"] = np.array(names)
    check_names(raw.arrays, raw)
    return _images(raw, held_out, luminance=luminance, labels=labels)


def _images(raw: RawArrays, held_out: HeldOut, *, luminance: bool, labels: bool) -> Images:
    """Check the arrays, and draw the splits that are missing."""
    if not raw.issues:
        draw_held_out(raw, held_out)
    grey = {split: _grey(split, raw.arrays[split], raw, luminance) for split in SPLITS if split in raw.arrays}
    levels = _levels({split: array for split, array in grey.items() if array is not None}, raw)
    _check_sizes(levels, raw)
    _check_bytes(levels, raw)
    by_split = read_labels(raw) if labels else None
    if raw.issues:
        raise DataError(raw.issues)
    return Images(levels, by_split, tuple(raw.remarks))


def _grey(split: str, array: Array, raw: RawArrays, luminance: bool) -> Array | None:
    """Return the images [N, H, W] in the type of the array; None if there is an issue."""
    if array.dtype.kind not in "biuf":
        hint = f"The type is {array.dtype}. Save grey levels as bytes."
        raw.add(split, "must contain bytes from 0 to 255, booleans, or floats from 0 to 1", hint)
        return None
    if array.ndim and len(array) == 0:
        raw.add(split, "must contain at least one image", "Move images from another split to this one.")
        return None
    images = _with_channels(array)
    if images is None or 0 in images.shape:
        hint = f"The shape is {list(array.shape)}. {_reshaping(array)}"
        message = "must have the shape N x H x W, N x C x H x W or N x H x W x C with 1, 3 (RGB) or 4 (RGBA) channels C"
        raw.add(split, message, hint)
        return None
    if images.shape[-1] == 1:
        return images[..., 0]
    levels, kinds = zip(*(as_grey(image_HWC, luminance=luminance) for image_HWC in images), strict=True)
    counts = Counter(kinds)
    for kind, adjective, hint in (
        ("colour", "in colour", "Set data.colour=grey to use their luminance."),
        ("transparent", "transparent", f"Drop the alpha channel: {_without_alpha(array)}"),
    ):
        if counts[kind]:
            found = f"{counts[kind]:,} of {len(kinds):,} are {adjective}, the first with index {kinds.index(kind)}."
            raw.add(split, f"must contain images that are not {adjective}", f"{found} {hint}")
    if counts["colour"] or counts["transparent"]:
        return None
    for kind, remark in (("equal channels", "equal channels read as grey"), ("luminance", "colour turned into grey")):
        if counts[kind] and remark not in raw.remarks:
            raw.remarks.append(remark)
    return np.stack([level for level in levels if level is not None])


def _with_channels(array: Array) -> Array | None:
    """Return the array as [N, H, W, C]; None if it does not have that form, or has it in two ways."""
    if array.ndim == 3:
        return array[..., None]
    if array.ndim != 4:
        return None
    first, last = array.shape[1] in (1, 3, 4), array.shape[3] in (1, 3, 4)
    if array.shape[1] == 1 or (first and not last):
        return np.moveaxis(array, 1, -1)
    return array if last and not first else None


def _without_alpha(array: Array) -> str:
    return "x = x[..., :3]" if array.shape[-1] == 4 else "x = x[:, :3]"


def _reshaping(array: Array) -> str:
    """Return how to reshape an array that is not [N, H, W]; flat images are assumed to be square."""
    pixels = math.prod(array.shape[1:]) if array.ndim > 1 else 0
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if array.ndim == 2 and side > 1 and side * side * channels == pixels:
            shape = f"-1, {side}, {side}" if channels == 1 else f"-1, {channels}, {side}, {side}"
            return f"If the images are square, reshape them: x = x.reshape({shape})"
    return "Reshape the array."


def _levels(images: Mapping[str, Array], raw: RawArrays) -> dict[str, Levels]:
    """Return the images as bytes or float32, without those that have an issue."""
    levels: dict[str, Levels] = {}
    finite: dict[str, Array] = {}
    for split, array in images.items():
        if array.dtype == np.bool_:
            levels[split] = array.astype(np.uint8) * np.uint8(WHITE)
        elif array.dtype == np.uint8:
            levels[split] = array
        elif _check_finite(split, array, raw):
            finite[split] = array
    if not finite:
        return levels
    low, high = min(float(a.min()) for a in finite.values()), max(float(a.max()) for a in finite.values())
    for split, array in finite.items():
        least, largest = float(array.min()), float(array.max())
        if array.dtype.kind == "f" and least >= 0 and largest <= 1:
            levels[split] = _from_floats(array)
        else:
            kind = "floats" if array.dtype.kind == "f" else str(array.dtype)
            remedy = _rescaling(low, high, is_float=array.dtype.kind == "f")
            hint = f"It contains {kind} from {least:g} to {largest:g}. Convert all splits: x = {remedy}"
            raw.add(split, "must contain bytes from 0 to 255, booleans, or floats from 0 to 1", hint)
    return levels


def _check_finite(split: str, array: Array, raw: RawArrays) -> bool:
    finite_N = np.isfinite(array).all((1, 2))
    if finite_N.all():
        return True
    count, first = int((~finite_N).sum()), int(np.argmin(finite_N))
    hint = f"Correct or remove the images with other pixels: {count} of {len(array)}, the first with index {first}."
    raw.add(split, "must contain only finite pixels", hint)
    return False


def _rescaling(low: float, high: float, *, is_float: bool) -> str:
    """Return an expression of numpy that turns an array x with values from `low` to `high` into levels."""
    if not is_float and low >= 0 and high <= 1:
        return "x.astype(bool)"
    if not is_float and low >= 0 and high <= WHITE:
        return "x.astype(numpy.uint8)"
    if low >= -0.01 and high <= 1.01:  # interpolation overshoots
        return "x.clip(0, 1)"
    if low >= -1 and high <= 1:
        return "(x + 1) / 2"
    for white in (WHITE, 65535):
        if low >= 0 and high <= white:
            return f"x / {white}"
    return f"((x - {low!r}) / ({high!r} - {low!r})).clip(0, 1)".replace("- -", "+ ")


def _from_floats(array: Array) -> Levels:
    levels = np.rint(array * float(WHITE)).astype(np.uint8)
    exact = np.abs(levels / float(WHITE) - array).max() < 1e-6
    return levels if exact else array.astype(np.float32)


def _check_sizes(levels: Mapping[str, Levels], raw: RawArrays) -> None:
    train = levels.get("train")
    for split, grey in levels.items():
        if train is not None and grey.shape[1:] != train.shape[1:]:
            message = f"must contain images of {train.shape[1]} x {train.shape[2]} pixels, as train does"
            raw.add(split, message, f"The images have {grey.shape[1]} x {grey.shape[2]} pixels. Resize them.")


def _check_bytes(levels: Mapping[str, Levels], raw: RawArrays) -> None:
    """Reject images whose bytes are all 0 or 1: as grey levels, they mean black and almost black, not white."""
    if len(levels) == len(SPLITS) and all(grey.dtype == np.uint8 and grey.max() == 1 for grey in levels.values()):
        raw.add(
            None,
            "must contain bytes from 0 (black) to 255 (white)",
            "All bytes are 0 or 1. Convert all splits: x = x * numpy.uint8(255)",
        )
