"""`lagvae trial`: one configuration on this machine, with a progress bar, for debugging and for a first look."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.data import Dataset
from lagvae_core.errors import ConfigError, UserError, ValidationIssue, collect_issues
from lagvae_core.training.record import EpochRecord, Progress, TrialRecord
from sweeps.cli.terminal import ProgressLine
from sweeps.spec.arm_syntax import parse_arm_text

if TYPE_CHECKING:
    from sweeps.cli.watch import PosteriorMeanWriter

__all__ = ["TrialRequest", "run_trial"]


@dataclass(frozen=True)
class TrialRequest:
    """What `lagvae trial` is request for; the fields are its options."""

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


def run_trial(request: TrialRequest) -> int:
    """The exit code: 0 finished, 1 diverged."""
    stored = find_run(request.results, request.from_run) if request.from_run is not None else None
    wanted = check_trial(request, stored)
    dataset = wanted.data.load()
    if stored is not None and not request.sets and request.arm is None:
        check_same_data(stored, dataset.fingerprint)
    means = open_watch(request.watch, request.out, wanted.run_id(dataset.fingerprint))
    stack = "+".join(s.kind for s in wanted.strategies) or "vae"
    record = train_watched(request, wanted, dataset, stored, means, stack)
    if stored is not None:
        compare_with_stored(record, stored)
    if request.as_json:
        print(json.dumps(record.to_json(), allow_nan=False))
    else:
        print_record(record)
    if means is not None:
        for file in means.draw(f"{stack}, seed {wanted.seed}"):
            print(f"drawn: {file}", file=sys.stderr)
    return 0 if record.status == "finished" else 1


def check_trial(request: TrialRequest, stored: Mapping[str, Any] | None) -> TrialConfig:
    """The configuration that is request for; UserError with every mistake in it and in the options."""
    issues = option_issues(request)
    try:
        wanted = configuration(request.config, request.arm, request.sets, stored)
    except UserError as error:
        raise ConfigError([*error.issues, *issues], error.source) from None
    # Only where all is well is anything tried that leaves a folder behind.
    issues = issues or folder_issues(request)
    if issues:
        raise ConfigError(issues)
    return wanted


def train_watched(
    request: TrialRequest,
    wanted: TrialConfig,
    dataset: Dataset,
    stored: Mapping[str, Any] | None,
    means: PosteriorMeanWriter | None,
    stack: str,
) -> TrialRecord:
    """The record of the trial, told on the terminal as it comes."""
    from lagvae_core import train
    from lagvae_core.runtime import choose_device, keep_freed_memory, use_threads
    from lagvae_core.training.checkpoint import FileCheckpoint
    from sweeps.formatting import describe_data

    before = "auto" if stored is None or stored["device"] != "cpu" else "cpu"
    chosen = choose_device(request.device or before)
    threads = request.threads or (stored["threads"] if stored is not None else usual_threads(wanted))
    use_threads(threads)
    memory = ", freed memory is kept by the process" if keep_freed_memory() else ""
    with Watcher(wanted) as watcher:
        watcher.say(f"run {wanted.run_id(dataset.fingerprint)}: {stack}, seed {wanted.seed}")
        watcher.say(describe_data(dataset.report))
        watcher.say(f"{chosen}, {threads} thread{'s' if threads > 1 else ''}{memory}")
        for warning in wanted.warnings():
            watcher.say(f"warning {warning}")
        record = train(
            wanted,
            report=watcher.epoch,
            progress=watcher.progress,
            checkpoint=FileCheckpoint(request.checkpoint) if request.checkpoint is not None else None,
            model_store=FileCheckpoint(request.keep) if request.keep is not None else None,
            device=chosen,
            dataset=dataset,
            callback=means,
        )
        watcher.say(f"{record.status}: {record.stop_reason}")
    return record


def check_same_data(stored: Mapping[str, Any], fingerprint: str) -> None:
    """ConfigError if the data of a stored run have changed since."""
    if fingerprint != stored["data_fingerprint"]:
        message = f"must be what run {stored['run_id']} was trained on (fingerprint {stored['data_fingerprint'][:12]})"
        raise ConfigError([ValidationIssue("the data", message, "The files have changed since.", fingerprint[:12])])


def usual_threads(config: TrialConfig) -> int:
    """The cores that a model of this size is fastest on."""
    import torch

    return 1 if config.model.small else torch.get_num_threads()


def open_watch(watch: str | None, out: Path | None, run_id: str) -> PosteriorMeanWriter | None:
    """What `--watch` and `--out` ask for; ConfigError if there is one without the other."""
    if watch is None and out is None:
        return None
    if watch is None or out is None:
        missing, there = ("--watch", "--out") if watch is None else ("--out", "--watch")
        raise ConfigError(
            [ValidationIssue(missing, f"must be given with {there}", "--watch posterior_means --out FOLDER.", None)]
        )
    from sweeps.cli.watch import PosteriorMeanWriter, parse_watch

    return PosteriorMeanWriter(parse_watch(watch), out, run_id)


def files_of(request: TrialRequest) -> dict[str, Path]:
    """The files that are to be written, by their options."""
    files = {"--checkpoint": request.checkpoint, "--keep": request.keep}
    return {option: file for option, file in files.items() if file is not None}


def option_issues(request: TrialRequest) -> list[ValidationIssue]:
    """What is wrong with the options as such."""
    issues = []
    for option, file in files_of(request).items():
        if file.is_dir():
            issues.append(ValidationIssue(option, "must be a file and no folder", "Choose another.", str(file)))
    if (
        request.checkpoint is not None
        and request.keep is not None
        and request.checkpoint.resolve() == request.keep.resolve()
    ):
        issues.append(
            ValidationIssue("--keep", "must be another file than --checkpoint", "Choose another.", str(request.keep))
        )
    cores = os.cpu_count() or 1
    if request.threads is not None and request.threads > cores:
        issues.append(
            ValidationIssue("--threads", f"must be at most the {cores} cores there are", "Lower it.", request.threads)
        )
    return issues


def folder_issues(request: TrialRequest) -> list[ValidationIssue]:
    """What is wrong with the folders of the files that are to be written, which are made, and written in."""
    issues = []
    for option, file in files_of(request).items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            probe = file.with_name(f".{file.name}.probe")
            probe.touch()
            probe.unlink()
        except OSError as error:
            message = f"must be in a folder that can be written to ({error.strerror})"
            issues.append(ValidationIssue(option, message, "Choose another.", str(file)))
    return issues


def configuration(
    config: str | None, arm: str | None, sets: Mapping[str, Any], stored: Mapping[str, Any] | None
) -> TrialConfig:
    """The configuration from file, stored run, `--arm` and `--set`, the later winning over the earlier."""
    from sweeps.spec.sweep import parse_yaml, read_text, set_dotted

    if config is not None and stored is not None:
        raise ConfigError(
            [ValidationIssue("CONFIG.yaml", "must be left out with --from", "Give one of the two.", config)]
        )
    source = config or ""
    values: dict[str, Any] = {}
    if config is not None:
        values = parse_yaml(read_text(Path(config)), config)
    elif stored is not None:
        values = parse_yaml(stored["config"] or "", f"the stored configuration of {stored['run_id']}")
    issues: list[ValidationIssue] = []
    if arm is not None:
        with collect_issues(issues):
            values["strategies"] = parse_arm_text(arm)
    for key, value in sets.items():
        set_dotted(values, key, value)
    with collect_issues(issues):
        parsed = parse_trial(values, source)
    if issues:
        raise ConfigError(issues, source)
    return parsed


def find_run(results: str, run_id: str) -> dict[str, Any]:
    """The stored row of a run, in whichever sweep below `results` it is."""
    from sweeps.storage.table import ResultsFolder, stored_sweeps

    for sweep in stored_sweeps(results):
        for row in ResultsFolder(results, sweep).runs():
            if row["run_id"] == run_id:
                return row
    hint = "`lagvae results show SWEEP` lists configurations; a run is CONFIG_ID-SEED."
    raise ConfigError([ValidationIssue("--from", f"must be a run stored below {results}", hint, run_id)])


def compare_with_stored(record: TrialRecord, stored: Mapping[str, Any]) -> None:
    """Say whether the repetition gave the stored numbers."""
    if record.run_id != stored["run_id"]:
        return
    different = [
        name for name, value in record.to_json()["metrics"].items() if stored.get(name) != value and name in stored
    ]
    if different:
        print(f"differs from the stored run in {', '.join(different)}", file=sys.stderr)
    else:
        print("every number equals that of the stored run, bit for bit", file=sys.stderr)


class Watcher(ProgressLine):
    """The progress of one trial: a line an epoch, and how far its phases are."""

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self._epochs = config.epochs

    def epoch(self, record: EpochRecord) -> None:
        kl, mi, au = (record[f"valid_{name}"] for name in ("kl", "mi", "au"))
        self.say(
            f"epoch {record.epoch:>3}/{self._epochs}  train {record['train_loss']:.3f}  "
            f"valid -ELBO {record['valid_nll_elbo']:.3f}  kl {_shown(kl)}  mi {_shown(mi)}  "
            f"au {'-' if au is None else au}  lr {record['learning_rate']:g}  {record['seconds']:.1f} s"
        )

    def progress(self, now: Progress) -> None:
        name = {"train": f"epoch {now.epoch}/{self._epochs}", "nll_iw": "importance sampling"}.get(now.phase, now.phase)
        self.advance(name, now.done, now.total)


def _shown(value: float | None) -> str:
    """Three decimals, or a dash for what is not measured."""
    return "-" if value is None else f"{value:.3f}"


def print_record(record: TrialRecord) -> None:
    """The metrics as a table on stdout."""
    from rich.text import Text

    from sweeps.cli.terminal import console_of_stdout, plain_table
    from sweeps.storage.schema import metric_columns

    table = plain_table("", "", "")
    for column in metric_columns():
        value = record.metrics.get(column.name)
        if value is None or isinstance(value, list):
            continue
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
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
