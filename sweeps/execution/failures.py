"""The status, error class and traceback that a failed run leaves in its row."""

from __future__ import annotations

import re
import traceback
from textwrap import shorten
from typing import Any

__all__ = [
    "OUT_OF_MEMORY_TEXTS",
    "TRACEBACK_CHARACTERS",
    "describe_failure",
    "describe_loss",
    "describe_restart",
    "describe_silence",
    "is_out_of_memory",
]

TRACEBACK_CHARACTERS = 4000
"""Maximum length of a stored traceback; a longer traceback is cut at the beginning."""

REASON_CHARACTERS = 500
"""Maximum length of a stored exception message; a longer message is cut at the end."""

LOSS_CHARACTERS = 200
"""Maximum length of the error text of a lost process in the history of its run; a longer text is cut at the end."""

OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""Texts by which a RuntimeError is recognised as a lack of memory if PyTorch raises no OutOfMemoryError.

The texts are those of PyTorch 2.13. They come, in this order, from its CPU allocator; from the CUDA runtime, outside of
PyTorch's own allocator; and from CUDA libraries such as cuBLAS and cuDNN (`CUBLAS_STATUS_ALLOC_FAILED`). `sweeps`
matches no other messages of third-party projects, except `KILLED_BY_RAY`.
"""

KILLED_BY_RAY = "killed due to the node running low on memory"
"""Text by which the loss of a process is recognised as a kill by the memory monitor of Ray 2.60.

The error of an actor carries no other sign of it.
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


def describe_loss(error_text: str, losses: int) -> dict[str, Any]:
    """Return the columns that describe the loss of a run's process, if the run ends with it.

    Args:
        error_text: Ray's description of the loss.
        losses: Number of losses in a row without progress in between.
    """
    if KILLED_BY_RAY in error_text:
        return {
            "status": "out_of_memory",
            "stop_reason": f"killed by Ray: {_memory_numbers(error_text)}.",
            "error_class": "OutOfMemoryError",
            "traceback": error_text[error_text.index(KILLED_BY_RAY) :][:TRACEBACK_CHARACTERS],
        }
    return {
        "status": "failed",
        "stop_reason": f"its process or node was lost {losses} times in a row without progress.",
        "error_class": "WorkerLost",
        "traceback": error_text[-TRACEBACK_CHARACTERS:],
    }


def describe_restart(error_text: str) -> dict[str, Any]:
    """Return the columns that describe the loss of a run's process in the history of the run, which starts again.

    Args:
        error_text: Ray's description of the loss. Its last line says why a process or node died; that of a traceback is
            the exception.
    """
    [*_, last] = error_text.strip().splitlines() or [""]
    text = shorten(last, LOSS_CHARACTERS, placeholder=" ...")
    return {"stop_reason": f"its process was lost{f': {text}' if text else ''}", "error_class": "WorkerLost"}


def describe_silence(seconds: float) -> dict[str, Any]:
    """Return the columns that describe the end of a run whose process reported nothing for `seconds`."""
    return {
        "status": "failed",
        "stop_reason": f"reported nothing for {seconds:.0f} s.",
        "error_class": "WorkerSilent",
        "traceback": None,
    }


def _memory_numbers(error_text: str) -> str:
    """Return how much memory the node used, as Ray reports it."""
    used = re.search(r"was ([\d.]+)\s?GB used / ([\d.]+)\s?GB limit", error_text)
    threshold = re.search(r"exceeded threshold of \d+B \(([\d.]+)% of", error_text)
    text = "the node was short of memory"
    if used is not None:
        text = f"{float(used[1]):.1f} of {float(used[2]):.1f} GB of the node's memory were in use"
    return text if threshold is None else f"{text}, threshold {float(threshold[1]):g} %"
