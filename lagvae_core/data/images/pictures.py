"""Reading folders of pictures: PNG, JPEG and other formats, with labels from the names of subfolders."""

from __future__ import annotations

import os
import shlex
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lagvae_core.data.files import unreadable
from lagvae_core.data.images.raw import as_grey
from lagvae_core.data.raw import HOLD_OUT, SPLITS, Array, RawArrays
from lagvae_core.errors import ValidationIssue

__all__ = ["SPLIT_FOLDERS", "SUFFIXES", "read_pictures"]

SPLIT_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "dev", "val"),
    "test": ("test", "testing"),
}
"""Permitted names of the folder of each split, in small or capital letters."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pbm", ".pgm", ".ppm"})

_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_MAX_ISSUES = 5
"""Largest number of pictures of a split that are reported individually."""


def read_pictures(raw: RawArrays, *, luminance: bool) -> None:
    """Read the pictures of a folder with one subfolder for each split.

    The pictures of a split are sorted by their paths. If they lie in subfolders of the split, the name of the first
    subfolder is their label.

    Args:
        raw: Where the arrays and issues are added; its path is a folder that may be listed.
        luminance: Whether to turn colour into its luminance; otherwise, pictures in colour are an issue.
    """
    kinds: Counter[str] = Counter()
    for split, split_folder in _split_folders(raw.path, raw).items():
        before = len(raw.issues)
        files, others = _pictures_below(split_folder, raw)
        if others:
            raw.remarks.append(f"{others:,} other files in {split_folder.name} are not read")
        if files:
            _read_split(split, split_folder, files, raw, kinds, luminance=luminance)
        elif len(raw.issues) == before:
            message, hint = "must contain pictures", f"Their names must end in {', '.join(sorted(SUFFIXES))}."
            raw.issues.append(ValidationIssue(str(split_folder), message, hint))
    if kinds["equal channels"]:
        raw.remarks.append("pictures with equal channels read as grey")
    if kinds["luminance"]:
        raw.remarks.append("colour turned into grey")


def _split_folders(folder: Path, raw: RawArrays) -> dict[str, Path]:
    """Return the folder of each split, and add an issue if a split has none or several."""
    present = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith((".", "__"))]
    folders = {entry.name.lower(): entry for entry in present if entry.is_dir()}
    found: dict[str, Path] = {}
    missing = []
    for split, names in SPLIT_FOLDERS.items():
        matching = [folders[name] for name in names if name in folders]
        if len(matching) > 1:
            hint = f"The folder contains {' and '.join(entry.name for entry in matching)}. Move all but one elsewhere."
            issue = ValidationIssue("data.path", f"must be a folder with one subfolder for {split}", hint, str(folder))
            raw.issues.append(issue)
        elif matching:
            found[split] = matching[0]
        elif split in raw.required:
            missing.append(split)
    if missing:
        message = (
            f"must be an .npz file, a torch file, or a folder with subfolders {', '.join(raw.required)} of pictures"
        )
        hint = f"{_content(present)}{_advice(folder, present, missing)}"
        raw.issues.append(ValidationIssue("data.path", message, hint, str(folder)))
    return found


def _content(present: list[Path]) -> str:
    names = ", ".join(entry.name for entry in present[:1000]) or "nothing"
    return f"The folder contains {textwrap.shorten(names, 150, placeholder=' ...')}. "


def _advice(folder: Path, present: list[Path], missing: list[str]) -> str:
    """Return how to make a folder readable that lacks the subfolders `missing`."""
    containers = [entry for entry in present if entry.suffix.lower() in (".npz", ".pt", ".pth")]
    inner = [entry for entry in present if entry.is_dir() and any((entry / name).is_dir() for name in SPLITS)]
    if "train" not in missing:
        return f"Add the subfolder {' and '.join(missing)}, {HOLD_OUT}."
    if len(containers) == 1 or len(inner) == 1:
        return f"Set data.path={shlex.quote(str((containers or inner)[0]))}"
    if any(entry.suffix == ".parquet" for entry in present):
        code = (
            "import sys, pathlib, pyarrow.parquet; "
            "[((d := pathlib.Path(sys.argv[2], f.name.split('-')[0])).mkdir(parents=True, exist_ok=True), "
            "(d / f'{f.stem}-{i}.png').write_bytes(row['image']['bytes'])) "
            "for f in pathlib.Path(sys.argv[1]).glob('*.parquet') "
            "for i, row in enumerate(pyarrow.parquet.read_table(f).to_pylist())]"
        )
        target = folder.with_name(f"{folder.name}-pictures")
        return f'Write its pictures to files: python -c "{code}" {shlex.quote(str(folder))} {shlex.quote(str(target))}'
    return (
        "Put the pictures of each split into its subfolder; a further level of subfolders gives their labels. If they "
        "are not divided into splits, put all into train and set data.held_out=0.1."
    )


def _pictures_below(folder: Path, raw: RawArrays) -> tuple[list[Path], int]:
    """Return the pictures in `folder` and below, relative to it and sorted, and the number of other files."""
    pictures, others, visited = [], 0, set()

    def refuse(error: OSError) -> None:
        raw.issues.extend(unreadable(Path(error.filename or folder), error).issues)

    for place, subfolders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__"))]
        for name in names:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in SUFFIXES:
                pictures.append(Path(place, name).relative_to(folder))
            else:
                others += 1
    return sorted(pictures, key=lambda path: path.as_posix()), others


def _read_split(
    split: str, folder: Path, files: list[Path], raw: RawArrays, kinds: Counter[str], *, luminance: bool
) -> None:
    labels = [file.parts[0] if len(file.parts) > 1 else None for file in files]
    if None in labels and any(labels):
        direct = folder / files[labels.index(None)]
        hint = f"{direct} is in no subfolder. Move it into one, or move all pictures of the split out of subfolders."
        raw.issues.append(ValidationIssue(str(folder), "must have all pictures in subfolders, or none", hint))
        return
    if None not in labels:
        raw.arrays[f"{split}_labels"] = np.array(labels)
    issues: list[ValidationIssue] = []
    images: list[Array] = []
    for file in files:
        image_HWC = _read_picture(folder / file, issues)
        if image_HWC is None:
            continue
        image, kind = as_grey(image_HWC, luminance=luminance)
        kinds[kind] += 1
        if image is None:
            issues.append(_not_grey(folder / file, kind))
        elif images and image.shape != images[0].shape:
            issues.append(_other_size(folder / file, image, images[0], folder / files[0]))
        else:
            images.append(image)
    raw.issues += issues[:_MAX_ISSUES]
    if len(issues) > _MAX_ISSUES:
        message = f"has problems with {len(issues) - _MAX_ISSUES:,} further pictures"
        raw.issues.append(ValidationIssue(str(folder), message, "Correct them like the first ones."))
    if not issues:
        if any(image.dtype != np.uint8 for image in images):
            images = [image / 255 if image.dtype == np.uint8 else image for image in images]
        raw.arrays[split] = np.stack(images)


def _read_picture(path: Path, issues: list[ValidationIssue]) -> Array | None:
    """Return a picture [H, W, C] as bytes, or as floats from 0 to 1 if it has more than 8 bits per channel."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            frames: int = getattr(image, "n_frames", 1)
            if frames > 1:
                hint = "Save the frames as separate pictures."
                issues.append(ValidationIssue(str(path), f"must be one picture, not {frames} frames", hint))
                return None
            array = _as_array(image)
    except PermissionError as error:
        issues.extend(unreadable(path, error).issues)
        return None
    except _READ_ERRORS as error:
        message = f"must be a complete picture ({' '.join(str(error).split())[:200]})"
        issues.append(ValidationIssue(str(path), message, "Copy or download it again, or remove it."))
        return None
    return array if array.ndim == 3 else array[..., None]


def _as_array(image: Image.Image) -> Array:
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255)
    if image.mode == "F" or image.mode.startswith("I"):
        array = np.asarray(image)
        return array / (1.0 if image.mode == "F" else 65535.0)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def _not_grey(path: Path, kind: str) -> ValidationIssue:
    if kind == "colour":
        hint = "Set data.colour=grey to use its luminance."
        return ValidationIssue(str(path), "must be grey or black and white, not in colour", hint)
    code = (
        "import sys; from PIL import Image; "
        "[Image.alpha_composite(Image.new('RGBA', i.size, 'white'), i).convert('L').save(p) "
        "for p in sys.argv[1:] for i in [Image.open(p).convert('RGBA')]]"
    )
    hint = f'Put it before a background: python -c "{code}" {shlex.quote(str(path))}'
    return ValidationIssue(str(path), "must not be transparent", hint)


def _other_size(path: Path, image: Array, first: Array, first_path: Path) -> ValidationIssue:
    height, width = first.shape
    message = f"must have {height} x {width} pixels, as {first_path.name} has"
    resize = f"Image.open(p).resize(({width}, {height})).save(p)"
    code = f"import sys; from PIL import Image; [{resize} for p in sys.argv[1:]]"
    size = f"It has {image.shape[0]} x {image.shape[1]}"
    return ValidationIssue(str(path), message, f'{size}. Resize it: python -c "{code}" {shlex.quote(str(path))}')
