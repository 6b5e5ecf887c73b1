"""Importance-weighted likelihood, streamed over samples so that memory does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.metrics.encoding import Infer
from lagvae_core.models.gaussian import Draw, Inference
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = ["LogMean", "LogWeight", "StreamedLogMean", "importance_weighted", "proposal_weight"]

LogWeight = Callable[[Inference, Draw], Tensor]
"""(inference, its draw of S samples) -> the log-weight [B, S] that log p(x|z) is added to."""


@dataclass(frozen=True)
class LogMean:
    """log (1/K) sum_k w_k for each example [N], with the effective sample size of the weights [N]."""

    value_N: Tensor
    ess_N: Tensor
    samples: int

    @property
    def nll(self) -> float:
        return -float(self.value_N.mean())

    @property
    def mc_se(self) -> float:
        """Standard error of `nll` from the finite number of samples, by the delta method on the weights [nats]."""
        variance = (1.0 / self.ess_N - 1.0 / self.samples).clamp(min=0.0)
        return float(variance.sum().sqrt()) / len(self.value_N)


class StreamedLogMean:
    """Running log-mean-exp over chunks of log-weights [B, S]: float64, a running maximum, any chunk sizes."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self._maximum = torch.full((batch,), -math.inf, dtype=torch.float64, device=device)
        self._sum = torch.zeros(batch, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self._sum)
        self._samples = 0

    def add(self, log_w_BS: Tensor) -> None:
        log_w = log_w_BS.double()
        maximum = torch.maximum(self._maximum, log_w.amax(1))
        shift = (self._maximum - maximum).exp()
        weights = (log_w - maximum[:, None]).exp()
        self._sum = self._sum * shift + weights.sum(1)
        self._squares = self._squares * shift.square() + weights.square().sum(1)
        self._maximum = maximum
        self._samples += log_w.shape[1]

    def result(self) -> LogMean:
        value = self._maximum + self._sum.log() - math.log(self._samples)
        return LogMean(value, self._sum.square() / self._squares, self._samples)


def proposal_weight(model: Vae) -> LogWeight:
    """log p(z) - log q(z|x) with the density that the model is sampled from: the weight of `nll_iw`."""
    prior = model.generative_prior()
    return lambda inference, draw: prior.log_prob(draw.z_BSZ) - draw.log_q().sum(-1)


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
    """log (1/K) sum_k p(x|z_k) w(z_k) with z_k ~ q(z|x), for every named log-weight at once and every example [N].

    With `proposal_weight` this is the bound of Burda et al. 2016, equation 8: -mean >= -log p(x) in expectation,
    falling with K towards it. The samples of an example depend on `seed` and its number alone, never on the batches.
    `infer` gives q, `model.infer` by default. `sequences` bounds how many (example, sample) pairs the decoder sees at a
    time; every sample counts, whether or not that divides `samples`. `model` must be in eval mode; results are in
    example order, float64, on the CPU.
    """
    assert not model.training, "evaluation wants eval mode"
    found: dict[str, list[LogMean]] = {name: [] for name in log_weights}
    infer = infer or model.infer
    done = 0
    for batch in batches:
        inference = infer(batch)
        mean = inference.q.base.mean_BZ
        noise_BKZ = example_noise(seed, "importance", batch.index_B, samples, mean.shape[1]).to(mean)
        streams = {name: StreamedLogMean(batch.size, mean.device) for name in log_weights}
        for part in _samples_at_a_time(batch, samples, sequences):
            draw = inference.q.draw(noise_BKZ[:, part])
            log_px_BS = -model.reconstruct(batch, batch.history, draw.z_BSZ)
            for name, weight in log_weights.items():
                streams[name].add(log_px_BS + weight(inference, draw))
        for name, stream in streams.items():
            found[name].append(stream.result())
        done += batch.size
        progress(done)
    order = torch.cat([batch.index_B for batch in batches]).argsort()
    return {
        name: LogMean(
            torch.cat([part.value_N.cpu() for part in parts])[order],
            torch.cat([part.ess_N.cpu() for part in parts])[order],
            samples,
        )
        for name, parts in found.items()
    }
