"""Probabilistic principal component analysis: the best linear VAE, in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lagvae_core.data import Batch, VectorBatch, VectorDomain
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.likelihoods import LOWEST_LOG_SIGMA
from lagvae_core.models.mlp import MlpDecoder, MlpEncoder, MlpModel
from lagvae_core.models.model_config import Features
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Loss, Trainer, Update

__all__ = ["Ppca", "PrincipalComponents"]


class Ppca(Strategy):
    """Probabilistic PCA: the linear VAE with the largest likelihood of the training data. Nothing is trained.

    Source: Tipping & Bishop 1999, equations 3.8 and 3.9; Lucas et al. 2019 show that it is the optimum of the linear
    VAE, although the posterior of the VAE is diagonal.

    With the eigenvalues lambda_1 >= lambda_2 >= ... and eigenvectors u_d of the covariance of the training data and a
    decoder variance s, the decoder is x = sum_d sqrt(lambda_d - s) u_d z_d + mean, over the `model.latent_dim` largest
    eigenvalues that exceed s, and the encoder is the exact posterior. Hence `nll_elbo` is on average equal to `nll_iw`,
    which is the exact NLL, and `au` is the number of eigenvalues above s (an eigenvalue that exceeds s by less than one
    per cent has a variance of means below the threshold of `au`). If s exceeds the largest eigenvalue, the model has
    collapsed.

    s is the square of `model.sigma` if `model.sigma_mode` is `fixed`, and otherwise its maximum-likelihood value, the
    mean of the remaining eigenvalues; at least one direction remains. It is a baseline: a VAE whose `nll_iw` is not
    lower has gained nothing from its nonlinearity. `model.layers`, `norm` and `activation` have no effect, and the seed
    of the trial changes no result; one epoch is enough.

    - log sigma is at least -6, as everywhere in this library, so that data without noise have a finite likelihood.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder", "update"})
    paper: ClassVar[str] = (
        "Tipping & Bishop 1999, Probabilistic Principal Component Analysis; as a linear VAE, Lucas et al. 2019"
    )
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.GAUSSIAN_LIKELIHOOD, Trait.CLOSED_FORM})

    kind: Literal["ppca"] = "ppca"

    def build(self, context: BuildContext) -> dict[str, Any]:
        def encoder(model: MlpModel, domain: VectorDomain, features: Features | None) -> nn.Module:
            components = PrincipalComponents.of(model, context.train_batches)
            return components.encoder(model, domain)

        def decoder(
            model: MlpModel, domain: VectorDomain, stream: torch.Generator, options: DecoderOptions
        ) -> MlpDecoder:
            components = PrincipalComponents.of(model, context.train_batches)
            return components.decoder(model, domain, stream)

        return {"encoder": encoder, "decoder": decoder, "update": _NoUpdate()}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.strategies:
            if not other.has(Trait.CLOSED_FORM):
                yield Incompatibility(
                    "E18", f"ppca trains nothing, so {other.kind} has no effect; remove ppca or {other.kind}"
                )


class _NoUpdate(Update):
    """An outer update that changes nothing."""

    @torch.no_grad()
    def __call__(self, learner: Trainer, batch: Batch, weight: float) -> Loss:
        return learner.loss(batch, weight)


@dataclass(frozen=True)
class PrincipalComponents:
    """The model in closed form, float64.

    Args:
        mean_X: Mean of the training data.
        directions_XZ: Eigenvectors of their covariance, by decreasing eigenvalue.
        eigenvalues_Z: The eigenvalues.
        variance: Variance s of the decoder.
    """

    mean_X: Tensor
    directions_XZ: Tensor
    eigenvalues_Z: Tensor
    variance: float

    @classmethod
    def of(cls, model: MlpModel, batches: Any) -> PrincipalComponents:
        """Return the model of these batches, with the number of latent dimensions and the sigma of `model`."""
        x_NX = torch.cat([batch.x_BX for batch in batches if isinstance(batch, VectorBatch)]).double().cpu()
        mean_X = x_NX.mean(0)
        centred_NX = x_NX - mean_X
        values_X, vectors_XX = torch.linalg.eigh(centred_NX.T @ centred_NX / len(x_NX))
        values_X, vectors_XX = values_X.flip(0).clamp(min=0.0), vectors_XX.flip(1)
        features = len(mean_X)
        kept = min(model.latent_dim, features)
        variance = model.sigma**2
        if model.sigma_mode != "fixed":
            kept = min(kept, features - 1)
            variance = float(values_X[kept:].mean())
            variance = max(variance, float(torch.tensor(2.0 * LOWEST_LOG_SIGMA).exp()))
        # Dimensions without a direction of their own are unused: their eigenvalue is that of the noise.
        directions_XZ = torch.zeros(features, model.latent_dim, dtype=torch.float64)
        directions_XZ[:, :kept] = vectors_XX[:, :kept]
        eigenvalues_Z = torch.full((model.latent_dim,), variance, dtype=torch.float64)
        eigenvalues_Z[:kept] = values_X[:kept].clamp(min=variance)
        return cls(mean_X, directions_XZ, eigenvalues_Z, variance)

    @property
    def weight_XZ(self) -> Tensor:
        """W, such that x = W z + mean + noise."""
        return self.directions_XZ * (self.eigenvalues_Z - self.variance).sqrt()

    @torch.no_grad()
    def encoder(self, model: MlpModel, domain: VectorDomain) -> MlpEncoder:
        """Return the exact posterior, N(W'(x - mean) / lambda, s / lambda), as a linear encoder."""
        encoder = MlpEncoder(model.model_copy(update={"layers": 0}), domain)
        weight_ZX = (self.weight_XZ / self.eigenvalues_Z).T
        weight, bias = encoder.to_latent.weight, encoder.to_latent.bias
        weight.copy_(torch.cat([weight_ZX, torch.zeros_like(weight_ZX)]))
        bias.copy_(torch.cat([-weight_ZX @ self.mean_X, (self.variance / self.eigenvalues_Z).log()]))
        return encoder

    @torch.no_grad()
    def decoder(self, model: MlpModel, domain: VectorDomain, stream: torch.Generator) -> MlpDecoder:
        """Return the linear decoder."""
        fields = {"layers": 0, "sigma_mode": "fixed", "sigma": self.variance**0.5}
        decoder = MlpDecoder(model.model_copy(update=fields), domain, stream, None)
        decoder.output.weight.copy_(self.weight_XZ)
        decoder.output.bias.copy_(self.mean_X)
        return decoder
