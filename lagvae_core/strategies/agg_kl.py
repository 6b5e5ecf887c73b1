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
    """The loss contains the KL of the aggregate posterior q(z), the mean of all q(z|x), instead of their mean KL.

    Source: Hoffman & Johnson 2016, ELBO surgery, with the weights of Zhao et al. 2017.

    The mean KL of the posteriors is I(x; z) + KL(q(z) || p(z)). The loss is mean(rec) + (1 - alpha) * w * KL + (alpha +
    scale - 1) * D, with D an estimate of KL(q(z) || p(z)). At `alpha` 1 and `scale` 1, the defaults, the loss is rec +
    D, the negative ELBO without its term I(x; z). At `alpha` 0, D is added to the negative ELBO and does not counteract
    collapse.

    D is the mean over the batch of log((1/B) sum_j q(z_i|x_j)) - log p(z_i), with one sample z_i of each posterior. All
    posteriors are those whose KL is in the objective. The mixture contains the posterior that z_i was drawn from, so D
    overestimates KL(q(z) || p(z)) by I(x; z) minus the information that a batch of B examples can show, which is at
    most ln B. Hence at most ln B nats of information are free, and further nats cost as much as in the plain VAE: the
    objective depends on the batch size. With `batching: constant_length` a batch of text holds sentences of one length,
    and D is the KL of the aggregate posterior of this length.
    """

    paper: ClassVar[str] = (
        "Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound"
    )

    kind: Literal["agg_kl"] = "agg_kl"
    alpha: Annotated[
        float, Field(le=1, description="share of the mean KL that is left out of the loss"), Tunable(0.0, 1.0)
    ] = 1.0
    scale: Annotated[
        float, Field(ge=0, description="total weight of the divergence of q(z) (lambda)"), Tunable(1, 10, log=True)
    ] = 1.0

    def penalty(self, weight: float) -> Penalty:
        return AggregateKl(weight)

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.FLOW_POSTERIOR):
            yield Incompatibility(
                "E14",
                f"agg_kl needs q(z|x) at the samples of other examples, which under {other.kind} requires inverting "
                f"the flow for each pair of examples; remove agg_kl or {other.kind}",
            )


class AggregateKl(Penalty):
    """weight * KL(q(z) || p(z)), where q(z) is the mixture of the batch's posteriors, all of them Gaussian."""

    least_batch = 2

    def __init__(self, weight: float) -> None:
        super().__init__()
        self._weight = weight

    def forward(self, forward: Forward) -> Tensor:
        posteriors, z_BSZ = forward.inference.kl_posterior.base, forward.kl_posterior_draw.z_BSZ
        mixture = log_aggregate(posteriors.at_least_float32(), z_BSZ.flatten(0, 1))
        return self._weight * (mixture - forward.model.prior.log_prob(z_BSZ).mean())
