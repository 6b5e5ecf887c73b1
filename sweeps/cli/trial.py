"""`lagvae trial`: train one configuration on this machine, with a progress bar."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lagvae_core.config.trial import TrialConfig, complete_stored, data_warnings, parse_trial
from lagvae_core.data import Dataset, DataSource
from lagvae_core.errors import ConfigError, UserError, ValidationIssue, collect_issues
from lagvae_core.machine import available_cores
from lagvae_core.settings import EvaluationConfig
from lagvae_core.training.record import EpochRecord, Progress, TrialRecord
from sweeps.cli.terminal import ProgressLine, folder_issues, print_json
from sweeps.spec.arm_syntax import parse_arm_text

if TYPE_CHECKING:
    import torch

    from lagvae_core.studies.posterior_mean_recorder import PosteriorMeanRecorder
    from lagvae_core.training.callbacks import TrainingCallback
    from sweeps.cli.trial_watch import PosteriorMeanWriter, StepWatch

__all__ = ["TrialProgress", "TrialRequest", "changed_data", "report_equality", "run_trial"]

Row = Mapping[str, Any]

QUICK_IW_SAMPLES = 50
"""Default of `evaluation.iw_samples` for a trial without `--full`. With the default of a sweep, measurement takes most
of the time of a short trial."""


@dataclass(frozen=True)
class TrialRequest:
    """The arguments of `lagvae trial`; see `lagvae trial --help`."""

    config: str | None
    arm: str | None
    sets: Mapping[str, Any]
    from_run: str | None
    results: str
    as_json: bool
    threads: int | None
    device: str | None
    checkpoint: Path | None
    keep: Path | None
    watch: str | None
    out: Path | None
    full: bool


def run_trial(request: TrialRequest) -> int:
    """Train and evaluate one configuration, and print its record.

    Returns:
        The exit code: 0 if the trial finished, 1 if it diverged.

    Raises:
        UserError: The configuration or an option is invalid, or the data are invalid or have changed.
        CheckpointError: The checkpoint is damaged or belongs to a different trial.
        StoreError: The stored run of `--from` cannot be read.
    """
    stored = _stored_run(request.results, request.from_run) if request.from_run is not None else None
    checked = _checked_request(request, stored)
    config = checked.config
    dataset = config.data.load()
    if stored is not None:
        dataset = dataset.under(stored["data_fingerprint"])
    if stored is not None and not request.sets and request.arm is None:
        hint = "The files have changed since the run. Give the path of the original files with --set data.path=PATH."
        if issue := changed_data(stored, dataset.fingerprint, hint):
            raise ConfigError([issue])
    if checked.is_quick:
        default = EvaluationConfig().iw_samples
        print(
            f"evaluation.iw_samples = {QUICK_IW_SAMPLES} for a quick trial; use --full for the {default} of sweeps, "
            "or --set evaluation.iw_samples=K",
            file=sys.stderr,
        )
    stack = "+".join(strategy.kind for strategy in config.strategies) or "vae"
    writer = _posterior_mean_writer(checked.watch, request.out, config.run_id(dataset.fingerprint))
    record = _train(request, checked, dataset, stored, writer, stack)
    if stored is not None:
        report_equality(record, stored)
    if request.as_json:
        print_json(record.to_json())
    else:
        _print_record(record)
    if writer is not None:
        for file in writer.draw(f"{stack}, seed {config.seed}"):
            print(f"figure: {file}", file=sys.stderr)
    return 0 if record.status == "finished" else 1


# --- checks before training -----------------------------------------------------------------------------------------


def _stored_run(results: str, run_id: str) -> dict[str, Any]:
    """Return the row of a run from any sweep in `results`."""
    from sweeps.storage.plugins import load_stored_plugins, plugins_of
    from sweeps.storage.table import ResultsFolder, stored_sweeps

    for sweep in stored_sweeps(results):
        folder = ResultsFolder(results, sweep)
        for row in folder.runs():
            if row["run_id"] == run_id:
                load_stored_plugins(folder, plugins_of(row))
                return row
    hint = "A run id is CONFIG_ID-SEED; `lagvae results show SWEEP` lists the configurations."
    raise ConfigError([ValidationIssue("--from", f"must be a run that is stored in {results}", hint, run_id)])


@dataclass(frozen=True)
class _CheckedRequest:
    """What a valid request asks for."""

    config: TrialConfig
    is_quick: bool
    """Whether its measurement has the quick default."""
    device: torch.device
    watch: StepWatch | PosteriorMeanRecorder | None


def _checked_request(request: TrialRequest, stored: Row | None) -> _CheckedRequest:
    """Return what the request asks for, or raise a ConfigError that lists all issues about it."""
    from lagvae_core.runtime import choose_device

    issues = _option_issues(request)
    default_device = "cpu" if stored is not None and stored["device"] == "cpu" else "auto"
    with collect_issues(issues):
        device = choose_device(default_device if request.device is None else request.device)
    with collect_issues(issues):
        watch = _watcher(request.watch, request.out)
    try:
        config, is_quick = _read_config(request, stored)
    except UserError as error:
        raise ConfigError([*error.issues, *issues], error.source) from None
    # Folders are created only if everything else is valid.
    issues = issues or _folder_issues(request)
    if issues:
        raise ConfigError(issues)
    return _CheckedRequest(config, is_quick, device, watch)


def _output_files(request: TrialRequest) -> dict[str, Path]:
    """Return the files to write, keyed by the option that names them."""
    files = {"--checkpoint": request.checkpoint, "--keep": request.keep}
    return {option: file for option, file in files.items() if file is not None}


def _option_issues(request: TrialRequest) -> list[ValidationIssue]:
    files = _output_files(request)
    issues = [
        ValidationIssue(option, "must be a file, not a folder", "Add a file name to the path.", str(file))
        for option, file in files.items()
        if os.path.isdir(file)  # False for a folder that may not be entered
    ]
    if len(files) == 2 and len({file.resolve() for file in files.values()}) == 1:
        hint = "Choose another file."
        issues.append(ValidationIssue("--keep", "must differ from --checkpoint", hint, str(request.keep)))
    cores = available_cores()
    if request.threads is not None and request.threads > cores:
        message = f"must not exceed the {cores} cores that this process may use"
        issues.append(ValidationIssue("--threads", message, value=request.threads))
    return issues


def _folder_issues(request: TrialRequest) -> list[ValidationIssue]:
    """Create the folders of the files to write, and return an issue for each folder that is not writable."""
    files = _output_files(request).items()
    return [issue for option, file in files for issue in folder_issues(option, file.parent, file)]


def _read_config(request: TrialRequest, stored: Row | None) -> tuple[TrialConfig, bool]:
    """Return the configuration, and whether its measurement has the quick default.

    `--arm` replaces the strategies of the file or of the stored run; then `--set` changes single fields. A stored
    configuration contains every value, so it never gets the quick default.
    """
    from sweeps.spec.sweep import load_plugins_of_trial, parse_yaml, read_text
    from sweeps.spec.yaml import set_dotted

    if request.config is not None and stored is not None:
        message = "must not be combined with --from"
        hint = "Give either CONFIG.yaml or --from."
        raise ConfigError([ValidationIssue("CONFIG.yaml", message, hint, request.config)])
    source = request.config or ""
    values: dict[str, Any] = {}
    if request.config is not None:
        values = parse_yaml(read_text(Path(request.config)), request.config)
        load_plugins_of_trial(values, request.config)
    elif stored is not None:
        values = complete_stored(parse_yaml(stored["config"] or "", f"the stored configuration of {stored['run_id']}"))
    issues: list[ValidationIssue] = []
    if request.arm is not None:
        with collect_issues(issues):
            values["strategies"] = parse_arm_text(request.arm)
    for key, value in request.sets.items():
        set_dotted(values, key, value)
    evaluation = values.get("evaluation", {})
    is_quick = not request.full and isinstance(evaluation, Mapping) and "iw_samples" not in evaluation
    if is_quick:
        values["evaluation"] = {**evaluation, "iw_samples": QUICK_IW_SAMPLES}
    with collect_issues(issues):
        parsed = parse_trial(values, source)
    if issues:
        raise ConfigError(issues, source)
    return parsed, is_quick


def changed_data(stored: Row, fingerprint: str, hint: str) -> ValidationIssue | None:
    """Return an issue if `fingerprint` differs from the fingerprint of the data of a stored run."""
    if fingerprint == stored["data_fingerprint"]:
        return None
    message = f"must be the training data of run {stored['run_id']} (fingerprint {stored['data_fingerprint'][:12]})"
    return ValidationIssue("data", message, hint, fingerprint[:12])


def _watcher(watch: str | None, out: Path | None) -> StepWatch | PosteriorMeanRecorder | None:
    """Return what `--watch` asks for; None if neither `--watch` nor `--out` is given."""
    hint = "For example: --watch posterior_means --out FOLDER."
    if watch is None:
        if out is not None:
            raise ConfigError([ValidationIssue("--watch", "must be given together with --out", hint)])
        return None
    from sweeps.cli.trial_watch import StepWatch, parse_watch

    parsed = parse_watch(watch)
    if isinstance(parsed, StepWatch) and out is not None:
        message = "must be left out with --watch steps, which prints and writes no files"
        raise ConfigError([ValidationIssue("--out", message, value=str(out))])
    if not isinstance(parsed, StepWatch) and out is None:
        raise ConfigError([ValidationIssue("--out", f"must be given together with --watch {parsed.kind}", hint)])
    return parsed


def _posterior_mean_writer(
    watch: StepWatch | PosteriorMeanRecorder | None, out: Path | None, run_id: str
) -> PosteriorMeanWriter | None:
    """Return the callback that writes the posterior means to the folder `out`; None if they are not watched."""
    if watch is None or out is None:
        return None
    from sweeps.cli.trial_watch import PosteriorMeanWriter, StepWatch

    assert not isinstance(watch, StepWatch), "--watch steps with --out must be rejected"
    return PosteriorMeanWriter(watch, out, run_id)


# --- training -------------------------------------------------------------------------------------------------------


def _train(
    request: TrialRequest,
    checked: _CheckedRequest,
    dataset: Dataset,
    stored: Row | None,
    writer: PosteriorMeanWriter | None,
    stack: str,
) -> TrialRecord:
    """Train the trial and print its progress on stderr."""
    from lagvae_core import train
    from lagvae_core.runtime import default_threads, keep_freed_memory
    from lagvae_core.training.checkpoint import FileCheckpoint
    from sweeps.formatting import describe_data

    config, device = checked.config, checked.device
    stored_threads = stored["threads"] if stored is not None else None
    threads = request.threads or stored_threads or default_threads(config.model.small)
    memory = ", the process keeps freed memory for reuse" if keep_freed_memory() else ""
    with TrialProgress(config) as progress:
        progress.print(f"run {config.run_id(dataset.fingerprint)}: {stack}, seed {config.seed}")
        progress.print(describe_data(dataset.report))
        progress.print(f"{device}, {threads} thread{'s' if threads > 1 else ''}{memory}")
        source: DataSource = config.data
        updates = len(source.train_batches(dataset.train, config.training.batch_size, config.seed, 0))
        shown = tuple(map(str, (*data_warnings(dataset.report), *config.warnings(updates))))
        for warning in shown:
            progress.print(f"warning, {warning}")
        record = train(
            config,
            report=progress.on_epoch,
            progress=progress.on_progress,
            checkpoint=FileCheckpoint(request.checkpoint) if request.checkpoint is not None else None,
            model_store=FileCheckpoint(request.keep) if request.keep is not None else None,
            device=device,
            threads=threads,
            dataset=dataset,
            callback=_callback(checked.watch, writer, progress),
        )
        progress.print(f"{record.status}: {record.stop_reason}")
        for warning in record.warnings:
            if warning not in shown:
                progress.print(f"warning, {warning}")
    return record


def _callback(
    watch: StepWatch | PosteriorMeanRecorder | None, writer: PosteriorMeanWriter | None, progress: TrialProgress
) -> TrainingCallback | None:
    from sweeps.cli.trial_watch import StepWatch, StepWriter

    return StepWriter(watch, progress.print) if isinstance(watch, StepWatch) else writer


def report_equality(record: TrialRecord, stored: Row) -> None:
    """Print on stderr whether a repeated run has the same metrics as the stored run; ignore a run with another id."""
    if record.run_id != stored["run_id"]:
        return
    metrics = record.to_json()["metrics"]
    # A column that the stored run did not measure was added by a later version.
    different = [name for name, value in metrics.items() if stored.get(name) is not None and stored[name] != value]
    if not different:
        print("all metrics equal those of the stored run bit for bit", file=sys.stderr)
        return
    sizes = {name: _relative_difference(stored[name], metrics[name]) for name in different}
    name, size = max(sizes.items(), key=lambda item: item[1])
    values = "" if isinstance(stored[name], list) else f" ({metrics[name]} instead of {stored[name]})"
    print(
        f"the repeated run differs from the stored run in {', '.join(different)}; the largest relative difference is "
        f"{size:.1g}, in {name}{values}",
        file=sys.stderr,
    )


def _relative_difference(stored: Any, repeated: Any) -> float:
    """Return the difference of two values of a metric divided by the larger magnitude, for a list its largest element.

    If the repeated run has no such value, or a list of another length, the difference is infinite.
    """
    if isinstance(stored, list):
        if repeated is None or len(repeated) != len(stored):
            return math.inf
        return max(map(_relative_difference, stored, repeated), default=0.0)
    if repeated is None:
        return math.inf
    return float(abs(stored - repeated) / (max(abs(stored), abs(repeated)) or 1.0))


class TrialProgress(ProgressLine):
    """Context manager that shows the progress of one trial: a line per epoch, and a bar for the current phase."""

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self._epochs = config.epochs

    def on_epoch(self, record: EpochRecord) -> None:
        kl, mi, au = (record[f"valid_{name}"] for name in ("kl", "mi", "au"))
        self.print(
            f"epoch {record.epoch:>3}/{self._epochs}  train {record['train_loss']:.3f}  "
            f"valid -ELBO {record['valid_nll_elbo']:.3f}  kl {_three_decimals(kl)}  mi {_three_decimals(mi)}  "
            f"au {'-' if au is None else au}  lr {record['learning_rate']:g}  {record['seconds']:.1f} s"
        )

    def on_progress(self, progress: Progress) -> None:
        names = {
            "train": f"epoch {progress.epoch}/{self._epochs}",
            "validate": f"validation {progress.epoch}/{self._epochs}",
            "encode_train": "encode the training split",
            "nll_iw": "importance sampling",
        }
        self.advance(names.get(progress.phase, progress.phase), progress.done, progress.total)


def _three_decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


def _print_record(record: TrialRecord) -> None:
    """Print the metrics and the cost of a trial on stdout."""
    from rich.text import Text

    from sweeps.cli.terminal import console_of_stdout, rich_table
    from sweeps.storage.schema import metric_columns

    table = rich_table("", "", "")
    table.show_header = False
    for column in metric_columns():
        value = record.metrics.get(column.name)
        if value is None or isinstance(value, list):
            continue
        shown = f"{value:z.4f}" if isinstance(value, float) else str(value)
        table.add_row(column.name, shown, Text(column.doc, style="dim"))
    console = console_of_stdout()
    if record.metrics:
        console.print(table)
    cost = record.cost
    console.print(
        f"{cost['seconds']:.1f} s (training {cost['seconds_train']:.1f}, validation {cost['seconds_validate']:.1f}, "
        f"measurement {cost['seconds_evaluate']:.1f}), {cost['encoder_steps']} encoder and "
        f"{cost['decoder_steps']} decoder steps"
    )
