"""Finding the models that `lagvae evaluate` measures: those of stored runs, or a file of weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lagvae_core.config.trial import TrialConfig, complete_stored, parse_trial
from lagvae_core.errors import CheckpointError, ConfigError, ValidationIssue
from lagvae_core.studies.trained_model import configuration_of
from lagvae_core.training.checkpoint import CheckpointStore, FileCheckpoint
from sweeps.storage.folder import FolderFile, model_name
from sweeps.storage.identifiers import RUN_ID
from sweeps.storage.plugins import load_stored_plugins, plugins_of
from sweeps.storage.table import ResultsFolder, stored_sweeps

__all__ = ["EvaluationTarget", "find_targets"]

HOW_TO_KEEP = "Train the model again with `lagvae evaluate --retrain`. A sweep with `keep: models` stores its models."
HOW_TO_LIST = "`lagvae results show SWEEP` lists the configurations; a run id is CONFIG_ID-SEED."


@dataclass(frozen=True)
class EvaluationTarget:
    """A model to measure.

    Args:
        config: Configuration of the model.
        weights: Store of its weights.
        place: Path of the weights, for messages.
        folder: Results folder of a stored run; None for a file of weights without a run.
        row: Row of a stored run; None for a file of weights without a run.
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

    Models can be selected by run ids, by a sweep (all its finished runs), or by a file of weights without a run.

    Args:
        run_ids: Ids of stored runs.
        results: Path or URI of the results.
        sweep: Name of a sweep. With `run_ids`, only this sweep is searched.
        arm: Name of an arm of `sweep`. If given, only runs of this arm are selected.
        model: File of weights. If exactly one run is selected, the file replaces the stored weights of that run.
        retrain: Also select runs without stored weights.

    Raises:
        ConfigError: The selection is empty or contradictory, or contains unknown runs, unfinished runs or runs without
            stored weights.
        CheckpointError: The file of weights is damaged.
    """
    if model is not None and retrain:
        message = "must not be combined with --model"
        raise ConfigError([ValidationIssue("--retrain", message, "Omit --retrain or --model.")])
    if run_ids:
        return _targets_of_runs(run_ids, results, sweep, arm, model, retrain)
    if sweep is not None:
        return _targets_of_sweep(results, sweep, arm, model, retrain)
    if model is not None:
        return [_target_of_file(model)]
    raise ConfigError([ValidationIssue("RUN_ID", "must select a model", "Give run ids, --sweep or --model.")])


def _targets_of_runs(
    run_ids: Sequence[str], results: str, sweep: str | None, arm: str | None, model: Path | None, retrain: bool
) -> list[EvaluationTarget]:
    runs = _named_runs(run_ids, results, sweep)
    if arm is not None:
        hint = "Omit --arm, or give --sweep instead of run ids."
        raise ConfigError([ValidationIssue("--arm", "must not be combined with RUN_ID", hint, arm)])
    targets, unreadable = _targets_of(runs, model, retrain)
    if unreadable:
        raise ConfigError(unreadable)
    return targets


def _targets_of_sweep(
    results: str, sweep: str, arm: str | None, model: Path | None, retrain: bool
) -> list[EvaluationTarget]:
    """Return the targets for the finished runs of a sweep. If at least one is readable, warn about the others."""
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
    """Return the targets for the runs, and issues about runs that this version of lagvae cannot read.

    Raises:
        ConfigError: A run has not finished or has no stored weights, or `model` is given for several runs.
    """
    if model is not None and len(runs) > 1:
        message, hint = "must be given with exactly one run, because the file holds one model", "Give a single RUN_ID."
        raise ConfigError([ValidationIssue("--model", message, hint, str(model))])
    if model is None and not retrain and len(runs) > 1 and not any(run.has_model for run in runs):
        message = f"must select runs with a stored model, but none of the {len(runs)} runs has one"
        raise ConfigError([ValidationIssue("RUN_ID", message, HOW_TO_KEEP)])
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
            issues.append(ValidationIssue("RUN_ID", "must be a run with a stored model", HOW_TO_KEEP, run.run_id))
        else:
            load_stored_plugins(run.folder, plugins_of(run.row))
            try:
                config = parse_trial(complete_stored(json.loads(run.row["config"])))
            except ConfigError as error:
                reason = str(error.issues[0]).rstrip(".")
                message = f"must be a run with a configuration that this version of lagvae can read ({reason})"
                hint = "Choose other runs, or use the version of lagvae that trained this run."
                unreadable.append(ValidationIssue("RUN_ID", message, hint, run.run_id))
                continue
            place = str(model or f"{run.folder.results}/{run.folder.sweep}/{model_name(run.run_id)}")
            targets.append(EvaluationTarget(config, weights, place, run.folder, run.row))
    if issues:
        raise ConfigError([*issues, *unreadable])
    return targets, unreadable


def _weights_file(model: Path) -> FileCheckpoint:
    """Return the file of weights; raise a ConfigError if it cannot be read."""
    try:
        with open(model, "rb"):
            return FileCheckpoint(model)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message, hint = f"must be a readable file ({reason})", "`lagvae trial --keep FILE` writes such a file."
        raise ConfigError([ValidationIssue("--model", message, hint, str(model))]) from None


def _named_runs(run_ids: Sequence[str], results: str, sweep: str | None) -> list[_StoredRun]:
    """Return the runs with these ids. If several sweeps contain a run, prefer a sweep that stores its model."""
    malformed = [run_id for run_id in run_ids if not RUN_ID.fullmatch(run_id)]
    issues = [ValidationIssue("RUN_ID", "must be a run id", HOW_TO_LIST, run_id) for run_id in malformed]
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
            issues.append(ValidationIssue("RUN_ID", f"must be a run that is stored in {where}", HOW_TO_LIST, run_id))
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
        message = "must name a sweep with finished runs" + (f" of arm {arm}" if arm is not None else "")
        raise ConfigError([ValidationIssue("--sweep", message, "Run the sweep first.", sweep)])
    return [_StoredRun(folder, row) for row in finished]
