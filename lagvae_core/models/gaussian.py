"""The densities of the latent space: q(z|x) and p(z). Shapes: B examples, S samples, Z latent dimensions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Gaussian", "Inference", "NormalPrior", "Prior"]

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """Diagonal Gaussians N(mean, exp(logvar)), one for each example: both [B, Z]."""

    mean_BZ: Tensor
    logvar_BZ: Tensor

    def at_least_float32(self) -> Gaussian:
        """The same, with parameters of half precision widened."""
        dtype = torch.promote_types(self.mean_BZ.dtype, torch.float32)
        return Gaussian(self.mean_BZ.to(dtype), self.logvar_BZ.to(dtype))

    def rsample(self, noise_BSZ: Tensor) -> Tensor:
        """z = mean + exp(logvar / 2) * noise, [B, S, Z], differentiable in both parameters."""
        return self.mean_BZ[:, None] + (0.5 * self.logvar_BZ).exp()[:, None] * noise_BSZ

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        """log q(z|x) in nats, summed over the latent dimensions, [B, S]."""
        mean, logvar = self.mean_BZ[:, None], self.logvar_BZ[:, None]
        return -0.5 * ((z_BSZ - mean).square() / logvar.exp() + logvar + LOG_2PI).sum(-1)

    def kl_standard(self) -> Tensor:
        """KL(q || N(0, I)) in nats for each dimension, [B, Z]; exactly 0 at mean 0 and logvar 0."""
        return 0.5 * (self.mean_BZ.square() + self.logvar_BZ.exp() - self.logvar_BZ - 1.0)


@dataclass(frozen=True)
class Inference:
    """What inference says of a batch.

    `q` is the proposal: the density that is sampled and that every default column uses. `charged` is the density whose
    KL the training objective pays; it is `q` itself in every honest bound and differs only in Scale-VAE.
    """

    q: Gaussian
    charged: Gaussian

    @classmethod
    def plain(cls, q: Gaussian) -> Inference:
        return cls(q, q)


class Prior(nn.Module, ABC):
    """p(z): a density with a KL from q, in closed form or by Monte Carlo at the given samples."""

    @abstractmethod
    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        """log p(z) in nats, [B, S]."""

    @abstractmethod
    def kl(self, q: Gaussian, z_BSZ: Tensor) -> Tensor:
        """KL(q || p) in nats: [B, Z] where it splits over dimensions, else [B, 1]."""

    @abstractmethod
    def std(self) -> Tensor | None:
        """The standard deviations [Z] of a zero-mean diagonal Gaussian prior; None where it is nothing of the kind."""


class NormalPrior(Prior):
    """N(0, diag(std^2)); without `std`, N(0, I)."""

    def __init__(self, std_Z: Tensor | None = None) -> None:
        super().__init__()
        self._std = std_Z

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        if self._std is None:
            return -0.5 * (z_BSZ.square() + LOG_2PI).sum(-1)
        std = self._std.to(z_BSZ)
        return -0.5 * ((z_BSZ / std).square() + LOG_2PI).sum(-1) - std.log().sum()

    def kl(self, q: Gaussian, z_BSZ: Tensor) -> Tensor:
        if self._std is None:
            return q.kl_standard()
        std = self._std.to(q.mean_BZ)
        ratio = (q.mean_BZ / std).square() + q.logvar_BZ.exp() / std.square()
        return 0.5 * (ratio - q.logvar_BZ - 1.0) + std.log()

    def std(self) -> Tensor | None:
        return self._std
