"""The reports of a worker, and the classification of exceptions that end a run."""

from __future__ import annotations

import json

import pytest
import torch
from ray.tune.result import AUTO_RESULT_KEYS, DONE

from lagvae_core.training.record import EpochRecord, Progress
from sweeps.execution.failures import REASON_CHARACTERS, TRACEBACK_CHARACTERS, describe_failure
from sweeps.execution.worker import RunReports


def test_every_epoch_is_reported_and_the_progress_within_it_only_from_time_to_time():
    now, sent = [0.0], []
    reports = RunReports(sent.append, {"host": "node7", "device": "cpu"}, 2, 5.0, lambda: now[0])
    for epoch in (1, 2):
        for done in range(1, 13):
            now[0] += 1.0
            reports.on_progress(Progress("train", epoch, done, 12))
        reports.on_epoch(EpochRecord({"epoch": epoch, "valid_kl": 0.5}))
    common = {"host": "node7", "device": "cpu", "epochs": 2}
    assert all(common.items() <= report.items() for report in sent)
    phases = [(r["phase"], r["epoch"], r["phase_done"], r["phase_total"]) for r in sent if "phase" in r]
    assert phases == [("train", epoch, done, 12) for epoch in (1, 2) for done in (5, 10)]
    epochs = [(r["epoch"], json.loads(r["curve"])) for r in sent if "curve" in r]
    assert epochs == [(n, {"epoch": n, "valid_kl": 0.5}) for n in (1, 2)]
    names = {name for report in sent for name in report}
    assert not names & {DONE, *AUTO_RESULT_KEYS}, "names that mean something else to Ray Tune"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_recognised_in_all_its_forms(error):
    assert describe_failure(error)["status"] == "out_of_memory"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: device-side assert triggered"), ValueError("CUDA error: out of memory"), KeyError("x")],
)
def test_other_exceptions_are_failures(error):
    failure = describe_failure(error)
    assert failure["status"] == "failed"
    assert failure["error_class"] == type(error).__name__
    assert failure["stop_reason"].startswith(f"{type(error).__name__}: ")


def test_long_messages_are_shortened():
    failure = describe_failure(ValueError("x" * 10_000))
    assert len(failure["stop_reason"]) == len("ValueError: ") + REASON_CHARACTERS
    assert len(failure["traceback"]) == TRACEBACK_CHARACTERS
