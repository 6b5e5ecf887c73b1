"""The KL of the aggregate posterior in the place of the mean KL of the posteriors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.models.kl import log_aggregate
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import KlExchange
from lagvae_core.strategies.slots import Forward, Penalty

__all__ = ["AggKl", "AggregateKl"]


class AggKl(KlExchange):
    """Not each q(z|x) but only their mean over the data, q(z), pays a KL to the prior.

    Source: Hoffman & Johnson 2016, ELBO surgery, with the weights of Zhao et al. 2017.

    The mean KL of the posteriors is I(x; z) + KL(q(z) || p(z)). The loss is mean(rec) + (1 - alpha) * w * KL +
    (alpha + scale - 1) * D, with D an estimate of KL(q(z) || p(z)). At `alpha` 1 and `scale` 1, the defaults, it is
    rec + D: the bound with the price of the information taken off. At `alpha` 0 it is a further cost on top of the
    bound and does nothing against a collapse.

    D is the mean over the batch of log((1/B) sum_j q(z_i|x_j)) - log p(z_i), with one sample z_i of each posterior, all
    of the densities whose KL is charged. A sample finds its own posterior in the mixture, which puts D too high by
    I(x; z) less the information that a batch of B can show, at most ln B: so no more than ln B nats are free of charge,
    and the rest costs what it costs in the plain VAE. Hence larger batches are another objective. In batches
    of one sentence length, which `batching: constant_length` makes of a text, D is the KL of one length.
    """

    paper: ClassVar[str] = (
        "Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound"
    )

    kind: Literal["agg_kl"] = "agg_kl"
    alpha: Annotated[float, Field(le=1, description="share of the mean KL that is not paid"), Tunable(0.0, 1.0)] = 1.0
    scale: Annotated[float, Field(ge=0, description="weight of q(z) as a whole (lambda)"), Tunable(1, 10, log=True)] = (
        1.0
    )

    def penalty(self, weight: float) -> Penalty:
        return AggregateKl(weight)


class AggregateKl(Penalty):
    """weight * KL(q(z) || p(z)), q(z) the mixture of the batch's posteriors, Gaussians all of them."""

    least_batch = 2

    def __init__(self, weight: float) -> None:
        super().__init__()
        self._weight = weight

    def forward(self, forward: Forward) -> Tensor:
        posteriors, z_BSZ = forward.inference.kl_posterior.base, forward.kl_posterior_draw.z_BSZ
        mixture = log_aggregate(posteriors.at_least_float32(), z_BSZ.flatten(0, 1))
        return self._weight * (mixture - forward.model.prior.log_prob(z_BSZ).mean())
