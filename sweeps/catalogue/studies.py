"""The catalogue of studies: description, kinds of data, fields, columns and tables."""

from __future__ import annotations

from typing import Any

from lagvae_core.data import DATA_SOURCES
from lagvae_core.studies import Study
from sweeps.catalogue.fields import describe_docstring, describe_fields
from sweeps.formatting import format_value, markdown_table

__all__ = ["COLUMN_TYPES", "describe_study", "study_section"]

COLUMN_TYPES = {
    "float": "float64",
    "int": "int64",
    "str": "string",
    "floats": "list of float64",
    "time": "timestamp",
    "bool": "bool",
}
"""Name of the Arrow type, by kind of column."""


def describe_study(study: type[Study]) -> dict[str, Any]:
    """Return everything that the catalogue and the documentation show about a study, as plain data."""
    return {
        "kind": study.name(),
        **describe_docstring(study),
        "data_kinds": sorted(study.data_kinds or DATA_SOURCES),
        "fields": describe_fields(study),
        "columns": [{"name": column.name, "kind": column.kind, "doc": column.doc} for column in study.columns],
        "tables": dict(study.tables),
    }


def study_section(study: type[Study]) -> str:
    """Return the section of docs/results.md about a study."""
    entry = describe_study(study)
    lines = [f"### {entry['kind']}", "", entry["description"], ""]
    if entry["fields"]:
        rows = [
            (f"`{f['name']}`", f["constraints"], f"`{format_value(f['default'])}`", f["description"])
            for f in entry["fields"]
        ]
        lines += [*markdown_table(("field", "constraints", "default", "meaning"), rows), ""]
    if entry["columns"]:
        columns = [(f"`{c['name']}`", COLUMN_TYPES[c["kind"]], c["doc"]) for c in entry["columns"]]
        lines += [*markdown_table(("column", "type", "meaning"), columns), ""]
    for name, doc in entry["tables"].items():
        lines += [f"Table `{name}`: {doc}.", ""]
    return "\n".join(lines)
