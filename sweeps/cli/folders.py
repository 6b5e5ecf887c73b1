"""Stored sweeps: `lagvae results list`, `archive`, `compact` and `merge`, and a sweep file that is only stored."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from lagvae_core.errors import ConfigError, StoreError, ValidationIssue
from sweeps.analysis import archive
from sweeps.analysis.front_points import with_points_from
from sweeps.analysis.merging import merge_results, plan_merge
from sweeps.cli.terminal import TextTable, console_of_stdout, print_json, print_whole
from sweeps.formatting import format_count
from sweeps.spec.sweep import SweepSpec, is_shipped, load_spec
from sweeps.storage import compaction
from sweeps.storage.identifiers import SWEEP_NAME
from sweeps.storage.table import ResultsFolder, find_sweep, stored_sweeps

__all__ = ["archive_files", "compact_tables", "load_sweep", "merge_folders", "print_sweeps"]

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
            rows = ResultsFolder(results, name).run_table(only=["started_at", "ended_at"])
        except (StoreError, ConfigError) as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        statuses = dict(sorted(Counter(rows.values("status")).items()))
        times = (pc.max(rows.column(column)).as_py() for column in ("started_at", "ended_at"))
        sweeps.append((name, statuses, max(filter(None, times), default=None)))
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
    print_whole(console, table)


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
        if "--orphans" in options:
            compaction.split(folder, archive.orphan_runs(folder))
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


def compact_tables(folder: ResultsFolder, *, as_json: bool) -> None:
    """Move the rows of ended runs into few files, and print the numbers of files.

    Args:
        folder: The results of the sweep.
        as_json: Print one JSON object instead of text.

    Raises:
        LeaseHeldError: A driver runs the sweep.
        StoreError: A file cannot be read, written or removed. Running the command again completes it.
    """
    with folder.locked() as guard:
        parts = compaction.compact(replace(folder, guard=guard))
    if as_json:
        print_json({part.part: asdict(part) for part in parts})
        return
    console = console_of_stdout()
    for part in parts:
        changed = f"{format_count(part.before, 'file')} before, {format_count(part.after, 'file')} after"
        text = changed if part.before != part.after else f"nothing to compact in {format_count(part.after, 'file')}"
        console.print(f"{part.part}: {text}", soft_wrap=True)
        if part.unknown:
            count = format_count(len(part.unknown), "file")
            text = f"{count} with columns that are not known, such as those of a plugin that --plugin does not give"
            console.print(f"{part.part}: {text}: {', '.join(part.unknown[:3])}", soft_wrap=True)


def merge_folders(where: str, folder: ResultsFolder, *, as_json: bool) -> None:
    """Merge the results of a sweep from another place, and print the numbers of runs.

    Args:
        where: Folder of the sweep at the other place, as a path or URI. It is only read.
        folder: The results of the sweep, into which they are merged.
        as_json: Print one JSON object instead of text.

    Raises:
        ConfigError: The other folder is not one of this sweep, or a run has ended in both with different rows.
        LeaseHeldError: A driver runs the sweep.
        StoreError: A file cannot be read or written. Running the command again completes the merge.
    """
    results, _, sweep = where.rstrip("/").rpartition("/")
    source = find_sweep(results or ("/" if where.startswith("/") else "."), sweep)
    with folder.locked() as guard:
        merge = plan_merge(source, folder)
        files = merge_results(source, replace(folder, guard=guard), merge)
    if as_json:
        print_json({name: sorted(run_ids) for name, run_ids in asdict(merge).items()} | {"files": files})
        return
    new, replaced, kept = (len(run_ids) for run_ids in (merge.new, merge.replaced, merge.kept))
    text = f"{format_count(new, 'run')} added, {format_count(replaced, 'unfinished row')} replaced by ended ones"
    text += f", {format_count(kept, 'row')} kept; {format_count(files, 'file')} written"
    console_of_stdout().print(text, soft_wrap=True)
