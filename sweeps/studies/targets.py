"""Which models `lagvae evaluate` is asked about: stored runs with their kept weights, or a file of weights alone."""

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
HOW_TO_KEEP = "Train it again with `lagvae evaluate --retrain`; a sweep keeps its models under `keep: models`."


@dataclass(frozen=True)
class EvaluationTarget:
    """A model to be measured: its configuration, weights, their `place`, and, of a stored run, row and folder."""

    config: TrialConfig
    weights: CheckpointStore
    place: str
    folder: ResultsFolder | None = None
    row: Mapping[str, Any] | None = None


def find_targets(
    run_ids: Sequence[str],
    *,
    results: str,
    sweep: str | None,
    arm: str | None,
    model: Path | None,
    retrain: bool,
) -> list[EvaluationTarget]:
    """The models that the command line names.

    Raises:
        ConfigError: with every mistake: unknown runs, runs that did not finish, models that were not kept.
        CheckpointError: the file of weights is damaged.
    """
    if model is not None and retrain:
        raise ConfigError(
            [ValidationIssue("--retrain", "must be left out with --model", "Give one of the two.", str(model))]
        )
    if model is not None and not run_ids and sweep is None:
        return [_target_of_file(model)]
    rows = _named_rows(run_ids, results, sweep) if run_ids else _rows_of_sweep(results, sweep, arm)
    if arm is not None and (sweep is None or run_ids):
        raise ConfigError(
            [ValidationIssue("--arm", "must stand beside --sweep alone", "It chooses among a sweep's runs.", arm)]
        )
    if model is not None and len(rows) > 1:
        raise ConfigError(
            [ValidationIssue("--model", "must be the weights of one run", "Name one RUN_ID.", str(model))]
        )
    issues: list[ValidationIssue] = []
    unreadable: list[ValidationIssue] = []
    found = []
    for folder, row in rows:
        weights = _weights(model) if model is not None else FolderFile(folder, model_name(row["run_id"]))
        if row["status"] != "finished":
            message = "must be a finished run, for only these have a model"
            issues.append(
                ValidationIssue(row["run_id"], message, "Run its sweep again, or choose another.", row["status"])
            )
        elif model is None and not retrain and not folder.holds(model_name(row["run_id"])):
            issues.append(ValidationIssue("RUN_ID", "must be a run whose model is kept", HOW_TO_KEEP, row["run_id"]))
        else:
            place = str(model or f"{folder.results}/{folder.sweep}/{model_name(row['run_id'])}")
            try:
                found.append(EvaluationTarget(parse_trial(json.loads(row["config"])), weights, place, folder, row))
            except ConfigError as error:
                message = f"must be a run of this version of lagvae, and in its configuration {error.issues[0]}"
                unreadable.append(
                    ValidationIssue("RUN_ID", message.rstrip("."), "Name others, or use that version.", row["run_id"])
                )
    if found and not run_ids:
        for issue in unreadable:
            warnings.warn(f"passed over: {issue}", stacklevel=2)
        unreadable = []
    if issues or unreadable:
        raise ConfigError([*issues, *unreadable])
    return found


def _target_of_file(model: Path) -> EvaluationTarget:
    weights = _weights(model)
    content = weights.load()
    assert content is not None
    try:
        return EvaluationTarget(configuration_of(content), weights, str(model))
    except CheckpointError as error:
        raise CheckpointError(f"{model}: {error}") from None


def _weights(model: Path) -> FileCheckpoint:
    """The file of weights; ConfigError if it cannot be read."""
    try:
        with open(model, "rb"):
            return FileCheckpoint(model)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"must be a file of weights that can be read ({reason})"
        hint = "`lagvae trial --keep FILE` writes one."
        raise ConfigError([ValidationIssue("--model", message, hint, str(model))]) from None


Named = tuple[ResultsFolder, Mapping[str, Any]]


def _named_rows(run_ids: Sequence[str], results: str, sweep: str | None) -> list[Named]:
    """Each run's row and folder; of a run in several sweeps, that whose model is kept."""
    wrong = [run_id for run_id in run_ids if not RUN_ID.fullmatch(run_id)]
    issues: list[ValidationIssue] = [
        ValidationIssue("RUN_ID", "must be CONFIG_ID-SEED", "`lagvae results show SWEEP` lists configurations.", run_id)
        for run_id in wrong
    ]
    found: dict[str, Named] = {}
    for name in [sweep] if sweep is not None else stored_sweeps(results):
        folder = ResultsFolder(results, name)
        for row in folder.runs():
            run_id = row["run_id"]
            if run_id in run_ids and (run_id not in found or folder.holds(model_name(run_id))):
                found[run_id] = (folder, row)
    where = f"sweep {sweep} in {results}" if sweep is not None else results
    for run_id in run_ids:
        if run_id not in found and run_id not in wrong:
            hint = "`lagvae results show SWEEP` lists configurations; a run is CONFIG_ID-SEED."
            issues.append(ValidationIssue("RUN_ID", f"must be a run stored in {where}", hint, run_id))
    if issues:
        raise ConfigError(issues)
    return [found[run_id] for run_id in dict.fromkeys(run_ids)]


def _rows_of_sweep(results: str, sweep: str | None, arm: str | None) -> list[Named]:
    """Every finished run of the sweep, or of one of its arms."""
    if sweep is None:
        hint = "Name runs, a --sweep, or a --model file."
        raise ConfigError([ValidationIssue("RUN_ID", "must say which models to measure", hint, "nothing")])
    folder = ResultsFolder(results, sweep)
    rows = folder.runs()
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if arm is not None and arm not in arms:
        raise ConfigError([ValidationIssue("--arm", f"must be an arm of {sweep}", f"Stored: {', '.join(arms)}.", arm)])
    finished = [row for row in rows if row["status"] == "finished" and arm in (None, row["arm"])]
    if not finished:
        raise ConfigError([ValidationIssue("--sweep", "must have finished runs", "Run it first.", sweep)])
    return [(folder, row) for row in finished]
