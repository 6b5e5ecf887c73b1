"""Ray Tune's function trainable around lagvae_core.train: threads, data, checkpoint, and an end that never raises."""

from __future__ import annotations

import json
import socket
from typing import Any

from sweeps.execution.failures import describe_failure

__all__ = ["train_run"]


def train_run(setting: dict[str, Any]) -> None:
    """Train `setting["run"]`; every report goes to Ray Tune, the last one holds the record or the failure.

    An exception of the training is reported, not raised: it would happen again, and Ray Tune must retry only what is
    lost: a node, a process, or the way to the results.
    """
    import torch
    from ray import tune

    from lagvae_core import TrialConfig, train
    from lagvae_core.errors import DataError, StoreError, ValidationIssue
    from lagvae_core.runtime import choose_device, keep_freed_memory, keep_to_share, use_threads
    from sweeps.execution.datasets import load_trial_data
    from sweeps.storage.folder import PATIENCE_SECONDS, FolderFile, SweepFolder, checkpoint_name, model_name

    run = setting["run"]
    folder = SweepFolder(run["results"], run["sweep"], PATIENCE_SECONDS)
    use_threads(run["threads"])
    keep_freed_memory()
    where = {"host": socket.gethostname(), "device": "cpu"}
    try:
        keep_to_share(1.0 if run["alone"] else run["gpus"])
        device = choose_device("auto" if run["gpus"] else "cpu")
        if device.type == "cuda":
            where["device"] = torch.cuda.get_device_name(device)
        config = TrialConfig.model_validate(run["config"])
        dataset = load_trial_data(config.data.model_dump_json())
        if dataset.fingerprint != run["data_fingerprint"]:
            message = f"must be what the sweep was planned on (fingerprint {run['data_fingerprint'][:12]})"
            raise DataError([ValidationIssue("the data", message, "Run the sweep again.", dataset.fingerprint[:12])])
        record = train(
            config,
            report=lambda epoch: tune.report({**where, "epoch": epoch.epoch, "epochs": config.epochs}),
            checkpoint=FolderFile(folder, checkpoint_name(run["run_id"])),
            model_store=FolderFile(folder, model_name(run["run_id"])) if run["keep"] else None,
            device=device,
            dataset=dataset,
        )
        tune.report({**where, "record": json.dumps(record.to_json())})
    except StoreError:
        raise
    except Exception as error:
        tune.report({**where, "failure": json.dumps(describe_failure(error))})
