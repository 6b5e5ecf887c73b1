"""Stored sweeps by name: `lagvae results list`, `lagvae results archive`, and a sweep file that is only stored."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lagvae_core.errors import ConfigError, StoreError, ValidationIssue
from sweeps.analysis import archive
from sweeps.analysis.front_points import with_points_from
from sweeps.cli.terminal import TextTable, console_of_stdout, print_json, print_whole
from sweeps.spec.sweep import SweepSpec, is_shipped, load_spec
from sweeps.storage.identifiers import SWEEP_NAME
from sweeps.storage.table import ResultsFolder, stored_sweeps

__all__ = ["archive_files", "load_sweep", "print_sweeps"]

SELECTIONS: dict[str, Callable[[ResultsFolder], list[str]]] = {
    "--orphans": archive.orphans,
    "--copies": archive.copies,
    "--unreadable": archive.unreadable,
}
"""What each option of `lagvae results archive` selects."""


def load_sweep(where: str, overrides: Mapping[str, Any], results: str, points_from: str | None = None) -> SweepSpec:
    """Load and validate a sweep file; see `load_spec`.

    Args:
        where: Path of the file, or name of a shipped sweep.
        overrides: Overridden values by dotted key.
        results: Folder or URI of the results.
        points_from: Stored sweep from whose front the arms take their first points (see `with_points_from`); None for
            none.

    Raises:
        ConfigError: The file cannot be read or is invalid, or `points_from` gives no points. If `where` is the name of
            a sweep that is stored in `results`, the hint says where its file is.
    """
    if SWEEP_NAME.fullmatch(where) and not Path(where).exists() and not is_shipped(where):
        folder = ResultsFolder(results, where)
        if folder.holds("spec.yaml"):
            message = "must be a sweep file or the name of a shipped sweep"
            hint = f"The file of the stored sweep {where} is {results.rstrip('/')}/{where}/spec.yaml."
            raise ConfigError([ValidationIssue("SPEC", message, hint, where)])
    spec = load_spec(where, overrides)
    return spec if points_from is None else with_points_from(spec, ResultsFolder(results, points_from))


def print_sweeps(results: str, *, as_json: bool) -> None:
    """Print the stored sweeps with the number of their runs by status and the time of the latest start or end.

    Args:
        results: Folder or URI of the results.
        as_json: Print a list of JSON objects instead of a table.
    """
    sweeps = []
    for name in stored_sweeps(results):
        try:
            rows = ResultsFolder(results, name).runs()
        except (StoreError, ConfigError) as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        statuses = dict(sorted(Counter(row["status"] for row in rows).items()))
        times = [row[column] for row in rows for column in ("started_at", "ended_at") if row[column] is not None]
        sweeps.append((name, statuses, max(times, default=None)))
    if as_json:
        keys = ("sweep", "statuses", "latest")
        print_json([dict(zip(keys, (n, s, t.isoformat() if t else None), strict=True)) for n, s, t in sweeps])
        return
    console = console_of_stdout()
    if not sweeps:
        console.print(f"no sweep is stored in {results}")
        return
    rows_of_table = [
        [
            name,
            str(sum(statuses.values())),
            ", ".join(f"{count} {status}" for status, count in statuses.items()),
            f"{latest:%Y-%m-%d %H:%M} UTC" if latest else "",
        ]
        for name, statuses, latest in sweeps
    ]
    table = TextTable(["sweep", "runs", "by status", "latest"], rows_of_table, ("sweep", "by status", "latest"))
    print_whole(console, table.rich())


def archive_files(folder: ResultsFolder, options: Sequence[str], *, as_json: bool) -> None:
    """Move files to the archive of a sweep, and print their names.

    Args:
        folder: The results of the sweep.
        options: What to move; keys of `SELECTIONS`.
        as_json: Print one JSON object instead of text.

    Raises:
        ConfigError: No option is given, or the stored sweep file is missing or invalid.
        LeaseHeldError: A driver runs the sweep.
        StoreError: A file cannot be moved.
    """
    if not options:
        message, hint = "must be given", "They can be combined. Nothing is deleted: files are moved to archive/."
        raise ConfigError([ValidationIssue(" or ".join(SELECTIONS), message, hint)])
    with folder.locked():
        files = list(dict.fromkeys(name for option in options for name in SELECTIONS[option](folder)))
        place = folder.archive(files) if files else None
    if as_json:
        print_json({"archive": place, "files": files})
        return
    console = console_of_stdout()
    if place is None:
        console.print("there is nothing to move")
        return
    for name in files:
        console.print(f"  {name}", soft_wrap=True)
    count = f"{len(files)} file{'s' if len(files) > 1 else ''}"
    console.print(f"{count} moved to {folder.root}/{folder.sweep}/{place}; to undo, move them back", soft_wrap=True)
