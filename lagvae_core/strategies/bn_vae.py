"""Posterior means normalised over the batch to a fixed standard deviation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.columns import Column
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.normalisation import MeanNormalisation, start_by_default
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, needs_batch_statistics
from lagvae_core.strategies.normalised_means import NORMALISED_SHARE, NormalisationMetrics, weak_normalisation
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait

__all__ = ["BnPosterior", "BnVae"]


class BnVae(Strategy):
    """Posterior means are normalised over the batch to standard deviation `gamma`, so that the KL cannot vanish.

    Source: Zhu et al. 2020, section 3, with the constants of their published code.

    Each dimension of mu becomes gamma * (mu - E[mu]) / sqrt(Var[mu] + epsilon) + beta; the log-variance is unchanged.
    In training the mean KL of a batch is at least half the sum over dimensions of gamma^2 * Var / (Var + epsilon) +
    beta^2. Evaluation uses running averages, which make q(z|x) depend on x alone; the bound then holds only
    approximately. A KL above zero does not prove that z is used: with `gamma` 0 and a fixed, nonzero `beta` the KL is
    positive and the mutual information is 0.

    - The published code has PyTorch's `epsilon` of 1e-5. Then the KL can vanish after all: an encoder that makes the
      variance of its means much smaller than epsilon switches the normalisation off, and the gradient of the KL leads
      it there (docs/measurements.md has an example). The default of 1e-12 is a little above the squared rounding error
      of a mean of size 1, so that the bound is half the sum of gamma^2 + beta^2 for every variance above rounding
      errors, and the KL has almost no gradient in the scale of the means. The column `normalised_share` and a warning
      (W8) show where epsilon weakens the bound.
    - The encoder, including its embeddings, is initialised with PyTorch's defaults, as in the published code;
      `model.init_range` and `model.init_embedding` apply to the decoder only. With initial weights from U(-0.01, 0.01),
      the means of a batch would differ so little that the gradient through the normalisation would be a thousand
      times the gradient of the plain VAE.
    - The README of the published code trains with a learning rate of 0.5, waits 5 bad epochs for a decay, and lets the
      KL weight rise from 0 to 1 in 10 epochs. This strategy changes none of these settings.
    - The running averages start as plain means over the first batches. PyTorch's initial values, mean 0 and variance 1,
      would still influence them at the end of a short run.
    - `gamma` 0 sets the standard deviation to 0; in the published code `gamma` 0 switches the normalisation off.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior", "extra_metrics"})
    paper: ClassVar[str] = "Zhu et al. 2020, A Batch Normalized Inference Network, section 3"
    columns: ClassVar[tuple[Column, ...]] = (NORMALISED_SHARE,)
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.BATCH_STATISTICS, Trait.NORMALISES_MEANS})

    kind: Literal["bn_vae"] = "bn_vae"
    gamma: Annotated[
        float, Field(ge=0, description="standard deviation of the normalised means"), Tunable(0.4, 0.8)
    ] = 0.6
    beta: Annotated[float, Field(description="initial centre of the normalised means")] = 0.0
    learn_beta: Annotated[bool, Field(description="whether the centre of each dimension is learned")] = True
    epsilon: Annotated[
        float, Field(gt=0, description="constant added to the variance of the batch; 1e-5 in the published code")
    ] = 1e-12
    momentum: Annotated[float, Field(gt=0, le=1, description="weight of each new batch in the running averages")] = 0.1
    min_batch: Annotated[
        int, Field(ge=2, description="smallest batch that is used for training; smaller ones are skipped")
    ] = 2

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"posterior": BnPosterior(self, context.latent_dim), "extra_metrics": (NormalisationMetrics(),)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.SCALES_MEANS):
            yield Incompatibility(
                "E03",
                "bn_vae already fixes the standard deviation of the posterior means, so the scale factor of "
                f"{other.kind} would be constant; remove bn_vae or {other.kind}",
            )
        yield from needs_batch_statistics("bn_vae", "min_batch", self.min_batch, context)

    def result_warnings(self, metrics: Mapping[str, Any]) -> Iterator[ConfigWarning]:
        yield from super().result_warnings(metrics)
        yield from weak_normalisation("bn_vae", self.epsilon, metrics)


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
