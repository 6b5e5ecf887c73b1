"""One pass over a split: posteriors, one posterior sample each and its reconstruction, in the order of the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.data import TokenBatch
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = ["EncodedSplit", "encode_split"]


@dataclass(frozen=True)
class EncodedSplit:
    """A split after inference, on the CPU in float64: row i belongs to example i.

    `q` and `charged` have shape [N, Z]; `noise_NZ` made the one sample of each posterior; `rec_N` is -log p(x|z) at
    that sample. `kl_ND` is KL(q(z|x) || p(z)) for the prior that the model is sampled from, D = Z where it splits over
    dimensions and else 1; `kl_train_N` is the KL that training charges. All in nats.
    """

    q: Gaussian
    charged: Gaussian
    noise_NZ: Tensor
    rec_N: Tensor
    kl_ND: Tensor
    kl_train_N: Tensor

    @property
    def z_NZ(self) -> Tensor:
        return self.q.rsample(self.noise_NZ[:, None])[:, 0]


@torch.no_grad()
def encode_split(
    model: Vae,
    batches: Sequence[TokenBatch],
    seed: int,
    *,
    progress: Callable[[int], None] = lambda examples: None,
) -> EncodedSplit:
    """Infer and reconstruct every example once; `model` must be in eval mode.

    The sample of an example depends on `seed` and its number alone. `progress` hears the examples done.
    """
    assert not model.training, "evaluation wants eval mode"
    prior = model.generative_prior()
    rows: list[tuple[Tensor, ...]] = []
    index = torch.cat([batch.index_B for batch in batches])
    done = 0
    for batch in batches:
        inference = model.infer(batch)
        mean = inference.q.mean_BZ
        noise = example_noise(seed, "sample", batch.index_B, 1, mean.shape[1])
        z = inference.q.rsample(noise.to(mean))
        rec = model.reconstruct(batch, batch.inputs_BT, z).mean(1)
        q, charged = inference.q, inference.charged
        kl, kl_train = prior.kl(q, z), model.prior.kl(charged, z).sum(1)
        rows.append((mean, q.logvar_BZ, charged.mean_BZ, charged.logvar_BZ, noise[:, 0], rec, kl, kl_train))
        done += batch.size
        progress(done)
    order = index.argsort()
    mean, logvar, charged_mean, charged_logvar, noise, rec, kl, kl_train = (
        torch.cat([row.double().cpu() for row in column])[order] for column in zip(*rows, strict=True)
    )
    q, charged = Gaussian(mean, logvar), Gaussian(charged_mean, charged_logvar)
    return EncodedSplit(q, charged, noise, rec, kl, kl_train)
