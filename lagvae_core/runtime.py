"""How this process uses the machine: threads, allocator, device. Nothing here changes a result's definition."""

from __future__ import annotations

import ctypes
import platform
import resource

import torch

from lagvae_core.errors import ConfigError, Mistake

__all__ = ["choose_device", "keep_freed_memory", "peak_memory_bytes", "use_threads"]

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
        raise ConfigError([Mistake("device", wish, "be present", "No CUDA device is visible here; use cpu.")])
    try:
        return torch.device(wish)
    except RuntimeError:
        raise ConfigError([Mistake("device", wish, "be auto, cpu or cuda[:N]", "Leave it out for auto.")]) from None


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory taken: of the device's allocator on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
