"""Interface of a kind of data: its source, data set, splits, batches, and the domain that a model is built for.

Text, images, inflected words and vectors have their own implementations of these interfaces. Training and measurement
use only what this module declares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.settings import AddedField, FrozenConfig

__all__ = [
    "Batch",
    "Batching",
    "DataSource",
    "Dataset",
    "Domain",
    "Partition",
    "Split",
    "SplitLimits",
    "Unit",
    "remarks_entry",
]

Partition = Literal["resplit_random", "fixed_random", "fixed_by_group"]
"""How the training examples are divided into batches: at random before each epoch, at random once, or so that each
batch contains a single group. Each kind of data defines its groups."""


Batching = Literal["constant_length", "padded"]
"""Whether all sentences of a training batch have the same length, or are padded to the longest sentence."""


Unit = Literal["word", "pixel", "feature"]
"""What a model predicts one by one: words or characters of a sequence, pixels of an image, or features of a vector.
Strategies that act on words or pixels depend on it, not on the kind of data."""


class DataSource(FrozenConfig, ABC):
    """Configuration of a kind of data. It loads the data and divides them into training batches.

    A subclass declares `kind` as a Literal with a default, and `partition` and `batching` as fields or class variables.

    Attributes:
        family: Kind of data whose models, recipe, studies and strategies apply; "" for the kind itself. A source that
            yields the batches of another kind, such as text from a database, names that one.
        recipe: Defaults of the sections `model`, `training` and `evaluation`, by section; null: those of the family.
        unit: What a model of these data predicts one by one.
        partition: How the training examples are divided into batches.
        batching: How examples of different lengths are batched; None if this kind of data offers no choice.
    """

    family: ClassVar[str] = ""
    recipe: ClassVar[Mapping[str, Mapping[str, Any]] | None] = None
    unit: ClassVar[Unit]

    if TYPE_CHECKING:  # fields of some subclasses, class variables of others

        @property
        def kind(self) -> str: ...
        @property
        def partition(self) -> Partition: ...
        @property
        def batching(self) -> Batching | None: ...

    @property
    def family_kind(self) -> str:
        """The kind of data whose models, recipe, studies and strategies apply."""
        return self.family or self.kind

    @abstractmethod
    def load(self) -> Dataset:
        """Read or generate the data.

        Raises:
            DataError: The files are missing, unreadable or not in the expected format. The error carries all issues
                found in the files.
        """

    def from_memory(self, train: Any, valid: Any = None, test: Any = None) -> Dataset:
        """Return the data set of examples that are already in memory, as `load` returns that of files.

        Every option of the configuration applies, and the fingerprint is that of the same content in files. `path` has
        no effect; `memory` is a good value. A split may be a list, an array or a tensor; a pair (examples, labels); a
        pandas frame; a PyTorch data set of examples or of pairs (example, label); or a Hugging Face data set.

        Args:
            train: Training split.
            valid: Validation split; None to draw it from train with `held_out`.
            test: Test split; likewise.

        Raises:
            DataError: The examples are invalid, or this kind of data cannot be given in memory.
        """
        message = "must be text, images or vectors for data in memory"
        raise DataError([ValidationIssue("data.kind", message, "Write the data to a file.", self.kind)])

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the fingerprint of the data that `load` returns. Generated data are not generated for it.

        Raises:
            DataError: The data cannot be loaded on this machine; see `load`.
        """

    @abstractmethod
    def train_batches(self, train: Any, batch_size: int, seed: int, epoch: int) -> Sequence[Batch]:
        """Return the training batches of one epoch, on the CPU.

        The result depends only on the configuration and the arguments. Every epoch has the same number of batches.

        Args:
            train: Training split of the data set that `load` returned.
            batch_size: Largest number of examples in a batch.
            seed: Seed of the trial.
            epoch: Index of the epoch, counted from 0.
        """


class SplitLimits(DataSource):
    """Fields of every kind of data that cut its splits, for a quick look or a study of small data.

    A limited split is the same as a shorter file: training and every measurement use only the examples that remain.
    """

    limit: int | None = Field(None, ge=1, description="number of leading training examples to use; null: all")
    valid_limit: Annotated[
        int | None, Field(ge=1, description="number of leading validation examples to use; null: all"), AddedField()
    ] = None
    test_limit: Annotated[
        int | None, Field(ge=1, description="number of leading test examples to use; null: all"), AddedField()
    ] = None

    @property
    def limits(self) -> dict[str, int | None]:
        """Largest number of examples of each split; None for all."""
        return {"train": self.limit, "valid": self.valid_limit, "test": self.test_limit}

    def limit_remarks(self) -> list[str]:
        """Return one remark for the report if a split is limited, and none otherwise."""
        parts = [f"{limit:,} of {split}" for split, limit in self.limits.items() if limit is not None]
        return [f"limited to the first {', '.join(parts)}"] if parts else []


class Batch(ABC):
    """B examples.

    Attributes:
        index_B: Indices of the examples in their split: int64, always on the CPU.
    """

    index_B: Tensor

    def __repr__(self) -> str:
        """Return the sizes. The `repr` of a dataclass would contain every tensor."""
        return f"{type(self).__name__}(size={self.size}, units={self.units})"

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.index_B)

    @property
    @abstractmethod
    def units(self) -> int:
        """Total number of predicted tokens, pixels or features."""

    @property
    @abstractmethod
    def history(self) -> Any:
        """What the decoder may see in addition to z; of the targets, only those before the predicted one.

        A strategy can change the history through its slot `corrupt`.
        """

    @property
    @abstractmethod
    def targets(self) -> Any:
        """What the decoder predicts."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the examples."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the batch on `device`."""

    @classmethod
    def gather(cls, batches: Sequence[Self], places: Sequence[tuple[int, int]]) -> Self:
        """Return a batch of the examples at `places`, pairs of the index of a batch and of a row in it.

        Only kinds of data whose examples all have one shape implement it.
        """
        raise NotImplementedError(cls.__name__)

    def observed(self, generator: torch.Generator) -> Self:
        """Return the batch as training sees it in a single use.

        If training sees random draws of the data, such as binarised images, the result is a new draw from `generator`.
        Otherwise it is the batch itself.
        """
        return self


class Split(ABC):
    """N examples in a fixed order.

    Attributes:
        labels: One label per example, or None.
    """

    labels: tuple[str, ...] | None

    def __repr__(self) -> str:
        """Return the sizes. The `repr` of a dataclass would contain every array and every label."""
        classes = f", classes={len(set(self.labels))}" if self.labels else ""
        return f"{type(self).__name__}(examples={len(self)}, units={self.units}{classes})"

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def units(self) -> int:
        """Number of tokens, pixels or features that a model predicts."""

    @abstractmethod
    def limit(self, n: int) -> Self:
        """Return the first `n` examples, or all if there are fewer."""

    @abstractmethod
    def batches(self, batch_size: int) -> Sequence[Batch]:
        """Return every example once, in batches for measurement: on the CPU, with at most `batch_size` examples."""


class Domain(ABC):
    """What a model must know about the data for which it is built. It contains sizes but no examples.

    Attributes:
        unit: What a model predicts one by one.
    """

    unit: ClassVar[Unit]

    @property
    def loss_floor(self) -> float:
        """Loss [nats] below which doubling does not count as divergence; densities of real values can be near 0."""
        return 0.0

    @abstractmethod
    def columns(self, nll: float, examples: int, units: int) -> dict[str, Any]:
        """Return the likelihood columns of this kind of data, such as the perplexity, by name.

        Args:
            nll: Mean negative log-likelihood per example [nats].
            examples: Number of examples.
            units: Total number of predicted units in these examples.
        """


class Dataset(ABC):
    """Three splits of one domain.

    Attributes:
        fingerprint: SHA-256 (hex) of all content that training or measurement uses. Two data sets have the same
            fingerprint if and only if this content is equal. For generated data, the hash is that of the fields on
            which the content depends, followed by the version of the generator.
        report: Facts about the data that are shown to the user. The entry `remarks`, if there is one, says what was
            limited, guessed or changed when the data were read.
        truth: Latent variables of generated data, by split and name; None for other data.
    """

    train: Split
    valid: Split
    test: Split
    fingerprint: str
    report: dict[str, int | float | str]
    truth: dict[str, np.ndarray] | None

    def __repr__(self) -> str:
        """Return the domain, the number of examples of each split and the first digits of the fingerprint."""
        sizes = ", ".join(f"{name}={len(getattr(self, name))}" for name in ("train", "valid", "test"))
        return f"{type(self).__name__}({self.domain}, {sizes}, fingerprint={self.fingerprint[:12]})"

    @property
    @abstractmethod
    def domain(self) -> Domain:
        """Sizes of the data, as a model needs them."""

    def encode_examples(self, examples: Any) -> Split:
        """Return new examples as a split, encoded as those of this data set are.

        Args:
            examples: Texts, images or vectors, in the form that the files of this data set have.

        Raises:
            DataError: The examples are invalid, or this kind of data does not support it.
        """
        message = "must contain text, images or vectors to encode new examples"
        raise DataError([ValidationIssue("data", message, "Use a model of such data.", type(self).__name__)])

    def under(self, fingerprint: str) -> Self:
        """Return the data with `fingerprint` as their fingerprint if that is an earlier one of the same content.

        For any other fingerprint, the data are returned as they are.
        """
        return self


def remarks_entry(remarks: Sequence[str]) -> dict[str, str]:
    """Return the entry `remarks` of a `Dataset.report`; nothing if there are no remarks."""
    return {"remarks": "; ".join(remarks)} if remarks else {}
