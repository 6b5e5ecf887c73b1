"""Grey levels of a picture."""

from __future__ import annotations

import numpy as np

from lagvae_core.data.raw import Array

__all__ = ["as_grey"]

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luminance of ITU-R BT.601, which Pillow and most image programs use."""


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
