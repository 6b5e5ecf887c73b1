"""Text of the user's own: a folder with one sentence a line in train.txt, valid.txt and test.txt."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lagvae_core.data.base import Partition
from lagvae_core.data.batching import TokenBatch, TokenDataset, TokenSplit, Vocabulary
from lagvae_core.errors import DataError, Mistake
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import Setting

__all__ = ["TextData"]

_FILES = {"train": ("train.txt",), "valid": ("valid.txt", "dev.txt", "val.txt"), "test": ("test.txt",)}


def _word_of_bool(value: object) -> object:
    """YAML 1.1 reads an unquoted `yes` and `no` as true and false."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


class TextData(Setting):
    """Sentences from the files of one folder, UTF-8, one a line, words separated by white space.

    The validation file may also be named dev.txt or val.txt; the first that exists, in this order, is read. A
    line may begin with a label and a tab; only the first tab counts. The vocabulary is that of the training
    sentences in use, in order of first appearance; any other word is read as `<unk>`. With `min_freq` 1 no
    training sentence holds an `<unk>`, so its probability is untrained: read the NLL beside the `oov_rate`. A
    literal `<unk>` in the text is that special word; a literal `<pad>`, `<s>` or `</s>` becomes `<unk>`.

    `partition` is that of the training sentences alone. Under each a batch holds sentences of one length, so that
    nothing is padded: that length is the group of `fixed_by_group`, which takes them as the file has them;
    `fixed_random` shuffles them once, `resplit_random` before each epoch.
    """

    kind: Literal["text"] = "text"
    path: str = Field(min_length=1, description="folder with train.txt, valid.txt and test.txt")
    labels: Annotated[Literal["auto", "yes", "no"], BeforeValidator(_word_of_bool)] = Field(
        "auto", description="do lines have the form label<TAB>text? auto: if one does, all must"
    )
    max_length: int | None = Field(None, ge=1, description="drop sentences of more words, in every split")
    min_freq: int = Field(1, ge=1, description="words rarer than this in the training sentences become <unk>")
    limit: int | None = Field(None, ge=1, description="use only the first `limit` training sentences")
    partition: Partition = Field("fixed_by_group", description="how training sentences are cut into batches")

    def load(self) -> TokenDataset:
        """Read and encode the files; the report adds `<split>_dropped_empty` and `_dropped_long`, in lines.

        Raises DataError, with all mistakes of all files, where the folder or a file is missing or unreadable,
        a file is not UTF-8 or is left with no sentence, or a line lacks the label that it must have.
        """
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            remedy = f"There is none at {folder.absolute()}."
            raise DataError([Mistake("data.path", self.path, "be a folder", remedy)])
        mistakes: list[Mistake] = []
        files = {split: file for split in _FILES if (file := _read(folder, split, mistakes))}
        some_labelled = any(_has_label(line) for file in files.values() for line in file.lines)
        labelled = self.labels == "yes" or (self.labels == "auto" and some_labelled)
        parsed = {split: self._parse(file, labelled, mistakes) for split, file in files.items()}
        if mistakes:
            raise DataError(mistakes)

        if self.limit is not None:
            parsed["train"] = parsed["train"].limit(self.limit)
        vocabulary = Vocabulary.of(parsed["train"].sentences, self.min_freq)
        notes: dict[str, int | float | str] = {}
        for split, sentences in parsed.items():
            notes[f"{split}_dropped_empty"] = sentences.dropped_empty
            notes[f"{split}_dropped_long"] = sentences.dropped_long
        train, valid, test = (parsed[split].encode(vocabulary) for split in _FILES)
        return TokenDataset.of(train, valid, test, vocabulary, notes)

    def train_batches(self, train: TokenSplit, batch_size: int, seed: int, epoch: int) -> list[TokenBatch]:
        """The batches of `epoch` (from 0) in a trial of that `seed`, on the CPU; as many in every epoch."""
        if self.partition == "fixed_by_group":
            return train.batches(batch_size)
        shuffle = epoch if self.partition == "resplit_random" else 0
        return train.batches(batch_size, seed=derive_seed(seed, "partition", shuffle))

    def _parse(self, file: _File, labelled: bool, mistakes: list[Mistake]) -> _Sentences:
        """The sentences of `file`; what is wrong with them is added to `mistakes`."""
        kept: list[str] = []
        labels: list[str] = []
        dropped_empty = dropped_long = 0
        for number, line in enumerate(file.lines, start=1):
            if labelled and not _has_label(line) and line.strip():
                mistakes.append(self._unlabelled(f"{file.path}, line {number}: {line.rstrip()}"))
                return _Sentences([], None)
            label, _, text = line.partition("\t") if labelled else ("", "", line)
            words = len(text.split())
            if words == 0:
                dropped_empty += 1
            elif self.max_length is not None and words > self.max_length:
                dropped_long += 1
            else:
                kept.append(text)
                labels.append(label.strip())
        if not kept:
            remedy = f"Dropped: {dropped_empty} empty lines, {dropped_long} of more than max_length words."
            mistakes.append(Mistake("data.path", str(file.path), "have a sentence in every file", remedy))
        return _Sentences(kept, tuple(labels) if labelled else None, dropped_empty, dropped_long)

    def _unlabelled(self, where: str) -> Mistake:
        law = "have a label and a tab before each sentence"
        if self.labels == "yes":
            return Mistake("data.path", where, law, "Set data.labels=no to read the text without labels.")
        return Mistake("data.path", where, f"{law} or before none", "Set data.labels=no if tabs are mere text.")


@dataclass(frozen=True)
class _File:
    path: Path
    lines: list[str]


@dataclass(frozen=True)
class _Sentences:
    """What is kept of a file; `labels` has one for each sentence, or is None."""

    sentences: list[str]
    labels: tuple[str, ...] | None
    dropped_empty: int = 0
    dropped_long: int = 0

    def limit(self, n: int) -> _Sentences:
        return replace(self, sentences=self.sentences[:n], labels=self.labels and self.labels[:n])

    def encode(self, vocabulary: Vocabulary) -> TokenSplit:
        return TokenSplit.of(map(vocabulary.encode, self.sentences), self.labels)


def _read(folder: Path, split: str, mistakes: list[Mistake]) -> _File | None:
    """The lines of a split's file, or None and one more entry in `mistakes`."""
    names = _FILES[split]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        remedy = f"It holds {textwrap.shorten(found, 200)}."
        mistakes.append(Mistake("data.path", str(folder), f"have a file {' or '.join(names)}", remedy))
        return None
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{path}, line {line}, byte offset {error.start}"
        mistakes.append(Mistake("data.path", where, "hold UTF-8 text", "Convert the file, say with iconv."))
        return None
    except OSError as error:
        mistakes.append(Mistake("data.path", str(path), "hold readable files", f"{error.strerror}."))
        return None
    # Not str.splitlines, which also cuts at form feeds and at Unicode's line separators.
    return _File(path, io.StringIO(text).readlines())


def _has_label(line: str) -> bool:
    label, tab, _ = line.partition("\t")
    return bool(tab and label.strip())
