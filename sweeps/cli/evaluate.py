"""`lagvae evaluate`: studies of trained models, whose findings lie beside the runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import CheckpointError, ConfigError, DataError, ValidationIssue
from lagvae_core.studies import Findings, Study
from lagvae_core.studies.trained_model import TrainedModel, restore
from sweeps.cli.outcomes import StudyResult, print_study_results
from sweeps.cli.terminal import ProgressLine
from sweeps.studies.syntax import parse_studies
from sweeps.studies.table import checked_values, write_evaluation
from sweeps.studies.targets import EvaluationTarget, find_targets

if TYPE_CHECKING:
    import torch

__all__ = ["EvaluationRequest", "run_studies"]


@dataclass(frozen=True)
class EvaluationRequest:
    """What the command line asks for; see `lagvae evaluate --help`."""

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
    """Restore each model, measure it by each study, store and print what was found.

    All but damaged weights is refused before anything is measured.
    """
    from lagvae_core.runtime import choose_device

    studies = parse_studies(request.what)
    targets = find_targets(
        request.run_ids,
        results=request.results,
        sweep=request.sweep,
        arm=request.arm,
        model=request.model,
        retrain=request.retrain,
    )
    targets = [_moved(target, request.data) for target in targets]
    _check(targets, studies)
    device = choose_device(request.device or "auto")
    for folder in {target.folder for target in targets if target.folder is not None}:
        folder.prove_writable("evaluations")
    if request.png is not None:
        _make_folder(request.png)
    with ProgressLine() as line:
        outcomes = [outcome for target in targets for outcome in _measured(target, studies, request, device, line)]
    if request.as_json:
        print(json.dumps([outcome.to_json() for outcome in outcomes], allow_nan=False))
    else:
        print_study_results(outcomes)


def _moved(target: EvaluationTarget, data: str | None) -> EvaluationTarget:
    """The target with its data at the path `data`."""
    if data is None:
        return target
    values = target.config.model_dump(mode="json")
    if "path" not in values["data"]:
        message = f"must be left out for {values['data']['kind']} data, which have no path"
        raise ConfigError([ValidationIssue("--data", message, value=data)])
    values["data"]["path"] = data
    return replace(target, config=TrialConfig.model_validate(values))


def _check(targets: Sequence[EvaluationTarget], studies: Sequence[Study]) -> None:
    """Refuse what cannot be measured: studies of other kinds of data, changed data, data that a study cannot use."""
    issues: list[ValidationIssue] = []
    kinds = {target.config.data.kind for target in targets}
    for study in studies:
        strange = kinds - study.data_kinds
        if strange:
            message = f"must be studies of {' and '.join(sorted(strange))} data"
            hint = f"{study.name()} is of {', '.join(sorted(study.data_kinds))}; see `lagvae studies`."
            issues.append(ValidationIssue("--what", message, hint, study.name()))
    if issues:
        raise ConfigError(issues)
    for target in targets:
        dataset = load_dataset(target.config)
        if target.row is not None and dataset.fingerprint != target.row["data_fingerprint"]:
            run_id, fingerprint = target.row["run_id"], target.row["data_fingerprint"][:12]
            message = f"must be the data that run {run_id} was trained on (fingerprint {fingerprint})"
            hint = "The files have changed since; give the old ones with --data."
            issues.append(ValidationIssue("the data", message, hint, dataset.fingerprint[:12]))
            continue
        issues += [issue for study in studies for issue in study.issues(target.config, dataset)]
    if issues:
        raise DataError(list({str(issue): issue for issue in issues}.values()))


def load_dataset(config: TrialConfig) -> Dataset:
    """The data of `config`, loaded once for all its runs."""
    from sweeps.execution.datasets import load_trial_data

    dataset: Dataset = load_trial_data(config.data.model_dump_json())
    return dataset


def _make_folder(png: Path) -> None:
    try:
        png.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"must be a folder that can be written to ({error.strerror})"
        raise ConfigError([ValidationIssue("--png", message, "Choose another.", str(png))]) from None


@contextmanager
def _threads(wished: int | None, target: EvaluationTarget) -> Iterator[None]:
    """Torch and the linear algebra behind scikit-learn on as many cores as were asked for, or the run had."""
    from threadpoolctl import threadpool_limits

    from lagvae_core.runtime import use_threads
    from sweeps.cli.trial import usual_threads

    stored = target.row["threads"] if target.row is not None else None
    threads = wished or stored or usual_threads(target.config)
    use_threads(threads)
    with threadpool_limits(threads):
        yield


def _measured(
    target: EvaluationTarget,
    studies: Sequence[Study],
    request: EvaluationRequest,
    device: torch.device,
    line: ProgressLine,
) -> Iterator[StudyResult]:
    """What each study found of one model, stored as soon as it is found."""
    with _threads(request.threads, target):
        trained = _restored(target, device, request.retrain, line)
        arm = target.row["arm"] if target.row is not None else None
        for study in studies:
            started = time.monotonic()
            line.say(f"run {trained.run_id}{f' ({arm})' if arm else ''}: {study.name()}")
            findings = study.measure(trained, line.advance)
            checked_values(study, findings)
            seconds = time.monotonic() - started
            files: list[str] = []
            if target.folder is not None and target.row is not None:
                folder = target.folder
                names = write_evaluation(folder, target.row, study, findings, seconds=seconds, device=str(device))
                files = [f"{folder.results}/{folder.sweep}/{name}" for name in names]
                line.say(f"stored in {files[0]}")
            if request.png is not None:
                _draw(study, findings, request.png / f"{trained.run_id}-{study.name()}.png", trained.run_id, line)
            yield StudyResult(trained.run_id, arm, study, findings, seconds, files)


def _restored(target: EvaluationTarget, device: torch.device, retrain: bool, line: ProgressLine) -> TrainedModel:
    """The model of its kept weights; with `retrain` of fresh ones, where the kept are absent or no good."""
    dataset = load_dataset(target.config)
    content = target.weights.load()
    try:
        if content is not None:
            return restore(content, target.config, dataset, device)
    except CheckpointError as error:
        if not retrain:
            raise CheckpointError(f"{target.place}: {error}") from None
        line.say(f"{target.place}: {error}")
    assert retrain, "an absent model is refused before"
    _train_again(target, dataset, device, line)
    content = target.weights.load()
    assert content is not None, "what finished has left its model"
    return restore(content, target.config, dataset, device)


def _train_again(target: EvaluationTarget, dataset: Dataset, device: torch.device, line: ProgressLine) -> None:
    """Train a stored run anew and keep its model; says whether it gave the stored numbers."""
    from lagvae_core import train
    from sweeps.cli.trial import Watcher, compare_with_stored

    assert target.row is not None
    with Watcher(target.config) as watcher:
        line.say(f"run {target.row['run_id']}: it is trained again")
        record = train(
            target.config,
            report=watcher.epoch,
            progress=watcher.progress,
            model_store=target.weights,
            device=device,
            dataset=dataset,
        )
    if record.status != "finished":
        message = f"must finish again, as it did when it was stored (now: {record.stop_reason})"
        raise ConfigError(
            [ValidationIssue(target.row["run_id"], message, "Train on the device it was trained on.", record.status)]
        )
    compare_with_stored(record, target.row)


def _draw(study: Study, findings: Findings, path: Path, title: str, line: ProgressLine) -> None:
    from sweeps.plots.studies import draw_study

    try:
        if draw_study(study.name(), findings, path, title=title):
            line.say(f"drawn in {path}")
    except OSError as error:
        message = f"must be a folder that can be written to ({error.strerror})"
        raise ConfigError([ValidationIssue("--png", message, "Choose another.", str(path.parent))]) from None
