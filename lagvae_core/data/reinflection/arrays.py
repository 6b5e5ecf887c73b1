"""Pairs of word forms as arrays. An example has a source form, the features of the target form, and the target form.

Shape suffixes: B examples of a batch, N examples of a split, L characters of a form including `<s>` and `</s>`,
K features of an example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lagvae_core.data.base import Dataset, Split
from lagvae_core.data.text.padding import padded
from lagvae_core.data.text.tokens import (
    BOS,
    EOS,
    SPECIALS,
    UNK,
    History,
    TextDomain,
    TokenBatch,
    TokenDataset,
    TokenSplit,
    Vocabulary,
)

__all__ = [
    "ABSENT",
    "Characters",
    "InflectionBatch",
    "InflectionDataset",
    "InflectionDomain",
    "InflectionHistory",
    "InflectionSplit",
]

ABSENT = -1
"""Value that pads the feature indices of an example with fewer features than others."""

POOL = 8
"""Number of batches in a pool of shuffled examples. Each pool is sorted by length, so that little padding is needed."""


class Characters(Vocabulary):
    """The characters in the order of their ids: first the four `SPECIALS`, then every code point once."""

    @classmethod
    def of(cls, sentences: Iterable[str], min_freq: int = 1) -> Characters:
        """Return the vocabulary of all characters in `sentences`, which are words here.

        It has first `SPECIALS`, then the code points in order of first appearance.
        """
        assert min_freq == 1, "every character of a word is kept"
        return cls((*SPECIALS, *dict.fromkeys("".join(sentences))))

    def encode(self, sentence: str) -> list[int]:
        """Return the ids of `<s>`, of the code points of `sentence` and of `</s>`."""
        ids = self._ids
        return [BOS, *(ids.get(character, UNK) for character in sentence), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the word of `ids` without `<pad>`, `<s>` and `</s>`; `<unk>` represents a character and is kept."""
        return "".join(self.words[number] for number in ids if number >= UNK)


@dataclass(frozen=True, eq=False, kw_only=True)
class InflectionHistory(History):
    """What the decoder may see in addition to z: the past of the target, the features of the target, and the source.

    A decoder that must get the source through z alone does not use `source`.

    Attributes:
        tags_BK: int64, the indices of the features that apply, padded with ABSENT.
        source: The source forms.
    """

    tags_BK: Tensor
    source: TokenBatch

    def select(self, index: Tensor) -> Self:
        """Return the rows `index`, in that order; an index can occur several times."""
        source, on_cpu = self.source, index.cpu()
        lengths_R = None if source.lengths_B is None else source.lengths_B[on_cpu]
        return replace(
            self,
            tokens_BT=self.tokens_BT[index],
            blank_BT=None if self.blank_BT is None else self.blank_BT[index],
            tags_BK=self.tags_BK[index],
            source=TokenBatch(source.tokens_BL[index], source.index_B[on_cpu], lengths_R),
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class InflectionBatch(TokenBatch):
    """Target forms as sentences of characters, each with its source form and its features.

    Attributes:
        source: The source forms.
        tags_BK: int64, as in `InflectionHistory`. An example has few of the features of the data set, so the indices of
            its features are stored instead of one bit per feature.
    """

    source: TokenBatch
    tags_BK: Tensor

    @property
    def read(self) -> TokenBatch:
        """What the encoder reads: the source forms."""
        return self.source

    @property
    def history(self) -> InflectionHistory:
        """What the decoder reads: every character of the target except the last, the features, and the source."""
        return InflectionHistory(self.tokens_BL[:, :-1], tags_BK=self.tags_BK, source=self.source)

    def to(self, device: torch.device | str) -> InflectionBatch:
        """Return the batch with its source forms, target forms and features on `device`."""
        return InflectionBatch(
            self.tokens_BL.to(device),
            self.index_B,
            self.lengths_B,
            source=self.source.to(device),
            tags_BK=self.tags_BK.to(device),
        )


@dataclass(frozen=True, eq=False, repr=False)
class InflectionSplit(Split):
    """N examples.

    Attributes:
        sources: The source forms as sentences of characters.
        targets: The target forms as sentences of characters.
        tags_NK: int64, the indices of the features of each example, padded with ABSENT.
    """

    sources: TokenSplit
    targets: TokenSplit
    tags_NK: NDArray[np.int64]

    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.sources) == len(self.targets) == len(self.tags_NK), (
            "each example has a source, a target and features"
        )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def units(self) -> int:
        """Number of characters that a model predicts, including `</s>`."""
        return self.targets.units

    def limit(self, n: int) -> InflectionSplit:
        return InflectionSplit(self.sources.limit(n), self.targets.limit(n), self.tags_NK[:n])

    def batches(self, batch_size: int, *, seed: int | None = None, by_length: bool = False) -> list[InflectionBatch]:
        """Return every example once, in padded batches of `batch_size`; the last batch may be smaller.

        Examples are sorted by the length of the target; equal lengths keep their order. With a seed, they are shuffled
        first and sorted only within pools of 8 batches, so different seeds give different batches but the same number
        of batches.

        Args:
            batch_size: Largest number of examples in a batch.
            seed: Seed for shuffling the examples; None for the order of the split.
            by_length: Whether all targets of a batch have the same length. Then the last batch of each length may be
                smaller. It cannot be combined with a seed.
        """
        assert batch_size > 0, "a batch holds at least one example"
        assert seed is None or not by_length, "batches of one length are not shuffled"
        lengths = self.targets.lengths
        order = np.arange(len(self)) if seed is None else np.random.default_rng(seed).permutation(len(self))
        pool = len(self) if seed is None else POOL * batch_size
        pools = (order[first : first + pool] for first in range(0, len(self), pool))
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in pools])
        changes = np.flatnonzero(np.diff(lengths[order])) + 1
        groups = np.split(order, changes) if by_length else [order]
        return [
            self._batch(group[first : first + batch_size])
            for group in groups
            for first in range(0, len(group), batch_size)
        ]

    def _batch(self, index: NDArray[np.int64]) -> InflectionBatch:
        target = padded(self.targets, index)
        tags_BK = self.tags_NK[index]
        largest = int((tags_BK != ABSENT).sum(1).max())
        return InflectionBatch(
            target.tokens_BL,
            target.index_B,
            target.lengths_B,
            source=padded(self.sources, index),
            tags_BK=torch.from_numpy(tags_BK[:, :largest]),
        )


@dataclass(frozen=True)
class InflectionDomain(TextDomain):
    """Word forms over a vocabulary of characters. The perplexity is per character.

    Args:
        vocabulary: Number of characters, including the special words.
        features: Number of morphological features.
    """

    features: int


@dataclass(frozen=True, eq=False, repr=False)
class InflectionDataset(Dataset):
    """Three splits with one set of characters and one set of features.

    Attributes:
        fingerprint: SHA-256 (hex) of forms, features and characters.
        report: Facts for the user: the report of a `TokenDataset` of the target forms (sentences of characters),
            `unit` ("characters"), `features` (number of features), and entries specific to the source.
    """

    train: InflectionSplit
    valid: InflectionSplit
    test: InflectionSplit
    characters: Characters
    features: tuple[str, ...]
    fingerprint: str
    report: dict[str, int | float | str]

    truth: dict[str, np.ndarray] | None = None

    @property
    def domain(self) -> InflectionDomain:
        return InflectionDomain(len(self.characters), len(self.features))

    @classmethod
    def of(
        cls,
        splits: Mapping[str, InflectionSplit],
        characters: Characters,
        features: tuple[str, ...],
        notes: Mapping[str, int | float | str],
    ) -> InflectionDataset:
        """Return the data set with its fingerprint and report.

        Args:
            splits: The splits `train`, `valid` and `test`.
            characters: Characters of all splits.
            features: Names of the features, in the order of their indices.
            notes: Additional entries of the report.
        """
        train, valid, test = (splits[name] for name in ("train", "valid", "test"))
        sources = TokenDataset.of(train.sources, valid.sources, test.sources, characters)
        targets = TokenDataset.of(train.targets, valid.targets, test.targets, characters)
        digest = hashlib.sha256(f"{sources.fingerprint}\n{targets.fingerprint}\n{features}".encode())
        for split in (train, valid, test):
            digest.update(hashlib.sha256(split.tags_NK.astype("<i8").tobytes()).digest())
        report = {**targets.report, "unit": "characters", "features": len(features), **notes}
        return cls(train, valid, test, characters, features, digest.hexdigest(), report)
