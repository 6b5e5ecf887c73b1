"""What a trial says: one record an epoch, one at the end. Plain data, JSON in and out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig

__all__ = ["CURVE_COLUMNS", "METRIC_COLUMNS", "EpochRecord", "Progress", "TrialRecord"]

METRIC_COLUMNS: tuple[Column, ...] = (
    Column("n", "int", "examples measured"),
    Column("tokens", "int", "predicted tokens measured; null for images"),
    Column(
        "nll_iw",
        "float",
        "importance-weighted NLL, iw_k samples, of the model that is sampled from [nats]",
        "min",
    ),
    Column("nll_iw_mc_se", "float", "standard error of nll_iw from the finite number of samples [nats]"),
    Column("iw_k", "int", "importance samples an example"),
    Column("iw_ess", "float", "median effective sample size of the importance weights, at most iw_k"),
    Column("nll_elbo", "float", "rec + kl: minus the ELBO, one sample [nats]; a looser bound than nll_iw", "min"),
    Column("rec", "float", "-log p(x|z) at one posterior sample [nats]", "min"),
    Column("kl", "float", "KL(q(z|x) || p(z)) of the evaluated model [nats]", "max"),
    Column("kl_train", "float", "the KL that the training objective charges, weight 1 [nats]"),
    Column(
        "mi",
        "float",
        "I(x; z) under q against the mixture over the whole split [nats]; at most mi_cap",
        "max",
    ),
    Column("mi_se", "float", "standard error of mi [nats]"),
    Column("mi_cap", "float", "ln n: the largest value that mi can take [nats]"),
    Column("mi_batch", "float", "the same within groups of mi_batch_size, the protocol of He et al. 2019 [nats]"),
    Column("mi_batch_cap", "float", "the largest value that mi_batch can take [nats]"),
    Column("kl_agg", "float", "kl - mi, an estimate of KL(q(z) || p(z)) [nats]", "min"),
    Column("au", "int", "active units: dimensions with Var(E[z|x]) >= 0.01, in units of the prior", "max"),
    Column("mean_variance", "floats", "Var(E[z|x]) of each dimension, in units of the prior"),
    Column("kl_by_dimension", "floats", "kl of each dimension [nats]; null where it does not split"),
    Column("ppl", "float", "exp(sum of nll_iw / sum of predicted tokens), corpus level; null for images", "min"),
    Column("bits_per_dim", "float", "nll_iw / (pixels * ln 2), bits a pixel of images; null for words", "min"),
    Column("best_epoch", "int", "the epoch (from 1) whose weights are measured"),
    Column("epochs", "int", "epochs trained"),
    Column(
        "valid_loss",
        "float",
        "rec + kl_train on the validation split at best_epoch, which selected it [nats]",
    ),
    Column("valid_nll_elbo", "float", "rec + kl on the validation split at best_epoch [nats]", "min"),
    Column("valid_kl", "float", "kl on the validation split at best_epoch [nats]", "max"),
    Column("valid_mi", "float", "mi on the validation split at best_epoch [nats]", "max"),
    Column("valid_au", "int", "au on the validation split at best_epoch", "max"),
)
"""The default columns, the same for every remedy; strategies add their own."""

CURVE_COLUMNS: tuple[Column, ...] = (
    Column("epoch", "int", "from 1"),
    Column("step", "int", "outer updates so far"),
    Column("train_loss", "float", "mean training objective of the epoch [nats]"),
    Column("train_rec", "float", "mean reconstruction term of the epoch, with dropout [nats]"),
    Column("train_kl", "float", "mean charged KL of the epoch [nats]"),
    Column("kl_weight", "float", "KL weight of the epoch's last update"),
    Column("learning_rate", "float", "of the decoder, during the epoch"),
    Column("valid_loss", "float", "rec + kl_train on the validation split [nats]"),
    Column("valid_nll_elbo", "float", "rec + kl on the validation split [nats]"),
    Column("valid_kl", "float", "kl on the validation split [nats]"),
    Column("valid_mi", "float", "mi on the validation split [nats]"),
    Column("valid_mi_batch", "float", "mi_batch on the validation split [nats]"),
    Column("valid_kl_agg", "float", "kl_agg on the validation split [nats]"),
    Column("valid_au", "int", "au on the validation split"),
    Column("encoder_steps", "int", "encoder updates so far"),
    Column("decoder_steps", "int", "decoder updates so far"),
    Column("skipped_batches", "int", "batches of the epoch too small for the remedy's statistics"),
    Column("seconds", "float", "wall time since the start of the trial, interruptions excluded"),
)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: the values of CURVE_COLUMNS; what speaks of z is None in a model without one."""

    values: dict[str, Any]

    @property
    def epoch(self) -> int:
        return int(self.values["epoch"])

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


@dataclass(frozen=True)
class Progress:
    """How far a phase of the trial is: `done` of `total` batches (training) or examples (evaluation)."""

    phase: str
    epoch: int
    done: int
    total: int


@dataclass
class TrialRecord:
    """One trial: its configuration, how it ended, and every number.

    `status` is finished, stopped_early, diverged, out_of_memory or failed; `stop_reason` a sentence. `metrics` holds
    METRIC_COLUMNS and those of the strategies, `cost` seconds by phase and steps, `data` what was loaded.
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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite becomes null."""
        values = asdict(self) | {
            "config": self.config.model_dump(mode="json"),
            "curve": [record.values for record in self.curve],
            "warnings": list(self.warnings),
        }
        return _finite(values)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrialRecord:
        return cls(
            **values
            | {
                "config": TrialConfig.model_validate(values["config"]),
                "curve": [EpochRecord(epoch) for epoch in values["curve"]],
                "warnings": tuple(values["warnings"]),
            }
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
