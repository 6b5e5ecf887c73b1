"""The classification of exceptions that end a run."""

from __future__ import annotations

import pytest
import torch

from sweeps.execution.failures import REASON_CHARACTERS, TRACEBACK_CHARACTERS, describe_failure


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
