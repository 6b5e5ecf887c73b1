"""A penalty on the distance of the aggregate posterior from the prior, in place of part of the KL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.models.kl import inverse_multiquadratic, mmd, radial
from lagvae_core.settings import Tunable
from lagvae_core.strategies.agg_kl import AggregateKl
from lagvae_core.strategies.base import ConfigContext, KlExchange, without_effect
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Forward, Penalty

__all__ = ["Discrepancy", "InfoMmd"]

KERNELS = {"rbf": radial, "imq": inverse_multiquadratic}


class InfoMmd(KlExchange):
    """InfoVAE: part of the KL is replaced by the maximum mean discrepancy between q(z) = E_x q(z|x) and the prior.

    Source: Zhao et al. 2017, InfoVAE.

    The loss is mean(rec) + (1 - alpha) * w * KL + (alpha + scale - 1) * D, with the KL weight w. `alpha` 1 gives a
    Wasserstein autoencoder, `alpha` 0 with `scale` 1 gives the plain VAE, and `alpha` 1 - beta with `scale` beta gives
    beta_vae. At the default `alpha` 0, D is added to the full KL. With Z latent dimensions, d a distance in the latent
    space and C = 2 * Z * bandwidth^2, D is

    - `mmd`: `mmd_scale` times an unbiased estimate of the squared discrepancy between one sample of each posterior and
      as many samples of the prior, drawn again at each update. The kernel is exp(-d^2 / C) (`rbf`) or C / (C + d^2)
      (`imq`). The estimate can be negative. Its size depends on data and kernel, so choose `scale` accordingly;
    - `kl`: the estimate of KL(q(z) || p(z)) that agg_kl uses.

    The posteriors that are used and sampled are those whose KL is in the objective.

    Pelsmaeker & Aziz 2019 use `mmd_scale` 10,000 and the kernel exp(-d^2 / Z), which is `bandwidth` 0.7071 here.

    - alpha + scale < 1 is rejected (E17), because it rewards divergence from the prior. Public code has such defaults.
    - The kernel has one bandwidth; published code of Wasserstein autoencoders also sums kernels of several bandwidths.
    - Pelsmaeker & Aziz 2019 use an `mmd_scale` of 10,000; the default in this implementation is 1, because `scale` is
      already a weight.
    - The penalty assumes that each batch is a random sample of the data. With `batching: constant_length` all sentences
      of a batch have the same length, and the penalty compares each length separately with the prior.
    """

    paper: ClassVar[str] = "Zhao et al. 2017, InfoVAE: Information Maximizing Variational Autoencoders"

    kind: Literal["info_mmd"] = "info_mmd"
    alpha: Annotated[
        float, Field(le=1, description="fraction of the KL that is left out of the loss"), Tunable(0.0, 1.0)
    ] = 0.0
    scale: Annotated[
        float,
        Field(ge=0, description="total weight (lambda) of the divergence of q(z) from the prior"),
        Tunable(1, 1e3, log=True),
    ] = 10.0
    divergence: Annotated[Literal["mmd", "kl"], Field(description="divergence of q(z) from the prior")] = "mmd"
    kernel: Annotated[
        Literal["rbf", "imq"], Field(description="kernel of mmd: radial basis function or inverse multiquadratic")
    ] = "rbf"
    bandwidth: Annotated[float, Field(gt=0, description="width of the kernel [standard deviations of the prior]")] = 1.0
    mmd_scale: Annotated[float, Field(gt=0, description="additional factor on the discrepancy")] = 1.0

    def penalty(self, weight: float) -> Penalty:
        return AggregateKl(weight) if self.divergence == "kl" else Discrepancy(self, weight)

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.divergence == "mmd":
            return
        yield from without_effect(self, "with divergence = kl", "kernel", "bandwidth", "mmd_scale")
        for other in context.with_trait(Trait.FLOW_POSTERIOR):
            yield Incompatibility(
                "E14",
                f"info_mmd with divergence = kl requires Gaussian posteriors, but the posteriors of {other.kind} are "
                f"flows; set info_mmd.divergence = mmd, or remove info_mmd or {other.kind}",
            )


class Discrepancy(Penalty):
    """weight * mmd_scale * MMD^2 between samples of the posteriors and samples of the prior."""

    least_batch = 2

    def __init__(self, config: InfoMmd, weight: float) -> None:
        super().__init__()
        self._config = config
        self._weight = weight * config.mmd_scale

    def forward(self, forward: Forward) -> Tensor:
        z_NZ = forward.kl_posterior_draw.z_BSZ.flatten(0, 1)
        stream = forward.streams["auxiliary"]
        noise_NZ = torch.randn(z_NZ.shape, generator=stream, dtype=z_NZ.dtype, device=z_NZ.device)
        prior_NZ = forward.model.prior.sample(noise_NZ, stream)
        kernel = KERNELS[self._config.kernel](2.0 * z_NZ.shape[1] * self._config.bandwidth**2)
        return self._weight * mmd(z_NZ, prior_NZ, kernel)
