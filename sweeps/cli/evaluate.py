"""`lagvae evaluate`: apply studies to trained models and store their findings next to the runs."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import CheckpointError, ConfigError, DataError, ValidationIssue
from lagvae_core.studies import Study
from lagvae_core.studies.trained_model import TrainedModel, restore
from sweeps.cli.outcomes import StudyResult, print_study_results
from sweeps.cli.terminal import ProgressLine, figure_errors, folder_issues, print_json
from sweeps.cli.trial import TrialProgress, changed_data, report_equality
from sweeps.formatting import format_count, printable
from sweeps.studies.syntax import parse_studies
from sweeps.studies.table import checked_values, write_evaluation
from sweeps.studies.targets import EvaluationTarget, find_targets

if TYPE_CHECKING:
    import torch

__all__ = ["EvaluationRequest", "run_studies", "studied"]


MAX_NAME = 100
"""Largest number of characters of the name of a run in the name of a file."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The arguments of `lagvae evaluate`; see `lagvae evaluate --help`."""

    run_ids: Sequence[str]
    what: str
    results: str
    sweep: str | None = None
    arm: str | None = None
    model: Path | None = None
    data: str | None = None
    device: str | None = None
    threads: int | None = None
    png: Path | None = None
    as_json: bool = False
    retrain: bool = False


def run_studies(request: EvaluationRequest) -> None:
    """Apply the studies to each model, and store and print the findings; see `studied`."""
    results = [result for _, result in studied(request)]
    if request.as_json:
        print_json([result.to_json() for result in results])
    else:
        print_study_results(results)


def studied(request: EvaluationRequest) -> list[tuple[TrialConfig, StudyResult]]:
    """Apply the studies to each model, store the findings, and return them with the configuration of the model.

    All checks are made before the first study runs, except the check for damaged weights.

    Raises:
        UserError: An argument is invalid, the data have changed, or a study does not apply to a model.
        CheckpointError: The weights of a model are damaged.
        StoreError: The results cannot be read or written.
    """
    from lagvae_core.runtime import choose_device

    device = choose_device("auto" if request.device is None else request.device)
    studies = parse_studies(request.what)
    targets = find_targets(
        request.run_ids,
        results=request.results,
        sweep=request.sweep,
        arm=request.arm,
        model=request.model,
        retrain=request.retrain,
    )
    targets = [_with_data_path(target, request.data) for target in targets]
    whole_sweep = request.sweep is not None and not request.run_ids and request.arm is None
    targets = _applicable(targets, studies, whole_sweep=whole_sweep)
    for folder in {target.folder for target in targets if target.folder is not None}:
        folder.prove_writable("evaluations")
    if request.png is not None and (issues := folder_issues("--png", request.png)):
        raise ConfigError(issues)
    with ProgressLine() as line:
        names = _names_of_runs(targets)
        return [
            (target.config, result)
            for target, name in zip(targets, names, strict=True)
            for result in _results(target, name, studies, request, device, line)
        ]


# --- checks before the first study ----------------------------------------------------------------------------------


def _with_data_path(target: EvaluationTarget, data: str | None) -> EvaluationTarget:
    """Return the target with the path of its data replaced, unless `data` is None."""
    if data is None:
        return target
    values = target.config.model_dump(mode="json")
    if "path" not in values["data"]:
        message = f"must not be given for {values['data']['kind']} data, which have no path"
        raise ConfigError([ValidationIssue("--data", message, "Leave out --data.", data)])
    values["data"]["path"] = data
    return replace(target, config=TrialConfig.model_validate(values))


def _applicable(
    targets: Sequence[EvaluationTarget], studies: Sequence[Study], *, whole_sweep: bool
) -> list[EvaluationTarget]:
    """Return the targets to which every study applies, after checking that the data have not changed.

    Args:
        targets: The selected models.
        studies: The studies.
        whole_sweep: Leave out models to which a study does not apply, as long as some are left, and print which. A
            sweep often has an arm without a latent variable.

    Raises:
        ConfigError: A study does not support a kind of data.
        DataError: The data of a run have changed, or a study does not apply to a model.
    """
    config_by_kind = {target.config.data.kind: target.config for target in targets}
    unsupported = [
        issue for study in studies for config in config_by_kind.values() for issue in study.unsupported_data(config)
    ]
    if unsupported:
        raise ConfigError(unsupported)
    changed, applicable, left_out = [], [], []
    for target in targets:
        dataset = _load_dataset(target)
        hint = "The files have changed since the run. Give the path of the original files with --data."
        if target.row is not None and (issue := changed_data(target.row, dataset.fingerprint, hint)):
            changed.append(issue)
        elif issues := [issue for study in studies for issue in study.issues(target.config, dataset)]:
            left_out.append((target, issues))
        else:
            applicable.append(target)
    if changed or (left_out and not (whole_sweep and applicable)):
        issues = [*changed, *(issue for _, of_target in left_out for issue in of_target)]
        raise DataError(list({str(issue): issue for issue in issues}.values()))
    runs = Counter((target.row["arm"] if target.row is not None else "", str(issues[0])) for target, issues in left_out)
    for (arm, reason), count in runs.items():
        print(printable(f"{arm}: {format_count(count, 'run')} left out. {reason}"), file=sys.stderr)
    return applicable


def _load_dataset(target: EvaluationTarget) -> Dataset:
    """Return the data of `target`, loaded once for all targets that use the same data."""
    from sweeps.execution.datasets import load_trial_data

    dataset: Dataset = load_trial_data(target.config.data.model_dump_json())
    return dataset.under(target.row["data_fingerprint"]) if target.row is not None else dataset


# --- studies --------------------------------------------------------------------------------------------------------


def _names_of_runs(targets: Sequence[EvaluationTarget]) -> list[str]:
    """Return a name for each run: arm, configuration and seed; for a model without a stored run, the name of its file.

    Runs of earlier versions of a sweep can have the same name. Then their ids are added.
    """
    names = [
        Path(target.place).stem
        if (row := target.row) is None
        else f"{row['arm']}-config{row['configuration']}-seed{row['seed']}"
        for target in targets
    ]
    return [
        f"{name}-{target.row['config_id']}" if target.row is not None and names.count(name) > 1 else name
        for name, target in zip(names, targets, strict=True)
    ]


def _results(
    target: EvaluationTarget,
    name: str,
    studies: Sequence[Study],
    request: EvaluationRequest,
    device: torch.device,
    line: ProgressLine,
) -> Iterator[StudyResult]:
    """Apply the studies to one model. Yield each result after storing it; without a stored run, nothing is stored."""
    with _threads(request.threads, target):
        trained = _restore(target, device, request.retrain, line)
        arm = target.row["arm"] if target.row is not None else None
        for study in studies:
            started = time.monotonic()
            line.print(f"run {trained.run_id}{f' ({arm})' if arm else ''}: {study.name()}")
            findings = study.measure(trained, line.advance)
            checked_values(study, findings)
            seconds = time.monotonic() - started
            files: list[str] = []
            if target.folder is not None and target.row is not None:
                folder = target.folder
                names = write_evaluation(folder, target.row, study, findings, seconds=seconds, device=str(device))
                files = [f"{folder.results}/{folder.sweep}/{name}" for name in names]
                line.print(f"stored in {files[0]}")
            result = StudyResult(trained.run_id, arm, study, findings, seconds, files)
            if request.png is not None:
                _draw(result, name, request.png, line)
            yield result


@contextmanager
def _threads(requested: int | None, target: EvaluationTarget) -> Iterator[None]:
    """Context manager. Sets the threads of torch and scikit-learn: as requested, as in the stored run, or a default."""
    from threadpoolctl import threadpool_limits

    from lagvae_core.runtime import default_threads, torch_threads

    stored = target.row["threads"] if target.row is not None else None
    threads = requested or stored or default_threads(target.config.model.small)
    with threadpool_limits(threads), torch_threads(threads):
        yield


def _restore(target: EvaluationTarget, device: torch.device, retrain: bool, line: ProgressLine) -> TrainedModel:
    """Restore the model from its weights. With `retrain`, train it again if the weights are missing or damaged."""
    dataset = _load_dataset(target)
    content = target.weights.load()
    try:
        if content is not None:
            return restore(content, target.config, dataset, device)
    except CheckpointError as error:
        if not retrain:
            raise CheckpointError(f"{target.place}: {error}") from None
        line.print(f"{target.place}: {error}")
    assert retrain, "without --retrain, find_targets must reject a run without a stored model"
    _retrain(target, dataset, device, line)
    content = target.weights.load()
    assert content is not None, "a finished trial must have stored its model"
    return restore(content, target.config, dataset, device)


def _retrain(target: EvaluationTarget, dataset: Dataset, device: torch.device, line: ProgressLine) -> None:
    """Train a stored run again, keep its model, and print whether its metrics equal the stored ones."""
    import torch

    from lagvae_core import train

    assert target.row is not None
    with TrialProgress(target.config) as progress:
        line.print(f"run {target.row['run_id']}: training the model again")
        record = train(
            target.config,
            report=progress.on_epoch,
            progress=progress.on_progress,
            model_store=target.weights,
            device=device,
            threads=torch.get_num_threads(),
            dataset=dataset,
        )
    if record.status != "finished":
        message = f"must finish again, as the original run did ({record.stop_reason})"
        hint = "Pass the device of the original run with --device."
        raise ConfigError([ValidationIssue(target.row["run_id"], message, hint, record.status)])
    report_equality(record, target.row)


def _draw(result: StudyResult, name: str, folder: Path, line: ProgressLine) -> None:
    from sweeps.plots.studies import draw_study

    kind = result.study.name()
    # The name of an arm comes from a table, and may contain anything.
    file = re.sub(r"[^\w.+-]", "_", name)[:MAX_NAME]
    path = folder / f"{file}-{kind}.png"
    with figure_errors(path):
        if draw_study(kind, result.findings, path, title=f"{name}, run {result.run_id}"):
            line.print(f"figure: {path}")
