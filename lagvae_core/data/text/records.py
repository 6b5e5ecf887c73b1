"""Sentences and labels from the columns of CSV and TSV files and of files with one JSON object per line."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lagvae_core.data.text.files import SentenceTable
from lagvae_core.data.text.lines import COMPRESSIONS, compression, read_lines, rewrite
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["CsvFile", "JsonLinesFile"]


@dataclass(frozen=True)
class CsvFile(SentenceTable):
    """A CSV or TSV file whose first line names the columns.

    In a CSV file, commas separate the cells, and a cell may be in quotes, as RFC 4180 describes. In a TSV file, tabs
    separate the cells, and a quote is an ordinary character.
    """

    def labelled(self) -> bool:
        return self.label_column in next(self._records(), (1, []))[1]

    def rows(self, labelled: bool) -> Iterator[tuple[Any, Any]]:
        records = self._records()
        _, names = next(records, (1, []))
        if issues := self.column_issues(names, labelled):
            raise DataError(self._separator_issues(names) or [self._with_names(issue, names) for issue in issues])
        text, label = names.index(self.text_column), names.index(self.label_column) if labelled else None
        for line, cells in records:
            if not cells:
                yield "", None
                continue
            if len(cells) != len(names):
                message = f"must have {len(names)} cells, as the first line has"
                hint = f"This record has {len(cells)}. Put a text that contains a separator or line end into quotes"
                raise self._invalid(line, message, f"{hint}{'.' if self._is_csv else ', and save it as .csv.'}")
            yield cells[text], None if label is None else cells[label]

    @property
    def _is_csv(self) -> bool:
        return ".csv" in (suffix.lower() for suffix in self.path.suffixes)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the last line and the cells of each record, the first line included."""
        lines = (line for _, line in read_lines(self.path))
        reader = (
            csv.reader(lines, strict=True)
            if self._is_csv
            else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        )
        try:
            for cells in reader:
                yield reader.line_num, cells
        except csv.Error as error:
            hint = "Check the quotes: a cell with quotes inside is itself in quotes, and the quotes inside are doubled."
            raise self._invalid(reader.line_num, f"must be a record of a CSV file ({error})", hint) from None

    def _separator_issues(self, names: list[str]) -> list[ValidationIssue]:
        for separator in (";", "\t", "|"):
            if len(names) == 1 and separator in names[0]:
                path = str(self.path)
                code = f"import pandas; pandas.read_csv({path!r}, sep={separator!r}).to_csv({path!r}, index=False)"
                hint = f"Convert the file: python -c {shlex.quote(code)}"
                message = f"must have commas between the cells; {separator!r} seems to separate them"
                return [ValidationIssue(path, message, hint)]
        return []

    def _with_names(self, issue: ValidationIssue, names: list[str]) -> ValidationIssue:
        """Add the command that adds a line with names to a file without one, as many public files are."""
        columns = ["label", *(f"column{number}" for number in range(2, len(names))), "text"][-len(names) :]
        line = ("," if self._is_csv else "\\t").join(columns)
        command = rewrite(self.path, f"sed '1i {line}'", compression(self.path))
        return replace(
            issue, hint=f"{issue.hint} If the first line does not name the columns, add one that does: {command}"
        )

    def _invalid(self, line: int, message: str, hint: str) -> DataError:
        return DataError([ValidationIssue(f"{self.path}, line {line}", message, hint)])


@dataclass(frozen=True)
class JsonLinesFile(SentenceTable):
    """A file with one JSON object per line (JSON Lines). A line without any character but spaces is an empty text."""

    def labelled(self) -> bool:
        return any(self.label_column in record for _, record in self._records())

    def rows(self, labelled: bool) -> Iterator[tuple[Any, Any]]:
        for number, record in self._records():
            if not record:
                yield "", None
                continue
            if self.text_column not in record or (labelled and self.label_column not in record):
                raise DataError(self.column_issues(list(record), labelled))
            text, label = record[self.text_column], record[self.label_column] if labelled else None
            if not isinstance(text, str | None):
                raise self._invalid(number, f"must have a string as {self.text_column!r}", text, self._joining(text))
            if not isinstance(label, str | int | None):
                raise self._invalid(number, f"must have a string, integer or boolean as {self.label_column!r}", label)
            yield text, label

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in read_lines(self.path):
            if not line.strip():
                yield number, {}
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise self._invalid(number, "must be one JSON object per line", line.strip()[:80], self._conversion())
            yield number, record

    def _joining(self, text: Any) -> str:
        """Return the command that joins lists of words by spaces; "" for values of other types."""
        if not isinstance(text, list):
            return ""
        path, name = str(self.path), self.text_column
        code = (
            f"import pandas; t = pandas.read_json({path!r}, lines=True); t[{name!r}] = t[{name!r}].str.join(' '); "
            f"t.to_json({path!r}, orient='records', lines=True)"
        )
        return f"Join the words by spaces: python -c {shlex.quote(code)}"

    def _conversion(self) -> str:
        plain = self.path.with_suffix("") if self.path.suffix in COMPRESSIONS else self.path
        old, new = str(self.path), str(plain.with_suffix(".jsonl"))
        code = f"import pandas; pandas.read_json({old!r}).to_json({new + '.new'!r}, orient='records', lines=True)"
        command = f"python -c {shlex.quote(code)} && rm {shlex.quote(old)}"
        return f"If the file is one JSON array: {command} && mv {shlex.quote(new + '.new')} {shlex.quote(new)}"

    def _invalid(self, number: int, message: str, value: Any, hint: str = "") -> DataError:
        return DataError([ValidationIssue(f"{self.path}, line {number}", message, hint, value)])
