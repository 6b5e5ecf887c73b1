"""Posterior means normalised over the batch to a fixed standard deviation."""

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
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, needs_batch_statistics
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["BnPosterior", "BnVae"]


class BnVae(Strategy):
    """The means of a batch are normalised to standard deviation `gamma` around a learned centre; the KL cannot vanish.

    Source: Zhu et al. 2020, section 3, with the constants of their published code.

    Each dimension of mu becomes gamma * (mu - E[mu]) / sqrt(Var[mu] + epsilon) + beta; the log-variance is unchanged.
    In training the mean KL of a batch is at least half the sum over dimensions of gamma^2 * Var / (Var + epsilon) +
    beta^2. Evaluation uses running averages, so that q(z|x) depends on x alone, and then the bound holds only
    approximately. A KL above zero does not prove that z is used: at gamma 0 and a fixed beta the KL is positive and the
    mutual information is 0.

    - The encoder is initialised by the defaults of torch, embeddings included, as in the published code;
      `model.init_range` and `model.init_embedding` then apply to the decoder only. With initial weights from U(-0.01,
      0.01), the standard deviation of the means would be far below sqrt(epsilon), and the normalised means would have a
      standard deviation of a tenth of gamma; with a smaller epsilon, the gradient through the normalisation would be a
      thousand times the gradient of the plain VAE.
    - The running averages start as plain means over the first batches, because the influence of torch's initial mean 0
      and variance 1 outlasts a short run.
    - `gamma` 0 sets the standard deviation to 0; in the published code `gamma` 0 switches the normalisation off.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior"})
    paper: ClassVar[str] = "Zhu et al. 2020, A Batch Normalized Inference Network, section 3"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.BATCH_STATISTICS, Trait.NORMALISES_MEANS})

    kind: Literal["bn_vae"] = "bn_vae"
    gamma: Annotated[
        float, Field(ge=0, description="standard deviation of the normalised means"), Tunable(0.4, 0.8)
    ] = 0.6
    beta: Annotated[float, Field(description="initial centre of the normalised means")] = 0.0
    learn_beta: Annotated[bool, Field(description="whether the centre of each dimension is learned")] = True
    epsilon: Annotated[float, Field(gt=0, description="constant added to the variance of the batch")] = 1e-5
    momentum: Annotated[float, Field(gt=0, le=1, description="weight of a batch in the running averages")] = 0.1
    min_batch: Annotated[int, Field(ge=2, description="smallest batch that is used for training")] = 2

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"posterior": BnPosterior(self, context.latent_dim)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.SCALES_MEANS):
            yield Incompatibility(
                "E03",
                f"bn_vae already fixes the standard deviation of the posterior means, which {other.kind} would also "
                f"set: the scale factor of {other.kind} would be constant; remove bn_vae or {other.kind}",
            )
        yield from needs_batch_statistics("bn_vae", "min_batch", self.min_batch, context)


class BnPosterior(Posterior):
    """N(gamma * normalised mu + beta, sigma^2)."""

    beta: Tensor

    def __init__(self, config: BnVae, latent_dim: int) -> None:
        super().__init__()
        self._config = config
        self.normalise = MeanNormalisation(latent_dim, config.epsilon, config.momentum)
        beta = torch.full((latent_dim,), config.beta)
        if config.learn_beta:
            self.beta = nn.Parameter(beta)
        else:
            self.register_buffer("beta", beta)

    def forward(self, encoded: Gaussian) -> Inference:
        wide = encoded.at_least_float32()
        mean = self._config.gamma * self.normalise(wide.mean_BZ) + self.beta
        return Inference.plain(Gaussian(mean, wide.logvar_BZ))

    def start(self, encoder: nn.Module) -> None:
        start_by_default(encoder)

    def accepts(self, batch_size: int) -> bool:
        return batch_size >= self._config.min_batch
