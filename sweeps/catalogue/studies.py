"""The catalogue of studies: what each measures of a trained model, its fields, columns and tables."""

from __future__ import annotations

from typing import Any

from lagvae_core.studies import Study
from sweeps.catalogue.fields import describe_docstring, describe_fields
from sweeps.formatting import format_value, table

__all__ = ["describe_study", "study_section"]


def describe_study(study: type[Study]) -> dict[str, Any]:
    """A study as plain data: everything that catalogue, help and documentation say of it."""
    return {
        "kind": study.name(),
        **describe_docstring(study),
        "data_kinds": sorted(study.data_kinds),
        "fields": describe_fields(study),
        "columns": [{"name": column.name, "kind": column.kind, "doc": column.doc} for column in study.columns],
        "tables": dict(study.tables),
    }


def study_section(study: type[Study]) -> str:
    """The study as a section of the documentation."""
    entry = describe_study(study)
    lines = [f"### {entry['kind']}", "", entry["description"], ""]
    if entry["fields"]:
        fields = [
            (f"`{f['name']}`", f["law"], f"`{format_value(f['default'])}`", f["description"]) for f in entry["fields"]
        ]
        lines += [*table(("field", "law", "default", "meaning"), fields), ""]
    if entry["columns"]:
        kinds = {"float": "float64", "int": "int64", "floats": "list of float64"}
        columns = [(f"`{c['name']}`", kinds[c["kind"]], c["doc"]) for c in entry["columns"]]
        lines += [*table(("column", "type", "meaning"), columns), ""]
    for name, doc in entry["tables"].items():
        lines += [f"Table `{name}`: {doc}.", ""]
    return "\n".join(lines)
