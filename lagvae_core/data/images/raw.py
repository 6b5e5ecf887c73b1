"""Images as they lie in a file or folder, before their grey levels are checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.errors import ValidationIssue

__all__ = ["HOLD_OUT", "SPLITS", "Array", "RawImages", "as_grey"]

SPLITS = ("train", "valid", "test")
HOLD_OUT = "or set data.held_out=0.1 to use a random tenth of train for each of valid and test that is missing"
Array = NDArray[Any]

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luminance of ITU-R BT.601, which Pillow and most image programs use."""


@dataclass
class RawImages:
    """Arrays of one file or folder, and the issues with it.

    Args:
        path: The file or folder.
        required: The splits that it must have; others may be drawn from train.
        arrays: The images of each split [N, H, W], [N, C, H, W] or [N, H, W, C], and `<split>_labels` [N] if there are
            labels.
        issues: What is wrong so far.
        remarks: What was guessed or converted.
    """

    path: Path
    required: tuple[str, ...] = SPLITS
    arrays: dict[str, Array] = field(default_factory=dict)
    issues: list[ValidationIssue] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, array: str | None, message: str, hint: str) -> None:
        """Add an issue about an array (in a folder: the pictures of its split), or about everything if it is None."""
        where = str(self.path)
        if array is not None:
            where += f"{os.sep}{array.removesuffix('_labels')}" if self.path.is_dir() else f", array {array}"
        self.issues.append(ValidationIssue(where, message, hint))


def as_grey(image_HWC: Array, *, luminance: bool) -> tuple[Array | None, str]:
    """Return the grey levels of one image, in its own unit, and how they were obtained.

    Args:
        image_HWC: An image with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels.
        luminance: Whether to turn colour into its luminance.

    Returns:
        The levels [H, W] and "grey", "equal channels" or "luminance"; or None and "transparent" or "colour", the reason
        why there are none.
    """
    channels = image_HWC.shape[-1]
    if channels in (2, 4):
        image_HWC, alpha_HW = image_HWC[..., :-1], image_HWC[..., -1]
        full = np.iinfo(alpha_HW.dtype).max if alpha_HW.dtype.kind in "iu" else 1
        if (alpha_HW < full).any():
            return None, "transparent"
    if image_HWC.shape[-1] == 1:
        return image_HWC[..., 0], "grey"
    if (image_HWC == image_HWC[..., :1]).all():
        return image_HWC[..., 0], "equal channels"
    if not luminance:
        return None, "colour"
    grey_HW = image_HWC @ LUMINANCE
    return (np.rint(grey_HW).astype(np.uint8) if image_HWC.dtype == np.uint8 else grey_HW), "luminance"
