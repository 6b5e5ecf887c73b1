"""A learned mixture of Gaussians as the prior."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.models.gaussian import Gaussian, Prior, log_mixture
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, Strategy
from lagvae_core.strategies.rules import Trait

__all__ = ["MixturePrior", "MogPrior"]


class MogPrior(Strategy):
    """The prior is a mixture of diagonal Gaussians with learned means, variances and weights.

    Source: Kamoi & Fukutomi 2018, the multimodal prior.

    p(z) = sum_c w_c N(z; m_c, diag(v_c)). Unlike in vamp_prior, the components are free Gaussians, not posteriors. The
    KL is estimated by Monte Carlo, log q(z|x) - log p(z), in training at the decoded sample and in evaluation at 100
    samples; it is not a sum over dimensions. The components are trained with the decoder.

    The defaults are choices of this implementation. Initial means are drawn from N(0, init_spread^2), initial variances
    are 1 and initial weights are equal; one component with `init_spread` 0 starts as N(0, I).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"prior"})
    paper: ClassVar[str] = "Kamoi & Fukutomi 2018, multimodal prior"
    unmeasured: ClassVar[frozenset[str]] = frozenset({"kl_by_dimension"})
    traits: ClassVar[frozenset[Trait]] = frozenset(
        {Trait.KL_NOT_BY_DIMENSION, Trait.KL_SAMPLED, Trait.UNTESTED_WITH_INNER_LOOP}
    )

    kind: Literal["mog_prior"] = "mog_prior"
    components: Annotated[
        int, Field(ge=1, le=65536, description="number of Gaussians in the mixture"), Tunable(2, 50, log=True)
    ] = 10
    init_spread: Annotated[
        float, Field(ge=0, description="standard deviation of the initial means"), Tunable(0.1, 2)
    ] = 1.0

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"prior": MixturePrior(self, context.latent_dim)}


class MixturePrior(Prior):
    """p(z) = sum_c w_c N(z; m_c, diag(v_c)) with C components."""

    def __init__(self, config: MogPrior, latent_dim: int) -> None:
        super().__init__()
        self.mean_CZ = nn.Parameter(config.init_spread * torch.randn(config.components, latent_dim))
        self.logvar_CZ = nn.Parameter(torch.zeros(config.components, latent_dim))
        self.logit_C = nn.Parameter(torch.zeros(config.components))

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        components = Gaussian(self.mean_CZ, self.logvar_CZ)
        log_p_N = log_mixture(z_BSZ.flatten(0, 1), components, self.logit_C.double().log_softmax(0))
        return log_p_N.view(z_BSZ.shape[:2]).to(z_BSZ)

    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        weight_C = self.logit_C.softmax(0)
        chosen = torch.multinomial(weight_C, len(noise_NZ), replacement=True, generator=generator)
        return self.mean_CZ[chosen] + (0.5 * self.logvar_CZ[chosen]).exp() * noise_NZ
