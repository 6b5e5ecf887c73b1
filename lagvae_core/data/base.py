"""What every kind of data is to the rest: batches, splits, data sets, and what a model must know of them.

Texts, images and inflected words each have classes of their own for these; training and measurement know them by what
stands here alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "Batching", "Dataset", "Domain", "Partition", "Split"]

Partition = Literal["resplit_random", "fixed_random", "fixed_by_group"]
"""How the training examples are cut into batches: at random anew for each epoch, at random once, or each batch from one
group. What a group is, the source of the data says."""


Batching = Literal["constant_length", "padded"]
"""Whether the training sentences of a batch have one length, or are padded to that of the longest."""


class Batch(ABC):
    """B examples. `index_B`: int64, always on the CPU, the examples' numbers in their split."""

    index_B: Tensor

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.index_B)

    @property
    @abstractmethod
    def units(self) -> int:
        """The number of predicted tokens or pixels in all examples together."""

    @property
    @abstractmethod
    def history(self) -> Any:
        """What the decoder may see beside z: of itself, the past of each unit alone; what `corrupt` changes."""

    @property
    @abstractmethod
    def targets(self) -> Any:
        """What the decoder predicts."""

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The batch on `device`."""

    def observed(self, generator: torch.Generator) -> Self:
        """What training sees of it this time, where an observation is a random draw; else the batch itself."""
        return self


class Split(ABC):
    """N examples in a fixed order. `labels`: one for each, or None."""

    labels: tuple[str, ...] | None

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def units(self) -> int:
        """The number of tokens or pixels that a model predicts."""

    @abstractmethod
    def limit(self, n: int) -> Self:
        """The first `n` examples, or all where there are fewer."""

    @abstractmethod
    def batches(self, batch_size: int) -> Sequence[Batch]:
        """Every example once, as it is measured, on the CPU, in batches of at most `batch_size`."""


class Domain(ABC):
    """What a model must know of the data that it is built for: sizes, no examples.

    `words` says whether its units are words or characters, and not pixels.
    """

    words: ClassVar[bool]

    @abstractmethod
    def columns(self, nll: float, examples: int, units: int) -> dict[str, Any]:
        """The columns by which this kind of data tells a mean NLL of `nll` nats an example over `units`."""


class Dataset(ABC):
    """Three splits of one domain.

    `fingerprint`: SHA-256 (hex) of all that is learned and measured, equal just where that is. `report`: what a user
    must be told. `truth`: the latent variables of generated data by split and name, else None.
    """

    train: Split
    valid: Split
    test: Split
    fingerprint: str
    report: dict[str, int | float | str]
    truth: dict[str, np.ndarray] | None

    @property
    @abstractmethod
    def domain(self) -> Domain: ...
