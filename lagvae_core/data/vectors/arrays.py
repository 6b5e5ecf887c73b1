"""Vectors as arrays: batch, split and data set.

Shape suffixes: N examples of a split, B examples of a batch, X features.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data.base import Batch, Dataset, Domain, Split, Unit, remarks_entry
from lagvae_core.data.memory import as_array
from lagvae_core.data.order import cut, ordered
from lagvae_core.errors import DataError, ValidationIssue

__all__ = [
    "NATS_PER_FEATURE",
    "Standardisation",
    "Values",
    "VectorBatch",
    "VectorDataset",
    "VectorDomain",
    "VectorSplit",
    "values_of",
]

NATS_PER_FEATURE = Column(
    "nats_per_feature",
    "float",
    "nll_iw / features, nats per feature of vectors; of real values a density in the units of the data, which can be "
    "negative and is never comparable with bits_per_dim; null for other data",
    "min",
)

Values = Literal["real", "counts", "binary"]
"""What the values of all splits are: any real numbers, whole numbers from 0, or only 0 and 1."""

Standardisation = Literal["none", "features", "shared"]
"""`features`: each feature minus its mean, divided by its standard deviation. `shared`: each feature minus its mean,
divided by one number for all, the root mean square of the standard deviations. Both are those of train."""


@dataclass(frozen=True, eq=False, repr=False)
class VectorBatch(Batch):
    """Vectors, standardised if the data are.

    Attributes:
        x_BX: The values, float32.
        index_B: Indices of the examples in their split: int64, always on the CPU.
    """

    x_BX: Tensor
    index_B: Tensor

    @property
    def units(self) -> int:
        """Number of values."""
        return self.x_BX.numel()

    @property
    def history(self) -> None:
        """Nothing: the decoder sees z alone."""
        return

    @property
    def targets(self) -> Tensor:
        return self.x_BX

    @property
    def device(self) -> torch.device:
        return self.x_BX.device

    def to(self, device: torch.device | str) -> VectorBatch:
        return VectorBatch(self.x_BX.to(device), self.index_B)

    @classmethod
    def gather(cls, batches: Sequence[VectorBatch], places: Sequence[tuple[int, int]]) -> VectorBatch:
        x_BX = torch.stack([batches[number].x_BX[row] for number, row in places])
        index_B = torch.stack([batches[number].index_B[row] for number, row in places])
        return VectorBatch(x_BX, index_B)


@dataclass(frozen=True, eq=False, repr=False)
class VectorSplit(Split):
    """N vectors.

    Attributes:
        x_NX: The values, float32, standardised if the data are.
        labels: One label per vector, or None.
    """

    x_NX: NDArray[np.float32]
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert self.x_NX.ndim == 2, "vectors are the rows of a matrix"
        assert self.labels is None or len(self.labels) == len(self), "there is one label per vector"

    def __len__(self) -> int:
        return len(self.x_NX)

    @property
    def units(self) -> int:
        """Number of values in all vectors together."""
        return self.x_NX.size

    def limit(self, n: int) -> VectorSplit:
        return VectorSplit(self.x_NX[:n], self.labels and self.labels[:n])

    def batches(self, batch_size: int) -> list[VectorBatch]:
        """Return every vector once, in the order of the split."""
        return [self.batch(index) for index in cut(np.arange(len(self)), batch_size)]

    def batch(self, index: NDArray[np.int64]) -> VectorBatch:
        """Return the vectors `index`."""
        return VectorBatch(torch.from_numpy(self.x_NX[index]), torch.from_numpy(index))

    def order(self, *, by_label: bool = False, seed: int | None = None) -> list[NDArray[np.int64]]:
        """Return the indices of all examples, in one array or in one array per label; see `ordered`."""
        return ordered(len(self), self.labels if by_label else None, by_label=by_label, seed=seed)


@dataclass(frozen=True)
class VectorDomain(Domain):
    """Vectors of one length.

    Args:
        features: Number of values per vector.
        values: What the values are, before any standardisation.
        log_scale: Sum over features of the logarithms of the deviations by which standardisation divides; 0 without
            standardisation. Adding it to the NLL of a standardised vector gives the NLL of the vector in the units of
            the data: log p(x) = log p((x - mean) / scale) - sum of log scale.
        is_standardised: Whether models see standardised values.
    """

    unit: ClassVar[Unit] = "feature"

    features: int
    values: Values = "real"
    log_scale: float = 0.0
    is_standardised: bool = False

    @property
    def loss_floor(self) -> float:
        return float(self.features) if self.values == "real" else 0.0

    def columns(self, nll: float, examples: int, units: int) -> dict[str, Any]:
        """Return the nats per feature."""
        return {NATS_PER_FEATURE.name: nll * examples / units}


@dataclass(frozen=True, eq=False, repr=False)
class VectorDataset(Dataset):
    """Three splits of vectors of one length.

    Attributes:
        fingerprint: SHA-256 (hex) of the values that models see, of the scale of the standardisation, and of labels.
        report: Facts for the user: `features`, `values`, `standardise` (with the start of the SHA-256 of its mean
            and deviations),
            `labels` (those that occur) and, for each split, `<split>_examples`, `<split>_mean` and `<split>_std` of
            the values that models see.
        values: What the values are, before any standardisation.
        mean_X: Subtracted by the standardisation; zeros without it. float64.
        scale_X: Deviations by which the standardisation divides; ones without it. float64.
        is_standardised: Whether models see standardised values.
        truth: z of generated data, by split.
    """

    train: VectorSplit
    valid: VectorSplit
    test: VectorSplit
    values: Values
    fingerprint: str
    report: dict[str, int | float | str]
    mean_X: NDArray[np.float64]
    scale_X: NDArray[np.float64]
    is_standardised: bool = False
    truth: dict[str, np.ndarray] | None = None

    @property
    def domain(self) -> VectorDomain:
        log_scale = float(np.log(self.scale_X).sum())
        return VectorDomain(len(self.scale_X), self.values, log_scale, self.is_standardised)

    def encode_examples(self, examples: Any) -> VectorSplit:
        """Return vectors in the units of the data as a split, standardised; see `Dataset.encode_examples`.

        Raises:
            DataError: They are not a matrix of finite numbers with the features of the data.
        """
        x_NX = as_array(examples)
        features = len(self.scale_X)
        if x_NX.dtype.kind not in "biuf" or x_NX.ndim != 2 or x_NX.shape[1] != features or not len(x_NX):
            message = f"must be a matrix of numbers with {features} columns"
            raise DataError([ValidationIssue("examples", message, "Reshape it.", f"{x_NX.dtype} {x_NX.shape}")])
        if not np.isfinite(x_NX).all():
            raise DataError([ValidationIssue("examples", "must be finite", "Remove missing and infinite values.")])
        return VectorSplit(((x_NX - self.mean_X) / self.scale_X).astype(np.float32))

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, NDArray[np.float64]],
        labels: Mapping[str, tuple[str, ...]] | None = None,
        *,
        standardise: Standardisation = "none",
        remarks: Sequence[str] = (),
        truth: dict[str, np.ndarray] | None = None,
        fingerprint: str | None = None,
    ) -> VectorDataset:
        """Return the data set with its fingerprint and report.

        Args:
            arrays: The values of train, valid and test in the units of the data, each [N, X].
            labels: Labels of each split; None if there are none.
            standardise: How the values are standardised.
            remarks: Remarks for the report.
            truth: Latent variables of generated data.
            fingerprint: Fingerprint of generated data; None for that of the content.
        """
        mean_X, scale_X = _standardisation(arrays["train"], standardise)
        splits = {
            split: VectorSplit(((x_NX - mean_X) / scale_X).astype(np.float32), labels[split] if labels else None)
            for split, x_NX in arrays.items()
        }
        features = arrays["train"].shape[1]
        values = values_of(list(arrays.values()))
        report: dict[str, int | float | str] = {"features": features, "values": values}
        constants = hashlib.sha256(_bytes(mean_X) + _bytes(scale_X)).hexdigest()
        report["standardise"] = standardise if standardise == "none" else f"{standardise} ({constants[:12]})"
        for name, split in splits.items():
            report[f"{name}_examples"] = len(split)
            report[f"{name}_mean"] = float(split.x_NX.mean(dtype=np.float64))
            report[f"{name}_std"] = float(split.x_NX.std(dtype=np.float64))
        seen = sorted({label for split in splits.values() for label in split.labels or ()})
        report["labels"] = textwrap.shorten(" ".join(seen), 200) if seen else "none"
        constant = int((arrays["train"].std(0) == 0).sum())
        if constant and standardise == "features":
            remarks = [*remarks, f"{constant} of {features} features are constant in train; they are only centred"]
        return cls(
            **splits,
            values=values,
            fingerprint=fingerprint or _fingerprint(list(splits.values()), scale_X),
            report={**report, **remarks_entry(remarks)},
            mean_X=mean_X,
            scale_X=scale_X,
            is_standardised=standardise != "none",
            truth=truth,
        )


def values_of(arrays: Sequence[NDArray[np.float64]]) -> Values:
    """Return what the values of all arrays are."""
    if not all((array >= 0).all() and (array == np.floor(array)).all() for array in arrays):
        return "real"
    return "binary" if all(array.max() <= 1 for array in arrays) else "counts"


def _standardisation(
    train_NX: NDArray[np.float64], standardise: Standardisation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the deviation of each feature; the deviation of a constant feature is replaced by 1."""
    features = train_NX.shape[1]
    if standardise == "none":
        return np.zeros(features), np.ones(features)
    mean_X, std_X = train_NX.mean(0), train_NX.std(0)
    if standardise == "shared":
        std_X = np.full(features, math.sqrt(float(np.square(std_X).mean())))
    return mean_X, np.where(std_X > 0, std_X, 1.0)


def _bytes(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _fingerprint(splits: Sequence[VectorSplit], scale_X: NDArray[np.float64]) -> str:
    digest = hashlib.sha256(hashlib.sha256(_bytes(scale_X)).digest())
    for split in splits:
        labels = "\n".join(split.labels or ()).encode()
        for part in (str(split.x_NX.shape).encode(), _bytes(split.x_NX), labels):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
