"""Posterior means normalised over the batch to a fixed spread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.normalisation import MeanNormalisation, start_by_default
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import (
    BuildContext,
    ConfigContext,
    Incompatibility,
    Strategy,
    grouped_batches,
    needs_batch_statistics,
)

__all__ = ["BnPosterior", "BnVae"]


class BnVae(Strategy):
    """The means of a batch are normalised to deviation `gamma` around a learned centre, so that the KL cannot vanish.

    Source: Zhu et al. 2020, section 3, with the constants of their published code.

    Each dimension becomes gamma * (mu - E[mu]) / sqrt(Var[mu] + epsilon) + beta; the log-variance stays. In train mode
    the mean KL of a batch is at least half the sum over dimensions of gamma^2 * Var / (Var + epsilon) + beta^2.
    Evaluation uses running averages, so that q(z|x) depends on x alone, and there the floor holds only roughly. A KL
    above zero is no use of z: at gamma 0 and a fixed beta the KL is positive and the mutual information 0.

    - The encoder starts as torch initialises its layers, embeddings included, as in the published code;
      `model.init_range` and `model.init_embedding` then hold for the decoder alone. From U(-0.01, 0.01) the deviation
      of the means would be far below sqrt(epsilon), the output a tenth of gamma, and with a smaller epsilon the
      gradient through the normalisation a thousand times that of the plain VAE.
    - The running averages start as plain means, because torch's start at mean 0 and variance 1 outlasts a short run.
    - `gamma` 0 is a spread of 0; in the published code it switches the normalisation off.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior"})
    paper: ClassVar[str] = "Zhu et al. 2020, A Batch Normalized Inference Network, section 3"

    kind: Literal["bn_vae"] = "bn_vae"
    gamma: Annotated[float, Field(ge=0, description="deviation of the normalised means"), Tunable(0.4, 0.8)] = 0.6
    beta: Annotated[float, Field(description="centre of the normalised means, at the start")] = 0.0
    learn_beta: Annotated[bool, Field(description="whether the centre is learned, by dimension")] = True
    epsilon: Annotated[float, Field(gt=0, description="added to the variance of the batch")] = 1e-5
    momentum: Annotated[float, Field(gt=0, le=1, description="weight of a batch in the running averages")] = 0.1
    min_batch: Annotated[int, Field(ge=2, description="smaller batches are skipped")] = 2

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"posterior": BnPosterior(self, context.latent_dim)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if other.kind == "scale_vae":
                yield Incompatibility(
                    "E03",
                    "bn_vae already fixes the deviation of the means that scale_vae would set, whose factor would be "
                    "the constant des_std / gamma; remove one of the two",
                )
        yield from needs_batch_statistics("bn_vae", "min_batch", self.min_batch, context)

    def warnings(self, context: ConfigContext) -> Iterator[str]:
        yield from grouped_batches("bn_vae", context)


class BnPosterior(Posterior):
    """N(gamma * normalised mu + beta, sigma^2)."""

    beta: Tensor

    def __init__(self, setting: BnVae, latent_dim: int) -> None:
        super().__init__()
        self._setting = setting
        self.normalise = MeanNormalisation(latent_dim, setting.epsilon, setting.momentum)
        beta = torch.full((latent_dim,), setting.beta)
        if setting.learn_beta:
            self.beta = nn.Parameter(beta)
        else:
            self.register_buffer("beta", beta)

    def forward(self, encoded: Gaussian) -> Inference:
        wide = encoded.at_least_float32()
        mean = self._setting.gamma * self.normalise(wide.mean_BZ) + self.beta
        return Inference.plain(Gaussian(mean, wide.logvar_BZ))

    def start(self, encoder: nn.Module) -> None:
        start_by_default(encoder)

    def accepts(self, batch_size: int) -> bool:
        return batch_size >= self._setting.min_batch
