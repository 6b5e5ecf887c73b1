"""How this process uses the machine: threads, memory allocator and device. A configuration contains none of these."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import resource
from pathlib import Path

import torch

from lagvae_core.errors import ConfigError, ValidationIssue

__all__ = [
    "CONTEXT_BYTES",
    "choose_device",
    "keep_freed_memory",
    "limit_gpu_memory",
    "memory_bytes",
    "peak_memory_bytes",
    "peak_reserved_bytes",
    "reset_peak_memory",
    "use_threads",
]

CONTEXT_BYTES = 600 * 2**20
"""Device memory that CUDA uses per process outside torch's allocator: a few hundred MB, more on newer devices."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def use_threads(threads: int) -> None:
    """Set torch's number of threads. With more threads than cores, training a small model takes 100 times as long."""
    torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors in the process instead of returning it to the kernel.

    By default glibc returns large blocks to the kernel at once. The page faults that occur when the memory is used
    again take 10 to 50 % of the time of a training step.

    Returns:
        Whether the C library supports this.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and bool(libc.mallopt(M_MMAP_MAX, 0))


def memory_bytes() -> int | None:
    """Return the memory that this process may use: that of the machine, or less in a control group; None if unknown."""
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # version 2 writes "max" if there is no limit
            limits.append(int(Path(file).read_text()))
    return min(limits, default=None)


def choose_device(name: str) -> torch.device:
    """Return the torch device called `name`; "auto" is the first CUDA device, or the CPU if there is none.

    Raises:
        ConfigError: `name` is not auto, cpu, cuda or cuda:N, or this process does not see that CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = re.fullmatch("cpu|cuda(?::(0|[1-9][0-9]{0,3}))?", name)
    if known is None:
        message, hint = "must be auto, cpu or cuda[:N]", "The default is auto."
    elif name != "cpu" and not devices:
        message = "must be auto or cpu, because no CUDA device is visible"
        hint = "If the machine has a GPU, check its driver and CUDA_VISIBLE_DEVICES."
    elif int(known[1] or 0) >= devices > 0:
        message = f"must be one of the {devices} visible CUDA devices, cuda:0 to cuda:{devices - 1}"
        hint = "CUDA_VISIBLE_DEVICES limits which devices are visible."
    else:
        return torch.device(name)
    raise ConfigError([ValidationIssue("--device", message, hint, name)])


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory in use [bytes]: allocated on a CUDA device, otherwise the resident set of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak that `peak_reserved_bytes` returns. On a CPU this has no effect."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_reserved_bytes(device: torch.device) -> int:
    """Return the peak memory withheld from other processes [bytes]: reserved on a CUDA device, otherwise resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return peak_memory_bytes(device)


def limit_gpu_memory(share: float) -> None:
    """Limit this process to the fraction `share` of its GPU's memory.

    A run that exceeds its limit then fails alone, instead of making other runs on the same GPU fail. The limit includes
    the memory of the CUDA context, unless the process has the whole device. No limit is set if `share` is outside
    (0, 1] or if the machine has no CUDA device.
    """
    if 0 < share <= 1 and torch.cuda.is_available():
        context = CONTEXT_BYTES / torch.cuda.get_device_properties(0).total_memory if share < 1 else 0.0
        torch.cuda.set_per_process_memory_fraction(max(share - context, share / 2))
