"""Importance-weighted likelihood, computed in chunks so that memory does not grow with the number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data import Batch
from lagvae_core.metrics.encoding import Infer
from lagvae_core.metrics.pareto_tail import KHAT_LIMIT, pareto_khat, tail_size
from lagvae_core.models.gaussian import Draw, Inference
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = [
    "LIKELIHOOD_COLUMNS",
    "UNRELIABLE_SHARE",
    "LogMean",
    "LogWeight",
    "StreamedLogMean",
    "importance_weighted",
    "likelihood_columns",
    "proposal_weight",
]

LIKELIHOOD_COLUMNS: tuple[Column, ...] = (
    Column(
        "nll_iw",
        "float",
        "importance-weighted NLL with iw_k samples, under the generative prior, from which the model is sampled [nats]",
        "min",
    ),
    Column(
        "nll_iw_mc_se",
        "float",
        "standard error of nll_iw due to the finite number of importance samples [nats]; far too small if "
        "iw_unreliable is large, because it cannot exceed 1 / sqrt(n)",
    ),
    Column("iw_k", "int", "number of importance samples per example"),
    Column("iw_ess", "float", "median effective sample size of the importance weights, at most iw_k"),
    Column(
        "iw_khat",
        "float",
        "median Pareto k-hat of the importance weights, the shape of their tail (Vehtari et al. 2024); null if iw_k is "
        "less than 21",
    ),
    Column(
        "iw_unreliable",
        "float",
        f"fraction of examples whose k-hat exceeds {KHAT_LIMIT}; at more than half, nll_iw is unreliable: another draw "
        "of the samples may differ by nats",
        "min",
    ),
)
"""Columns that `likelihood_columns` computes."""

UNRELIABLE_SHARE = 0.5
"""Value of `iw_unreliable` above which `nll_iw` is called unreliable."""

LogWeight = Callable[[Inference, Draw], Tensor]
"""Function from an inference and S samples of its q to the log-weights [B, S] that are added to log p(x|z)."""


@dataclass(frozen=True)
class LogMean:
    """The value of log (1/K) sum_k w_k for each example.

    Args:
        value_N: The logarithm [nats].
        ess_N: Effective sample size of the weights.
        samples: Number of samples K.
        khat_N: Pareto k-hat of the weights; NaN if there are too few to compute it.
    """

    value_N: Tensor
    ess_N: Tensor
    samples: int
    khat_N: Tensor

    @property
    def nll(self) -> float:
        """Negative mean over examples [nats]."""
        return -float(self.value_N.mean())

    @property
    def mc_se(self) -> float:
        """Standard error of `nll` due to the finite number of samples, by the delta method on the weights [nats].

        It is meaningful only if the weights have a finite variance; see `unreliable`.
        """
        variance = (1.0 / self.ess_N - 1.0 / self.samples).clamp(min=0.0)
        return float(variance.sum().sqrt()) / len(self.value_N)

    @property
    def khat(self) -> float | None:
        """Median k-hat over examples; None if there are too few samples."""
        return None if bool(self.khat_N.isnan().any()) else float(self.khat_N.median())

    @property
    def unreliable(self) -> float | None:
        """Fraction of examples whose k-hat exceeds `KHAT_LIMIT`; None if there are too few samples."""
        return None if self.khat is None else float((self.khat_N > KHAT_LIMIT).double().mean())


class StreamedLogMean:
    """Running log-mean-exp over chunks of log-weights [B, S] of any size, in float64 with a running maximum.

    Args:
        batch: Number of examples B.
        device: Device of the log-weights.
        tail: Number of largest weights that are kept to compute k-hat, besides the threshold.
    """

    def __init__(self, batch: int, device: torch.device, tail: int = 0) -> None:
        self._maximum = torch.full((batch,), -math.inf, dtype=torch.float64, device=device)
        self._sum = torch.zeros(batch, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self._sum)
        self._samples = 0
        self._kept = tail + 1
        self._largest = torch.empty(batch, 0, dtype=torch.float64, device=device)

    def add(self, log_w_BS: Tensor) -> None:
        """Add a chunk of samples."""
        log_w = log_w_BS.double()
        maximum = torch.maximum(self._maximum, log_w.amax(1))
        shift = (self._maximum - maximum).exp()
        weights = (log_w - maximum[:, None]).exp()
        self._sum = self._sum * shift + weights.sum(1)
        self._squares = self._squares * shift.square() + weights.square().sum(1)
        self._maximum = maximum
        self._samples += log_w.shape[1]
        self._largest = torch.cat([self._largest, log_w], 1)
        if self._largest.shape[1] > self._kept:
            self._largest = self._largest.topk(self._kept, 1).values

    def result(self) -> LogMean:
        """Return the log-mean over all samples added so far."""
        value = self._maximum + self._sum.log() - math.log(self._samples)
        return LogMean(value, self._sum.square() / self._squares, self._samples, pareto_khat(self._largest))


def proposal_weight(model: Vae) -> LogWeight:
    """Return the log-weight log p(z) - log q(z|x) of `nll_iw`; p(z) is the model's generative prior."""
    prior = model.generative_prior()
    return lambda inference, draw: prior.log_prob(draw.z_BSZ) - draw.log_q().sum(-1)


def likelihood_columns(log_mean: LogMean) -> dict[str, Any]:
    """Return the values of `LIKELIHOOD_COLUMNS`, given the result of `importance_weighted` for `proposal_weight`."""
    return {
        "nll_iw": log_mean.nll,
        "nll_iw_mc_se": log_mean.mc_se,
        "iw_k": log_mean.samples,
        "iw_ess": float(log_mean.ess_N.median()),
        "iw_khat": log_mean.khat,
        "iw_unreliable": log_mean.unreliable,
    }


def _samples_at_a_time(batch: Batch, samples: int, sequences: int) -> Iterator[slice]:
    step = max(1, min(samples, sequences // batch.size))
    for first in range(0, samples, step):
        yield slice(first, min(first + step, samples))


@torch.no_grad()
def importance_weighted(
    model: Vae,
    batches: Sequence[Batch],
    samples: int,
    seed: int,
    log_weights: Mapping[str, LogWeight],
    *,
    infer: Infer | None = None,
    sequences: int = 256,
    progress: Callable[[int], None] = lambda examples: None,
) -> dict[str, LogMean]:
    """Return log (1/K) sum_k p(x|z_k) w(z_k) with z_k ~ q(z|x), for each log-weight log w and each example.

    With `proposal_weight` this is the bound of Burda et al. 2016, equation 8. In expectation, its negative mean over
    examples is at least the mean of -log p(x), and decreases towards it as K grows.

    Args:
        model: A model in eval mode.
        batches: Batches of the split.
        samples: Number of samples K per example.
        seed: Seed of the samples, which depend only on the seed and on the index of the example, not on the batches.
        log_weights: The log-weights by name.
        infer: Function that returns the q(z|x) of a batch; None for `model.infer`.
        sequences: Largest number of (example, sample) pairs per decoder pass. It need not divide `samples`.
        progress: Called with the number of finished examples.

    Returns:
        The log-means by name, in example order, float64, on the CPU.
    """
    assert not model.training, "the model must be in eval mode"
    results: dict[str, list[LogMean]] = {name: [] for name in log_weights}
    infer = infer or model.infer
    done = 0
    for batch in batches:
        inference = infer(batch)
        mean = inference.q.base.mean_BZ
        noise_BKZ = example_noise(seed, "importance", batch.index_B, samples, mean.shape[1]).to(mean)
        streams = {name: StreamedLogMean(batch.size, mean.device, tail_size(samples)) for name in log_weights}
        for part in _samples_at_a_time(batch, samples, sequences):
            draw = inference.q.draw(noise_BKZ[:, part])
            log_px_BS = -model.reconstruct(batch, batch.history, draw.z_BSZ)
            for name, weight in log_weights.items():
                streams[name].add(log_px_BS + weight(inference, draw))
        for name, stream in streams.items():
            results[name].append(stream.result())
        done += batch.size
        progress(done)
    order = torch.cat([batch.index_B for batch in batches]).argsort()
    return {
        name: LogMean(
            torch.cat([part.value_N.cpu() for part in parts])[order],
            torch.cat([part.ess_N.cpu() for part in parts])[order],
            samples,
            torch.cat([part.khat_N.cpu() for part in parts])[order],
        )
        for name, parts in results.items()
    }
