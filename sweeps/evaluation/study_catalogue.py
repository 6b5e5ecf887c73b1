"""The catalogue of studies: what each measures of a trained model, its fields, columns and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lagvae_core.errors import ConfigError, Mistake
from lagvae_core.studies import STUDIES, Study
from sweeps.fields import describe_docstring, describe_fields
from sweeps.markdown import table
from sweeps.terminal import console_of_stdout, plain_table, shown

__all__ = ["describe_study", "print_studies", "study_section"]


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


def print_studies(name: str | None, as_json: bool) -> None:
    """All studies, or one in full."""
    if name is not None and name not in STUDIES:
        raise ConfigError([Mistake("NAME", name, f"be one of {', '.join(STUDIES)}", "See `lagvae studies`.")])
    chosen = [STUDIES[name]] if name is not None else list(STUDIES.values())
    described = [describe_study(study) for study in chosen]
    if as_json:
        print(json.dumps(described[0] if name is not None else described, allow_nan=False))
        return
    console = console_of_stdout()
    if name is not None:
        _print_one(console, described[0])
        return
    listing = plain_table("study", "of", "what it measures")
    for entry in described:
        listing.add_row(entry["kind"], ", ".join(entry["data_kinds"]), entry["summary"])
    console.print(listing)


def _print_one(console: Console, entry: Mapping[str, Any]) -> None:
    console.print(
        Text(entry["kind"], style="bold").append(f"  of {', '.join(entry['data_kinds'])}\n", style="not bold")
    )
    console.print(entry["description"])
    console.print()
    fields = plain_table("field", "law", "default", "meaning")
    for field in entry["fields"]:
        cells = (field["name"], field["law"], shown(field["default"]), field["description"])
        fields.add_row(*cells)
    console.print(fields)
    for column in entry["columns"]:
        console.print(f"column {column['name']}: {column['doc']}", soft_wrap=True)
    for name, doc in entry["tables"].items():
        console.print(f"table {name}: {doc}", soft_wrap=True)


def study_section(study: type[Study]) -> str:
    """The study as a section of the documentation."""
    entry = describe_study(study)
    lines = [f"### {entry['kind']}", "", entry["description"], ""]
    if entry["fields"]:
        fields = [(f"`{f['name']}`", f["law"], f"`{shown(f['default'])}`", f["description"]) for f in entry["fields"]]
        lines += [*table(("field", "law", "default", "meaning"), fields), ""]
    if entry["columns"]:
        kinds = {"float": "float64", "int": "int64", "floats": "list of float64"}
        columns = [(f"`{c['name']}`", kinds[c["kind"]], c["doc"]) for c in entry["columns"]]
        lines += [*table(("column", "type", "meaning"), columns), ""]
    for name, doc in entry["tables"].items():
        lines += [f"Table `{name}`: {doc}.", ""]
    return "\n".join(lines)
