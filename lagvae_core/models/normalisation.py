"""Posterior means normalised by the statistics of their batch, and the start of the encoder that this needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MeanNormalisation", "start_by_default"]


class MeanNormalisation(nn.Module):
    """(mean - E) / sqrt(Var + epsilon) by dimension, [B, Z]: of the batch in train mode, of running averages in eval.

    As in torch's batch normalisation, the variance that divides is biased and the one that is averaged is not. Batch
    number n enters the averages with weight max(momentum, 1 / n): torch's own constant weight starts from mean 0 and
    variance 1, which short runs never leave and which means of variance 0.01 are far from. Every forward pass in train
    mode is averaged, those of inner encoder steps among them; a batch of one is all zeros and is not.
    """

    running_mean: Tensor
    running_var: Tensor
    count: Tensor

    def __init__(self, latent_dim: int, epsilon: float, momentum: float) -> None:
        super().__init__()
        self._epsilon, self._momentum = epsilon, momentum
        self.register_buffer("running_mean", torch.zeros(latent_dim))
        self.register_buffer("running_var", torch.ones(latent_dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, mean_BZ: Tensor) -> Tensor:
        if not self.training:
            return (mean_BZ - self.running_mean) / (self.running_var + self._epsilon).sqrt()
        centre, variance = mean_BZ.mean(0), mean_BZ.var(0, correction=0)
        if len(mean_BZ) > 1:
            unbiased = variance.detach() * (len(mean_BZ) / (len(mean_BZ) - 1))
            self._record(centre.detach(), unbiased)
        return (mean_BZ - centre) / (variance + self._epsilon).sqrt()

    def _record(self, centre_Z: Tensor, variance_Z: Tensor) -> None:
        self.count += 1
        share = self.count.to(centre_Z).reciprocal().clamp(min=self._momentum)
        self.running_mean.lerp_(centre_Z, share)
        self.running_var.lerp_(variance_Z, share)


def start_by_default(encoder: nn.Module) -> None:
    """Initialise every layer of `encoder` as torch does by default."""
    for module in encoder.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
