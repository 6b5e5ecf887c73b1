"""A learned prior, defined by an autoregressive flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.models.flows import Flow, Standardising
from lagvae_core.models.gaussian import NormalPrior, Prior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["AfPrior", "FlowPrior"]


class AfPrior(Strategy):
    """The prior is a learned density: an autoregressive flow maps z to standard normal noise.

    Source: Chen et al. 2017, Variational Lossy Autoencoder.

    Each of the `blocks` maps z to e with e_d = (z_d - m_d) / s_d, where m_d and s_d are functions of the dimensions
    before d. The blocks alternate between the forward and the reverse order of the dimensions. log p(z) is the sum over
    d of log N(e_d; 0, 1), with e the output of the last block, minus the sum of log s_d over all blocks. Computing a
    density takes one pass per block; drawing z takes one pass per block and dimension. The posterior remains a diagonal
    Gaussian, and the KL is estimated by Monte Carlo: log q(z|x) - log p(z) at the decoded sample in training, and at
    100 samples in evaluation. This KL is not a sum over dimensions. With a single dimension the flow is a learned
    affine map, and the prior is a Gaussian.

    Departures. The paper also restricts how many of the previous words or pixels the decoder sees. This strategy does
    not include the restriction, which for images would need a special decoder. The default number of blocks comes from
    the published code of Ma et al. 2019. A block in their code is a pair of passes, with one hidden layer, direct
    connections, weight normalisation and unbounded scales. In this implementation a block is a single pass with two
    hidden layers, and the initial prior is exactly N(0, I). log s is bounded to (-3, 3), and the outputs of the
    networks are divided by the square root of `hidden`, because otherwise a learning rate of 1.0 overshoots.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"prior"})
    paper: ClassVar[str] = "Chen et al. 2017, Variational Lossy Autoencoder"
    traits: ClassVar[frozenset[Trait]] = frozenset(
        {Trait.KL_NOT_BY_DIMENSION, Trait.KL_SAMPLED, Trait.UNTESTED_WITH_INNER_LOOP}
    )
    unmeasured: ClassVar[frozenset[str]] = frozenset({"kl_by_dimension"})

    kind: Literal["af_prior"] = "af_prior"
    blocks: Annotated[
        int, Field(ge=0, description="number of blocks of the flow; 0: the prior is N(0, I)"), Tunable(1, 6)
    ] = 4
    hidden: Annotated[
        int | None, Field(ge=1, description="units of each hidden layer of the flow; null: 16 per latent dimension")
    ] = None

    def build(self, context: BuildContext) -> dict[str, Any]:
        size = context.latent_dim
        return {"prior": FlowPrior(Flow(Standardising, self.blocks, size, self.hidden or 16 * size))}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.FLOW_POSTERIOR):
            yield Incompatibility(
                "E15",
                f"af_prior is equivalent to {other.kind} along the encoder path (Chen et al. 2017); choose one of them",
            )
        if self.blocks == 0 and self.hidden is not None:
            yield Incompatibility("E18", "af_prior.hidden has no effect with blocks = 0; leave it out")


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
