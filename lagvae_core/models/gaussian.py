"""The densities of the latent space: q(z|x) and p(z). Shapes: B examples, S samples, Z latent dimensions."""

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


@dataclass(frozen=True)
class Draw:
    """Samples z = T(noise) of a density, where T is a chain of triangular, invertible maps of standard normal noise.

    `z_BSZ` and `noise_BSZ` have the same shape; `log_scale_BSZ`, of that shape or broadcast to it, is the sum over the
    chain of log |dT_d / dnoise_d|, by dimension.
    """

    z_BSZ: Tensor
    noise_BSZ: Tensor
    log_scale_BSZ: Tensor

    def log_q(self) -> Tensor:
        """log q(z|x) at the samples in nats, by dimension, [B, S, Z]; its sum over the last axis is the density."""
        return -0.5 * (self.noise_BSZ.square() + LOG_2PI) - self.log_scale_BSZ


class Proposal(ABC):
    """q(z|x), one density for each of B examples."""

    @property
    @abstractmethod
    def base(self) -> Gaussian:
        """The diagonal Gaussian that it is, or that it is a transform of."""

    @abstractmethod
    def draw(self, noise_BSZ: Tensor) -> Draw:
        """The samples that standard normal noise [B, S, Z] gives, differentiable in the parameters."""

    @abstractmethod
    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        """log q(z|x) in nats at any z, summed over the latent dimensions, [B, S]."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with `change` applied to every parameter tensor, each [B, ...]: rows chosen, precision changed."""

    @abstractmethod
    def beside(self, others: Sequence[Self]) -> Self:
        """This and `others` as one, their examples in order."""

    def select(self, index: Tensor) -> Self:
        """The examples `index`, in that order."""
        return self.map(lambda rows: rows[index.to(rows.device)])

    @property
    def size(self) -> tuple[int, int]:
        """How many examples, and how many latent dimensions."""
        examples, dimensions = self.base.mean_BZ.shape
        return examples, dimensions


@dataclass(frozen=True)
class Gaussian(Proposal):
    """Diagonal Gaussians N(mean, exp(logvar)), one for each example: both [B, Z]."""

    mean_BZ: Tensor
    logvar_BZ: Tensor

    @property
    def base(self) -> Gaussian:
        return self

    def at_least_float32(self) -> Gaussian:
        """The same, with parameters of half precision widened."""
        dtype = torch.promote_types(self.mean_BZ.dtype, torch.float32)
        return Gaussian(self.mean_BZ.to(dtype), self.logvar_BZ.to(dtype))

    def rsample(self, noise_BSZ: Tensor) -> Tensor:
        """z = mean + exp(logvar / 2) * noise, [B, S, Z], differentiable in both parameters."""
        return self.mean_BZ[:, None] + (0.5 * self.logvar_BZ).exp()[:, None] * noise_BSZ

    def draw(self, noise_BSZ: Tensor) -> Draw:
        return Draw(self.rsample(noise_BSZ), noise_BSZ, 0.5 * self.logvar_BZ[:, None])

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        mean, logvar = self.mean_BZ[:, None], self.logvar_BZ[:, None]
        return -0.5 * ((z_BSZ - mean).square() / logvar.exp() + logvar + LOG_2PI).sum(-1)

    def kl_standard(self) -> Tensor:
        """KL(q || N(0, I)) in nats for each dimension, [B, Z]; exactly 0 at mean 0 and logvar 0."""
        return 0.5 * (self.mean_BZ.square() + self.logvar_BZ.exp() - self.logvar_BZ - 1.0)

    def map(self, change: Callable[[Tensor], Tensor]) -> Gaussian:
        return Gaussian(change(self.mean_BZ), change(self.logvar_BZ))

    def beside(self, others: Sequence[Gaussian]) -> Gaussian:
        every = (self, *others)
        return Gaussian(torch.cat([q.mean_BZ for q in every]), torch.cat([q.logvar_BZ for q in every]))


@dataclass(frozen=True)
class Inference:
    """What inference says of a batch.

    `q` is the proposal: the density that is sampled and that every default column uses. `charged` is the density whose
    KL the training objective pays; it is `q` itself in every honest bound and differs only in Scale-VAE.
    """

    q: Proposal
    kl_posterior: Proposal

    @classmethod
    def plain(cls, q: Proposal) -> Inference:
        return cls(q, q)

    def map(self, change: Callable[[Tensor], Tensor]) -> Inference:
        q = self.q.map(change)
        return Inference(q, q if self.kl_posterior is self.q else self.kl_posterior.map(change))

    def beside(self, others: Sequence[Inference]) -> Inference:
        q = self.q.beside([other.q for other in others])
        plain = self.kl_posterior is self.q
        return Inference(q, q if plain else self.kl_posterior.beside([other.kl_posterior for other in others]))

    def select(self, index: Tensor) -> Inference:
        return self.map(lambda rows: rows[index.to(rows.device)])


def log_mixture(z_NZ: Tensor, components: Gaussian, log_weights_M: Tensor | None = None) -> Tensor:
    """log sum_m w_m N(z_i; component m) in nats, [N]; the M weights are equal where none are given.

    Blocks of 1024 x 4096 as matrix products, so that without gradients memory does not grow with N or M. Float64
    throughout: in float32 single values are off by 0.1 at deviations of 0.01. Differentiable in every argument.
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
    """p(z): a density with a KL from q, in closed form or by Monte Carlo at the given samples."""

    def bind(self, encoder: nn.Module, posterior: nn.Module) -> None:
        """Called once when the model is built, for a prior that is made of the inference network."""

    @abstractmethod
    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        """log p(z) in nats, [B, S]."""

    @abstractmethod
    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        """z ~ p, [N, Z], from standard normal noise; further draws, where there are any, from `generator`."""

    def closed_form(self, q: Proposal) -> bool:
        """Whether `kl` of this q is exact, whatever samples it is given."""
        return False

    def kl(self, q: Proposal, draw: Draw) -> Tensor:
        """KL(q || p) in nats: [B, Z] where it splits over dimensions, else [B, 1]. By Monte Carlo unless closed."""
        return (draw.log_q().sum(-1) - self.log_prob(draw.z_BSZ)).mean(1, keepdim=True)

    def std(self) -> Tensor | None:
        """The standard deviations [Z] of a zero-mean diagonal Gaussian prior; None for N(0, I) and all others."""
        return None


class NormalPrior(Prior):
    """N(0, diag(std^2)); without `std`, N(0, I)."""

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
