"""Conversion of sentence files to arrays of word ids, in one pass over each file and in bounded memory."""

from __future__ import annotations

import textwrap
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.data.cache import Entry
from lagvae_core.data.text.files import SentenceFile
from lagvae_core.data.text.tokens import BOS, EOS, SPECIALS, UNK, TokenDataset, TokenSplit, Vocabulary
from lagvae_core.errors import DataError, ValidationIssue, collect_issues

__all__ = ["CorpusRules", "read_corpus", "token_dataset"]

_BLOCK = 2**20


@dataclass(frozen=True)
class CorpusRules:
    """Options for reading the sentences and building the vocabulary.

    Args:
        labelled: Whether each sentence has a label.
        keep_labels: Whether the labels become part of the data set.
        max_length: Maximum length of a sentence to keep [words]; None for no limit.
        min_freq: Minimum number of occurrences in training; rarer words become `<unk>`.
        max_vocabulary: Maximum number of words; None for no limit.
        limits: Number of leading sentences of each split to use; None for all.
    """

    labelled: bool
    keep_labels: bool
    max_length: int | None
    min_freq: int
    max_vocabulary: int | None
    limits: Mapping[str, int | None]


class _WordNumbers(dict[str, int]):
    """Word numbers, assigned in order of first appearance.

    All special words have the number of `<unk>`, since a literal `</s>` in a text must not end its sentence.
    """

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(SPECIALS, UNK))

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


@dataclass
class _FileContent:
    """Content of one file.

    `classes` maps each label to an index. It covers every sentence that is not dropped, even beyond the limit.
    """

    tokens: array[int] = field(default_factory=lambda: array("i"))
    offsets: array[int] = field(default_factory=lambda: array("q", [0]))
    labels: array[int] = field(default_factory=lambda: array("i"))
    classes: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    long: int = 0
    unlabelled: int = 0
    first_unlabelled: tuple[int, str] = (0, "")

    def read(self, file: SentenceFile, numbers: _WordNumbers, rules: CorpusRules, limit: int | None) -> None:
        for position, label, text in file.sentences(rules.labelled):
            words = text.split()
            if not words:
                self.empty += 1
            elif rules.labelled and not label:
                if not self.unlabelled:
                    self.first_unlabelled = position, text.strip()
                self.unlabelled += 1
            elif rules.max_length is not None and len(words) > rules.max_length:
                self.long += 1
            else:
                code = self.classes.setdefault(label, len(self.classes))
                if limit is None or len(self.labels) < limit:
                    self.tokens.append(BOS)
                    self.tokens.extend(map(numbers.__getitem__, words))
                    self.tokens.append(EOS)
                    self.offsets.append(len(self.tokens))
                    self.labels.append(code)


def read_corpus(
    files: Mapping[str, SentenceFile], rules: CorpusRules, known_issues: Iterable[ValidationIssue] = ()
) -> Entry:
    """Read the files of all splits.

    The vocabulary is built from the training sentences up to their limit. In addition to the arrays, memory holds
    only a dictionary of all word types.

    Args:
        files: File of each split.
        rules: Options for reading the sentences and building the vocabulary.
        known_issues: Issues found earlier, to be reported together with those found in the files.

    Returns:
        As arrays, the tokens, offsets and labels of each split, and the vocabulary; as facts, the counts of dropped
        sentences and the names of the labels. `token_dataset` turns the entry into a data set.

    Raises:
        DataError: A file is invalid, or there are known issues.
    """
    numbers = _WordNumbers()
    issues = list(known_issues)
    contents: dict[str, _FileContent] = {}
    for split, file in files.items():
        content = _FileContent()
        with collect_issues(issues):
            content.read(file, numbers, rules, rules.limits[split])
            issues += _content_issues(file, content)
            contents[split] = content
    if not issues and rules.keep_labels:
        issues = _class_issues(files, contents)
    if issues:
        raise DataError(issues)
    return _arrays(contents, numbers, rules)


def _content_issues(file: SentenceFile, content: _FileContent) -> list[ValidationIssue]:
    if content.unlabelled:
        total = f"The file has {content.unlabelled:,} {file.unit}s without a label. " if content.unlabelled > 1 else ""
        hint = f"{total}Add the labels, or set data.labels=no to read the whole {file.unit} as text."
        position, text = content.first_unlabelled
        message = "must begin with a label and a tab" if file.unit == "line" else "must have a label"
        return [ValidationIssue(f"{file.path}, {file.unit} {position}", message, hint, text)]
    if not content.labels:
        units = f"{file.unit}s"
        dropped = f"Dropped {units}: {content.empty} empty, {content.long} longer than data.max_length."
        hint = f"{dropped} Add sentences, or increase data.max_length."
        return [ValidationIssue(str(file.path), "must contain at least one sentence that is not dropped", hint)]
    return []


def _class_issues(files: Mapping[str, SentenceFile], contents: Mapping[str, _FileContent]) -> list[ValidationIssue]:
    """Check that all splits have the same classes.

    All labels of the training file count, so the validity of the files does not depend on limits.
    """
    issues: list[ValidationIssue] = []
    trained = set(contents["train"].classes)
    for split in ("valid", "test"):
        present = set(contents[split].classes)
        for names, message in (
            (trained - present, "must contain all labels of the training file; missing: {}"),
            (present - trained, "must contain only labels of the training file; unknown: {}"),
        ):
            if names:
                listed = textwrap.shorten(", ".join(sorted(names)), 120)
                hint = "Split the data differently, or set data.labels=drop to ignore the labels."
                issues.append(ValidationIssue(str(files[split].path), message.format(listed), hint))
    return issues


def _arrays(contents: Mapping[str, _FileContent], numbers: _WordNumbers, rules: CorpusRules) -> Entry:
    words = list(numbers)[len(SPECIALS) :]
    counts = _counts(np.frombuffer(contents["train"].tokens, dtype=np.int32), len(numbers))[len(SPECIALS) :]
    by_word = dict(zip(words, counts.tolist(), strict=True))
    vocabulary = Vocabulary.of_counts(by_word, rules.min_freq, rules.max_vocabulary)
    ids = np.array([*range(len(SPECIALS)), *map(vocabulary.number, words)], dtype=np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "vocabulary": np.frombuffer("\n".join(vocabulary.words).encode(), dtype=np.uint8)
    }
    facts: dict[str, Any] = {"notes": {}, "classes": {}}
    for split, content in contents.items():
        arrays[f"{split}_tokens"] = ids[np.frombuffer(content.tokens, dtype=np.int32)]
        arrays[f"{split}_offsets"] = np.frombuffer(content.offsets, dtype=np.int64)
        if rules.keep_labels:
            arrays[f"{split}_labels"] = np.frombuffer(content.labels, dtype=np.int32)
            facts["classes"][split] = list(content.classes)
        facts["notes"][f"{split}_dropped_empty"] = content.empty
        facts["notes"][f"{split}_dropped_long"] = content.long
    return Entry(arrays, facts)


def _counts(tokens: NDArray[np.int32], words: int) -> NDArray[np.int64]:
    """Count each word number, in blocks, because numpy.bincount converts its argument to 64-bit integers."""
    counts = np.zeros(words, dtype=np.int64)
    for start in range(0, len(tokens), _BLOCK):
        counts += np.bincount(tokens[start : start + _BLOCK], minlength=words)
    return counts


def token_dataset(entry: Entry, remarks: Sequence[str] = ()) -> TokenDataset:
    """Return the data set of an entry from `read_corpus`. It uses the arrays of the entry without copying them.

    The fingerprint is taken from the entry's facts if they contain it, and otherwise computed from the arrays.

    Args:
        entry: The arrays and facts.
        remarks: What was limited, guessed or changed when the files were read.
    """
    vocabulary = Vocabulary(tuple(entry.arrays["vocabulary"].tobytes().decode().split("\n")))
    splits = {}
    for split in ("train", "valid", "test"):
        classes = entry.facts["classes"].get(split)
        labels = classes and tuple(map(classes.__getitem__, entry.arrays[f"{split}_labels"].tolist()))
        splits[split] = TokenSplit(entry.arrays[f"{split}_tokens"], entry.arrays[f"{split}_offsets"], labels)
    return TokenDataset.of(
        splits["train"],
        splits["valid"],
        splits["test"],
        vocabulary,
        entry.facts["notes"],
        remarks=remarks,
        fingerprint=entry.facts.get("fingerprint"),
    )
