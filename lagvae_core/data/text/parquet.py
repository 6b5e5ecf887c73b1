"""Sentences and labels from the columns of a Parquet file.

This is the only module of the package that uses pyarrow. It imports pyarrow when a file is opened, not before.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lagvae_core.data.files import refuse_placeholder, unreadable
from lagvae_core.data.text.files import SentenceTable
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["ParquetFile"]

_ROWS = 8192
"""Number of rows that are in memory at the same time."""


@dataclass(frozen=True)
class ParquetFile(SentenceTable):
    """A Parquet file.

    Texts may have any of Arrow's types of strings, may be encoded by a dictionary, or may be bytes in UTF-8, as old
    writers of Parquet store strings.
    """

    def labelled(self) -> bool:
        with self._open() as file:
            return self.label_column in file.schema_arrow.names

    def rows(self, labelled: bool) -> Iterator[tuple[Any, Any]]:
        with self._open() as file:
            import pyarrow

            issues = self.column_issues(file.schema_arrow.names, labelled) or self._type_issues(
                file.schema_arrow, labelled
            )
            if issues:
                raise DataError(issues)
            columns = [self.text_column, *([self.label_column] if labelled else [])]
            try:
                for block in file.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
                    texts = self._values(block.column(self.text_column))
                    labels = self._values(block.column(self.label_column)) if labelled else [None] * len(texts)
                    yield from zip(texts, labels, strict=True)
            except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
                raise self._damaged(error) from None

    def _values(self, column: Any) -> list[Any]:
        return [value.decode() if isinstance(value, bytes) else value for value in column.to_pylist()]

    def _open(self) -> Any:
        refuse_placeholder(self.path)
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

    def _type_issues(self, schema: Any, labelled: bool) -> list[ValidationIssue]:
        """Check that the columns have the right types."""
        from pyarrow import types

        def is_text(kind: Any) -> bool:
            tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
            return any(getattr(types, f"is_{test}")(kind) for test in tests)

        def is_label(kind: Any) -> bool:
            return is_text(kind) or bool(types.is_integer(kind) or types.is_boolean(kind))

        needed = {"data.text_column": (self.text_column, is_text, "strings")}
        if labelled:
            needed["data.label_column"] = (self.label_column, is_label, "strings, integers or booleans")
        issues = []
        for key, (name, is_right, content) in needed.items():
            kind = schema.field(name).type
            value = kind.value_type if types.is_dictionary(kind) else kind
            if not is_right(value):
                message = f"must name a column of {content} in {self.path}"
                joined = types.is_list(value) and is_text(value.value_type) and key == "data.text_column"
                hint = (
                    f"The column has the type {kind}. Name another column, or convert it: {self._convert(name, joined)}"
                )
                issues.append(ValidationIssue(key, message, hint, name))
        return issues

    def _convert(self, name: str, joined: bool) -> str:
        """Return the command that converts a column to strings; lists of words are joined by spaces."""
        path, call = str(self.path), ".str.join(' ')" if joined else ".astype(str)"
        code = (
            f"import pandas; t = pandas.read_parquet({path!r}); t[{name!r}] = t[{name!r}]{call}; t.to_parquet({path!r})"
        )
        return f"python -c {shlex.quote(code)}"
