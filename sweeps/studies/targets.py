"""Finding the models that `lagvae evaluate` measures: stored runs with their weights, or a file of weights."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.errors import CheckpointError, ConfigError, ValidationIssue
from lagvae_core.studies.trained_model import configuration_of
from lagvae_core.training.checkpoint import CheckpointStore, FileCheckpoint
from sweeps.storage.folder import FolderFile, model_name
from sweeps.storage.table import ResultsFolder, stored_sweeps

__all__ = ["RUN_ID", "EvaluationTarget", "find_targets"]

RUN_ID = re.compile(r"[0-9a-f]{12}-[0-9]{1,16}")
HOW_TO_KEEP = "Train the model again with `lagvae evaluate --retrain`. A sweep with `keep: models` stores its models."
HOW_TO_LIST = "`lagvae results show SWEEP` lists the configurations; a run id is CONFIG_ID-SEED."


@dataclass(frozen=True)
class EvaluationTarget:
    """A model to measure.

    Args:
        config: Configuration of the model.
        weights: Its weights.
        place: Path of the weights, for messages.
        folder: The sweep of a stored run; None for a file of weights alone.
        row: The row of a stored run; None for a file of weights alone.
    """

    config: TrialConfig
    weights: CheckpointStore
    place: str
    folder: ResultsFolder | None = None
    row: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _StoredRun:
    folder: ResultsFolder
    row: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        return str(self.row["run_id"])

    @property
    def has_model(self) -> bool:
        return self.folder.holds(model_name(self.run_id))


def find_targets(
    run_ids: Sequence[str],
    *,
    results: str,
    sweep: str | None,
    arm: str | None,
    model: Path | None,
    retrain: bool,
) -> list[EvaluationTarget]:
    """Return the models that the command line selects.

    Models can be selected by run ids, by a sweep (all its finished runs), or by a file of weights alone.

    Args:
        run_ids: Ids of stored runs.
        results: Path or URI of the results.
        sweep: Name of a sweep. With `run_ids`, only this sweep is searched.
        arm: Name of an arm of `sweep`. If given, only runs of this arm are selected.
        model: File of weights. If exactly one run is selected, the file replaces the stored weights of that run.
        retrain: Also select runs without stored weights.

    Raises:
        ConfigError: The selection is empty, contradictory or contains unknown runs, unfinished runs or runs without
            stored weights.
        CheckpointError: The file of weights is damaged.
    """
    if model is not None and retrain:
        message = "cannot be combined with --model"
        raise ConfigError([ValidationIssue("--retrain", message, "Leave out --retrain or --model.")])
    if run_ids:
        return _targets_of_runs(run_ids, results, sweep, arm, model, retrain)
    if sweep is not None:
        return _targets_of_sweep(results, sweep, arm, model, retrain)
    if model is not None:
        return [_target_of_file(model)]
    raise ConfigError([ValidationIssue("RUN_ID", "no model is selected", "Give run ids, --sweep or --model.")])


def _targets_of_runs(
    run_ids: Sequence[str], results: str, sweep: str | None, arm: str | None, model: Path | None, retrain: bool
) -> list[EvaluationTarget]:
    runs = _named_runs(run_ids, results, sweep)
    if arm is not None:
        hint = "--arm selects among the runs of a sweep that is given with --sweep."
        raise ConfigError([ValidationIssue("--arm", "cannot be combined with RUN_ID", hint, arm)])
    targets, unreadable = _targets_of(runs, model, retrain)
    if unreadable:
        raise ConfigError(unreadable)
    return targets


def _targets_of_sweep(
    results: str, sweep: str, arm: str | None, model: Path | None, retrain: bool
) -> list[EvaluationTarget]:
    """Return the finished runs of a sweep. Runs of another version of lagvae are skipped if other runs remain."""
    targets, unreadable = _targets_of(_finished_runs(results, sweep, arm), model, retrain)
    if not targets:
        raise ConfigError(unreadable)
    for issue in unreadable:
        warnings.warn(f"skipped: {issue}", stacklevel=3)
    return targets


def _target_of_file(model: Path) -> EvaluationTarget:
    weights = _weights_file(model)
    content = weights.load()
    assert content is not None
    try:
        return EvaluationTarget(configuration_of(content), weights, str(model))
    except CheckpointError as error:
        raise CheckpointError(f"{model}: {error}") from None


def _targets_of(
    runs: Sequence[_StoredRun], model: Path | None, retrain: bool
) -> tuple[list[EvaluationTarget], list[ValidationIssue]]:
    """Return the targets of the runs, and the issues of runs that this version of lagvae cannot read.

    Raises:
        ConfigError: A run has not finished or has no stored weights.
    """
    if model is not None and len(runs) > 1:
        message, hint = "must be given with exactly one run, because the file holds one model", "Give one RUN_ID."
        raise ConfigError([ValidationIssue("--model", message, hint, str(model))])
    issues: list[ValidationIssue] = []
    unreadable: list[ValidationIssue] = []
    targets = []
    for run in runs:
        stored = FolderFile(run.folder, model_name(run.run_id))
        weights: CheckpointStore = stored if model is None else _weights_file(model)
        if run.row["status"] != "finished":
            message = "must be a finished run, because only finished runs have a model"
            hint = "Run its sweep again, or choose another run."
            issues.append(ValidationIssue(run.run_id, message, hint, run.row["status"]))
        elif model is None and not retrain and not run.has_model:
            issues.append(ValidationIssue("RUN_ID", "the model of this run is not stored", HOW_TO_KEEP, run.run_id))
        else:
            try:
                config = parse_trial(json.loads(run.row["config"]))
            except ConfigError as error:
                message = f"this version of lagvae cannot read the run's configuration: {error.issues[0]}"
                hint = "Choose other runs, or use the version of lagvae that trained this run."
                unreadable.append(ValidationIssue("RUN_ID", message.rstrip("."), hint, run.run_id))
                continue
            place = str(model or f"{run.folder.results}/{run.folder.sweep}/{model_name(run.run_id)}")
            targets.append(EvaluationTarget(config, weights, place, run.folder, run.row))
    if issues:
        raise ConfigError([*issues, *unreadable])
    return targets, unreadable


def _weights_file(model: Path) -> FileCheckpoint:
    """Return the file of weights; ConfigError if it cannot be read."""
    try:
        with open(model, "rb"):
            return FileCheckpoint(model)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "`lagvae trial --keep FILE` writes such a file."
        raise ConfigError([ValidationIssue("--model", f"cannot be read ({reason})", hint, str(model))]) from None


def _named_runs(run_ids: Sequence[str], results: str, sweep: str | None) -> list[_StoredRun]:
    """Return the runs with these ids. If several sweeps contain a run, prefer one that has its model."""
    malformed = [run_id for run_id in run_ids if not RUN_ID.fullmatch(run_id)]
    issues = [ValidationIssue("RUN_ID", "must be CONFIG_ID-SEED", HOW_TO_LIST, run_id) for run_id in malformed]
    runs: dict[str, _StoredRun] = {}
    for name in [sweep] if sweep is not None else stored_sweeps(results):
        folder = ResultsFolder(results, name)
        for row in folder.runs():
            run = _StoredRun(folder, row)
            if run.run_id in run_ids and (run.run_id not in runs or run.has_model):
                runs[run.run_id] = run
    where = f"sweep {sweep} in {results}" if sweep is not None else results
    for run_id in run_ids:
        if run_id not in runs and run_id not in malformed:
            issues.append(ValidationIssue("RUN_ID", f"no such run is stored in {where}", HOW_TO_LIST, run_id))
    if issues:
        raise ConfigError(issues)
    return [runs[run_id] for run_id in dict.fromkeys(run_ids)]


def _finished_runs(results: str, sweep: str, arm: str | None) -> list[_StoredRun]:
    """Return the finished runs of a sweep, or only those of one arm."""
    folder = ResultsFolder(results, sweep)
    rows = folder.runs()
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if arm is not None and arm not in arms:
        message, hint = f"must be an arm of {sweep}", f"Stored arms: {', '.join(arms)}."
        raise ConfigError([ValidationIssue("--arm", message, hint, arm)])
    finished = [row for row in rows if row["status"] == "finished" and arm in (None, row["arm"])]
    if not finished:
        raise ConfigError([ValidationIssue("--sweep", "must name a sweep with finished runs", "Run it first.", sweep)])
    return [_StoredRun(folder, row) for row in finished]
