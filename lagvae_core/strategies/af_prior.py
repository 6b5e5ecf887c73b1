"""A prior that an autoregressive flow has learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.models.flows import Flow, Standardising
from lagvae_core.models.gaussian import NormalPrior, Prior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy

__all__ = ["AfPrior", "FlowPrior"]


class AfPrior(Strategy):
    """The prior is a learned density: z becomes standard normal noise through an autoregressive flow.

    Source: Chen et al. 2017, Variational Lossy Autoencoder.

    Each of the `blocks` maps z to e, e_d = (z_d - m_d) / s_d, where m_d and s_d are functions of the dimensions before
    d; the blocks read the dimensions in turn from either end. log p(z) is the sum over d of log N(e_d; 0, 1) less the
    log s_d of all blocks. A density costs one pass a block, a sample of z one for each dimension. The posterior stays a
    diagonal Gaussian, and the KL is by Monte Carlo: log q(z|x) - log p(z) at the sample that is decoded, and in
    evaluation at 100. It does not split over dimensions. In one dimension the flow is a learned affine map, the prior a
    Gaussian.

    Departures. The paper's other half, a decoder that sees little of its past, is not here; its form for images comes
    with an image decoder. The published code of Ma et al. 2019, from which the number of blocks is, has pairs of passes
    in the place of our single ones, one hidden layer with direct connections under weight normalisation, and free
    deviations; here there are two hidden layers, and the prior starts as N(0, I) exactly. log s is held in (-3, 3), and
    what the networks give is divided by the root of their width, because a learning rate of 1.0 overshoots otherwise.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"prior"})
    paper: ClassVar[str] = "Chen et al. 2017, Variational Lossy Autoencoder"
    unmeasured: ClassVar[frozenset[str]] = frozenset({"kl_by_dimension"})

    kind: Literal["af_prior"] = "af_prior"
    blocks: Annotated[int, Field(ge=0, description="passes of the flow; 0 is N(0, I)"), Tunable(1, 6)] = 4
    hidden: Annotated[int | None, Field(ge=1, description="units of a hidden layer; null: 16 a latent dimension")] = (
        None
    )

    def build(self, context: BuildContext) -> dict[str, Any]:
        size = context.latent_dim
        return {"prior": FlowPrior(Flow(Standardising, self.blocks, size, self.hidden or 16 * size))}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if other.kind == "iaf_posterior":
                yield Incompatibility(
                    "E15",
                    "af_prior and iaf_posterior are equivalent parameterisations of one model along the encoder's "
                    "path; choose one",
                )
        if self.blocks == 0 and self.hidden is not None:
            yield Incompatibility("E18", "af_prior.hidden is an unused option with blocks = 0; leave it out")


class FlowPrior(Prior):
    """p(z) = N(flow(z); 0, I) |det dflow/dz|."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self._noise = NormalPrior()

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        noise_BSZ, log_scale_BSZ = self.flow.forward(z_BSZ)
        return self._noise.log_prob(noise_BSZ) + log_scale_BSZ.sum(-1)

    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        z_NZ, _ = self.flow.inverse(noise_NZ)
        return z_NZ
