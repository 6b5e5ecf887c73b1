"""Text of the user's own: a folder with one file for each of train, valid and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lagvae_core.data.base import Batching, Partition
from lagvae_core.data.cache import read_entry, write_entry
from lagvae_core.data.text.corpus import Rules, read_corpus, token_dataset
from lagvae_core.data.text.files import SPLITS, Source, TextFile, file_of
from lagvae_core.data.text.padding import padded_batches
from lagvae_core.data.text.parquet import ParquetFile
from lagvae_core.data.text.tokens import TokenBatch, TokenDataset, TokenSplit
from lagvae_core.errors import ConfigError, DataError, ValidationIssue, collect_issues
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import FrozenConfig

__all__ = ["TextData"]

_FORMAT = 1  # raised whenever the same files and fields come to mean other arrays


def _word_of_bool(value: object) -> object:
    """YAML 1.1 reads an unquoted `yes` and `no` as true and false."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


class TextData(FrozenConfig):
    """Sentences from the files of one folder, words separated by white space.

    A split is one file: .txt, UTF-8, one sentence a line; the same under gzip, .txt.gz; or .parquet with a column of
    texts. That of the validation may also be called dev or val. Two files for one split are refused. A line may begin
    with a label and a tab; only the first tab counts. In Parquet labels are a column of strings or integers. Training,
    validation and test must have the same labels.

    The vocabulary is that of the training sentences in use, in order of first appearance; `min_freq` and
    `max_vocabulary` cut it, the latter keeping of equally frequent words those that come first; any other word is read
    as `<unk>`. Where neither cuts, no training sentence holds an `<unk>`, so that its probability is untrained: read
    the NLL beside the `oov_rate`. A literal `<unk>` in the text is that special word; a literal `<pad>`, `<s>` or
    `</s>` becomes `<unk>`.

    `partition` is that of the training sentences alone. With `batching` constant_length, the published protocol, a
    batch holds sentences of one length, so that nothing is padded: that length is the group of `fixed_by_group`, which
    takes them as the file has them; `fixed_random` shuffles them once, `resplit_random` before each epoch. The last
    batch of each length is small, and as losses are means over a batch its sentences count more. With `padded` all
    batches but one are full and hold sentences of about one length, padded to the longest: drawn once (`fixed_random`)
    or before each epoch (`resplit_random`, here the default). `fixed_by_group` is refused with it, as a length needs no
    padding. Measurement never pads, and its numbers are the same under both.

    Files are read as a stream and kept as 32-bit numbers in the cache, from which all processes of a machine map the
    same memory. Beside that, loading takes 8 bytes a sentence for labels and, once, when the cache is filled, 8 bytes a
    word and a dictionary of all word types: 127 MiB for 1,000,000 sentences of 10 words, 87 MiB from the cache, most of
    it shared (benchmarks/memory.py).
    """

    kind: Literal["text"] = "text"
    path: str = Field(min_length=1, description="folder with train, valid and test as .txt, .txt.gz or .parquet")
    labels: Annotated[Literal["auto", "yes", "no", "drop"], BeforeValidator(_word_of_bool)] = Field(
        "auto",
        description="do lines have the form label<TAB>text? auto: if one does, all must; drop: yes, but forget them",
    )
    text_column: str = Field("text", min_length=1, description="column of the sentences in Parquet files")
    label_column: str = Field("label", min_length=1, description="column of the labels in Parquet files")
    max_length: int | None = Field(None, ge=1, description="drop sentences of more words, in every split")
    min_freq: int = Field(1, ge=1, description="words rarer than this in the training sentences become <unk>")
    max_vocabulary: int | None = Field(
        None, ge=1, description="keep only so many words, the most frequent of training, the specials not counted"
    )
    limit: int | None = Field(None, ge=1, description="use only the first `limit` training sentences")
    batching: Batching = Field(
        "constant_length", description="whether a training batch holds one sentence length, or is padded"
    )
    partition: Partition = Field("fixed_by_group", description="how training sentences are cut into batches")

    @model_validator(mode="before")
    @classmethod
    def _padded_batches_are_fresh(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("batching") == "padded":
            return {"partition": "resplit_random", **given}
        return given

    @model_validator(mode="after")
    def _groups_are_lengths(self) -> TextData:
        if self.batching == "padded" and self.partition == "fixed_by_group":
            message = (
                "must be fixed_random or resplit_random if data.batching is padded (a group is one sentence length)"
            )
            hint = "Choose one of these, or set data.batching=constant_length."
            raise ConfigError([ValidationIssue("data.partition", message, hint, self.partition)])
        return self

    def load(self) -> TokenDataset:
        """Read and encode the files, or find them encoded in the cache.

        The report adds `<split>_dropped_empty` and `_dropped_long`, in lines. The cache is in the folder of
        `lagvae_core.data.cache`, under the content of the files and all fields that matter. A damaged entry is
        replaced; without a usable folder the files are read each time.

        Raises DataError, with all mistakes of all files, where the folder or a file is missing, damaged or there twice,
        a file is not UTF-8, lacks a column, or is left with no sentence, a sentence lacks the label that it must have,
        or validation or test has not the classes of training.
        """
        sources, issues = self._sources()
        name = self._cache_name(sources)
        entry = None if issues else read_entry(name)
        if entry is None:
            entry = read_corpus(sources, self._rules(sources), issues)
            if self._cache_name(sources) == name:  # else the files have changed meanwhile
                write_entry(name, entry)
                entry = read_entry(name) or entry
        return token_dataset(entry)

    def train_batches(self, train: TokenSplit, batch_size: int, seed: int, epoch: int) -> list[TokenBatch]:
        """The batches of `epoch` (from 0) in a trial of that `seed`, on the CPU; as many in every epoch."""
        if self.partition == "fixed_by_group":
            return train.batches(batch_size)
        shuffle = derive_seed(seed, "partition", epoch if self.partition == "resplit_random" else 0)
        if self.batching == "padded":
            return padded_batches(train, batch_size, shuffle)
        return train.batches(batch_size, seed=shuffle)

    def _sources(self) -> tuple[dict[str, Source], list[ValidationIssue]]:
        """The file of each split, in the order of SPLITS, and what is wrong with those that are not among them."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            hint = f"There is none at {folder.absolute()}."
            raise DataError([ValidationIssue("data.path", "must be a folder", hint, self.path)])
        sources: dict[str, Source] = {}
        issues: list[ValidationIssue] = []
        for split in SPLITS:
            with collect_issues(issues):
                path = file_of(folder, split)
                is_table = path.suffix == ".parquet"
                sources[split] = ParquetFile(path, self.text_column, self.label_column) if is_table else TextFile(path)
        return sources, issues

    def _rules(self, sources: Mapping[str, Source]) -> Rules:
        labelled = self.labels in ("yes", "drop") or (self.labels == "auto" and any(map(_labelled, sources.values())))
        keep = labelled and self.labels != "drop"
        return Rules(labelled, keep, self.max_length, self.min_freq, self.max_vocabulary, self.limit)

    def _cache_name(self, sources: Mapping[str, Source]) -> str:
        """The same just where the same would be read."""
        fields = self.model_dump(mode="json", exclude={"path", "batching", "partition"})
        files = {split: (type(source).__name__, _digest(source)) for split, source in sources.items()}
        identity = json.dumps([_FORMAT, fields, files], sort_keys=True)
        return f"text-{hashlib.sha256(identity.encode()).hexdigest()}"


def _labelled(source: Source) -> bool:
    """Whether it has labels; what cannot be read has none, and is refused when it is read whole."""
    try:
        return source.labelled()
    except DataError:
        return False


def _digest(source: Source) -> str:
    """The same for what cannot be read: it is never cached."""
    try:
        return source.digest()
    except DataError:
        return ""
