"""Ray Tune's function trainable around lagvae_core.train: threads, data, checkpoint, and an end that never raises."""

from __future__ import annotations

import functools
import json
import socket
import traceback
from typing import Any

__all__ = ["TRACEBACK_CHARACTERS", "describe_failure", "load_data", "train_run"]

TRACEBACK_CHARACTERS = 4000

NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""What PyTorch says beside its own class: its CPU allocator; CUDA and its libraries before its allocator is asked."""


@functools.lru_cache(maxsize=2)
def load_data(data_json: str) -> Any:
    """The data of the last trials; a reused worker loads the same data once."""
    from pydantic import TypeAdapter

    from lagvae_core.data import DataConfig

    data: Any = TypeAdapter(DataConfig).validate_json(data_json)
    return data.load()


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Status, error class and traceback of an exception that ended a run."""
    text = "".join(traceback.format_exception(error))
    memory = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    memory = memory or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY))
    return {
        "status": "out_of_memory" if memory else "failed",
        "stop_reason": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
        "error_class": type(error).__name__,
        "traceback": text[-TRACEBACK_CHARACTERS:],
    }


def train_run(setting: dict[str, Any]) -> None:
    """Train `setting["run"]`; every report goes to Ray Tune, the last one holds the record or the failure.

    An exception of the training is reported, not raised: it would happen again, and Ray Tune must retry only what is
    lost: a node, a process, or the way to the results.
    """
    import torch
    from ray import tune

    from lagvae_core import TrialConfig, train
    from lagvae_core.errors import DataError, Mistake, StoreError
    from lagvae_core.runtime import choose_device, keep_freed_memory, keep_to_share, use_threads
    from sweeps.store import PATIENCE_SECONDS, FolderFile, SweepFolder, checkpoint_name, model_name

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
        dataset = load_data(config.data.model_dump_json())
        if dataset.fingerprint != run["data_fingerprint"]:
            law = f"be what the sweep was planned on (fingerprint {run['data_fingerprint'][:12]})"
            raise DataError([Mistake("the data", dataset.fingerprint[:12], law, "Run the sweep again.")])
        record = train(
            config,
            report=lambda epoch: tune.report({**where, "epoch": epoch.epoch, "epochs": config.epochs}),
            checkpoint=FolderFile(folder, checkpoint_name(run["run_id"])),
            kept=FolderFile(folder, model_name(run["run_id"])) if run["keep"] else None,
            device=device,
            dataset=dataset,
        )
        tune.report({**where, "record": json.dumps(record.to_json())})
    except StoreError:
        raise
    except Exception as error:
        tune.report({**where, "failure": json.dumps(describe_failure(error))})
