"""The status, error class and traceback that a failed run leaves in its row."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["OUT_OF_MEMORY_TEXTS", "TRACEBACK_CHARACTERS", "describe_failure", "is_out_of_memory"]

TRACEBACK_CHARACTERS = 4000
"""Length of the stored end of a traceback."""

REASON_CHARACTERS = 500
"""Length of the stored start of an exception's message."""

OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""Texts of RuntimeErrors by which PyTorch reports a lack of memory without its own OutOfMemoryError.

Read from PyTorch 2.13. In this order: its CPU allocator; the CUDA runtime, outside of PyTorch's own allocator; CUDA
libraries such as cuBLAS and cuDNN (`CUBLAS_STATUS_ALLOC_FAILED`). These are the only texts of other projects that
`sweeps` matches.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports a lack of memory, on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Return the columns of a row that describe `error`, the exception that ended its run."""
    return {
        "status": "out_of_memory" if is_out_of_memory(error) else "failed",
        "stop_reason": f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_CHARACTERS]}",
        "error_class": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:],
    }
