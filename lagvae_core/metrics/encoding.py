"""One pass over a split: for every example the posterior, one posterior sample and its reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.models.gaussian import Draw, Gaussian, Inference, Prior, Proposal
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = ["EncodedSplit", "Infer", "encode_split", "posterior_mean", "posterior_moments"]

Infer = Callable[[Batch], Inference]
"""Function that returns the q(z|x) of a batch in evaluation: `Vae.infer`, or a refinement of its result."""

MONTE_CARLO = 100
"""Number of samples per example from which a mean without a closed form is estimated."""


@dataclass(frozen=True, repr=False)
class EncodedSplit:
    """A split after inference, on the CPU in float64. Row i belongs to example i. Densities are in nats.

    Args:
        inference: q(z|x) and the density of the KL term.
        noise_NZ: Noise from which `z_NZ` was computed.
        z_NZ: One sample of q(z|x) per example.
        log_q_N: log q(z|x) at the sample.
        rec_N: -log p(x|z) at the sample.
        mean_NZ: E_q[z|x].
        mean_noise_Z: Variance of the Monte Carlo error of `mean_NZ`, averaged over examples; 0 if the means are exact.
        kl_ND: KL(q(z|x) || p(z)) for the generative prior. D = Z if the KL is a sum over dimensions, otherwise D = 1.
        kl_train_N: The KL term of the training objective.
        precision: Floating-point type of the model.
    """

    inference: Inference
    noise_NZ: Tensor
    z_NZ: Tensor
    log_q_N: Tensor
    rec_N: Tensor
    mean_NZ: Tensor
    mean_noise_Z: Tensor
    kl_ND: Tensor
    kl_train_N: Tensor
    precision: torch.dtype = torch.float32

    def __repr__(self) -> str:
        examples, latent = self.z_NZ.shape
        return f"{type(self).__name__}(examples={examples}, latent={latent})"

    @property
    def q(self) -> Proposal:
        return self.inference.q

    @property
    def kl_posterior(self) -> Proposal:
        return self.inference.kl_posterior

    def infer(self, batch: Batch) -> Inference:
        """Return the stored q(z|x) of the batch's examples, in the model's precision."""
        return self.inference.select(batch.index_B).map(lambda rows: rows.to(batch.device, self.precision))


@torch.no_grad()
def encode_split(
    model: Vae,
    batches: Sequence[Batch],
    seed: int,
    *,
    infer: Infer | None = None,
    progress: Callable[[int], None] = lambda examples: None,
) -> EncodedSplit:
    """Infer and reconstruct every example once.

    Args:
        model: A model in eval mode.
        batches: Batches of the split.
        seed: Seed of the random draws, which depend only on the seed and on the index of the example.
        infer: Function that returns the q(z|x) of a batch; None for `model.infer`.
        progress: Called with the number of finished examples.
    """
    assert not model.training, "the model must be in eval mode"
    infer = infer or model.infer
    prior = model.generative_prior()
    inferred: list[Inference] = []
    rows: list[tuple[Tensor, ...]] = []
    index = torch.cat([batch.index_B for batch in batches])
    done = 0
    for batch in batches:
        inference = infer(batch)
        q = inference.q
        noise = example_noise(seed, "sample", batch.index_B, 1, q.size[1]).to(q.base.mean_BZ)
        draw = q.draw(noise)
        rec = model.reconstruct(batch, batch.history, draw.z_BSZ).mean(1)
        mean, error = posterior_mean(q, batch.index_B, seed)
        kl = _kl(prior, q, draw, batch.index_B, seed)
        same = inference.kl_posterior is q and prior is model.prior
        kl_train = kl if same else _kl(model.prior, inference.kl_posterior, draw, batch.index_B, seed)
        inferred.append(inference)
        rows.append((noise[:, 0], draw.z_BSZ[:, 0], draw.log_q().sum(-1)[:, 0], rec, mean, error, kl, kl_train.sum(1)))
        done += batch.size
        progress(done)
    order = index.argsort()
    noise, z, log_q, rec, mean, error, kl, kl_train = (
        torch.cat([row.double().cpu() for row in column])[order] for column in zip(*rows, strict=True)
    )
    inference = inferred[0].concatenate(inferred[1:]).map(lambda tensor: tensor.double().cpu()[order])
    return EncodedSplit(inference, noise, z, log_q, rec, mean, error.mean(0), kl, kl_train, rows[0][0].dtype)


def _kl(prior: Prior, q: Proposal, draw: Draw, index_B: Tensor, seed: int) -> Tensor:
    """Return KL(q || p) [B, D] in nats, in closed form if possible, else estimated from 100 new samples per example."""
    if not prior.closed_form(q):
        noise = example_noise(seed, "kl", index_B, MONTE_CARLO, q.size[1])
        draw = q.draw(noise.to(q.base.mean_BZ))
    return prior.kl(q, draw)


def posterior_mean(q: Proposal, index_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return E_q[z|x] and the variance of its Monte Carlo error, both [B, Z].

    The mean of a Gaussian is exact; any other mean is estimated from 100 samples per example.
    """
    if isinstance(q, Gaussian):
        return q.mean_BZ, torch.zeros_like(q.mean_BZ)
    mean, variance = _sampled_moments(q, index_B, seed)
    return mean, variance / MONTE_CARLO


def posterior_moments(q: Proposal, index_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of q(z|x), both [B, Z] in float64; see `posterior_mean`."""
    if isinstance(q, Gaussian):
        return q.mean_BZ.double(), (0.5 * q.logvar_BZ.double()).exp()
    mean, variance = _sampled_moments(q, index_B, seed)
    return mean, variance.sqrt()


def _sampled_moments(q: Proposal, index_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    noise = example_noise(seed, "mean", index_B, MONTE_CARLO, q.size[1]).to(q.base.mean_BZ)
    z = q.draw(noise).z_BSZ.double()
    return z.mean(1), z.var(1)
