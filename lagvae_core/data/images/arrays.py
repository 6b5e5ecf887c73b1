"""Images as arrays: batch, split and data set.

Shape suffixes: N examples of a split, B examples of a batch, H rows and W columns of pixels, D = H * W.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data.base import Batch, Dataset, Domain, Split, Unit, remarks_entry
from lagvae_core.data.memory import as_array
from lagvae_core.data.order import cut, ordered
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.randomness import derive_seed

__all__ = ["BITS_PER_DIM", "ImageBatch", "ImageDataset", "ImageDomain", "ImageSplit", "fixed_bits"]

BITS_PER_DIM = Column(
    "bits_per_dim", "float", "nll_iw / (pixels * ln 2), bits per pixel of images; null for words", "min"
)

WHITE = 255
"""Grey level of a white pixel in an array of bytes; it represents the pixel value 1."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageBatch(Batch):
    """Images of one size: black and white, or grey and binarised at random at each use.

    Attributes:
        levels_BHW: uint8 from 0 to 255, or float32 from 0 to 1.
        index_B: Indices of the examples in their split: int64, always on the CPU.
        drawn: Whether training sees each pixel as a new Bernoulli draw whose mean is the grey level.
    """

    levels_BHW: Tensor
    index_B: Tensor
    drawn: bool = False

    @property
    def units(self) -> int:
        """Number of pixels."""
        return self.levels_BHW.numel()

    @property
    def pixels_BHW(self) -> Tensor:
        """Pixels as float32 from 0 to 1."""
        levels = self.levels_BHW
        return levels.float() / WHITE if levels.dtype == torch.uint8 else levels

    @property
    def history(self) -> Tensor:
        """What the decoder may see: for each predicted pixel, the pixels before it in the same image."""
        return self.pixels_BHW

    @property
    def targets(self) -> Tensor:
        return self.pixels_BHW

    @property
    def device(self) -> torch.device:
        return self.levels_BHW.device

    def to(self, device: torch.device | str) -> ImageBatch:
        return ImageBatch(self.levels_BHW.to(device), self.index_B, self.drawn)

    @classmethod
    def gather(cls, batches: Sequence[ImageBatch], places: Sequence[tuple[int, int]]) -> ImageBatch:
        levels_BHW = torch.stack([batches[number].levels_BHW[row] for number, row in places])
        index_B = torch.stack([batches[number].index_B[row] for number, row in places])
        return ImageBatch(levels_BHW, index_B, batches[0].drawn)

    def observed(self, generator: torch.Generator) -> ImageBatch:
        """Return a new binary draw of the grey images; a batch with fixed pixels is returned unchanged."""
        if not self.drawn:
            return self
        draws_BHW = torch.rand(self.levels_BHW.shape, generator=generator, device=self.device)
        return ImageBatch((draws_BHW < self.pixels_BHW).to(torch.uint8) * WHITE, self.index_B)


def fixed_bits(levels_NHW: NDArray[Any], seed: int, split: str) -> NDArray[np.uint8]:
    """Binarise every image once: the grey level of a pixel is the probability that it is 1.

    The draws of an image depend only on `seed`, the name of its split and its index in the split.

    Returns:
        uint8 [N, ceil(H * W / 8)]: the pixels of each image row by row, eight per byte.
    """
    grey_ND = levels_NHW.reshape(len(levels_NHW), -1)
    full = WHITE if levels_NHW.dtype == np.uint8 else 1
    rows = []
    for number, grey_D in enumerate(grey_ND):
        draws_D = np.random.default_rng(derive_seed(seed, "binarise", split, number)).random(len(grey_D))
        rows.append(np.packbits(draws_D * full < grey_D))
    return np.stack(rows)


@dataclass(frozen=True, eq=False, repr=False)
class ImageSplit(Split):
    """N images, grey and binarised.

    Attributes:
        levels_NHW: uint8 from 0 to 255, or float32 from 0 to 1.
        bits: The fixed binarisation of the images; see `fixed_bits`.
        labels: One label per image, or None.
    """

    levels_NHW: NDArray[np.uint8] | NDArray[np.float32]
    bits: NDArray[np.uint8]
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.bits) == len(self.levels_NHW), "every image is binarised"
        assert self.labels is None or len(self.labels) == len(self), "there is one label per image"

    def __len__(self) -> int:
        return len(self.levels_NHW)

    @property
    def units(self) -> int:
        """Number of pixels in all images together."""
        return self.levels_NHW.size

    @property
    def bits_hash(self) -> str:
        """SHA-256 (hex) of the packed bits. NLLs are comparable only if the hashes are equal."""
        return hashlib.sha256(self.bits.tobytes()).hexdigest()

    def limit(self, n: int) -> ImageSplit:
        return ImageSplit(self.levels_NHW[:n], self.bits[:n], self.labels and self.labels[:n])

    def batches(self, batch_size: int) -> list[ImageBatch]:
        """Return every image once, with its fixed binarisation, in the order of the split."""
        return [self.binarised(index) for index in cut(np.arange(len(self)), batch_size)]

    def binarised(self, index: NDArray[np.int64]) -> ImageBatch:
        """Return the images `index` with their fixed binarisation."""
        height, width = self.levels_NHW.shape[1:]
        bits = np.unpackbits(self.bits[index], axis=1, count=height * width).reshape(-1, height, width)
        return ImageBatch(torch.from_numpy(bits * np.uint8(WHITE)), torch.from_numpy(index))

    def grey(self, index: NDArray[np.int64]) -> ImageBatch:
        """Return the grey images `index`, which are binarised again at each use in training."""
        return ImageBatch(torch.from_numpy(self.levels_NHW[index]), torch.from_numpy(index), drawn=True)

    def order(self, *, by_label: bool = False, seed: int | None = None) -> list[NDArray[np.int64]]:
        """Return the indices of all examples, in one array or in one array per label; see `ordered`."""
        return ordered(len(self), self.labels if by_label else None, by_label=by_label, seed=seed)


@dataclass(frozen=True)
class ImageDomain(Domain):
    """Black and white images of one size.

    Args:
        height: Rows of pixels.
        width: Columns of pixels.
    """

    unit: ClassVar[Unit] = "pixel"

    height: int
    width: int

    def columns(self, nll: float, examples: int, units: int) -> dict[str, Any]:
        """Return the bits per pixel."""
        return {BITS_PER_DIM.name: nll * examples / (units * math.log(2.0))}


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset(Dataset):
    """Three splits of images of one size.

    Attributes:
        fingerprint: SHA-256 (hex) of grey levels, fixed binarisation and labels.
        report: Facts for the user. For each split: `<split>_examples`, `<split>_mean_grey` (from 0 to 1) and
            `<split>_bits_sha256` (hash of the fixed binarisation). For all splits together: `height`, `width` and
            `labels` (the labels that occur).
    """

    train: ImageSplit
    valid: ImageSplit
    test: ImageSplit
    fingerprint: str
    report: dict[str, int | float | str]
    truth: dict[str, np.ndarray] | None = None

    @property
    def domain(self) -> ImageDomain:
        height, width = self.train.levels_NHW.shape[1:]
        return ImageDomain(height, width)

    def encode_examples(self, examples: Any) -> ImageSplit:
        """Return images as a split; see `Dataset.encode_examples`. Grey images are binarised by one fixed draw.

        Raises:
            DataError: They are not images [N, H, W] of this size: bytes from 0 to 255, booleans, or floats from 0 to 1.
        """
        levels = as_array(examples)
        size = self.train.levels_NHW.shape[1:]
        valid = levels.dtype in (np.uint8, np.bool_) or levels.dtype.kind == "f"
        if not valid or levels.shape[1:] != size or not len(levels):
            message = f"must be images of the shape N x {size[0]} x {size[1]}, of bytes, booleans or floats"
            raise DataError([ValidationIssue("examples", message, "Convert them.", f"{levels.dtype} {levels.shape}")])
        if levels.dtype == np.bool_:
            levels = levels.astype(np.uint8) * np.uint8(WHITE)
        elif levels.dtype.kind == "f" and not ((levels >= 0) & (levels <= 1)).all():
            raise DataError([ValidationIssue("examples", "must have floats from 0 to 1", "Divide bytes by 255.")])
        levels = levels if levels.dtype == np.uint8 else levels.astype(np.float32)
        return ImageSplit(levels, fixed_bits(levels, 0, "examples"))

    @classmethod
    def of(cls, train: ImageSplit, valid: ImageSplit, test: ImageSplit, *, remarks: Sequence[str] = ()) -> ImageDataset:
        """Return the data set with its fingerprint and report, which contains `remarks`."""
        splits = {"train": train, "valid": valid, "test": test}
        report = _report(splits) | remarks_entry(remarks)
        return cls(train, valid, test, _fingerprint(list(splits.values())), report)


def _fingerprint(splits: Sequence[ImageSplit]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        levels = split.levels_NHW.astype(split.levels_NHW.dtype.newbyteorder("<"))
        shape = f"{levels.dtype} {levels.shape}".encode()
        labels = "\n".join(split.labels or ()).encode()
        for part in (shape, levels.tobytes(), split.bits.tobytes(), labels):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _report(splits: Mapping[str, ImageSplit]) -> dict[str, int | float | str]:
    height, width = splits["train"].levels_NHW.shape[1:]
    report: dict[str, int | float | str] = {"height": height, "width": width}
    for name, split in splits.items():
        full = WHITE if split.levels_NHW.dtype == np.uint8 else 1
        report[f"{name}_examples"] = len(split)
        report[f"{name}_mean_grey"] = float(split.levels_NHW.mean(dtype=np.float64)) / full
        report[f"{name}_bits_sha256"] = split.bits_hash
    labels = sorted({label for split in splits.values() for label in split.labels or ()})
    report["labels"] = textwrap.shorten(" ".join(labels), 200) if labels else "none"
    return report
