"""Records of a trial: one per epoch and one at the end. They are plain data and can be converted to JSON and back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig, complete_stored
from lagvae_core.evaluation.evaluate import EVALUATION_COLUMNS

__all__ = ["CURVE_COLUMNS", "METRIC_COLUMNS", "EpochRecord", "Progress", "TrialRecord"]

METRIC_COLUMNS: tuple[Column, ...] = (
    *EVALUATION_COLUMNS,
    Column("best_epoch", "int", "number of the epoch whose weights are measured, from 1"),
    Column("epochs", "int", "number of trained epochs"),
    Column("kl_weight", "float", "KL weight of the last update of best_epoch"),
    Column("kl_weight_final", "float", "KL weight of the last update of the training"),
    Column(
        "valid_loss",
        "float",
        "rec + kl_train on the validation split at best_epoch, the loss by which best_epoch is selected [nats]",
    ),
    Column("valid_nll_elbo", "float", "rec + kl on the validation split at best_epoch [nats]", "min"),
    Column("valid_kl", "float", "kl on the validation split at best_epoch [nats]", "max"),
    Column("valid_mi", "float", "mi on the validation split at best_epoch [nats]", "max"),
    Column("valid_au", "int", "au on the validation split at best_epoch", "max"),
)
"""Metric columns of every trial. Strategies and kinds of data add their own."""

CURVE_COLUMNS: tuple[Column, ...] = (
    Column("epoch", "int", "number of the epoch, from 1"),
    Column("step", "int", "number of outer updates so far, not counting inner encoder steps"),
    Column("train_loss", "float", "mean training objective of the epoch [nats]"),
    Column("train_rec", "float", "mean reconstruction term of the epoch, with dropout [nats]"),
    Column("train_kl", "float", "mean KL in the training objective over the epoch, at weight 1 [nats]"),
    Column("kl_weight", "float", "KL weight of the epoch's last update"),
    Column("learning_rate", "float", "learning rate of the decoder during the epoch"),
    Column("valid_loss", "float", "rec + kl_train on the validation split [nats]"),
    Column("valid_nll_elbo", "float", "rec + kl on the validation split [nats]"),
    Column("valid_kl", "float", "kl on the validation split [nats]"),
    Column("valid_mi", "float", "mi on the validation split [nats]"),
    Column("valid_mi_batch", "float", "mi_batch on the validation split [nats]"),
    Column("valid_kl_agg", "float", "kl_agg on the validation split [nats]"),
    Column("valid_au", "int", "au on the validation split"),
    Column("encoder_steps", "int", "number of optimiser steps of the encoder so far"),
    Column("decoder_steps", "int", "number of optimiser steps of the decoder so far"),
    Column("skipped_batches", "int", "number of batches that were too small for a strategy's batch statistics"),
    Column("seconds", "float", "wall time since the start of the trial, without interruptions [s]"),
)
"""Columns of the record of an epoch."""

EPOCH_SUMMARY = ("epoch", "train_loss", "valid_nll_elbo", "valid_kl", "valid_mi", "valid_au")
TRIAL_SUMMARY = ("run_id", "status", "nll_iw", "kl", "mi", "au")
"""Values in the `repr` of a record."""


@dataclass(frozen=True, repr=False)
class EpochRecord:
    """The values of `CURVE_COLUMNS` for one epoch; columns about z are None for a model without a latent variable."""

    values: dict[str, Any]

    def __repr__(self) -> str:
        """Return the values that show the course of the training; `values` has all columns."""
        return f"{type(self).__name__}({_selected(self.values, EPOCH_SUMMARY)})"

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 1."""
        return int(self.values["epoch"])

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


@dataclass(frozen=True)
class Progress:
    """Progress of one phase of a trial.

    Attributes:
        phase: `train`, `validate`, or a phase of the evaluation.
        epoch: Number of the epoch, from 1.
        done: Number of batches (training) or examples (validation, evaluation) that are done.
        total: Total number of batches or examples in the phase.
    """

    phase: str
    epoch: int
    done: int
    total: int


@dataclass(repr=False)
class TrialRecord:
    """The result of one trial.

    Attributes:
        config: Configuration of the trial.
        run_id: Identity of configuration, data and seed.
        config_id: Identity of configuration and data without the seed.
        data_fingerprint: Hash of the data.
        status: finished, stopped_early, diverged, out_of_memory or failed.
        stop_reason: A sentence that says why the trial ended.
        metrics: Values of `METRIC_COLUMNS` and of the columns of the strategies; empty unless finished.
        curve: One record per epoch.
        cost: Time by phase [s], numbers of optimiser steps and peak memory [bytes].
        data: Statistics of the loaded data.
        warnings: Warnings about the configuration and, if the trial is finished, about its result.
        error_class: Class of the exception that ended the trial.
        traceback: Traceback of that exception.
    """

    config: TrialConfig
    run_id: str
    config_id: str
    data_fingerprint: str
    status: str
    stop_reason: str
    metrics: dict[str, Any] = field(default_factory=dict)
    curve: list[EpochRecord] = field(default_factory=list)
    cost: dict[str, float | int] = field(default_factory=dict)
    data: dict[str, int | float | str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error_class: str | None = None
    traceback: str | None = None

    def __repr__(self) -> str:
        """Return the identity, the status and the main metrics; the attributes have everything."""
        summary = _selected({"run_id": self.run_id, "status": self.status} | self.metrics, TRIAL_SUMMARY)
        warnings = f", warnings={len(self.warnings)}" if self.warnings else ""
        return f"{type(self).__name__}({summary}{warnings})"

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values; numbers that are not finite become null."""
        values = asdict(self) | {
            "config": self.config.model_dump(mode="json"),
            "curve": [record.values for record in self.curve],
            "warnings": list(self.warnings),
        }
        return _finite(values)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrialRecord:
        """Return the record from the values that `to_json` returned."""
        return cls(
            **values
            | {
                "config": TrialConfig.model_validate(complete_stored(values["config"])),
                "curve": [EpochRecord(epoch) for epoch in values["curve"]],
                "warnings": tuple(values["warnings"]),
            }
        )


def _selected(values: dict[str, Any], names: tuple[str, ...]) -> str:
    """Return those of the values that exist as `name=value`; floats have four significant digits."""
    shown = ((name, values[name]) for name in names if name in values)
    return ", ".join(f"{name}={f'{v:.4g}' if isinstance(v, float) else repr(v)}" for name, v in shown)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
