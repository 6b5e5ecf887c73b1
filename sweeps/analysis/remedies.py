"""Arms that act on a cause of collapse, as a sweep file that can be run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.errors import ConfigError
from sweeps.spec.sweep import parse_spec

__all__ = ["ARMS", "next_sweep"]

_ANNEALING: dict[str, Any] = {
    "annealing": ["kl_linear_epoch"],
    "cyclical": ["kl_cyclical"],
    "free_bits": ["free_bits"],
    "bn_vae": ["bn_vae"],
}

_ENCODER_LR = {"encoder_lr": [{"kind": "encoder_lr", "multiplier": {"choices": [2, 4, 8]}}]}

ARMS: Mapping[str, Mapping[str, Any]] = {
    "encoder_not_trained": {
        "aggressive": ["aggressive"],
        **_ENCODER_LR,
        "bn_vae": ["bn_vae"],
    },
    "inference_lags": {
        "aggressive": ["aggressive"],
        "sa_vae": ["sa_vae"],
        **_ENCODER_LR,
    },
    "kl_weight_above_1": {"vae": [], "beta": [{"kind": "beta_vae", "beta": {"low": 0.2, "high": 1.0}}], **_ANNEALING},
    "kl_not_used": {
        "bn_vae": ["bn_vae"],
        "aggressive_free_bits": ["aggressive", "free_bits"],
        "annealed_free_bits": ["kl_linear_epoch", "free_bits"],
        "mae": ["mae"],
    },
    "kl_pressure": _ANNEALING,
    "decoder_ignores_z": {
        "skip_vae": ["skip_vae"],
        "word_dropout": ["word_dropout"],
        "multitask_bow": ["multitask_bow"],
        "aggressive": ["aggressive"],
    },
}
"""Arms that act on each cause; the plain VAE is added for comparison. Causes without arms are faults of the model, or
no collapse."""


def next_sweep(cause: str, config: TrialConfig) -> str | None:
    """Return a sweep file with the trial of `config` and the arms that act on `cause`.

    Arms that do not apply to the data or the model are left out.

    Args:
        cause: The main cause, a key of `lagvae_core.studies.diagnosis.CAUSES`.
        config: Configuration of the diagnosed model.

    Returns:
        A valid sweep file as YAML; None if no arm acts on the cause.
    """
    trial = _without_defaults(config)
    arms: dict[str, Any] = {}
    for name, strategies in {"vae": [], **ARMS.get(cause, {})}.items():
        if _parsed(trial, {name: strategies}) is not None:
            arms[name] = strategies
    return _parsed(trial, arms) if len(arms) > 1 else None


def _without_defaults(config: TrialConfig) -> dict[str, Any]:
    """Return the sections of a trial without the values that it would have anyway."""
    values = config.model_dump(mode="json")
    kinds = {"data": {"kind": config.data.kind}, "model": {"kind": config.model.kind}}
    required = [name for name, field in type(config.data).model_fields.items() if field.is_required()]
    kinds["data"] |= {name: values["data"][name] for name in required}
    defaults = parse_trial(kinds).model_dump(mode="json")
    return {
        section: kinds.get(section, {})
        | {name: value for name, value in values[section].items() if value != defaults[section][name]}
        for section in ("data", "model", "training", "evaluation")
    }


def _parsed(trial: Mapping[str, Any], arms: Mapping[str, Any]) -> str | None:
    """Return the text of the sweep; None if it is invalid."""
    sweep = {
        "name": "next",
        "trial": trial,
        "arms": arms,
        "objectives": {"nll_iw": "min", "mi": "max"},
        "search": {"sampler": "tpe", "configurations": 4, "seeds": {"start": 1, "up_to": 3}},
        "stopping": {"rule": "front"},
    }
    text: str = yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, width=120)
    try:
        parse_spec(text)
    except ConfigError:
        return None
    return text
