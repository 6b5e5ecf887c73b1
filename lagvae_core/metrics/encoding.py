"""One pass over a split: posteriors, one posterior sample each and its reconstruction, in the order of the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.models.gaussian import Draw, Gaussian, Inference, Prior, Proposal
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = ["EncodedSplit", "Infer", "encode_split", "posterior_mean"]

Infer = Callable[[Batch], Inference]
"""What gives q(z|x) of a batch in evaluation: `Vae.infer`, or a refinement of it."""

MONTE_CARLO = 100
"""Samples an example behind every mean that has no closed form."""


@dataclass(frozen=True)
class EncodedSplit:
    """A split after inference, on the CPU in float64: row i belongs to example i.

    `inference` holds q and the charged density; `noise_NZ` made the one sample `z_NZ` of each q, with density
    `log_q_N` there; `rec_N` is -log p(x|z) at that sample. `mean_NZ` is E_q[z|x], and `mean_noise_Z` the mean variance
    of its Monte Carlo error, 0 where it is exact. `kl_ND` is KL(q(z|x) || p(z)) for the prior that the model is sampled
    from, D = Z where it splits over dimensions and else 1; `kl_train_N` is the KL that training charges. All in nats.
    `precision` is that of the model.
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

    @property
    def q(self) -> Proposal:
        return self.inference.q

    @property
    def kl_posterior(self) -> Proposal:
        return self.inference.kl_posterior

    def infer(self, batch: Batch) -> Inference:
        """The stored q(z|x) of the batch's examples, in the precision in which the model gave it."""
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
    """Infer (by `model.infer`, if nothing else is given) and reconstruct every example once.

    `model` must be in eval mode. The draws of an example depend on `seed` and its number alone. `progress` hears the
    examples done.
    """
    assert not model.training, "evaluation wants eval mode"
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
    whole = inferred[0].beside(inferred[1:]).map(lambda tensor: tensor.double().cpu()[order])
    return EncodedSplit(whole, noise, z, log_q, rec, mean, error.mean(0), kl, kl_train, rows[0][0].dtype)


def _kl(prior: Prior, q: Proposal, draw: Draw, index_B: Tensor, seed: int) -> Tensor:
    """KL(q || p) in nats, [B, D]: in closed form, whatever `draw` is, or by 100 samples an example."""
    if not prior.closed_form(q):
        noise = example_noise(seed, "kl", index_B, MONTE_CARLO, q.size[1])
        draw = q.draw(noise.to(q.base.mean_BZ))
    return prior.kl(q, draw)


def posterior_mean(q: Proposal, index_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """E_q[z|x] and the variance of its error, both [B, Z]: exact for a Gaussian, else by 100 samples an example."""
    if isinstance(q, Gaussian):
        return q.mean_BZ, torch.zeros_like(q.mean_BZ)
    noise = example_noise(seed, "mean", index_B, MONTE_CARLO, q.size[1]).to(q.base.mean_BZ)
    z = q.draw(noise).z_BSZ.double()
    return z.mean(1), z.var(1) / MONTE_CARLO
