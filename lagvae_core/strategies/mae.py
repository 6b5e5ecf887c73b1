"""A reward for posteriors of a batch that differ from one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.models.kl import mutual_divergence
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, needs_batch_statistics
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Forward, Penalty

__all__ = ["Mae", "MutualDivergence"]


class Mae(Strategy):
    """The loss rewards posteriors that differ within the batch, and penalises differences that vary between pairs.

    Source: Ma et al. 2019, MAE: Mutual Posterior-Divergence Regularization for Variational Autoencoders.

    Let D_ij,d be KL(q_i || q_j) in dimension d for the posteriors of examples i and j. m_d is the mean of D_ij,d over
    all ordered pairs i != j of the batch, and s is the unbiased standard deviation of sum_d D_ij,d over these pairs.
    The loss increases by diversity * sum_d softplus(-m_d) + smoothness * s. For each dimension, the first term is
    between 0 and diversity * ln 2, so it can encourage the use of z but cannot force it. The posteriors are those whose
    KL is in the objective; for a flow posterior these are the Gaussians that the flow transforms.

    - The first term is that of the published code. Its versions before 5 October 2018 had diversity * softplus(-m_d /
      diversity), which is the same at the default of 1.
    - The code also averages the model weights over updates and uses an autoregressive flow as the prior. Neither is
      part of this strategy.
    - Two examples give only two pairs, too few to measure the spread: with `smoothness` above 0, batches of fewer than
      3 examples are skipped.
    - With `batching: constant_length` each batch holds sentences of one length, so different lengths are not compared.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"penalties"})
    paper: ClassVar[str] = "Ma et al. 2019, MAE: Mutual Posterior-Divergence Regularization"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.BATCH_STATISTICS, Trait.REGULARISES_BATCH})

    kind: Literal["mae"] = "mae"
    diversity: Annotated[
        float, Field(ge=0, description="weight (eta) of the mean divergence between pairs"), Tunable(0.5, 4)
    ] = 1.0
    smoothness: Annotated[
        float,
        Field(ge=0, description="weight (gamma) of the standard deviation of the divergence over pairs"),
        Tunable(0.0, 0.5),
    ] = 0.2

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"penalties": (MutualDivergence(self),) if self._least_batch else ()}

    @property
    def _least_batch(self) -> int:
        """The smallest batch size for which the statistics are defined; 0 if no statistics are needed."""
        return 3 if self.smoothness > 0 else 2 if self.diversity > 0 else 0

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        yield from needs_batch_statistics("mae", None, self._least_batch, context)


class MutualDivergence(Penalty):
    """diversity * sum_d softplus(-m_d) + smoothness * s."""

    def __init__(self, config: Mae) -> None:
        super().__init__()
        self._config = config
        self.least_batch = config._least_batch

    def forward(self, forward: Forward) -> Tensor:
        posteriors = forward.inference.kl_posterior.base.at_least_float32()
        return mutual_divergence(posteriors, self._config.diversity, self._config.smoothness)
