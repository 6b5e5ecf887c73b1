"""The KL of the aggregate posterior instead of the mean KL of the posteriors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.models.kl import log_aggregate
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import ConfigContext, KlExchange
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Forward, Penalty

__all__ = ["AggKl", "AggregateKl"]


class AggKl(KlExchange):
    """The loss contains the KL of the aggregate posterior q(z) = E_x q(z|x) instead of the mean KL of all q(z|x).

    Source: Hoffman & Johnson 2016, ELBO surgery, with the weights of Zhao et al. 2017.

    The mean KL of the posteriors is I(x; z) + KL(q(z) || p(z)). With D an estimate of KL(q(z) || p(z)), the loss is
    mean(rec) + (1 - alpha) * w * KL + (alpha + scale - 1) * D. The defaults, `alpha` 1 and `scale` 1, give rec + D, the
    negative ELBO without its term I(x; z). With `alpha` 0, (scale - 1) * D is added to the negative ELBO, which does
    not counteract collapse.

    D is the mean over the batch of log((1/B) sum_j q(z_i|x_j)) - log p(z_i), with one sample z_i from each posterior.
    All posteriors are those whose KL is in the objective. The mixture contains the posterior that z_i was drawn from,
    so D overestimates KL(q(z) || p(z)) by I(x; z) minus the mutual information within a batch of B examples, which is
    at most ln B. Hence at most ln B nats of information are free, and further nats cost as much as in the plain VAE, so
    the objective depends on the batch size. With `batching: constant_length` all sentences of a batch have the same
    length, and D is the KL of the aggregate posterior of that length.
    """

    paper: ClassVar[str] = (
        "Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound"
    )

    kind: Literal["agg_kl"] = "agg_kl"
    alpha: Annotated[
        float, Field(le=1, description="fraction of the mean KL that is left out of the loss"), Tunable(0.0, 1.0)
    ] = 1.0
    scale: Annotated[
        float,
        Field(ge=0, description="total weight (lambda) of the divergence of q(z) from the prior"),
        Tunable(1, 10, log=True),
    ] = 1.0

    def penalty(self, weight: float) -> Penalty:
        return AggregateKl(weight)

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.FLOW_POSTERIOR):
            yield Incompatibility(
                "E14",
                f"agg_kl evaluates q(z|x) at samples of other examples, which with {other.kind} requires inverting the "
                f"flow for each pair of examples; remove agg_kl or {other.kind}",
            )


class AggregateKl(Penalty):
    """weight * KL(q(z) || p(z)), where q(z) is the mixture of the Gaussian posteriors of the batch."""

    least_batch = 2

    def __init__(self, weight: float) -> None:
        super().__init__()
        self._weight = weight

    def forward(self, forward: Forward) -> Tensor:
        posteriors, z_BSZ = forward.inference.kl_posterior.base, forward.kl_posterior_draw.z_BSZ
        mixture = log_aggregate(posteriors.at_least_float32(), z_BSZ.flatten(0, 1))
        return self._weight * (mixture - forward.model.prior.log_prob(z_BSZ).mean())
