"""Tokenised sentences as arrays: vocabulary, batch, split and data set.

Shape suffixes: B examples of a batch, N examples of a split, L tokens of a sentence including `<s>` and `</s>`,
T = L - 1 predicted tokens. In a padded batch, L is the length of the longest sentence.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data.base import Batch, Dataset, Domain, Split, Unit, remarks_entry
from lagvae_core.data.memory import texts_of
from lagvae_core.errors import DataError, ValidationIssue

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "PERPLEXITY",
    "SPECIALS",
    "TOKENS",
    "UNK",
    "History",
    "Ragged",
    "TextDomain",
    "TokenBatch",
    "TokenDataset",
    "TokenSplit",
    "Vocabulary",
]

TOKENS = Column("tokens", "int", "number of predicted tokens in the measured examples; null for images")
PERPLEXITY = Column(
    "ppl", "float", "exp(sum of nll_iw / sum of predicted tokens), corpus level; null for images", "min"
)

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNK = range(4)


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """The words in the order of their ids: first the four `SPECIALS`, then every other word once."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.words[: len(SPECIALS)] == SPECIALS, "a vocabulary starts with the special words"
        assert len(set(self.words)) == len(self.words), "a vocabulary contains each word once"

    @classmethod
    def of(cls, sentences: Iterable[str], min_freq: int = 1) -> Vocabulary:
        """Return the words that occur at least `min_freq` times in `sentences`, in order of first appearance."""
        return cls.of_counts(Counter(word for sentence in sentences for word in sentence.split()), min_freq)

    @classmethod
    def of_counts(cls, counts: Mapping[str, int], min_freq: int = 1, max_words: int | None = None) -> Vocabulary:
        """Return the frequent words, in the order of `counts`.

        Args:
            counts: Number of occurrences of each word.
            min_freq: Minimum number of occurrences of a word to keep.
            max_words: Maximum number of words, special words not included; None for no limit. The most frequent
                words are kept; of equally frequent words, those that come first.
        """
        frequent = [word for word, count in counts.items() if count >= min_freq and word not in SPECIALS]
        if max_words is not None and len(frequent) > max_words:
            kept = set(sorted(frequent, key=lambda word: -counts[word])[:max_words])
            frequent = [word for word in frequent if word in kept]
        return cls((*SPECIALS, *frequent))

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={len(self)})"

    @cached_property
    def _ids(self) -> dict[str, int]:
        # A literal `</s>` in a text must not end its sentence, so `<unk>` is the only special word that is looked up.
        return {word: number for number, word in enumerate(self.words) if number >= UNK}

    def number(self, word: str) -> int:
        """Return the id of `word`, or the id of `<unk>` for a word outside the vocabulary."""
        return self._ids.get(word, UNK)

    def encode(self, sentence: str) -> list[int]:
        """Return the ids of `<s>`, of the words of `sentence` (separated by white space) and of `</s>`."""
        return [BOS, *map(self.number, sentence.split()), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the sentence of `ids` without `<pad>`, `<s>` and `</s>`; `<unk>` represents a word and is kept."""
        return " ".join(self.words[number] for number in ids if number >= UNK)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the words in their order. A checkpoint is valid only for a vocabulary with the same hash."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class History:
    """The past that the decoder may see.

    Attributes:
        tokens_BT: int64, for each target the id of the token before it.
        blank_BT: bool, true where the decoder reads a vector of zeros instead of the token's embedding; None if it
            reads the embedding of every token.
    """

    tokens_BT: Tensor
    blank_BT: Tensor | None = None

    def unread(self) -> Self:
        """Return the history without tokens, as before the first step."""
        return replace(self, tokens_BT=self.tokens_BT[:, :0], blank_BT=None)

    def then(self, tokens_B: Tensor) -> Self:
        """Return the history after one more token per example."""
        assert self.blank_BT is None, "tokens read during generation are never blank"
        return replace(self, tokens_BT=torch.cat([self.tokens_BT, tokens_B[:, None]], 1))

    def select(self, index: Tensor) -> Self:
        """Return the rows `index`, in that order.

        Every field, including those of subclasses, must be None or have one row per example.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: rows[index] for name, rows in values.items() if rows is not None})


@dataclass(frozen=True, eq=False)
class Ragged:
    """Targets of padded sentences.

    Attributes:
        tokens_BT: int64, ids of the targets, including padding.
        kept_N: int64, indices of the N targets that are not padding, in the flattened [T, B] tensor of targets.
    """

    tokens_BT: Tensor
    kept_N: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class TokenBatch(Batch):
    """Sentences of equal length, or sentences padded with `<pad>` to the length of the longest.

    Attributes:
        tokens_BL: Ids of the tokens: int64. Each sentence starts with `<s>` and ends with `</s>`.
        index_B: Indices of the examples in their split: int64, always on the CPU.
        lengths_B: Number of tokens of each sentence: int64, always on the CPU; None if no sentence is padded.
    """

    tokens_BL: Tensor
    index_B: Tensor
    lengths_B: Tensor | None = None

    @property
    def sizes_B(self) -> Tensor:
        """Number of tokens of each sentence: int64, on the CPU. Unlike `lengths_B`, never None."""
        return torch.full((self.size,), self.tokens_BL.shape[1]) if self.lengths_B is None else self.lengths_B

    @cached_property
    def units(self) -> int:
        """Number of predicted tokens (every token except `<s>`), by which perplexity is normalised."""
        return self.targets_BT.numel() if self.lengths_B is None else int(self.lengths_B.sum()) - self.size

    @property
    def read(self) -> TokenBatch:
        """What the encoder reads: the sentences themselves, unless a subclass has other inputs."""
        return self

    @property
    def history(self) -> History:
        """What the decoder reads: every token except the last."""
        return History(self.tokens_BL[:, :-1])

    @property
    def targets_BT(self) -> Tensor:
        """What the decoder predicts: every token except the first."""
        return self.tokens_BL[:, 1:]

    @cached_property
    def targets(self) -> Tensor | Ragged:
        """`targets_BT`, or for padded sentences a `Ragged`, which also has the positions that are not padding."""
        if self.lengths_B is None:
            return self.targets_BT
        steps_T1 = torch.arange(self.targets_BT.shape[1])[:, None]
        kept_N = (steps_T1 < self.lengths_B - 1).flatten().nonzero()[:, 0]
        return Ragged(self.targets_BT, kept_N.to(self.device))

    @cached_property
    def last_B(self) -> Tensor | None:
        """Position of `</s>` in each sentence, on the device of the batch; None if no sentence is padded."""
        return None if self.lengths_B is None else (self.lengths_B - 1).to(self.device)

    @property
    def device(self) -> torch.device:
        return self.tokens_BL.device

    def to(self, device: torch.device | str) -> TokenBatch:
        """Return the batch on `device`. Everything is copied now, so that training does not wait for copies later."""
        batch = TokenBatch(self.tokens_BL.to(device), self.index_B, self.lengths_B)
        _ = batch.targets, batch.last_B
        return batch


@dataclass(frozen=True, eq=False, repr=False)
class TokenSplit(Split):
    """N sentences in one array.

    Attributes:
        tokens: int32, the sentences one after the other, each with its `<s>` and `</s>`.
        offsets: int64 [N + 1]; sentence n is `tokens[offsets[n]:offsets[n + 1]]`.
        labels: One label per sentence, or None.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert self.offsets[0] == 0, "the first sentence starts at 0"
        assert self.offsets[-1] == len(self.tokens), "the last sentence ends at the last token"
        assert self.labels is None or len(self.labels) == len(self), "there is one label per sentence"

    @classmethod
    def of(cls, sentences: Iterable[list[int]], labels: tuple[str, ...] | None = None) -> TokenSplit:
        """Return a split of encoded `sentences`, which are iterated once and may come from a generator."""
        tokens, offsets = array("i"), array("q", [0])
        for sentence in sentences:
            tokens.extend(sentence)
            offsets.append(len(tokens))
        return cls(np.array(tokens, dtype=np.int32), np.array(offsets, dtype=np.int64), labels)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each sentence, including `<s>` and `</s>`."""
        return np.diff(self.offsets)

    @property
    def units(self) -> int:
        """Number of tokens that a model predicts: every token except `<s>`."""
        return len(self.tokens) - len(self)

    def limit(self, n: int) -> TokenSplit:
        """Return the first `n` sentences, or all if there are fewer."""
        offsets = self.offsets[: n + 1]
        return TokenSplit(self.tokens[: offsets[-1]], offsets, self.labels and self.labels[:n])

    def batches(self, batch_size: int, *, by_label: bool = False, seed: int | None = None) -> list[TokenBatch]:
        """Return every sentence once, in batches of sentences of equal length.

        Sentences are sorted by length (and label). A new batch starts wherever the length (or label) changes and after
        `batch_size` sentences, so the last batch of a length may be small. The number of batches does not depend on
        the seed, and equal arguments give equal batches.

        Args:
            batch_size: Largest number of sentences in a batch.
            by_label: Whether all sentences of a batch must also have the same label.
            seed: Seed for shuffling the sentences that may share a batch; None for the order of the split.
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
        """Return a sort key for each sentence: shorter sentences come first, and equal keys may share a batch."""
        if not by_label:
            return self.lengths
        assert self.labels is not None, "sentences without labels cannot be grouped by label"
        names, label_N = np.unique(np.array(self.labels), return_inverse=True)
        return self.lengths * len(names) + label_N

    def _batch(self, index: NDArray[np.int64]) -> TokenBatch:
        first = self.offsets[index]
        length = self.offsets[index[0] + 1] - first[0]
        tokens = self.tokens[first[:, None] + np.arange(length)].astype(np.int64)
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(index))


@dataclass(frozen=True)
class TextDomain(Domain):
    """Sentences over a vocabulary.

    Args:
        vocabulary: Number of words, including the special words.
    """

    unit: ClassVar[Unit] = "word"

    vocabulary: int

    def columns(self, nll: float, examples: int, units: int) -> dict[str, Any]:
        """Return the number of predicted tokens and the perplexity of the corpus, exp(sum of NLL / number of tokens).

        The exponent is limited to 700, so that the perplexity does not overflow.
        """
        return {TOKENS.name: units, PERPLEXITY.name: math.exp(min(nll * examples / units, 700.0))}


@dataclass(frozen=True, eq=False, repr=False)
class TokenDataset(Dataset):
    """Three splits with one vocabulary.

    Attributes:
        fingerprint: SHA-256 (hex) of tokens, labels and vocabulary.
        report: Facts for the user. For each split: `<split>_examples`, `<split>_predicted_tokens`,
            `<split>_length_min`, `<split>_length_mean`, `<split>_length_max` (words, without `<s>` and `</s>`) and
            `<split>_oov_rate` (fraction of words that became `<unk>`). For all splits together: `vocabulary` (number
            of ids, including special words), `labels` (the labels that occur), and entries specific to the source.
        truth: Latent variables of generated data, by split and name, such as `train_z` [N, Z]; None for other data.
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

    def encode_examples(self, examples: Any) -> TokenSplit:
        """Return texts as a split; see `Dataset.encode_examples`. Words outside the vocabulary become `<unk>`.

        Raises:
            DataError: There is no text, one is not a string, or one has no words.
        """
        texts = texts_of(examples)
        issues: list[ValidationIssue] = []
        if not texts:
            issues.append(ValidationIssue("examples", "must contain at least one text", "Pass a list of texts."))
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text.split():
                message = "must be a text with at least one word"
                issues.append(ValidationIssue(f"examples[{number}]", message, "Remove or replace it.", text))
        if issues:
            raise DataError(issues)
        return TokenSplit.of(self.vocabulary.encode(unicodedata.normalize("NFC", text)) for text in texts)

    def under(self, fingerprint: str) -> Self:
        """See `Dataset.under`. Version 0.1.0 identified generated data by their content, as data from files are."""
        if self.truth is None or fingerprint == self.fingerprint:
            return self
        content = _fingerprint((self.train, self.valid, self.test), self.vocabulary)
        return replace(self, fingerprint=fingerprint) if fingerprint == content else self

    @classmethod
    def of(
        cls,
        train: TokenSplit,
        valid: TokenSplit,
        test: TokenSplit,
        vocabulary: Vocabulary,
        notes: Mapping[str, int | float | str] | None = None,
        truth: dict[str, np.ndarray] | None = None,
        *,
        remarks: Sequence[str] = (),
        fingerprint: str | None = None,
    ) -> TokenDataset:
        """Return the data set with its fingerprint and report.

        Args:
            train: Training split.
            valid: Validation split.
            test: Test split.
            vocabulary: Vocabulary of all splits.
            notes: Additional entries of the report.
            truth: Latent variables of generated data.
            remarks: What was limited, guessed or changed when the data were read; see `Dataset.report`.
            fingerprint: The fingerprint, if already known; None to compute it.
        """
        splits = {"train": train, "valid": valid, "test": test}
        report = {**_report(splits, vocabulary), **(notes or {}), **remarks_entry(remarks)}
        fingerprint = fingerprint or _fingerprint(splits.values(), vocabulary)
        return cls(train, valid, test, vocabulary, fingerprint, report, truth)


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
