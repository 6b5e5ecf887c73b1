"""What a run that failed leaves in its row."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["NO_MEMORY", "TRACEBACK_CHARACTERS", "describe_failure"]


TRACEBACK_CHARACTERS = 4000


NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""What PyTorch says beside its own class: its CPU allocator; CUDA and its libraries before its allocator is asked."""


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
