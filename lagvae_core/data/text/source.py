"""Text in the user's own files: a folder with one file for each split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from lagvae_core.data.base import Batching, Partition, SplitLimits, Unit
from lagvae_core.data.cache import read_entry, write_entry
from lagvae_core.data.files import data_folder
from lagvae_core.data.held_out import HeldOut, held_out_remedy
from lagvae_core.data.memory import TextsInMemory, splits_of
from lagvae_core.data.raw import SPLITS
from lagvae_core.data.text.corpus import CorpusRules, read_corpus, token_dataset
from lagvae_core.data.text.files import FileShare, SentenceFile, TextFile
from lagvae_core.data.text.layout import Layout, find_layout
from lagvae_core.data.text.lines import COMPRESSIONS
from lagvae_core.data.text.padding import padded_batches
from lagvae_core.data.text.parquet import ParquetFile
from lagvae_core.data.text.records import CsvFile, JsonLinesFile
from lagvae_core.data.text.tokens import TokenBatch, TokenDataset, TokenSplit
from lagvae_core.errors import ConfigError, DataError, ValidationIssue
from lagvae_core.randomness import derive_seed

__all__ = ["TextData"]

_FORMAT = 2  # increased whenever a code change makes the same files and fields produce a different entry
_TABLES: Mapping[str, Callable[[Path, str, str], SentenceFile]] = {
    ".csv": CsvFile,
    ".tsv": CsvFile,
    ".jsonl": JsonLinesFile,
    ".json": JsonLinesFile,
    ".parquet": ParquetFile,
}
"""Format of each suffix; every other file is a `TextFile`."""


def _yes_or_no(value: object) -> object:
    """Convert true and false back to `yes` and `no`, which YAML 1.1 reads as booleans unless they are quoted."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


class TextData(SplitLimits, HeldOut):
    """Sentences from the files of one folder, with words separated by white space.

    Each split (train, valid, test) is one file: a .txt file with one sentence per line, or a .csv, .tsv, .jsonl, .json
    (one object per line) or .parquet file with a column of texts. All but .parquet may be compressed with gzip, bzip2
    or xz (.txt.gz). The validation file may also be called validation, dev or val. A file may be cut into shards
    (train-00000-of-00002.parquet), and all names may begin with the same prefix (ptb.train.txt). Two files for one
    split are an error. If the file of valid or test is missing, `held_out` takes that split from train at random.

    Text is UTF-8 and is brought to Unicode's NFC. A line of a .txt file may begin with a label and a tab; only its
    first tab is a separator. In the other files the labels are a column of strings, integers or booleans. All splits
    must have the same set of labels. A .csv file has quotes as in RFC 4180; in a .tsv file, quotes are ordinary
    characters.

    The vocabulary consists of the words of the training sentences used, in order of first appearance. `min_freq` and
    `max_vocabulary` reduce it; of equally frequent words, `max_vocabulary` keeps those that appear first. Every other
    word becomes `<unk>`. If both fields keep all words, `<unk>` does not occur in training and its probability is
    untrained: interpret the NLL together with the `oov_rate`. The exception is text that contains special words: a
    literal `<unk>` is the special word, and a literal `<pad>`, `<s>` or `</s>` becomes `<unk>`.

    `partition` applies to the training sentences only. Measurement never pads, and its results are the same for all
    values of `partition` and `batching`.

    - `batching: constant_length` is the published protocol. All sentences of a batch have the same length, so nothing
      is padded. With `fixed_by_group`, the sentences of each length are in the order of the file. `fixed_random`
      shuffles them once, and `resplit_random` before each epoch. The last batch of a length may be small; since losses
      are means over a batch, its sentences have more weight.
    - `batching: padded` makes batches of sentences of similar lengths, padded to the longest sentence. At most one
      batch is not full. `fixed_random` draws the batches once. `resplit_random`, the default for padded batches, draws
      them before each epoch. `fixed_by_group` is an error, since its groups are the lengths and need no padding.

    Files are read as a stream and cached as 32-bit word ids. All processes of a machine map the cache and share its
    memory. In addition, loading takes 8 bytes of memory per sentence for labels. Filling the cache also takes 8 bytes
    per word, and a dictionary of all word types. For 1,000,000 sentences of 10 words, filling the cache takes 127 MiB,
    and loading from the cache takes 87 MiB, most of it shared (benchmarks/memory.py).
    """

    unit: ClassVar[Unit] = "word"

    kind: Literal["text"] = "text"
    path: str = Field(
        min_length=1,
        description="folder with a .txt, .csv, .tsv, .jsonl or .parquet file for each of train, valid and test",
    )
    labels: Annotated[Literal["auto", "yes", "no", "drop"], BeforeValidator(_yes_or_no)] = Field(
        "auto",
        description="whether sentences have labels (label<TAB>text in text files); auto: if any sentence has one, "
        "all must; drop: labels are present but ignored",
    )
    text_column: str = Field("text", min_length=1, description="column of the sentences in all but .txt files")
    label_column: str = Field("label", min_length=1, description="column of the labels in all but .txt files")
    max_length: int | None = Field(
        None,
        ge=1,
        description="maximum length of a sentence in any split [words]; longer ones are dropped; null: no limit",
    )
    min_freq: int = Field(
        1, ge=1, description="minimum number of occurrences in the training sentences; rarer words become <unk>"
    )
    max_vocabulary: int | None = Field(
        None,
        ge=1,
        description="maximum number of words, special words not included; the most frequent are kept; null: no limit",
    )
    batching: Batching = Field(
        "constant_length", description="composition of a training batch: sentences of one length, or padded sentences"
    )
    partition: Partition = Field("fixed_by_group", description="division of the training sentences into batches")

    @model_validator(mode="before")
    @classmethod
    def _resplit_padded_batches(cls, values: Any) -> Any:
        """Change the default of `partition` for padded batches."""
        if isinstance(values, Mapping) and values.get("batching") == "padded":
            return {"partition": "resplit_random", **values}
        return values

    @model_validator(mode="after")
    def _check_partition(self) -> TextData:
        if self.batching == "padded" and self.partition == "fixed_by_group":
            message = "must be fixed_random or resplit_random if data.batching is padded"
            hint = "fixed_by_group needs no padding. To use it, set data.batching=constant_length."
            raise ConfigError([ValidationIssue("data.partition", message, hint, self.partition)])
        return self

    def load(self) -> TokenDataset:
        """Read and encode the files, or load the result from the cache.

        A cache entry is identified by the content of the files and by all fields that affect the result. Without a
        usable cache folder, the files are read each time.

        Returns:
            The data set. Its report also has the counts `<split>_dropped_empty` and `<split>_dropped_long` [lines or
            rows].

        Raises:
            DataError: The folder or a file is missing or damaged; a split has several files; a file is not UTF-8,
                lacks a column or has only sentences that are dropped; a required label is missing; or the sets of
                labels of the splits differ. The error carries all issues found in the files.
        """
        layout = find_layout(data_folder(self.path))
        issues = [*layout.issues, *self._missing(layout)]
        files = self._files(layout)
        remarks = [*layout.remarks, *self.held_out_remarks([*layout.missing]), *self.limit_remarks()]
        name = self._entry_name(files)
        entry = None if issues else read_entry(name)
        if entry is not None:
            return token_dataset(entry, remarks)
        entry = read_corpus(files, self._rules(files), issues)
        if self._entry_name(files) != name:  # a file has changed in the meantime
            return token_dataset(entry, remarks)
        entry = replace(entry, facts={**entry.facts, "fingerprint": token_dataset(entry).fingerprint})
        write_entry(name, entry)
        return token_dataset(read_entry(name) or entry, remarks)

    def from_memory(self, train: Any, valid: Any = None, test: Any = None) -> TokenDataset:
        """Return the data set of texts that are already in memory; see `DataSource.from_memory`.

        In a pandas frame or a Hugging Face data set, `text_column` and `label_column` name the columns.
        """
        given = {
            split: [TextsInMemory.of(split, examples, self.text_column, self.label_column)]
            for split, examples in splits_of(train, valid, test).items()
        }
        missing = [split for split in SPLITS if split not in given]
        issues = self.held_out_issues(missing)
        if missing and self.held_out is None:
            hint = f"Pass it, or {held_out_remedy(missing[0])}."
            issues.append(ValidationIssue("data", f"must have {' and '.join(missing)}", hint))
        files = self._shares(given, missing)
        remarks = [*self.held_out_remarks(missing), *self.limit_remarks()]
        return token_dataset(read_corpus(files, self._rules(files), issues), remarks)

    def fingerprint(self) -> str:
        """Return the fingerprint of the data; see `DataSource.fingerprint`."""
        return self.load().fingerprint

    def train_batches(self, train: TokenSplit, batch_size: int, seed: int, epoch: int) -> list[TokenBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        if self.partition == "fixed_by_group":
            return train.batches(batch_size)
        shuffle = derive_seed(seed, "partition", epoch if self.partition == "resplit_random" else 0)
        if self.batching == "padded":
            return padded_batches(train, batch_size, shuffle)
        return train.batches(batch_size, seed=shuffle)

    def _missing(self, layout: Layout) -> list[ValidationIssue]:
        """Return the issues with missing files, or with `held_out` if none is missing."""
        if self.held_out is None or "train" in layout.missing:
            return list(layout.missing.values())
        return [] if layout.issues else self.held_out_issues([*layout.missing])

    def _files(self, layout: Layout) -> dict[str, list[FileShare]]:
        files = {split: [self._file(path) for path in paths] for split, paths in layout.files.items()}
        return self._shares(files, [*layout.missing])

    def _shares(
        self, given: Mapping[str, Sequence[SentenceFile]], missing: Sequence[str]
    ) -> dict[str, list[FileShare]]:
        """Return the files of each split; if some are missing and may be held out, the shares of train."""
        files = {split: [FileShare(file) for file in of_split] for split, of_split in given.items()}
        if self.held_out is None or not missing or "train" not in files:
            return files
        for split, (low, high) in self.held_out_bounds(missing).items():
            files[split] = [
                FileShare(share.file, low, high, self.held_out_draws_seed(shard))
                for shard, share in enumerate(files["train"])
            ]
        return files

    def _file(self, path: Path) -> SentenceFile:
        suffixes = [suffix.lower() for suffix in path.suffixes]
        suffix = suffixes[-2] if suffixes[-1] in COMPRESSIONS else suffixes[-1]
        return _TABLES[suffix](path, self.text_column, self.label_column) if suffix in _TABLES else TextFile(path)

    def _rules(self, files: Mapping[str, Sequence[FileShare]]) -> CorpusRules:
        distinct = dict.fromkeys(share.file for shares in files.values() for share in shares)
        guessed = self.labels == "auto" and any(map(_has_labels, distinct))
        labelled = guessed or self.labels in ("yes", "drop")
        keep = labelled and self.labels != "drop"
        return CorpusRules(labelled, keep, guessed, self.max_length, self.min_freq, self.max_vocabulary, self.limits)

    def _entry_name(self, files: Mapping[str, Sequence[FileShare]]) -> str:
        """Return the name of the cache entry. Reading the files gives the same result whenever the name is the same."""
        fields = self.model_dump(mode="json", exclude={"path", "batching", "partition"})
        digests = {share.file: _digest(share.file) for shares in files.values() for share in shares}
        content = {
            split: [(type(share.file).__name__, digests[share.file], share.low, share.high) for share in shares]
            for split, shares in files.items()
        }
        identity = json.dumps([_FORMAT, fields, content], sort_keys=True)
        return f"text-{hashlib.sha256(identity.encode()).hexdigest()}"


def _has_labels(file: SentenceFile) -> bool:
    """Return whether the file has labels; False if it cannot be read, which is reported when its sentences are read."""
    try:
        return file.labelled()
    except DataError:
        return False


def _digest(file: SentenceFile) -> str:
    """Return the digest of the file; "" if it cannot be read. Such a file raises an error later and is never cached."""
    try:
        return file.digest()
    except DataError:
        return ""
