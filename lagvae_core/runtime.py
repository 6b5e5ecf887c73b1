"""How this process uses the machine: threads, allocator, device. Nothing here changes a result's definition."""

from __future__ import annotations

import ctypes
import platform
import resource

import torch

from lagvae_core.errors import ConfigError, ValidationIssue

__all__ = [
    "CONTEXT_BYTES",
    "choose_device",
    "keep_freed_memory",
    "keep_to_share",
    "peak_memory_bytes",
    "peak_reserved_bytes",
    "start_peak",
    "use_threads",
]

CONTEXT_BYTES = 600 * 2**20
"""What CUDA takes of a device for each process beside the allocator: a few hundred MB, more with newer devices."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def use_threads(threads: int) -> None:
    """Let torch use `threads` cores. More than the process was given slows a small model's step a hundred times."""
    torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Keep freed tensors in the process instead of giving them back to the kernel at every step; True where it can.

    glibc returns large blocks at once by default, and the page faults of taking them again cost 10 to 50 % of a step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and bool(libc.mallopt(M_MMAP_MAX, 0))


def choose_device(wish: str) -> torch.device:
    """`auto` is the first CUDA device, or else the CPU.

    Raises:
        ConfigError: the wished device is not there.
    """
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wish.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            [ValidationIssue("device", "must be present", "No CUDA device is visible here; use cpu.", wish)]
        )
    try:
        return torch.device(wish)
    except RuntimeError:
        raise ConfigError(
            [ValidationIssue("device", "must be auto, cpu or cuda[:N]", "Leave it out for auto.", wish)]
        ) from None


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory taken: of the device's allocator on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def start_peak(device: torch.device) -> None:
    """Forget what was reserved before, so that `peak_reserved_bytes` tells what is from now on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_reserved_bytes(device: torch.device) -> int:
    """The most memory that was withheld from others: by the device's allocator on CUDA, else by the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return peak_memory_bytes(device)


def keep_to_share(share: float) -> None:
    """Let this process take no more of its GPU than `share`, so that a run that needs more fails, not its neighbours.

    CUDA's own memory for the process is counted in, unless the process has the whole device.
    """
    if 0 < share <= 1 and torch.cuda.is_available():
        own = CONTEXT_BYTES / torch.cuda.get_device_properties(0).total_memory if share < 1 else 0.0
        torch.cuda.set_per_process_memory_fraction(max(share - own, share / 2))
