"""Training and measurement of one VAE, from configuration to record. Does not depend on Ray or Optuna.

The public names are imported on first use, so that `lagvae_core.errors` can be imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lagvae_core.config.trial import TrialConfig
    from lagvae_core.training.record import EpochRecord, TrialRecord
    from lagvae_core.training.trial import train

__all__ = ["EpochRecord", "TrialConfig", "TrialRecord", "train"]

_MODULES = {
    "EpochRecord": "lagvae_core.training.record",
    "TrialConfig": "lagvae_core.config.trial",
    "TrialRecord": "lagvae_core.training.record",
    "train": "lagvae_core.training.trial",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
