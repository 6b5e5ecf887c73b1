"""From files of sentences to arrays of word numbers, in one pass over each and in bounded memory."""

from __future__ import annotations

import textwrap
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.data.cache import Entry
from lagvae_core.data.text.files import Source
from lagvae_core.data.text.tokens import BOS, EOS, SPECIALS, UNK, TokenDataset, TokenSplit, Vocabulary
from lagvae_core.errors import DataError, ValidationIssue, collect_issues

__all__ = ["Rules", "read_corpus", "token_dataset"]

_BLOCK = 2**20


@dataclass(frozen=True)
class Rules:
    """What becomes of sentences and words. `labelled`: each sentence has a label; `keep_labels`: it is wanted."""

    labelled: bool
    keep_labels: bool
    max_length: int | None
    min_freq: int
    max_vocabulary: int | None
    limit: int | None


class _Words(dict[str, int]):
    """A number for each word in the order of first appearance; the special words are all `<unk>`.

    A text that spells out `</s>` must not end its sentence.
    """

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(SPECIALS, UNK))

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


@dataclass
class _Reading:
    """What is read of one file. `classes`: the labels of all its sentences with words, also beyond `limit`."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    offsets: array[int] = field(default_factory=lambda: array("q", [0]))
    labels: array[int] = field(default_factory=lambda: array("i"))
    classes: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    long: int = 0
    unlabelled: int = 0
    first_unlabelled: str = ""

    def read(self, source: Source, words: _Words, rules: Rules, limit: int | None) -> None:
        for number, label, text in source.sentences(rules.labelled):
            found = text.split()
            if not found:
                self.empty += 1
            elif rules.labelled and not label:
                self.first_unlabelled = self.first_unlabelled or f"{source.unit} {number}: {text.strip()}"
                self.unlabelled += 1
            elif rules.max_length is not None and len(found) > rules.max_length:
                self.long += 1
            else:
                code = self.classes.setdefault(label, len(self.classes))
                if limit is None or len(self.labels) < limit:
                    self.tokens.append(BOS)
                    self.tokens.extend(map(words.__getitem__, found))
                    self.tokens.append(EOS)
                    self.offsets.append(len(self.tokens))
                    self.labels.append(code)


def read_corpus(sources: Mapping[str, Source], rules: Rules, known: Iterable[ValidationIssue] = ()) -> Entry:
    """The arrays of all splits, their vocabulary, and as facts what was dropped and how labels are called.

    The vocabulary is of the training sentences in use. Beside the arrays nothing is kept but one number a word type.
    Raises DataError with what is wrong in any of the files, after the mistakes that are `known` already.
    """
    words = _Words()
    issues = list(known)
    readings: dict[str, _Reading] = {}
    for split, source in sources.items():
        reading = _Reading()
        with collect_issues(issues):
            reading.read(source, words, rules, rules.limit if split == "train" else None)
            issues += _mistakes(source, reading)
            readings[split] = reading
    if not issues and rules.keep_labels:
        issues = _class_mistakes(sources, readings)
    if issues:
        raise DataError(issues)
    return _arrays(readings, words, rules)


def _mistakes(source: Source, reading: _Reading) -> list[ValidationIssue]:
    if reading.unlabelled:
        others = reading.unlabelled - 1
        more = f"{others:,} more {source.unit}s of the file have none. " if others else ""
        hint = f"{more}Add the labels, or set data.labels=no to read the text as it stands."
        where = f"{source.path}, {reading.first_unlabelled}"
        place = " and a tab before each sentence or before none" if source.unit == "line" else " in each row"
        return [ValidationIssue("data.path", f"must have a label{place}", hint, where)]
    if not reading.labels:
        units = f"{source.unit}s"
        hint = f"Dropped: {reading.empty} empty {units}, {reading.long} of more than max_length words."
        return [ValidationIssue("data.path", "must have a sentence in every file", hint, str(source.path))]
    return []


def _class_mistakes(sources: Mapping[str, Source], readings: Mapping[str, _Reading]) -> list[ValidationIssue]:
    """Classes are those of the whole training file, so that `limit` asks for no other data."""
    issues: list[ValidationIssue] = []
    trained = set(readings["train"].classes)
    for split in ("valid", "test"):
        here = set(readings[split].classes)
        for names, message in (
            (trained - here, "have a sentence of every class that training has"),
            (here - trained, "have no sentence of a class that training lacks"),
        ):
            if names:
                what = "without" if names <= trained else "with"
                listed = textwrap.shorten(", ".join(sorted(names)), 120)
                hint = "Split the data anew, or set data.labels=drop to read the sentences without their labels."
                issues.append(ValidationIssue("data.path", message, hint, f"{sources[split].path}, {what} {listed}"))
    return issues


def _arrays(readings: Mapping[str, _Reading], words: _Words, rules: Rules) -> Entry:
    ordinary = list(words)[len(SPECIALS) :]
    counts = _counts(np.frombuffer(readings["train"].tokens, dtype=np.int32), len(words))[len(SPECIALS) :]
    by_word = dict(zip(ordinary, counts.tolist(), strict=True))
    vocabulary = Vocabulary.of_counts(by_word, rules.min_freq, rules.max_vocabulary)
    table = np.array([*range(len(SPECIALS)), *map(vocabulary.number, ordinary)], dtype=np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "vocabulary": np.frombuffer("\n".join(vocabulary.words).encode(), dtype=np.uint8)
    }
    facts: dict[str, Any] = {"notes": {}, "classes": {}}
    for split, reading in readings.items():
        arrays[f"{split}_tokens"] = table[np.frombuffer(reading.tokens, dtype=np.int32)]
        arrays[f"{split}_offsets"] = np.frombuffer(reading.offsets, dtype=np.int64)
        if rules.keep_labels:
            arrays[f"{split}_labels"] = np.frombuffer(reading.labels, dtype=np.int32)
            facts["classes"][split] = list(reading.classes)
        facts["notes"][f"{split}_dropped_empty"] = reading.empty
        facts["notes"][f"{split}_dropped_long"] = reading.long
    return Entry(arrays, facts)


def _counts(tokens: NDArray[np.int32], words: int) -> NDArray[np.int64]:
    """How often each word is there; in blocks, as numpy makes 64-bit numbers of all that it counts."""
    counts = np.zeros(words, dtype=np.int64)
    for start in range(0, len(tokens), _BLOCK):
        counts += np.bincount(tokens[start : start + _BLOCK], minlength=words)
    return counts


def token_dataset(entry: Entry) -> TokenDataset:
    """The data set of what `read_corpus` gave; it keeps the arrays of `entry` as they are."""
    vocabulary = Vocabulary(tuple(entry.arrays["vocabulary"].tobytes().decode().split("\n")))
    splits = {}
    for split in ("train", "valid", "test"):
        classes = entry.facts["classes"].get(split)
        labels = classes and tuple(map(classes.__getitem__, entry.arrays[f"{split}_labels"].tolist()))
        splits[split] = TokenSplit(entry.arrays[f"{split}_tokens"], entry.arrays[f"{split}_offsets"], labels)
    return TokenDataset.of(splits["train"], splits["valid"], splits["test"], vocabulary, entry.facts["notes"])
