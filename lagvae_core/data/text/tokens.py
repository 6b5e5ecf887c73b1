"""Tokenised sentences as arrays: a vocabulary, a split, a batch and the data set that holds them together.

Shape suffixes: B examples of a batch, L tokens of a sentence with its `<s>` and `</s>`, T = L - 1 predicted
tokens. In a padded batch L is that of the longest sentence.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lagvae_core.data.base import Batch, Dataset, Domain, Split

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIALS",
    "UNK",
    "History",
    "Ragged",
    "TextDomain",
    "TokenBatch",
    "TokenDataset",
    "TokenSplit",
    "Vocabulary",
]

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNK = range(4)


@dataclass(frozen=True)
class Vocabulary:
    """The words by their ids: the four `SPECIALS` first, then the others, each once."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.words[: len(SPECIALS)] == SPECIALS, "a vocabulary starts with the special words"
        assert len(set(self.words)) == len(self.words), "a vocabulary holds each word once"

    @classmethod
    def of(cls, sentences: Iterable[str], min_freq: int = 1) -> Vocabulary:
        """The words that occur `min_freq` times or more in `sentences`, in order of first appearance."""
        return cls.of_counts(Counter(word for sentence in sentences for word in sentence.split()), min_freq)

    @classmethod
    def of_counts(cls, counts: Mapping[str, int], min_freq: int = 1, most: int | None = None) -> Vocabulary:
        """The words that occur `min_freq` times or more, and of these the `most` frequent, in the order of `counts`.

        Of words that occur equally often those that come first are kept.
        """
        frequent = [word for word, count in counts.items() if count >= min_freq and word not in SPECIALS]
        if most is not None and len(frequent) > most:
            kept = set(sorted(frequent, key=lambda word: -counts[word])[:most])
            frequent = [word for word in frequent if word in kept]
        return cls((*SPECIALS, *frequent))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        # A text that spells out `</s>` must not end its sentence: only `<unk>` may be written by name.
        return {word: number for number, word in enumerate(self.words) if number >= UNK}

    def number(self, word: str) -> int:
        """The id of `word`, that of `<unk>` if it is not here."""
        return self._ids.get(word, UNK)

    def encode(self, sentence: str) -> list[int]:
        """`<s>`, the id of each word (split on white space; `<unk>` for a word that is not here), `</s>`."""
        return [BOS, *map(self.number, sentence.split()), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence without `<pad>`, `<s>` and `</s>`; `<unk>` stays, as it stands for a word."""
        return " ".join(self.words[number] for number in ids if number >= UNK)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the words in their order; a checkpoint is valid for one hash only."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class History:
    """What the decoder may see of the past: `tokens_BT`, int64 ids, read one step before each target.

    Where `blank_BT` (bool) is true, the decoder reads a vector of zeros in the place of the token's embedding.
    """

    tokens_BT: Tensor
    blank_BT: Tensor | None = None

    def unread(self) -> Self:
        """The same before the first token is read."""
        return replace(self, tokens_BT=self.tokens_BT[:, :0], blank_BT=None)

    def then(self, tokens_B: Tensor) -> Self:
        """The same after one more token each."""
        assert self.blank_BT is None, "what is read in generation is never blank"
        return replace(self, tokens_BT=torch.cat([self.tokens_BT, tokens_B[:, None]], 1))

    def select(self, index: Tensor) -> Self:
        """The rows `index`, in that order; whatever a subclass holds beside the tokens has a row for each example."""
        held = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: rows[index] for name, rows in held.items() if rows is not None})


@dataclass(frozen=True, eq=False)
class Ragged:
    """Targets [B, T] of which those at `kept_N` alone are predicted, T * B positions counted step by step."""

    tokens_BT: Tensor
    kept_N: Tensor


@dataclass(frozen=True, eq=False)
class TokenBatch(Batch):
    """Sentences of one length, or padded with `<pad>` to that of the longest.

    `tokens_BL`: int64 ids, `<s>` first and `</s>` last in each sentence. `index_B`: int64, always on the CPU, the
    examples' numbers in their split. `lengths_B`: int64, always on the CPU, the tokens of each sentence; None where
    nothing is padded.
    """

    tokens_BL: Tensor
    index_B: Tensor
    lengths_B: Tensor | None = None

    @property
    def sizes_B(self) -> Tensor:
        """The tokens of each sentence, int64, on the CPU, whether or not some are padded."""
        return torch.full((self.size,), self.tokens_BL.shape[1]) if self.lengths_B is None else self.lengths_B

    @cached_property
    def units(self) -> int:
        """The number of predicted tokens, what a perplexity divides by: every token but `<s>`."""
        return self.targets_BT.numel() if self.lengths_B is None else int(self.lengths_B.sum()) - self.size

    @property
    def read(self) -> TokenBatch:
        """What the encoder reads: the sentences themselves, where nothing else is given."""
        return self

    @property
    def history(self) -> History:
        """What the decoder reads: every token but the last."""
        return History(self.tokens_BL[:, :-1])

    @property
    def targets_BT(self) -> Tensor:
        """What the decoder predicts: every token but the first."""
        return self.tokens_BL[:, 1:]

    @cached_property
    def targets(self) -> Tensor | Ragged:
        """`targets_BT`, and where sentences are padded, which of them count."""
        if self.lengths_B is None:
            return self.targets_BT
        steps_T1 = torch.arange(self.targets_BT.shape[1])[:, None]
        kept_N = (steps_T1 < self.lengths_B - 1).flatten().nonzero()[:, 0]
        return Ragged(self.targets_BT, kept_N.to(self.device))

    @cached_property
    def last_B(self) -> Tensor | None:
        """Where each sentence has its `</s>`, on the device; None where that is the last position of all."""
        return None if self.lengths_B is None else (self.lengths_B - 1).to(self.device)

    @property
    def device(self) -> torch.device:
        return self.tokens_BL.device

    def to(self, device: torch.device | str) -> TokenBatch:
        """The batch with its tokens on `device`, and all that is copied there at once: training waits for nothing."""
        batch = TokenBatch(self.tokens_BL.to(device), self.index_B, self.lengths_B)
        _ = batch.targets, batch.last_B
        return batch


@dataclass(frozen=True, eq=False)
class TokenSplit(Split):
    """N sentences, laid end to end.

    `tokens`: int32, all sentences with their `<s>` and `</s>`. `offsets`: int64 [N + 1], sentence n is
    `tokens[offsets[n]:offsets[n + 1]]`. `labels`: one for each sentence, or None.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert self.offsets[0] == 0, "the first sentence starts at 0"
        assert self.offsets[-1] == len(self.tokens), "the last sentence ends with the tokens"
        assert self.labels is None or len(self.labels) == len(self), "there is one label for each sentence"

    @classmethod
    def of(cls, sentences: Iterable[list[int]], labels: tuple[str, ...] | None = None) -> TokenSplit:
        """The split of encoded `sentences`, which are read once and not kept."""
        tokens, offsets = array("i"), array("q", [0])
        for sentence in sentences:
            tokens.extend(sentence)
            offsets.append(len(tokens))
        return cls(np.array(tokens, dtype=np.int32), np.array(offsets, dtype=np.int64), labels)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sentence, `<s>` and `</s>` included."""
        return np.diff(self.offsets)

    @property
    def units(self) -> int:
        """The number of tokens that a model predicts: all but the `<s>`."""
        return len(self.tokens) - len(self)

    def limit(self, n: int) -> TokenSplit:
        """The first `n` sentences, or all where there are fewer."""
        offsets = self.offsets[: n + 1]
        return TokenSplit(self.tokens[: offsets[-1]], offsets, self.labels and self.labels[:n])

    def batches(self, batch_size: int, *, by_label: bool = False, seed: int | None = None) -> list[TokenBatch]:
        """Every sentence once, in batches of one length, with `by_label` of one label too, of at most `batch_size`.

        Sentences are sorted by length and label, equal ones in the split's order or, given a `seed`, in a random
        one, and cut at every change and at `batch_size`: the last batch of a group may be small. How many batches
        there are does not depend on the seed, and equal arguments give equal batches.
        """
        assert batch_size > 0, "a batch holds at least one sentence"
        order = np.arange(len(self)) if seed is None else np.random.default_rng(seed).permutation(len(self))
        group_N = self._groups(by_label)
        order = order[np.argsort(group_N[order], kind="stable")]
        changes = np.flatnonzero(np.diff(group_N[order])) + 1
        batches = []
        for group in np.split(order, changes):
            for start in range(0, len(group), batch_size):
                batches.append(self._batch(group[start : start + batch_size]))
        return batches

    def _groups(self, by_label: bool) -> NDArray[np.int64]:
        """A number for each sentence, equal where sentences may share a batch; shorter sentences have smaller ones."""
        if not by_label:
            return self.lengths
        assert self.labels is not None, "sentences without labels cannot be grouped by them"
        names, label_N = np.unique(np.array(self.labels), return_inverse=True)
        return self.lengths * len(names) + label_N

    def _batch(self, index: NDArray[np.int64]) -> TokenBatch:
        first = self.offsets[index]
        length = self.offsets[index[0] + 1] - first[0]
        tokens = self.tokens[first[:, None] + np.arange(length)].astype(np.int64)
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(index))


@dataclass(frozen=True)
class TextDomain(Domain):
    """Sentences over `vocabulary` words, the specials counted."""

    words: ClassVar[bool] = True

    vocabulary: int

    def columns(self, nll: float, examples: int, units: int) -> dict[str, Any]:
        """Predicted tokens, and the perplexity of the whole corpus, exp(sum of NLL / sum of predicted tokens)."""
        return {"tokens": units, "ppl": math.exp(min(nll * examples / units, 700.0))}


@dataclass(frozen=True, eq=False)
class TokenDataset(Dataset):
    """Three splits under one vocabulary.

    `fingerprint`: SHA-256 (hex) of tokens, labels and vocabulary, equal just where these are equal.
    `report`: what a user must be told. For each split `<split>_examples`, `_predicted_tokens`, `_length_min`,
    `_length_mean`, `_length_max` (words, without `<s>` and `</s>`) and `_oov_rate` (the share of words that
    became `<unk>`); `vocabulary` (ids, specials included); `labels` (those found); and what the source adds.
    `truth`: the latent variables of generated data by split and name, such as `train_z` [N, Z]; else None.
    """

    train: TokenSplit
    valid: TokenSplit
    test: TokenSplit
    vocabulary: Vocabulary
    fingerprint: str
    report: dict[str, int | float | str]
    truth: dict[str, np.ndarray] | None = None

    @property
    def domain(self) -> TextDomain:
        return TextDomain(len(self.vocabulary))

    @classmethod
    def of(
        cls,
        train: TokenSplit,
        valid: TokenSplit,
        test: TokenSplit,
        vocabulary: Vocabulary,
        notes: Mapping[str, int | float | str] | None = None,
        truth: dict[str, np.ndarray] | None = None,
    ) -> TokenDataset:
        """The data set with its fingerprint taken and its report written; `notes` are added to the report."""
        splits = {"train": train, "valid": valid, "test": test}
        report = {**_report(splits, vocabulary), **(notes or {})}
        return cls(train, valid, test, vocabulary, _fingerprint(splits.values(), vocabulary), report, truth)


def _fingerprint(splits: Iterable[TokenSplit], vocabulary: Vocabulary) -> str:
    digest = hashlib.sha256(vocabulary.hash.encode())
    for split in splits:
        for numbers in (split.offsets.astype("<i8", copy=False), split.tokens.astype("<i4", copy=False)):
            digest.update(hashlib.sha256(np.ascontiguousarray(numbers).data).digest())
        digest.update(hashlib.sha256("\n".join(split.labels or ()).encode()).digest())
    return digest.hexdigest()


def _report(splits: Mapping[str, TokenSplit], vocabulary: Vocabulary) -> dict[str, int | float | str]:
    report: dict[str, int | float | str] = {"vocabulary": len(vocabulary)}
    for name, split in splits.items():
        words = split.lengths - 2
        report[f"{name}_examples"] = len(split)
        report[f"{name}_predicted_tokens"] = split.units
        report[f"{name}_length_min"] = int(words.min())
        report[f"{name}_length_mean"] = float(words.mean())
        report[f"{name}_length_max"] = int(words.max())
        report[f"{name}_oov_rate"] = float(np.count_nonzero(split.tokens == UNK) / words.sum())
    labels = sorted({label for split in splits.values() for label in split.labels or ()})
    report["labels"] = textwrap.shorten(" ".join(labels), 200) if labels else "none"
    return report
