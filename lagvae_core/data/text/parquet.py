"""Sentences and labels from the columns of a Parquet file.

This is the only module of the package that uses pyarrow. It imports pyarrow when a file is opened, not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lagvae_core.data.files import unreadable
from lagvae_core.data.text.files import Sentence, SentenceFile
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["ParquetFile"]

_ROWS = 8192
"""Number of rows that are in memory at the same time."""


@dataclass(frozen=True)
class ParquetFile(SentenceFile):
    """A Parquet file with a column of texts and, for labelled sentences, a column of labels.

    Labels are strings, integers or booleans.
    """

    path: Path
    text_column: str
    label_column: str
    unit: ClassVar[str] = "row"

    def labelled(self) -> bool:
        with self._open() as file:
            return self.label_column in file.schema_arrow.names

    def sentences(self, labelled: bool) -> Iterator[Sentence]:
        with self._open() as file:
            self._check(file.schema_arrow, labelled)
            columns = [self.text_column, *([self.label_column] if labelled else [])]
            number = 0
            for texts, labels in self._blocks(file, columns):
                for text, label in zip(texts, labels, strict=True):
                    number += 1
                    if text is None:
                        message = f"must have a text in the column {self.text_column!r}, not null"
                        hint = "Fill in the missing texts, or remove their rows."
                        raise DataError([ValidationIssue(f"{self.path}, row {number}", message, hint)])
                    yield number, "" if label is None else str(label).strip(), text

    def _blocks(self, file: Any, columns: list[str]) -> Iterator[tuple[list[Any], list[Any]]]:
        import pyarrow

        try:
            for block in file.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
                texts = block.column(self.text_column).to_pylist()
                yield texts, block.column(self.label_column).to_pylist() if len(columns) > 1 else [None] * len(texts)
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            raise self._damaged(error) from None

    def _open(self) -> Any:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            message = "cannot be read because pyarrow is not installed"
            hint = "Run `pip install pyarrow`, or convert the file to .txt."
            raise DataError([ValidationIssue(str(self.path), message, hint)]) from None
        try:
            with self.path.open("rb"):
                return parquet.ParquetFile(self.path)
        except OSError as error:
            raise (unreadable(self.path, error) if error.errno else self._damaged(error)) from None
        except pyarrow.ArrowException as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DataError:
        message = f"must be a complete and undamaged Parquet file ({' '.join(str(error).split())[:200]})"
        return DataError([ValidationIssue(str(self.path), message, "Write the file again.")])

    def _check(self, schema: Any, labelled: bool) -> None:
        """Check that the columns exist and have the right types; raise DataError with all issues."""
        from pyarrow import types

        def is_text(kind: Any) -> bool:
            kind = kind.value_type if types.is_dictionary(kind) else kind
            return bool(types.is_string(kind) or types.is_large_string(kind))

        def is_label(kind: Any) -> bool:
            return is_text(kind) or bool(types.is_integer(kind) or types.is_boolean(kind))

        required = {"data.text_column": (self.text_column, is_text, "strings")}
        if labelled:
            required["data.label_column"] = (self.label_column, is_label, "strings, integers or booleans")
        issues = []
        for key, (name, is_right, content) in required.items():
            if name not in schema.names:
                hint = f"The columns are {', '.join(schema.names) or 'none'}."
                issues.append(ValidationIssue(key, f"must name a column of {self.path}", hint, name))
            elif not is_right(schema.field(name).type):
                message = f"must name a column of {content} in {self.path}"
                hint = f"The column has the type {schema.field(name).type}. Name another column, or convert it."
                issues.append(ValidationIssue(key, message, hint, name))
        if issues:
            raise DataError(issues)
