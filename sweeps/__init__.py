"""Sweeps: specification, search, execution, storage, analysis and command line. Ray and Optuna are imported lazily.

From Python, `Sweep` plans and runs a sweep, and `read_results` reads its tables.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lagvae_core.packages import use_own_package

if TYPE_CHECKING:
    from sweeps.interface import Results, Sweep, read_results

__all__ = ["Results", "Sweep", "read_results"]

use_own_package("cluster")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("sweeps.interface"), name)


def __dir__() -> list[str]:
    return __all__
