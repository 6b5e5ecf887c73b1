"""How this process uses the machine: threads, memory allocator and device. A configuration contains none of these."""

from __future__ import annotations

import ctypes
import inspect
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.machine import available_cores

__all__ = [
    "CONTEXT_BYTES",
    "SGD",
    "Adam",
    "choose_device",
    "default_threads",
    "eager_optimiser",
    "keep_freed_memory",
    "limit_gpu_memory",
    "peak_memory_bytes",
    "peak_reserved_bytes",
    "peak_resident_bytes",
    "reset_peak_memory",
    "torch_threads",
]

CONTEXT_BYTES = 600 * 2**20
"""Device memory that CUDA uses per process outside torch's allocator: a few hundred MB, more on newer devices."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

Optimiser = TypeVar("Optimiser", bound=torch.optim.Optimizer)


def default_threads(small: bool) -> int:
    """Return the default number of threads: 1 for a small model, otherwise PyTorch's number.

    It never exceeds the cores that this process may use. With more threads than cores, training takes many times as
    long.

    Args:
        small: Whether training the model is faster on one core than on several cores (`ModelConfig.small`).
    """
    return 1 if small else min(torch.get_num_threads(), available_cores())


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Context manager. Sets torch's number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def eager_optimiser(optimiser: type[Optimiser]) -> type[Optimiser]:
    """Return an optimiser class that computes the same without importing torch's compiler.

    The first optimiser of a process imports `torch._dynamo`, which takes almost as long as importing torch and 70 MB of
    memory, only to exclude its own methods from compilation. lagvae compiles nothing.

    Args:
        optimiser: An optimiser class of `torch.optim`.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimiser, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimiser.step))
    return type(optimiser.__name__, (optimiser,), methods)


SGD, Adam = eager_optimiser(torch.optim.SGD), eager_optimiser(torch.optim.Adam)


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
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the peak resident set of this process [bytes].

    On Linux, it is read from /proc: `getrusage` would return that of the process that started this one if it is larger.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
