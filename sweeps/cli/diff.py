"""`lagvae results diff`: what differs between two stored runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from sweeps.analysis.diff import Difference, RunDiff, diff_runs
from sweeps.cli.terminal import TextTable, console_of_stdout, print_json, print_whole
from sweeps.formatting import format_value, printable
from sweeps.storage.identifiers import RUN_ID
from sweeps.storage.table import ResultsFolder, find_sweep, stored_sweeps

__all__ = ["find_runs", "print_diff"]

Row = Mapping[str, Any]

HOW_TO_LIST = "`lagvae results show SWEEP` lists the configurations; a run id is CONFIG_ID-SEED."

HASHES = ("data_fingerprint", "git_commit")
"""Columns of which a table shows the first 12 characters."""

LONGEST = 60
"""Maximum number of characters of a value in a table."""


def find_runs(results: str, names: Sequence[str]) -> list[Row]:
    """Return the rows of stored runs.

    Args:
        results: Folder or URI of the results.
        names: RUN_ID, or SWEEP/RUN_ID for a run that several sweeps have.

    Raises:
        ConfigError: A name is malformed, or it names no run or several.
    """
    issues = []
    tables: dict[str, list[dict[str, Any]]] = {}
    found: list[Row] = []
    for name in names:
        sweep, _, run_id = name.rpartition("/")
        if not RUN_ID.fullmatch(run_id):
            issues.append(ValidationIssue("RUN", "must be a run id or SWEEP/RUN_ID", HOW_TO_LIST, name))
            continue
        for searched in [find_sweep(results, sweep).sweep] if sweep else stored_sweeps(results):
            if searched not in tables:
                tables[searched] = ResultsFolder(results, searched).runs()
        rows = [
            row | {"sweep": s} for s, t in tables.items() for row in t if sweep in ("", s) and row["run_id"] == run_id
        ]
        if len(rows) == 1:
            found += rows
        elif rows:
            choices = ", ".join(f"{row['sweep']}/{run_id}" for row in rows)
            hint = f"Choose one: {choices}."
            issues.append(ValidationIssue("RUN", f"must name a single run of {results}", hint, name))
        else:
            known = [row["run_id"] for table in tables.values() for row in table]
            hint = did_you_mean(run_id, known) or HOW_TO_LIST
            where = f"sweep {sweep} in {results}" if sweep else results
            issues.append(ValidationIssue("RUN", f"must be a run that is stored in {where}", hint, name))
    if issues:
        raise ConfigError(issues)
    return found


def print_diff(results: str, names: Sequence[str], *, as_json: bool) -> None:
    """Print what differs between two stored runs.

    Args:
        results: Folder or URI of the results.
        names: The two runs; see `find_runs`.
        as_json: Print one JSON object instead of tables.

    Raises:
        ConfigError: A run does not exist, or its name is ambiguous.
    """
    first, second = find_runs(results, names)
    diff = diff_runs(first, second)
    if as_json:
        print_json(_as_json(first, second, diff))
        return
    console = console_of_stdout()
    for name, row in (("A", first), ("B", second)):
        console.print(f"{name}: {row['sweep']}/{row['run_id']} ({row['arm']}), {row['status']}", soft_wrap=True)
    if diff.only_times:
        console.print("nothing differs but times" if diff.times else "nothing differs")
        return
    for section, differences in diff.sections.items():
        if differences:
            console.print()
            _print_section(console, section, differences)
    if diff.only_measured:
        text = "configuration, seed, data and plugins are equal: the metrics differ because of the code or the machine"
        console.print(f"\n{text}", soft_wrap=True)


def _print_section(console: Console, section: str, differences: Mapping[str, Difference]) -> None:
    """Print a table of one section. Only metrics have a difference; those of a single run are only listed."""
    if section != "metrics":
        headings = [section, "A", "B"]
        rows = [[printable(name), _value(name, d.first), _value(name, d.second)] for name, d in differences.items()]
        print_whole(console, TextTable(headings, rows, headings))
        return
    both = {name: d for name, d in differences.items() if d.first is not None and d.second is not None}
    if both:
        headings = ["metrics", "A", "B", "B - A", "relative"]
        rows = [
            [printable(name), _value(name, d.first), _value(name, d.second), _signed(d.absolute), _percent(d.relative)]
            for name, d in both.items()
        ]
        print_whole(console, TextTable(headings, rows, ("metrics",)))
    for run, names in (
        ("A", [name for name, d in differences.items() if d.second is None]),
        ("B", [name for name, d in differences.items() if d.first is None]),
    ):
        if names:
            console.print(f"only {run} has a value of {', '.join(names)}", soft_wrap=True)


def _value(name: str, value: Any) -> str:
    """Return a value on one line; "-" for None."""
    if value is None:
        return "-"
    if value == []:
        return "none"
    if name in HASHES or (isinstance(value, str) and len(value) == 64):
        return printable(str(value))[:12]
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} values"
    items = value if isinstance(value, list) else [value]
    text = " ".join(", ".join(format_value(item, 6) for item in items).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"


def _percent(value: float | None) -> str:
    """Return a relative difference; one that is too large to mean anything is not printed in full."""
    if value is None:
        return ""
    if abs(value) > 10:
        return "> 1000%" if value > 0 else "< -1000%"
    return f"{value:+.2%}"


def _as_json(first: Row, second: Row, diff: RunDiff) -> dict[str, Any]:
    keys = ("sweep", "arm", "run_id", "status")
    sections = {name: _pairs(section) for name, section in {**diff.sections, "times": diff.times}.items()}
    sections["metrics"] = {
        name: {"values": [d.first, d.second], "difference": d.absolute, "relative": d.relative}
        for name, d in diff.metrics.items()
    }
    runs = [{key: row[key] for key in keys} for row in (first, second)]
    return {"runs": runs, "only_times": diff.only_times, **sections}


def _pairs(section: Mapping[str, Difference]) -> dict[str, Any]:
    return {name: [_plain(d.first), _plain(d.second)] for name, d in section.items()}


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
