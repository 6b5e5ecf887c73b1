"""The KL of the aggregate posterior instead of the mean KL of the posteriors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.models.kl import log_aggregate
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import ConfigContext, Incompatibility, KlExchange, Trait
from lagvae_core.strategies.slots import Forward, Penalty

__all__ = ["AggKl", "AggregateKl"]


class AggKl(KlExchange):
    """The loss contains the KL of the aggregate posterior q(z), the mean of all q(z|x), instead of the KL of each.

    Source: Hoffman & Johnson 2016, ELBO surgery, with the weights of Zhao et al. 2017.

    The mean KL of the posteriors is I(x; z) + KL(q(z) || p(z)). The loss is mean(rec) + (1 - alpha) * w * KL +
    (alpha + scale - 1) * D, with D an estimate of KL(q(z) || p(z)). At `alpha` 1 and `scale` 1, the defaults, it is
    rec + D: the bound without the cost of the information. At `alpha` 0, D is an additional cost on top of the bound
    and does not counteract collapse.

    D is the mean over the batch of log((1/B) sum_j q(z_i|x_j)) - log p(z_i), with one sample z_i of each posterior. All
    densities are those whose KL is in the objective. The mixture contains the posterior that z_i was drawn from, so D
    is too high by I(x; z) minus the information that a batch of B can show, which is at most ln B. Hence at most ln B
    nats of information are free, and the rest costs as much as in the plain VAE: a larger batch is a different
    objective. In batches of one sentence length, which `batching: constant_length` makes of a text, D is the KL of one
    length.
    """

    paper: ClassVar[str] = (
        "Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound"
    )

    kind: Literal["agg_kl"] = "agg_kl"
    alpha: Annotated[
        float, Field(le=1, description="share of the mean KL that is left out of the loss"), Tunable(0.0, 1.0)
    ] = 1.0
    scale: Annotated[float, Field(ge=0, description="weight of q(z) as a whole (lambda)"), Tunable(1, 10, log=True)] = (
        1.0
    )

    def penalty(self, weight: float) -> Penalty:
        return AggregateKl(weight)

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.FLOW_POSTERIOR):
            yield Incompatibility(
                "E14",
                f"agg_kl needs q(z|x) at the samples of other examples, which under {other.kind} costs an inversion "
                "for each pair; remove one of the two",
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
