"""Linear Gaussian VAE with closed-form metrics: z ~ N(0, I), x = W z + b + N(0, noise I), float64.

The encoder returns the exact posterior or a deliberately wrong one, and the decoder the Gaussian log-density. The
batches have the interface of token batches, so that the evaluation of the project runs on them unchanged.

Shape suffixes: N examples, B examples of a batch, S samples, D observed dimensions, Z latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lagvae_core.data import History
from lagvae_core.models.gaussian import LOG_2PI, Gaussian, NormalPrior, Prior
from lagvae_core.models.vae import Posterior, Vae


@dataclass(frozen=True, eq=False)
class VectorBatch:
    """Batch of vectors in place of sentences; the history is empty."""

    x_BD: Tensor
    index_B: Tensor

    @property
    def size(self) -> int:
        return len(self.x_BD)

    @property
    def units(self) -> int:
        return self.x_BD.numel()

    @property
    def history(self) -> History:
        return History(self.x_BD[:, :0])

    @property
    def device(self) -> torch.device:
        return self.x_BD.device

    @property
    def targets(self) -> Tensor:
        return self.x_BD


class VectorEncoder(nn.Module):
    """Encoder with a given mean function and a constant diagonal variance."""

    def __init__(self, mean: Callable[[Tensor], Tensor], variance_Z: Tensor) -> None:
        super().__init__()
        self.mean, self.variance_Z = mean, variance_Z

    def forward(self, batch: VectorBatch) -> Gaussian:
        mean = self.mean(batch.x_BD)
        return Gaussian(mean, self.variance_Z.log().expand_as(mean))


class VectorDecoder(nn.Module):
    """Decoder that returns -log N(x; W z + b, noise I), [B, S]; it ignores z if `weight_DZ` is zero."""

    def __init__(self, weight_DZ: Tensor, bias_D: Tensor, noise: float) -> None:
        super().__init__()
        self.weight_DZ, self.bias_D, self.noise = weight_DZ, bias_D, noise

    def forward(self, history: History, x_BD: Tensor, z_BSZ: Tensor) -> Tensor:
        error = x_BD[:, None] - self.bias_D - z_BSZ @ self.weight_DZ.T
        return 0.5 * (error.square().sum(-1) / self.noise + x_BD.shape[1] * (LOG_2PI + math.log(self.noise)))


class LinearGaussian:
    """The model and its closed forms.

    Args:
        weight_DZ: W.
        noise: Variance of the observation noise.
        bias: Value of every entry of b.
        prior_std: Standard deviation of every latent dimension.
    """

    def __init__(self, weight_DZ: Tensor, noise: float = 0.5, bias: float = 0.0, prior_std: float = 1.0) -> None:
        self.weight_DZ, self.noise, self.prior_std = weight_DZ.double(), noise, prior_std
        observed, self.latent = weight_DZ.shape
        self.bias_D = torch.full((observed,), bias, dtype=torch.float64)
        spread = prior_std**2 * self.weight_DZ @ self.weight_DZ.T
        self.marginal = torch.distributions.MultivariateNormal(
            self.bias_D, spread + noise * torch.eye(observed, dtype=torch.float64)
        )
        eye = torch.eye(self.latent, dtype=torch.float64)
        self.precision_ZZ = eye / prior_std**2 + self.weight_DZ.T @ self.weight_DZ / noise
        self.covariance_ZZ = torch.linalg.inv(self.precision_ZZ)

    @classmethod
    def oblique(cls) -> LinearGaussian:
        """Return a model with two latent and six observed dimensions; no diagonal Gaussian is its posterior."""
        generator = torch.Generator().manual_seed(0)
        return cls(torch.randn(6, 2, generator=generator, dtype=torch.float64), bias=0.3)

    @classmethod
    def orthogonal(cls, *scales: float) -> LinearGaussian:
        """Return a model whose W has orthogonal columns of these lengths; its posterior is diagonal."""
        generator = torch.Generator().manual_seed(0)
        draw = torch.randn(6, len(scales), generator=generator, dtype=torch.float64)
        return cls(torch.linalg.qr(draw).Q * torch.tensor(scales, dtype=torch.float64), bias=0.3)

    @property
    def information(self) -> float:
        """I(x; z) under the exact posterior: 0.5 ln det(I + prior_std^2 W'W / noise)."""
        return float(0.5 * torch.logdet(self.prior_std**2 * self.precision_ZZ))

    @property
    def variance_Z(self) -> Tensor:
        """The variances of the diagonal Gaussian q with the smallest KL(q || posterior)."""
        return 1.0 / self.precision_ZZ.diagonal()

    def mean(self, x_ND: Tensor) -> Tensor:
        """Return the posterior mean, [N, Z]."""
        return (x_ND - self.bias_D) @ self.weight_DZ @ self.covariance_ZZ / self.noise

    def log_marginal(self, x_ND: Tensor) -> Tensor:
        """Return log p(x), [N]."""
        return self.marginal.log_prob(x_ND)

    def gap(self, offset_Z: Tensor, variance_Z: Tensor) -> float:
        """Return KL(q || posterior) for q = N(posterior mean + offset, diag(variance)); it is the same for every x."""
        q = torch.distributions.MultivariateNormal(offset_Z, torch.diag(variance_Z))
        exact = torch.distributions.MultivariateNormal(torch.zeros_like(offset_Z), self.covariance_ZZ)
        return float(torch.distributions.kl_divergence(q, exact))

    def weight_dispersion(self, offset_Z: Tensor, variance_Z: Tensor) -> float:
        """Return E_q[w^2] / E_q[w]^2 = E_posterior[posterior / q] for the same q.

        Its inverse is the effective sample size per sample.
        """
        inverse = torch.diag(1.0 / variance_Z)
        a = 2.0 * self.precision_ZZ - inverse
        assert bool((torch.linalg.eigvalsh(a) > 0).all()), "the weights must have a second moment"
        b = inverse @ offset_Z
        # log of the integral of posterior(z)^2 / q(z), a Gaussian integral with precision a and linear term -b
        log_integral = (
            torch.logdet(self.precision_ZZ)
            + 0.5 * torch.diag(variance_Z).logdet()
            - 0.5 * torch.logdet(a)
            + 0.5 * (offset_Z @ inverse @ offset_Z + b @ torch.linalg.solve(a, b))
        )
        return float(log_integral.exp())

    def expected_rec(self, x_ND: Tensor, q: Gaussian) -> Tensor:
        """Return E_q[-log p(x|z)], [N]."""
        error = x_ND - self.bias_D - q.mean_BZ @ self.weight_DZ.T
        spread = (q.logvar_BZ.exp() * self.weight_DZ.square().sum(0)).sum(1)
        constant = x_ND.shape[1] * (LOG_2PI + math.log(self.noise))
        return 0.5 * ((error.square().sum(1) + spread) / self.noise + constant)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """Return `n` examples, [N, D]."""
        generator = torch.Generator().manual_seed(seed)
        z = self.prior_std * torch.randn(n, self.latent, generator=generator, dtype=torch.float64)
        error = torch.randn(n, len(self.bias_D), generator=generator, dtype=torch.float64)
        return z @ self.weight_DZ.T + self.bias_D + math.sqrt(self.noise) * error

    def vae(
        self,
        mean: Callable[[Tensor], Tensor] | None = None,
        variance_Z: Tensor | None = None,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
    ) -> Vae:
        """Return the VAE in eval mode; by default with the best diagonal posterior."""
        encoder = VectorEncoder(mean or self.mean, self.variance_Z if variance_Z is None else variance_Z)
        decoder = VectorDecoder(self.weight_DZ, self.bias_D, self.noise)
        return Vae(encoder, decoder, posterior or Posterior(), prior or NormalPrior()).eval()


def batches(x_ND: Tensor, size: int = 64) -> list[VectorBatch]:
    """Return all examples in order, in batches of at most `size`."""
    index_N = torch.arange(len(x_ND))
    return [VectorBatch(x, index) for x, index in zip(x_ND.split(size), index_N.split(size), strict=True)]
