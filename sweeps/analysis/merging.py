"""Merging the results of a sweep from another place into those of the same sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.studies import STUDIES
from sweeps.analysis.stored import current_plan, stored_spec
from sweeps.formatting import format_count
from sweeps.storage.compaction import files_of_runs
from sweeps.storage.folder import checkpoint_name
from sweeps.storage.plugins import HASH_NAME
from sweeps.storage.schema import CURVES_SCHEMA, ENDED, runs_schema
from sweeps.storage.table import ResultsFolder

__all__ = ["Merge", "merge_results", "plan_merge"]

Row = Mapping[str, Any]

SHOWN = 10
"""Maximum number of runs that a message lists."""


@dataclass(frozen=True)
class Merge:
    """What a merge does with the runs of the other place.

    Args:
        new: Runs that have no row yet.
        replaced: Runs that have ended at the other place and have an unfinished row here.
        kept: Runs whose row here stays: it is equal, or it has ended and the other one has not, or neither has ended.
    """

    new: Collection[str]
    replaced: Collection[str]
    kept: Collection[str]

    @property
    def taken(self) -> set[str]:
        """Runs whose row comes from the other place."""
        return {*self.new, *self.replaced}


def plan_merge(source: ResultsFolder, target: ResultsFolder) -> Merge:
    """Compare two folders of a sweep. Nothing is written.

    Args:
        source: Results of the sweep at the other place.
        target: Results into which they are merged.

    Raises:
        ConfigError: The names of the sweeps differ, a stored sweep file is missing or invalid, a run has ended in both
            places with different rows, or a run of the sweep at the other place would not belong to the sweep here.
    """
    if source.sweep != target.sweep:
        message = f"must be a folder of the sweep {target.sweep}"
        raise ConfigError(
            [ValidationIssue("FROM", message, "Only results of the same sweep are merged.", source.sweep)]
        )
    theirs, ours = ({row["run_id"]: row for row in folder.runs()} for folder in (source, target))
    new = [run_id for run_id in theirs if run_id not in ours]
    replaced, kept, conflicts = [], [], []
    for run_id in theirs.keys() & ours.keys():
        ended_there, ended_here = (rows[run_id]["status"] in ENDED for rows in (theirs, ours))
        if ended_there and not ended_here:
            replaced.append(run_id)
        elif ended_there and theirs[run_id] != ours[run_id]:
            conflicts.append(run_id)
        else:
            kept.append(run_id)
    merge = Merge(new, replaced, kept)
    if conflicts:
        message = "must have no run that has ended here with a different row"
        hint = f"Move the row that is not to count out of its folder, here or there: {_listed(conflicts)}."
        raise ConfigError([ValidationIssue("FROM", message, hint, format_count(len(conflicts), "run"))])
    merged = ours | {run_id: theirs[run_id] for run_id in merge.taken}
    planned = current_plan(stored_spec(source), list(theirs.values())).rows
    if strange := planned.keys() - current_plan(stored_spec(target), list(merged.values())).rows.keys():
        message = f"must hold the same sweep as {target.root}/{target.sweep}, so that all its runs belong to that one"
        hint = (
            "Sweep files, data, seeds and the configurations of each arm must agree. Adaptive samplers choose other "
            f"configurations in each place. The runs are {_listed(strange)}."
        )
        raise ConfigError([ValidationIssue("FROM", message, hint, format_count(len(strange), "run"))])
    return merge


def merge_results(source: ResultsFolder, target: ResultsFolder, merge: Merge) -> int:
    """Copy rows, curves, checkpoints, models, evaluations and plugins. An interrupted merge can be repeated.

    Args:
        source: Results of the sweep at the other place.
        target: Results into which they are merged, which this process must have locked.
        merge: What to do; see `plan_merge`.

    Returns:
        Number of written files.

    Raises:
        StoreError: A file cannot be read or written.
    """
    # The rows come last, so that a run with a row has all its other files.
    files = 0
    for name in (*_other_files(source, {*merge.taken, *merge.kept}), *map(checkpoint_name, merge.new)):
        content = None if target.holds(name) or source.unsafe(name) is not None else source.read(name)
        if content is not None:
            target.write(name, content)
            files += 1
    for part, schema in (("curves", CURVES_SCHEMA), ("runs", runs_schema())):
        for run_id, content in files_of_runs(source, part, schema, merge.taken):
            target.write(f"{part}/{run_id}.parquet", content)
            files += 1
    for run_id in merge.replaced:
        target.remove(checkpoint_name(run_id))
    return files


def _other_files(source: ResultsFolder, run_ids: Collection[str]) -> Iterator[str]:
    """Yield the names of plugins, and of files of some runs besides their rows and curves."""
    for name in source.files("plugins"):
        stored = name.rpartition("/")[2]
        if HASH_NAME.fullmatch(stored) and sha256(source.read(name) or b"").hexdigest() == stored.removesuffix(".py"):
            yield name
    parts = ["models"]
    for kind, study in STUDIES.items():
        parts += [f"evaluations/{kind}/{table}" for table in study.tables]
        parts.append(f"evaluations/{kind}")
    for part in parts:
        for name in source.files(part):
            if name.rpartition("/")[2].rpartition(".")[0] in run_ids:
                yield name


def _listed(run_ids: Collection[str]) -> str:
    listed = sorted(run_ids)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
