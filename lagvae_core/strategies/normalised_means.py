"""The column and the warning of strategies that normalise the posterior means over the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lagvae_core.columns import Column
from lagvae_core.models.normalisation import MeanNormalisation
from lagvae_core.strategies.rules import ConfigWarning
from lagvae_core.strategies.slots import ExtraMetrics, Measurement

__all__ = ["NORMALISED_SHARE", "NormalisationMetrics", "weak_normalisation"]

NORMALISED_SHARE = Column(
    "normalised_share",
    "float",
    "smallest Var / (Var + epsilon) over latent dimensions, where Var is the running variance of the encoder's means: "
    "the fraction of the promised KL that the normalisation guarantees in that dimension",
)

SUFFICIENT_SHARE = 0.9
"""Value of `normalised_share` below which the variance of a dimension counts as close to epsilon."""


class NormalisationMetrics(ExtraMetrics):
    """Measures `NORMALISED_SHARE` of a posterior with the submodule `normalise`."""

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        normalise = measurement.model.posterior.normalise
        assert isinstance(normalise, MeanNormalisation)
        return {NORMALISED_SHARE.name: float(normalise.share_Z().min())}


def weak_normalisation(kind: str, epsilon: float, metrics: Mapping[str, Any]) -> Iterator[ConfigWarning]:
    """Warn if the encoder shrank the variance of its means to the size of epsilon (W8).

    Args:
        kind: Kind of the strategy.
        epsilon: The constant that the strategy adds to the variance of the batch.
        metrics: Metrics of the finished trial by column name.
    """
    share = metrics.get(NORMALISED_SHARE.name)
    if share is not None and share < SUFFICIENT_SHARE:
        yield ConfigWarning(
            "W8",
            f"{kind}: the encoder shrank the variance of its means to the size of {kind}.epsilon = {epsilon:g}, so in "
            f"one dimension only {share:.1%} of the KL that {kind}.gamma promises is guaranteed; lower {kind}.epsilon.",
        )
