"""The function that Ray Tune calls in a worker process to train one run."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sweeps.execution.failures import describe_failure

if TYPE_CHECKING:
    from lagvae_core.training.record import EpochRecord, Progress, TrialRecord

__all__ = ["RunReports", "train_run"]


class RunReports:
    """Reports of a run in training: one after each epoch, and within long phases one from time to time.

    `send` blocks until the driver has processed the report, which takes milliseconds. A report within a phase is
    therefore sent only if the last report was long ago.

    Args:
        send: Sends a report to the driver.
        location: Host and device, which are part of every report.
        epochs: Maximum number of epochs of the run.
        phase_seconds: Shortest time between any report and a later report within a phase [s].
        clock: Returns the current time [s].
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], None],
        location: dict[str, str],
        epochs: int,
        phase_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._common = {**location, "epochs": epochs}
        self._phase_seconds = phase_seconds
        self._clock = clock
        self._sent = clock()

    def on_epoch(self, epoch: EpochRecord) -> None:
        """Report the record of an epoch."""
        self._send({**self._common, "epoch": epoch.epoch, "curve": json.dumps(epoch.values)})
        self._sent = self._clock()

    def on_progress(self, progress: Progress) -> None:
        """Report the progress within a phase if a report is due."""
        if self._clock() - self._sent < self._phase_seconds:
            return
        # Ray Tune takes a true value of the key `done` as the end of the trial.
        position = {"epoch": progress.epoch, "phase_done": progress.done, "phase_total": progress.total}
        self._send({**self._common, "phase": progress.phase, **position})
        self._sent = self._clock()


def train_run(trial_config: dict[str, Any], train: Callable[..., TrialRecord] | None = None) -> None:
    """Train the run in `trial_config["run"]` (see `tune.RunSearcher`) and report to Ray Tune.

    There is one report after each epoch, and others within long phases (see `RunReports`). The last report contains the
    record of the run, or its failure, or that it was interrupted and has saved its checkpoint.

    An exception in training is reported instead of raised, because it would occur again in a retry. Therefore a
    run is started again only if its node, its process, or the connection to the results was lost.

    Args:
        trial_config: The run, as plain JSON values (see `tune.worker_config`).
        train: Function with the interface of `lagvae_core.train`, which it replaces. Benchmarks replay stored runs.

    Raises:
        StoreError: The results cannot be reached.
    """
    import torch
    from ray import tune

    import lagvae_core
    from lagvae_core import TrialConfig
    from lagvae_core.errors import DataError, Interrupted, StoreError, ValidationIssue
    from lagvae_core.runtime import choose_device, keep_freed_memory, limit_gpu_memory
    from sweeps.execution.datasets import load_trial_data
    from sweeps.execution.stop_flag import StopFlag
    from sweeps.storage.folder import PATIENCE_SECONDS, FolderFile, SweepFolder, checkpoint_name, model_name
    from sweeps.storage.plugins import load_stored_plugins

    # If the thread of a run takes longer than this to end [s], Tune silently gives up the next run of this process. The
    # default of 2 s is too short on a busy machine.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    run = trial_config["run"]
    folder = SweepFolder(run["results"], run["sweep"], PATIENCE_SECONDS)
    keep_freed_memory()
    stop_flag = StopFlag(run["stop_flag"])

    location = {"host": socket.gethostname(), "device": "cpu"}
    try:
        limit_gpu_memory(1.0 if run["alone"] else run["gpus"])
        device = choose_device("auto" if run["gpus"] else "cpu")
        if device.type == "cuda":
            location["device"] = torch.cuda.get_device_name(device)
        load_stored_plugins(folder, json.loads(run["plugins"]), trusted=True)  # by the hashes that the driver sent
        config = TrialConfig.model_validate_json(run["config"])
        dataset = load_trial_data(config.data.model_dump_json()).under(run["data_fingerprint"])
        if dataset.fingerprint != run["data_fingerprint"]:
            message = (
                f"must not change after the sweep starts (fingerprint at the start: {run['data_fingerprint'][:12]})"
            )
            hint = "Run the sweep again to plan it with the new data."
            raise DataError([ValidationIssue("the data", message, hint, dataset.fingerprint[:12])])
        reports = RunReports(tune.report, location, config.epochs, run["phase_seconds"])

        def on_progress(progress: Progress) -> None:
            if stop_flag.is_set():
                raise Interrupted
            reports.on_progress(progress)

        record = (train or lagvae_core.train)(
            config,
            report=reports.on_epoch,
            progress=on_progress,
            checkpoint=FolderFile(folder, checkpoint_name(run["run_id"])),
            checkpoint_seconds=run["checkpoint_seconds"],
            reported=run["reported"],
            model_store=FolderFile(folder, model_name(run["run_id"])) if run["keep"] else None,
            device=device,
            threads=run["threads"],
            dataset=dataset,
        )
        tune.report({**location, "record": json.dumps(record.to_json())})
    except StoreError:
        raise
    except Interrupted:
        tune.report({**location, "interrupted": True})
    except Exception as error:
        tune.report({**location, "failure": json.dumps(describe_failure(error))})
