"""Data that are already in memory: lists, arrays, tensors, pandas frames, PyTorch data sets and Hugging Face data sets.

None of these libraries but numpy and PyTorch is imported; their objects are recognised by what they offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from lagvae_core.data.raw import SPLITS, Array
from lagvae_core.data.text.files import SentenceTable
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["IN_MEMORY", "Examples", "TextsInMemory", "as_array", "examples_of", "is_table", "splits_of", "texts_of"]

IN_MEMORY = "memory"
"""Value of `data.path` for data that are not in a file."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One split as it was given.

    Args:
        values: The examples; None if the split is a table.
        labels: One label per example; None if there are none.
        table: The columns by name, for a pandas frame or a Hugging Face data set; None for anything else.
    """

    values: Any = None
    labels: Sequence[Any] | None = None
    table: Any = None

    @property
    def names(self) -> list[str]:
        """Names of the columns of a table."""
        names = getattr(self.table, "column_names", None)
        return [*(self.table.columns if names is None else names)]


def splits_of(train: Any, valid: Any, test: Any) -> dict[str, Examples]:
    """Return the given splits; None leaves one out."""
    given = dict(zip(SPLITS, (train, valid, test), strict=True))
    return {split: examples_of(value) for split, value in given.items() if value is not None}


def examples_of(value: Any) -> Examples:
    """Return the examples and labels of one split.

    Args:
        value: A pandas frame or a Hugging Face data set; a PyTorch data set of examples or of pairs (example, label); a
            pair (examples, labels); or a list, an array or a tensor of examples.
    """
    if is_table(value):
        return Examples(table=value)
    if isinstance(value, TorchDataset):
        items = [value[number] for number in range(len(value))]  # type: ignore[arg-type]
        if items and isinstance(items[0], tuple | list):
            return Examples([item[0] for item in items], [_plain(item[1]) for item in items])
        return Examples(items)
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], str):
        return Examples(value[0], [_plain(label) for label in value[1]])
    return Examples(value)


def is_table(value: Any) -> bool:
    """Return whether a value is a pandas frame or a Hugging Face data set."""
    return hasattr(value, "column_names") or (hasattr(value, "columns") and hasattr(value, "iloc"))


def texts_of(examples: Any) -> list[Any]:
    """Return examples that should be texts as a list; one text counts as a list of one.

    Raises:
        DataError: They are a table, or no sequence at all.
    """
    if isinstance(examples, str):
        return [examples]
    if is_table(examples) or not isinstance(examples, Iterable):
        hint = 'Pass one column, such as frame["text"].' if is_table(examples) else "Pass a list of strings."
        raise DataError([ValidationIssue("examples", "must be a list of texts", hint, type(examples).__name__)])
    return list(examples)


def _plain(label: Any) -> Any:
    """Return a label without the type of its library."""
    return label.item() if hasattr(label, "item") else label


def as_array(values: Any) -> Array:
    """Return examples as one array; each may be an array, a tensor or a picture."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "to_numpy"):  # a pandas frame or series
        array: Array = values.to_numpy()
        return array
    if not isinstance(values, Iterable):
        message = "must be an array, a tensor or a list of them"
        raise DataError([ValidationIssue("examples", message, "Convert it with numpy.", type(values).__name__)])
    rows = [as_array(row) if isinstance(row, torch.Tensor) else np.asarray(row) for row in values]
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        message = "must contain examples of one shape"
        raise DataError([ValidationIssue("data", message, "Crop or pad them.", sorted(map(str, shapes))[:3])])
    return np.stack(rows) if rows else np.empty((0, 0))


@dataclass(frozen=True, eq=False)
class TextsInMemory(SentenceTable):
    """Texts in memory, with the interface of a file of rows. Its path is the name of the split."""

    examples: Examples = field(default_factory=Examples)

    @classmethod
    def of(cls, split: str, examples: Examples, text_column: str, label_column: str) -> TextsInMemory:
        """Return one split."""
        return cls(Path(f"{split} (in memory)"), text_column, label_column, examples)

    def _columns(self) -> Mapping[str, Any]:
        """Return the columns by name: the table, which need not decode those that are never read, or the two lists."""
        examples = self.examples
        if examples.table is not None:
            table: Mapping[str, Any] = examples.table
            return table
        labels = {} if examples.labels is None else {self.label_column: examples.labels}
        return {self.text_column: [examples.values] if isinstance(examples.values, str) else examples.values, **labels}

    def _names(self) -> list[str]:
        return list(self._columns()) if self.examples.table is None else self.examples.names

    def labelled(self) -> bool:
        return self.label_column in self._names()

    def rows(self, labelled: bool) -> Iterator[tuple[Any, Any]]:
        if issues := self.column_issues(self._names(), labelled):
            raise DataError(issues)
        columns = self._columns()
        texts = list(columns[self.text_column])
        labels = list(columns[self.label_column]) if labelled else [None] * len(texts)
        if len(labels) != len(texts):
            message = f"must have as many labels as texts, {len(texts)}"
            raise DataError([ValidationIssue(str(self.path), message, "Add or remove labels.", len(labels))])
        for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
            if text is None or text != text:  # NaN in a pandas frame
                yield None, label
            elif isinstance(text, str):
                yield text, label
            else:
                message = "must be a text"
                raise DataError([ValidationIssue(f"{self.path}, row {number}", message, "Convert it to str.", text)])

    def digest(self) -> str:
        raise AssertionError("texts in memory are not cached")
