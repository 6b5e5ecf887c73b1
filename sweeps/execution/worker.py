"""The function that Ray Tune calls in a worker process to train one run."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from sweeps.execution.failures import describe_failure

__all__ = ["train_run"]


def train_run(trial_config: dict[str, Any]) -> None:
    """Train the run in `trial_config["run"]` (see `tune.RunSearcher`) and report to Ray Tune.

    There is one report after each epoch. The last report contains the record of the run, or its failure, or that it was
    interrupted and has saved its checkpoint.

    An exception in training is reported instead of raised, because it would occur again in a retry. Therefore a
    run is started again only if its node, its process, or the connection to the results was lost.

    Raises:
        StoreError: The results cannot be reached.
    """
    import torch
    from ray import tune

    from lagvae_core import TrialConfig, train
    from lagvae_core.errors import DataError, Interrupted, StoreError, ValidationIssue
    from lagvae_core.runtime import choose_device, keep_freed_memory, limit_gpu_memory
    from sweeps.execution.datasets import load_trial_data
    from sweeps.execution.stop_flag import StopFlag
    from sweeps.search.budget import COST_SO_FAR
    from sweeps.storage.folder import PATIENCE_SECONDS, FolderFile, SweepFolder, checkpoint_name, model_name

    # If the thread of a run takes longer than this to end [s], Tune silently gives up the next run of this process. The
    # default of 2 s is too short on a busy machine.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    run = trial_config["run"]
    folder = SweepFolder(run["results"], run["sweep"], PATIENCE_SECONDS)
    keep_freed_memory()
    stop_flag = StopFlag(run["stop_flag"])

    def end_if_interrupted(progress: Any) -> None:
        if stop_flag.is_set():
            raise Interrupted

    location = {"host": socket.gethostname(), "device": "cpu"}
    try:
        limit_gpu_memory(1.0 if run["alone"] else run["gpus"])
        device = choose_device("auto" if run["gpus"] else "cpu")
        if device.type == "cuda":
            location["device"] = torch.cuda.get_device_name(device)
        config = TrialConfig.model_validate(run["config"])
        dataset = load_trial_data(config.data.model_dump_json()).under(run["data_fingerprint"])
        if dataset.fingerprint != run["data_fingerprint"]:
            message = (
                f"must not change after the sweep starts (fingerprint at the start: {run['data_fingerprint'][:12]})"
            )
            hint = "Run the sweep again to plan it with the new data."
            raise DataError([ValidationIssue("the data", message, hint, dataset.fingerprint[:12])])
        record = train(
            config,
            report=lambda epoch: tune.report(
                {
                    **location,
                    "epoch": epoch.epoch,
                    "epochs": config.epochs,
                    **{name: epoch[name] for name in COST_SO_FAR},
                }
            ),
            progress=end_if_interrupted,
            checkpoint=FolderFile(folder, checkpoint_name(run["run_id"])),
            checkpoint_seconds=run["checkpoint_seconds"],
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
