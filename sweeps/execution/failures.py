"""The status, error class and traceback that a failed run leaves in its row."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["OUT_OF_MEMORY_TEXTS", "TRACEBACK_CHARACTERS", "describe_failure", "is_out_of_memory"]

TRACEBACK_CHARACTERS = 4000
"""Maximum length of a stored traceback; a longer traceback is cut at the beginning."""

REASON_CHARACTERS = 500
"""Maximum length of a stored exception message; a longer message is cut at the end."""

OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""Texts by which a RuntimeError is recognised as a lack of memory if PyTorch raises no OutOfMemoryError.

The texts are those of PyTorch 2.13. They come, in this order, from its CPU allocator; from the CUDA runtime, outside of
PyTorch's own allocator; and from CUDA libraries such as cuBLAS and cuDNN (`CUBLAS_STATUS_ALLOC_FAILED`). `sweeps`
matches no other messages of third-party projects.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports a lack of memory, on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Return the columns that describe `error`, the exception that ended a run."""
    return {
        "status": "out_of_memory" if is_out_of_memory(error) else "failed",
        "stop_reason": f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_CHARACTERS]}",
        "error_class": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:],
    }
