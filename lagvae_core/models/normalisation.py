"""Batch normalisation of posterior means, and the encoder initialisation that it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MeanNormalisation", "start_by_default"]


class MeanNormalisation(nn.Module):
    """Normalisation (mean - E) / sqrt(Var + epsilon) of each dimension, [B, Z].

    In train mode, E and Var are those of the batch; in eval mode, they are running averages. As in PyTorch's batch
    normalisation, the variance used to normalise is biased and the one that enters the running average is unbiased.
    Unlike in PyTorch, batch number n enters the averages with weight max(momentum, 1 / n). With PyTorch's constant
    weight, the initial averages (mean 0 and variance 1) still affect the result at the end of short runs, although they
    are far from the values of an encoder whose means have variance 0.01.

    Every forward pass in train mode updates the averages, including the passes in inner encoder steps. A batch of one
    example gives all zeros and does not update the averages.

    Args:
        latent_dim: Number of dimensions.
        epsilon: Constant added to the variance.
        momentum: Minimum weight of a batch in the running averages.
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

    def share_Z(self) -> Tensor:
        """Return Var / (Var + epsilon) of each dimension, with the running variances; 0 before the first batch."""
        if not self.count:
            return torch.zeros_like(self.running_var)
        return self.running_var / (self.running_var + self._epsilon)

    def _record(self, centre_Z: Tensor, variance_Z: Tensor) -> None:
        self.count += 1
        share = self.count.to(centre_Z).reciprocal().clamp(min=self._momentum)
        self.running_mean.lerp_(centre_Z, share)
        self.running_var.lerp_(variance_Z, share)


def start_by_default(encoder: nn.Module) -> None:
    """Give every layer of `encoder` PyTorch's default initialisation."""
    for module in encoder.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
