"""How far the posteriors of a batch are from one another, and as one mixture from the prior.

The gradients of sums over pairs are written out. A graph of some forty operations on a few numbers each costs a small
model a tenth of its step; their own arithmetic costs a fortieth.

Shape suffixes: B examples of the batch, N samples, Z latent dimensions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lagvae_core.models.gaussian import LOG_2PI, Gaussian

__all__ = ["Kernel", "inverse_multiquadratic", "log_aggregate", "mmd", "mutual_divergence", "radial"]

Kernel = Callable[[Tensor], Tensor]
"""Squared distances to similarities: 1 at distance 0, falling."""


class _WithGradients(torch.autograd.Function):
    """A scalar that is known together with its gradients in `inputs`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(slope * gradient for gradient in ctx.saved_tensors)


def _with_gradients(value: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:
    return _WithGradients.apply(value, gradients, *inputs)  # type: ignore[no-any-return, no-untyped-call]


def mutual_divergence(q: Gaussian, diversity: float, smoothness: float) -> Tensor:
    """diversity * sum_d softplus(-m_d) + smoothness * s, a scalar, of at least two posteriors (three, if smoothness).

    With D_ij,d = KL(q_i || q_j) in nats in dimension d: m_d is its mean over the ordered pairs i != j, and s the
    unbiased standard deviation over these pairs of its sum over dimensions; where s is 0, so is its gradient.
    """
    with torch.no_grad():
        batch = len(q.mean_BZ)
        pairs = batch * (batch - 1)
        log_ratio = q.logvar_BZ[:, None] - q.logvar_BZ
        growth = log_ratio.expm1()
        distance = q.mean_BZ[:, None] - q.mean_BZ
        pull = distance * (-q.logvar_BZ).exp()
        twice_BBZ = torch.addcmul(growth - log_ratio, distance, pull)  # 2 D

        m_Z = twice_BBZ.sum((0, 1)) * (0.5 / pairs)
        value = diversity * functional.softplus(-m_Z).sum()
        slope = (-m_Z).sigmoid() * (-diversity / pairs)
        if smoothness > 0:
            deviation_BB = (0.5 * twice_BBZ.sum(2) - m_Z.sum()).fill_diagonal_(0.0)
            norm = deviation_BB.norm()
            share = smoothness / math.sqrt(pairs - 1)
            value = value + share * norm
            slope = slope + (deviation_BB * (share / norm.clamp(min=1e-30)))[:, :, None]

        pulled = slope * pull
        grown = 0.5 * slope * growth
        mean_slope = pulled.sum(1) - pulled.sum(0)
        logvar_slope = grown.sum(1) - torch.addcmul(grown, pulled, distance, value=0.5).sum(0)
    return _with_gradients(value, (mean_slope, logvar_slope), q.mean_BZ, q.logvar_BZ)


def log_aggregate(q: Gaussian, z_NZ: Tensor) -> Tensor:
    """The mean over the samples of log (1/B) sum_j q_j(z) in nats, a scalar."""
    with torch.no_grad():
        samples, batch = len(z_NZ), len(q.mean_BZ)
        distance = z_NZ[:, None] - q.mean_BZ
        pull = distance * (-q.logvar_BZ).exp()
        exponent_NB = -0.5 * (torch.linalg.vecdot(distance, pull) + q.logvar_BZ.sum(1))
        constant = math.log(batch) + 0.5 * LOG_2PI * z_NZ.shape[1]
        value = exponent_NB.logsumexp(1).mean() - constant

        share_NB = exponent_NB.softmax(1) * (1.0 / samples)
        pulled = share_NB[:, :, None] * pull
        logvar_slope = 0.5 * ((pulled * distance).sum(0) - share_NB.sum(0)[:, None])
    gradients = (pulled.sum(0), logvar_slope, -pulled.sum(1))
    return _with_gradients(value, gradients, q.mean_BZ, q.logvar_BZ, z_NZ)


def radial(scale: float) -> Kernel:
    """exp(-d^2 / scale)."""
    return lambda square: (square * (-1.0 / scale)).exp()


def inverse_multiquadratic(scale: float) -> Kernel:
    """scale / (scale + d^2)."""
    return lambda square: scale / (scale + square)


def mmd(one_NZ: Tensor, other_NZ: Tensor, kernel: Kernel) -> Tensor:
    """The squared maximum mean discrepancy of two laws from as many samples of each, at least 2; a scalar.

    Unbiased: its mean is 0 where the laws are the same, so that it can be negative.
    """
    both = torch.cat((one_NZ, other_NZ))
    square = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (kernel(square) * _pair_weights(len(one_NZ), both.dtype, both.device)).sum()


@functools.lru_cache(maxsize=64)
def _pair_weights(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each ordered pair of n samples and n others counts in the discrepancy: 1 / (n (n - 1)) or -1 / n^2."""
    side = torch.ones(n, 1, dtype=dtype).new_tensor([1.0] * n + [-1.0] * n)
    same = 0.5 * (1.0 + side[:, None] * side)
    return (same / (n * (n - 1)) - (1.0 - same) / n**2).fill_diagonal_(0.0).to(device)
