"""Densities of the latent space: q(z|x) and p(z).

Shape suffixes: B examples, S samples, Z latent dimensions, N samples and M components of a mixture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

__all__ = ["Draw", "Gaussian", "Inference", "NormalPrior", "Prior", "Proposal", "log_mixture"]

LOG_2PI = math.log(2.0 * math.pi)

ROWS, COLUMNS = 1024, 4096
"""Number of samples and number of components per block in `log_mixture`."""


@dataclass(frozen=True)
class Draw:
    """Samples z = T(noise), where T is a chain of triangular, invertible maps of standard normal noise.

    Args:
        z_BSZ: Samples.
        noise_BSZ: Standard normal noise.
        log_scale_BSZ: Sum over the chain of log |dT_d / dnoise_d| for each dimension d; broadcasts to [B, S, Z].
    """

    z_BSZ: Tensor
    noise_BSZ: Tensor
    log_scale_BSZ: Tensor

    def log_q(self) -> Tensor:
        """Return the term of each dimension in log q(z|x) at the samples, [B, S, Z] [nats]; their sum is log q(z|x)."""
        return -0.5 * (self.noise_BSZ.square() + LOG_2PI) - self.log_scale_BSZ


class Proposal(ABC):
    """q(z|x) of a batch: one density per example."""

    @property
    @abstractmethod
    def base(self) -> Gaussian:
        """The underlying diagonal Gaussian: the proposal itself, or the Gaussian that it transforms."""

    @abstractmethod
    def draw(self, noise_BSZ: Tensor) -> Draw:
        """Return the samples made from standard normal noise [B, S, Z], differentiable in the parameters."""

    @abstractmethod
    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        """Return log q(z|x) at any z, summed over the latent dimensions, [B, S] [nats]."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the proposal with `change`, such as a cast, applied to every parameter tensor [B, ...]."""

    @abstractmethod
    def concatenate(self, others: Sequence[Self]) -> Self:
        """Return one proposal over the examples of this one and of `others`, in order."""

    def select(self, index: Tensor) -> Self:
        """Return the proposal for the examples at the positions `index`, in that order."""
        return self.map(lambda rows: rows[index.to(rows.device)])

    @property
    def size(self) -> tuple[int, int]:
        """Number of examples and number of latent dimensions."""
        examples, dimensions = self.base.mean_BZ.shape
        return examples, dimensions


@dataclass(frozen=True)
class Gaussian(Proposal):
    """Diagonal Gaussians N(mean, exp(logvar)), one per example."""

    mean_BZ: Tensor
    logvar_BZ: Tensor

    @property
    def base(self) -> Gaussian:
        return self

    def at_least_float32(self) -> Gaussian:
        """Return the Gaussian with half-precision parameters converted to float32."""
        dtype = torch.promote_types(self.mean_BZ.dtype, torch.float32)
        return Gaussian(self.mean_BZ.to(dtype), self.logvar_BZ.to(dtype))

    def rsample(self, noise_BSZ: Tensor) -> Tensor:
        """Return z = mean + exp(logvar / 2) * noise, [B, S, Z], differentiable in both parameters."""
        return self.mean_BZ[:, None] + (0.5 * self.logvar_BZ).exp()[:, None] * noise_BSZ

    def draw(self, noise_BSZ: Tensor) -> Draw:
        return Draw(self.rsample(noise_BSZ), noise_BSZ, 0.5 * self.logvar_BZ[:, None])

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        mean, logvar = self.mean_BZ[:, None], self.logvar_BZ[:, None]
        return -0.5 * ((z_BSZ - mean).square() / logvar.exp() + logvar + LOG_2PI).sum(-1)

    def kl_standard(self) -> Tensor:
        """Return KL(q || N(0, I)) of each dimension, [B, Z] [nats]; exactly 0 at mean 0 and logvar 0."""
        return 0.5 * (self.mean_BZ.square() + self.logvar_BZ.exp() - self.logvar_BZ - 1.0)

    def map(self, change: Callable[[Tensor], Tensor]) -> Gaussian:
        return Gaussian(change(self.mean_BZ), change(self.logvar_BZ))

    def concatenate(self, others: Sequence[Gaussian]) -> Gaussian:
        every = (self, *others)
        return Gaussian(torch.cat([q.mean_BZ for q in every]), torch.cat([q.logvar_BZ for q in every]))


@dataclass(frozen=True)
class Inference:
    """Result of inference on a batch.

    Args:
        q: Density that is sampled and that all default metrics use.
        kl_posterior: Density in the KL term of the training objective. It is `q` itself whenever the objective is a
            bound on log p(x); it differs from `q` only in Scale-VAE.
    """

    q: Proposal
    kl_posterior: Proposal

    @classmethod
    def plain(cls, q: Proposal) -> Inference:
        """Return the inference in which `q` is also the density of the KL term."""
        return cls(q, q)

    def map(self, change: Callable[[Tensor], Tensor]) -> Inference:
        """Return the inference with `change` applied to every parameter tensor [B, ...] of both densities."""
        q = self.q.map(change)
        return Inference(q, q if self.kl_posterior is self.q else self.kl_posterior.map(change))

    def concatenate(self, others: Sequence[Inference]) -> Inference:
        """Return one inference over the examples of this one and of `others`, in order."""
        q = self.q.concatenate([other.q for other in others])
        plain = self.kl_posterior is self.q
        return Inference(q, q if plain else self.kl_posterior.concatenate([other.kl_posterior for other in others]))

    def select(self, index: Tensor) -> Inference:
        """Return the inference over the examples `index`, in that order."""
        return self.map(lambda rows: rows[index.to(rows.device)])


def log_mixture(z_NZ: Tensor, components: Gaussian, log_weights_M: Tensor | None = None) -> Tensor:
    """Return log sum_m w_m N(z_i; component m), [N] [nats], differentiable in every argument.

    The computation uses matrix products in blocks of 1024 x 4096. Without gradients, its memory therefore does not grow
    with N * M. All results are in float64, because with standard deviations of 0.01 float32 can be off by 0.1.

    Args:
        z_NZ: Points.
        components: M diagonal Gaussians.
        log_weights_M: Log-weights of the components; None for equal weights.
    """
    mean, logvar = components.mean_BZ.double(), components.logvar_BZ.double()
    precision = (-logvar).exp()
    scaled = mean * precision
    constant = (mean * scaled + logvar).sum(1) + mean.shape[1] * LOG_2PI
    offset = -0.5 * constant
    offset = offset - math.log(len(mean)) if log_weights_M is None else offset + log_weights_M.double()
    pieces = []
    for z in torch.split(z_NZ.double(), ROWS):
        total = torch.full((len(z),), -math.inf, dtype=torch.float64, device=z.device)
        square = z.square()
        for first in range(0, len(mean), COLUMNS):
            block = slice(first, first + COLUMNS)
            log_q = -0.5 * (square @ precision[block].T) + z @ scaled[block].T + offset[block]
            total = torch.logaddexp(total, log_q.logsumexp(1))
        pieces.append(total)
    return torch.cat(pieces)


class Prior(nn.Module, ABC):
    """The prior p(z). KL(q || p) is computed in closed form or as a Monte Carlo estimate at given samples."""

    def bind(self, encoder: nn.Module, posterior: nn.Module) -> None:
        """Attach the inference network, for priors that depend on it; called once, when the model is built."""

    @abstractmethod
    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        """Return log p(z), [B, S] [nats]."""

    @abstractmethod
    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        """Return samples z ~ p, [N, Z], made from standard normal noise; additional draws come from `generator`."""

    def closed_form(self, q: Proposal) -> bool:
        """Return whether `kl` is exact for this q and thus independent of the samples."""
        return False

    def kl(self, q: Proposal, draw: Draw) -> Tensor:
        """Return KL(q || p) [nats]: [B, Z] if it is a sum over dimensions, otherwise [B, 1].

        It is a Monte Carlo estimate at `draw` unless `closed_form(q)`.
        """
        return (draw.log_q().sum(-1) - self.log_prob(draw.z_BSZ)).mean(1, keepdim=True)

    def std(self) -> Tensor | None:
        """Return the standard deviations [Z] of a zero-mean diagonal Gaussian prior; None for N(0, I) or any other."""
        return None


class NormalPrior(Prior):
    """N(0, diag(std^2)), or N(0, I) if `std_Z` is None."""

    def __init__(self, std_Z: Tensor | None = None) -> None:
        super().__init__()
        self._std = std_Z

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        return self._by_dimension(z_BSZ).sum(-1)

    def _by_dimension(self, z_BSZ: Tensor) -> Tensor:
        if self._std is None:
            return -0.5 * (z_BSZ.square() + LOG_2PI)
        std = self._std.to(z_BSZ)
        return -0.5 * ((z_BSZ / std).square() + LOG_2PI) - std.log()

    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        return noise_NZ if self._std is None else noise_NZ * self._std.to(noise_NZ)

    def closed_form(self, q: Proposal) -> bool:
        return isinstance(q, Gaussian)

    def kl(self, q: Proposal, draw: Draw) -> Tensor:
        if not isinstance(q, Gaussian):
            return (draw.log_q() - self._by_dimension(draw.z_BSZ)).mean(1)
        if self._std is None:
            return q.kl_standard()
        std = self._std.to(q.mean_BZ)
        ratio = (q.mean_BZ / std).square() + q.logvar_BZ.exp() / std.square()
        return 0.5 * (ratio - q.logvar_BZ - 1.0) + std.log()

    def std(self) -> Tensor | None:
        return self._std
