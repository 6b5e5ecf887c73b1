"""Sentences from the columns of a Parquet file.

The only place of this package that knows pyarrow, and it does when a file is opened, not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lagvae_core.data.text.files import Sentence, Source, unreadable
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["ParquetFile"]

_ROWS = 8192
"""Rows that are in memory at a time."""


@dataclass(frozen=True)
class ParquetFile(Source):
    """A column of texts, and with labels one of strings or integers; rows are counted from 1."""

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
                        message = f"must have a text in every row of {self.text_column}"
                        where = f"{self.path}, row {number}: null"
                        raise DataError([ValidationIssue("data.path", message, "Fill these rows or drop them.", where)])
                    yield number, "" if label is None else str(label).strip(), text

    def _blocks(self, file: Any, columns: list[str]) -> Iterator[tuple[list[Any], list[Any]]]:
        import pyarrow

        try:
            for block in file.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
                texts = block.column(self.text_column).to_pylist()
                yield texts, block.column(self.label_column).to_pylist() if len(columns) > 1 else [None] * len(texts)
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise self._damaged(error) from None
        except OSError as error:
            raise self._damaged(error) from None

    def _open(self) -> Any:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            message = "must be of files that can be read, and Parquet takes the package pyarrow"
            hint = "Install pyarrow, or convert the file to .txt."
            raise DataError([ValidationIssue("data.path", message, hint, str(self.path))]) from None
        try:
            with self.path.open("rb"):
                return parquet.ParquetFile(self.path)
        except OSError as error:
            raise (unreadable(self.path, error) if error.errno else self._damaged(error)) from None
        except pyarrow.ArrowException as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DataError:
        hint = f"Write it again ({' '.join(str(error).split())[:200]})."
        return DataError([ValidationIssue("data.path", "must hold whole Parquet files", hint, str(self.path))])

    def _check(self, schema: Any, labelled: bool) -> None:
        """That the columns are there and of the right type; DataError with all that is wrong."""
        from pyarrow import types

        def is_text(kind: Any) -> bool:
            kind = kind.value_type if types.is_dictionary(kind) else kind
            return bool(types.is_string(kind) or types.is_large_string(kind))

        def is_label(kind: Any) -> bool:
            return is_text(kind) or bool(types.is_integer(kind) or types.is_boolean(kind))

        wanted = {"data.text_column": (self.text_column, is_text, "strings")}
        if labelled:
            wanted["data.label_column"] = (self.label_column, is_label, "strings or integers")
        issues = []
        for key, (name, is_right, content) in wanted.items():
            if name not in schema.names:
                hint = f"Its columns are {', '.join(schema.names) or 'none'}."
                issues.append(ValidationIssue(key, f"must be a column of {self.path}", hint, name))
            elif not is_right(schema.field(name).type):
                message = (
                    f"must be a column of {content} in {self.path}, and this one is of type {schema.field(name).type}"
                )
                issues.append(ValidationIssue(key, message, "Name another, or convert it.", name))
        if issues:
            raise DataError(issues)
