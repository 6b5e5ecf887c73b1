"""Words to be inflected as arrays: a source form, the features that the target must have, the target form.

Shape suffixes: B examples of a batch, L characters of a form with its `<s>` and `</s>`, K features of an example.
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
"""Stands in the place of a feature where an example has fewer than another."""

POOL = 8
"""Batches of which the examples are sorted by length together, so that little is padded."""


class Characters(Vocabulary):
    """The characters of words by their ids: the four `SPECIALS` first, then code points, each once."""

    @classmethod
    def of(cls, sentences: Iterable[str], min_freq: int = 1) -> Characters:
        """The code points of the words, in order of first appearance."""
        assert min_freq == 1, "every character of a word is kept"
        return cls((*SPECIALS, *dict.fromkeys("".join(sentences))))

    def encode(self, sentence: str) -> list[int]:
        """`<s>`, the id of each code point (`<unk>` for one that is not here), `</s>`."""
        ids = self._ids
        return [BOS, *(ids.get(character, UNK) for character in sentence), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The word without `<pad>`, `<s>` and `</s>`; `<unk>` stays, as it stands for a character."""
        return "".join(self.words[number] for number in ids if number >= UNK)


@dataclass(frozen=True, eq=False, kw_only=True)
class InflectionHistory(History):
    """What the decoder may see beside z: the past of the target, the features that it must have, and the source.

    `tags_BK`: int64, the numbers of the features that are on, then ABSENT. Of `source` a decoder makes no use that is
    to speak through z alone.
    """

    tags_BK: Tensor
    source: TokenBatch

    def select(self, index: Tensor) -> Self:
        """The rows `index`, in that order; one may be there several times."""
        source, on_cpu = self.source, index.cpu()
        lengths_R = None if source.lengths_B is None else source.lengths_B[on_cpu]
        return replace(
            self,
            tokens_BT=self.tokens_BT[index],
            blank_BT=None if self.blank_BT is None else self.blank_BT[index],
            tags_BK=self.tags_BK[index],
            source=TokenBatch(source.tokens_BL[index], source.index_B[on_cpu], lengths_R),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class InflectionBatch(TokenBatch):
    """Target forms as a batch of sentences whose words are characters; each with its source form and its features.

    `tags_BK` as in `InflectionHistory`: of the F features of a data set an example has few, so that they are kept as
    numbers and not as F zeros and ones.
    """

    source: TokenBatch
    tags_BK: Tensor

    @property
    def read(self) -> TokenBatch:
        """The encoder reads the source forms."""
        return self.source

    @property
    def history(self) -> InflectionHistory:
        """What the decoder reads: every character of the target but the last, the features, and the source."""
        return InflectionHistory(self.tokens_BL[:, :-1], tags_BK=self.tags_BK, source=self.source)

    def to(self, device: torch.device | str) -> InflectionBatch:
        """The batch with its tokens and features on `device`."""
        return InflectionBatch(
            self.tokens_BL.to(device),
            self.index_B,
            self.lengths_B,
            source=self.source.to(device),
            tags_BK=self.tags_BK.to(device),
        )


@dataclass(frozen=True, eq=False)
class InflectionSplit(Split):
    """N examples: `sources` and `targets` as sentences of characters, and `tags_NK`, int64, as in a batch."""

    sources: TokenSplit
    targets: TokenSplit
    tags_NK: NDArray[np.int64]

    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.sources) == len(self.targets) == len(self.tags_NK), "a source, a target and features each"

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def units(self) -> int:
        """The number of characters that a model predicts, `</s>` included."""
        return self.targets.units

    def limit(self, n: int) -> InflectionSplit:
        return InflectionSplit(self.sources.limit(n), self.targets.limit(n), self.tags_NK[:n])

    def batches(self, batch_size: int, *, seed: int | None = None, by_length: bool = False) -> list[InflectionBatch]:
        """Every example once, padded, in batches of `batch_size`; the last may be smaller.

        Examples are sorted by the length of the target, equal ones in the split's order. Given a `seed` they are
        shuffled first, and sorted in pools of 8 batches each: batches are as many as without, and differ with the
        seed. With `by_length` (and no seed) a batch holds targets of one length alone, so that more may be small.
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
        most = int((tags_BK != ABSENT).sum(1).max())
        return InflectionBatch(
            target.tokens_BL,
            target.index_B,
            target.lengths_B,
            source=padded(self.sources, index),
            tags_BK=torch.from_numpy(tags_BK[:, :most]),
        )


@dataclass(frozen=True)
class InflectionDomain(TextDomain):
    """Words over `vocabulary` characters, the specials counted, with `features` morphological features to choose from.

    Its perplexity is that of a character.
    """

    features: int


@dataclass(frozen=True, eq=False)
class InflectionDataset(Dataset):
    """Three splits under one set of characters and one of features.

    `fingerprint`: SHA-256 (hex) of forms, features and characters. `report` is that of the target forms as sentences
    of characters (see `TokenDataset`), with `features`, their number, and what the source of the data adds.
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
        """The data set of the splits `train`, `valid` and `test`, fingerprinted and described."""
        train, valid, test = (splits[name] for name in ("train", "valid", "test"))
        sources = TokenDataset.of(train.sources, valid.sources, test.sources, characters)
        targets = TokenDataset.of(train.targets, valid.targets, test.targets, characters)
        digest = hashlib.sha256(f"{sources.fingerprint}\n{targets.fingerprint}\n{features}".encode())
        for split in (train, valid, test):
            digest.update(hashlib.sha256(split.tags_NK.astype("<i8").tobytes()).digest())
        report = {**targets.report, "unit": "characters", "features": len(features), **notes}
        return cls(train, valid, test, characters, features, digest.hexdigest(), report)
