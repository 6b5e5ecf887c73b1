"""Vectors in the user's own files, or in a set that scikit-learn contains."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lagvae_core.data.base import Batching, Partition, SplitLimits, Unit
from lagvae_core.data.held_out import HeldOut
from lagvae_core.data.memory import splits_of
from lagvae_core.data.order import cut
from lagvae_core.data.vectors.arrays import Standardisation, VectorBatch, VectorDataset, VectorSplit
from lagvae_core.data.vectors.files import Matrices, read_vectors, read_word_counts, take_vectors
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.randomness import derive_seed

__all__ = ["VectorData", "vector_batches"]


class VectorData(SplitLimits, HeldOut):
    """Vectors of numbers: the rows of a matrix.

    The data are one of these:

    - An .npz file with the matrices `train`, `valid` and `test`. Labels, if any, are in the arrays `train_labels`,
      `valid_labels` and `test_labels`, one per row.
    - A folder with one table per split, `train`, `valid` (or validation, val, dev) and `test`, ending in .csv, .tsv
      (also .gz) or .parquet. The first line of a text file names the columns. Every column is a feature, except
      `label_column` and `ignore`.
    - One such table, from which `held_out` draws valid and test.
    - `sklearn:NAME`, a set that scikit-learn contains: breast_cancer, diabetes, digits, iris, linnerud or wine. It has
      no splits; `held_out` null means 0.2 for each of valid and test.

    - A folder of texts, as `kind: text` reads it, if `words` is set. A vector has the number of occurrences of each of
      these words in one text, a bag of words.

    Missing and infinite values are errors. Python objects in a file are never unpickled. If all values are whole
    numbers from 0, they count as counts, and if all are 0 or 1, as binary; likelihoods of counts and of binary values
    are refused for others.

    `standardise` centres each feature with its mean in train, and divides it by its standard deviation there
    (`features`), or by one number for all features, the root mean square of these deviations (`shared`), which keeps
    the shape of the covariance. Constant features are only centred. Models see standardised values, but every
    likelihood (`rec`, `nll_elbo`, `nll_iw`, `nats_per_feature`) is that of the values in the file: the logarithms of
    the deviations are added to the NLL. So numbers compare whatever the standardisation.
    """

    batching: ClassVar[Batching | None] = None
    unit: ClassVar[Unit] = "feature"

    kind: Literal["vectors"] = "vectors"
    path: str = Field(min_length=1, description=".npz file, table, folder of tables, or `sklearn:NAME`")
    label_column: str | None = Field(None, min_length=1, description="column of labels in tables; null: none")
    ignore: tuple[str, ...] = Field((), description="columns of tables that are left out")
    labels: Literal["auto", "drop"] = Field(
        "auto", description="labels: used if there are any (auto), or ignored (drop)"
    )
    words: int | None = Field(
        None,
        ge=1,
        description="number of words of texts that are counted, the most frequent of train; null: no texts but numbers",
    )
    standardise: Standardisation = Field(
        "none",
        description="standardisation with the mean and the deviations of train: none, with the deviation of each "
        "feature, or with one deviation shared by all features",
    )
    partition: Partition = Field("resplit_random", description="division of the training vectors into batches")

    @model_validator(mode="after")
    def _check_words(self) -> VectorData:
        if self.words is not None and (self.label_column is not None or self.ignore):
            raise ValueError("must have no label_column and ignore with words, because texts have no other columns")
        return self

    def load(self) -> VectorDataset:
        """Read and check the vectors.

        Raises:
            DataError: The data are missing, unreadable or not in the format described above, or `fixed_by_group` is
                used without labels. The error carries all issues found.
        """
        return self._dataset(self._read())

    def from_memory(self, train: Any, valid: Any = None, test: Any = None) -> VectorDataset:
        """Return the data set of vectors that are already in memory; see `DataSource.from_memory`.

        In a pandas frame or a Hugging Face data set, `label_column` and `ignore` name columns, and all others are
        features. `words` counts the words of files only.
        """
        if self.words is not None:
            message = "must be null for vectors in memory"
            raise DataError([ValidationIssue("data.words", message, "Count the words yourself.", self.words)])
        given = splits_of(train, valid, test)
        labels = self.labels == "auto"
        return self._dataset(take_vectors(given, self, label=self.label_column, ignored=self.ignore, labels=labels))

    def _dataset(self, found: Matrices) -> VectorDataset:
        if self.partition == "fixed_by_group" and found.labels is None:
            message = "must be fixed_random or resplit_random for vectors without labels"
            raise DataError([ValidationIssue("data.partition", message, "Add labels.", self.partition)])
        limits = self.limits
        values = {split: x_NX[: limits[split]] for split, x_NX in found.values.items()}
        labels = found.labels and {split: names[: limits[split]] for split, names in found.labels.items()}
        remarks = [*found.remarks, *self.limit_remarks()]
        return VectorDataset.of(values, labels, standardise=self.standardise, remarks=remarks)

    def _read(self) -> Matrices:
        if self.words is not None:
            return read_word_counts(self.path, self, self.words, labels=self.labels == "auto")
        return read_vectors(self.path, self, label=self.label_column, ignored=self.ignore, labels=self.labels == "auto")

    def fingerprint(self) -> str:
        """Return the fingerprint of the data; see `DataSource.fingerprint`."""
        return self.load().fingerprint

    def train_batches(self, train: VectorSplit, batch_size: int, seed: int, epoch: int) -> list[VectorBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        return vector_batches(self.partition, train, batch_size, seed, epoch)


def vector_batches(
    partition: Partition, train: VectorSplit, batch_size: int, seed: int, epoch: int
) -> list[VectorBatch]:
    """Return the training batches of one epoch; see `DataSource.train_batches`."""
    shuffle = derive_seed(seed, "partition", epoch if partition == "resplit_random" else 0)
    groups = train.order(by_label=partition == "fixed_by_group", seed=shuffle)
    return [train.batch(index) for group in groups for index in cut(group, batch_size)]
