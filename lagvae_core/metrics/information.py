"""Mutual information between x and z under q, estimated against a mixture over examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.models.gaussian import Gaussian, Proposal, log_mixture

__all__ = ["Estimate", "aggregate_kl", "mutual_information", "mutual_information_within", "pairwise_information"]


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo mean, its standard error, and the largest value that the estimator can take."""

    value: float
    se: float
    ceiling: float

    @classmethod
    def of(cls, terms_N: Tensor, ceiling: float) -> Estimate:
        n = len(terms_N)
        return cls(float(terms_N.mean()), float(terms_N.std()) / math.sqrt(n) if n > 1 else 0.0, ceiling)


def _terms(q: Gaussian, noise_NZ: Tensor) -> Tensor:
    """log q(z_i | x_i) - log (1/N) sum_j q(z_i | x_j) at z_i = mean_i + sigma_i * noise_i, [N]."""
    draw = q.map(Tensor.double).draw(noise_NZ.double()[:, None])
    return draw.log_q().sum(-1)[:, 0] - log_mixture(draw.z_BSZ[:, 0], q)


def _ceiling(groups: Sequence[Tensor]) -> float:
    """The mean logarithm of the size of an example's group."""
    return sum(len(g) * math.log(len(g)) for g in groups) / sum(len(g) for g in groups)


def mutual_information(q: Gaussian, noise_NZ: Tensor) -> Estimate:
    """mean_i [log q(z_i|x_i) - log (1/N) sum_j q(z_i|x_j)] over the whole split (`mi`).

    One sample an example, z_i = mean_i + sigma_i * noise_i. Unbiased for the N examples as the data distribution; as
    an estimate for the population it is biased down, and it can never exceed ln N. Source of the estimator: Hoffman &
    Johnson 2016; the mixture contains the sample's own posterior, as in Dieng et al. 2019.
    """
    return Estimate.of(_terms(q, noise_NZ), math.log(len(noise_NZ)))


def mutual_information_within(q: Gaussian, noise_NZ: Tensor, groups: Sequence[Tensor]) -> Estimate:
    """The same inside each group of examples, averaged with the groups' sizes as weights (`mi_batch`).

    This is the protocol of He et al. 2019 (groups are test batches), which can report at most the logarithm of the
    batch size and is biased down towards it; only compare it with numbers of the same group size. Two departures from
    their code: log q(z_i|x_i) is taken at the sample, not as an analytic entropy, which lowers the noise and keeps the
    ceiling; and the groups are fixed whatever the batch size of training.
    """
    terms = torch.cat([_terms(q.select(group), noise_NZ[group]) for group in groups])
    return Estimate.of(terms, _ceiling(groups))


@torch.no_grad()
def aggregate_kl(q: Gaussian, z_NZ: Tensor, log_p_N: Tensor) -> Estimate:
    """KL(q(z) || p(z)), q(z) the mixture over the split: mean_i [log (1/N) sum_j q(z_i|x_j) - log p(z_i)].

    `z_NZ` are samples of q, one an example, and `log_p_N` the log-density of the prior there. At the samples of
    `mutual_information`, this differs from `kl` - `mi` by the noise of a sampled KL alone. The mixture contains the
    sample's own posterior, which biases this up as it biases `mi` down.
    """
    return Estimate.of(log_mixture(z_NZ, q) - log_p_N.double(), math.inf)


@torch.no_grad()
def pairwise_information(q: Proposal, z_NZ: Tensor, log_q_N: Tensor, groups: Sequence[Tensor]) -> Estimate:
    """`mutual_information_within` for a q that is no Gaussian, from its densities at every pair of a group.

    `z_NZ` are samples of q, one an example, and `log_q_N` the densities of their own posteriors there. For a flow each
    density at a foreign sample is an inversion, Z steps long.
    """
    terms = []
    for group in groups:
        z_BSZ = z_NZ[group].expand(len(group), -1, -1)
        log_q_BS = q.select(group).log_prob(z_BSZ).double()
        terms.append(log_q_N[group] - (log_q_BS.logsumexp(0) - math.log(len(group))))
    return Estimate.of(torch.cat(terms), _ceiling(groups))
