"""Training and measurement of one VAE, from configuration to record. Does not depend on Ray or Optuna.

The public names are imported on first use, so that `lagvae_core.errors` can be imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lagvae_core.config.trial import TrialConfig, parse_trial
    from lagvae_core.fitted import FittedModel, load_model, train_model
    from lagvae_core.training.record import EpochRecord, TrialRecord
    from lagvae_core.training.trial import train

__all__ = [
    "EpochRecord",
    "FittedModel",
    "TrialConfig",
    "TrialRecord",
    "load_model",
    "parse_trial",
    "train",
    "train_model",
]

_MODULES = {
    "EpochRecord": "lagvae_core.training.record",
    "FittedModel": "lagvae_core.fitted",
    "TrialConfig": "lagvae_core.config.trial",
    "TrialRecord": "lagvae_core.training.record",
    "load_model": "lagvae_core.fitted",
    "parse_trial": "lagvae_core.config.trial",
    "train": "lagvae_core.training.trial",
    "train_model": "lagvae_core.fitted",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
