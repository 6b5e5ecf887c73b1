"""Conversion of sentence files to arrays of word ids, in one pass over each file and in bounded memory."""

from __future__ import annotations

import textwrap
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.data.cache import Entry
from lagvae_core.data.text.files import FileShare, SentenceFile
from lagvae_core.data.text.tokens import BOS, EOS, SPECIALS, UNK, TokenDataset, TokenSplit, Vocabulary
from lagvae_core.errors import DataError, ValidationIssue, collect_issues

__all__ = ["CorpusRules", "read_corpus", "token_dataset"]

_BLOCK = 2**20
_COUNTS = ("dropped_empty", "dropped_long", "normalised", "carriage_returns")
"""Counts of sentences that the report has for each split."""
_MANY_LABELS = 10
"""Number of labels from which on they may be mistaken words."""


@dataclass(frozen=True)
class CorpusRules:
    """Options for reading the sentences and building the vocabulary.

    Args:
        labelled: Whether each sentence has a label.
        keep_labels: Whether the labels become part of the data set.
        labels_guessed: Whether the files decide if there are labels, and not the user.
        max_length: Maximum length of a sentence to keep [words]; None for no limit.
        min_freq: Minimum number of occurrences in training; rarer words become `<unk>`.
        max_vocabulary: Maximum number of words; None for no limit.
        limits: Number of leading sentences of each split to use; None for all.
    """

    labelled: bool
    keep_labels: bool
    labels_guessed: bool
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
class _SplitContent:
    """Content of the files of one split.

    `classes` maps each label to an index. It covers every sentence that is not dropped, even beyond the limit.
    """

    limit: int | None
    tokens: array[int] = field(default_factory=lambda: array("i"))
    offsets: array[int] = field(default_factory=lambda: array("q", [0]))
    labels: array[int] = field(default_factory=lambda: array("i"))
    classes: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))

    def read(self, share: FileShare, numbers: _WordNumbers, rules: CorpusRules) -> Iterator[ValidationIssue]:
        """Add the sentences of a file, and yield the issues with it."""
        counts, unlabelled, first_unlabelled = self.counts, 0, (0, "")
        has_lines = share.file.unit == "line"
        for position, label, text in share.sentences(rules.labelled):
            if not text.isascii() and not unicodedata.is_normalized("NFC", text):
                text = unicodedata.normalize("NFC", text)
                counts["normalised"] += 1
            if "\r" in text and has_lines and "\r" in text.rstrip():
                counts["carriage_returns"] += 1
            words = text.split()
            if not words:
                counts["dropped_empty"] += 1
            elif rules.labelled and not label:
                first_unlabelled = first_unlabelled if unlabelled else (position, text.strip())
                unlabelled += 1
            elif rules.max_length is not None and len(words) > rules.max_length:
                counts["dropped_long"] += 1
            else:
                code = self.classes.setdefault(unicodedata.normalize("NFC", label), len(self.classes))
                if self.limit is None or len(self.labels) < self.limit:
                    self.tokens.append(BOS)
                    self.tokens.extend(map(numbers.__getitem__, words))
                    self.tokens.append(EOS)
                    self.offsets.append(len(self.tokens))
                    self.labels.append(code)
        if unlabelled:
            yield _unlabelled_issue(share.file, unlabelled, *first_unlabelled)


def read_corpus(
    files: Mapping[str, Sequence[FileShare]], rules: CorpusRules, known_issues: Iterable[ValidationIssue] = ()
) -> Entry:
    """Read the files of all splits.

    Texts and labels are brought to Unicode's NFC, so that a letter with an accent is the same whether it is written as
    one character or as two. The vocabulary is built from the training sentences up to their limit. In addition to the
    arrays, memory holds only a dictionary of all word types.

    Args:
        files: Files of each split, or random shares of files.
        rules: Options for reading the sentences and building the vocabulary.
        known_issues: Issues found earlier, to be reported together with those found in the files.

    Returns:
        As arrays, the tokens, offsets and labels of each split, and the vocabulary; as facts, the counts of dropped and
        changed sentences and the names of the labels. `token_dataset` turns the entry into a data set.

    Raises:
        DataError: A file is invalid, or there are known issues.
    """
    numbers = _WordNumbers()
    issues = list(known_issues)
    contents: dict[str, _SplitContent] = {}
    for split, shares in files.items():
        contents[split] = content = _SplitContent(rules.limits[split])
        before = len(issues)
        for share in shares:
            with collect_issues(issues):
                issues += content.read(share, numbers, rules)
        if len(issues) == before and not content.labels:
            issues.append(_empty_issue(shares[0], content.counts))
    suspicious = _resemble_words(contents["train"], numbers) if "train" in contents else False
    if not issues and rules.keep_labels:
        issues = _class_issues(files, contents, suspicious)
    if issues:
        # The shares of one file have the same issues.
        raise DataError(issue for number, issue in enumerate(issues) if issue not in issues[:number])
    return _arrays(contents, numbers, rules, suspicious)


def _unlabelled_issue(file: SentenceFile, count: int, position: int, text: str) -> ValidationIssue:
    total = f"The file has {count:,} {file.unit}s without a label. " if count > 1 else ""
    hint = f"{total}Add the labels, or set data.labels=no to read the whole {file.unit} as text."
    message = "must begin with a label and a tab" if file.unit == "line" else "must have a label"
    return ValidationIssue(f"{file.path}, {file.unit} {position}", message, hint, text)


def _empty_issue(share: FileShare, counts: Mapping[str, int]) -> ValidationIssue:
    unit = f"{share.file.unit}s"
    hint = f"Dropped {unit}: {counts['dropped_empty']} empty, {counts['dropped_long']} longer than data.max_length. "
    if share.is_partial:
        message = f"must leave at least one sentence of {share.file.path} to each split"
        return ValidationIssue("data.held_out", message, f"{hint}Increase data.held_out.", share.high - share.low)
    hint += "Add sentences, or increase data.max_length."
    return ValidationIssue(str(share.file.path), "must contain at least one sentence that is not dropped", hint)


def _resemble_words(train: _SplitContent, numbers: _WordNumbers) -> bool:
    """Return whether there are nearly as many labels as words, so that the labels are probably words themselves."""
    return len(train.classes) >= _MANY_LABELS and 2 * len(train.classes) >= len(numbers) - len(SPECIALS)


def _class_issues(
    files: Mapping[str, Sequence[FileShare]], contents: Mapping[str, _SplitContent], suspicious: bool
) -> list[ValidationIssue]:
    """Check that all splits have the same classes.

    All labels of the training file count, so the validity of the files does not depend on limits.
    """
    issues: list[ValidationIssue] = []
    trained = set(contents["train"].classes)
    for split in ("valid", "test"):
        share = files[split][0]
        present = set(contents[split].classes)
        for names, message in (
            (trained - present, "must contain all labels of the training file; missing: {}"),
            (present - trained, "must contain only labels of the training file; unknown: {}"),
        ):
            if names:
                where = f"{share.file.path}, share of {split}" if share.is_partial else str(share.file.path)
                message = message.format(textwrap.shorten(", ".join(sorted(names)), 120))
                issues.append(ValidationIssue(where, message, _class_hint(share, len(trained), suspicious)))
    return issues


def _class_hint(share: FileShare, classes: int, suspicious: bool) -> str:
    split = "Increase data.held_out or change data.held_out_seed" if share.is_partial else "Split the data differently"
    drop = "set data.labels=drop to ignore the labels"
    if share.file.unit == "row":
        return f"{split}, or {drop}."
    if suspicious:
        words = (
            f"The first column has {classes:,} different entries, nearly as many as there are words. If it holds words"
        )
        return f"{words}, set data.labels=no; if it holds labels, {drop}, or split the data differently."
    return f"{split}, or {drop}, or data.labels=no if the first column holds no labels but words."


def _arrays(
    contents: Mapping[str, _SplitContent], numbers: _WordNumbers, rules: CorpusRules, suspicious: bool
) -> Entry:
    words = list(numbers)[len(SPECIALS) :]
    counts = _counts(np.frombuffer(contents["train"].tokens, dtype=np.int32), len(numbers))[len(SPECIALS) :]
    by_word = dict(zip(words, counts.tolist(), strict=True))
    vocabulary = Vocabulary.of_counts(by_word, rules.min_freq, rules.max_vocabulary)
    ids = np.array([*range(len(SPECIALS)), *map(vocabulary.number, words)], dtype=np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "vocabulary": np.frombuffer("\n".join(vocabulary.words).encode(), dtype=np.uint8)
    }
    facts: dict[str, Any] = {"notes": {}, "classes": {}, "labels_resemble_words": suspicious and rules.labels_guessed}
    for split, content in contents.items():
        arrays[f"{split}_tokens"] = ids[np.frombuffer(content.tokens, dtype=np.int32)]
        arrays[f"{split}_offsets"] = np.frombuffer(content.offsets, dtype=np.int64)
        if rules.keep_labels:
            arrays[f"{split}_labels"] = np.frombuffer(content.labels, dtype=np.int32)
            facts["classes"][split] = list(content.classes)
        facts["notes"] |= {f"{split}_{name}": count for name, count in content.counts.items()}
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
        remarks=[*remarks, *_remarks(entry.facts)],
        fingerprint=entry.facts.get("fingerprint"),
    )


def _remarks(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was changed or guessed when the sentences were read."""

    def total(name: str) -> int:
        return sum(count for key, count in facts["notes"].items() if key.endswith(f"_{name}"))

    if normalised := total("normalised"):
        yield f"{normalised:,} sentence{'s' * (normalised > 1)} brought to Unicode's NFC"
    if returns := total("carriage_returns"):
        yield f"carriage returns inside {returns:,} line{'s' * (returns > 1)} read as spaces"
    if facts["labels_resemble_words"]:
        count = len(facts["classes"]["train"])
        yield f"first column read as {count:,} labels (if it holds words, set data.labels=no)"
