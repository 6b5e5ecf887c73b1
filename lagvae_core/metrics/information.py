"""Mutual information between x and z under q, estimated with the mixture of posteriors over examples."""

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
    """Monte Carlo estimate.

    Args:
        value: The mean.
        se: Standard error of the mean.
        ceiling: Largest value that the estimator can take.
    """

    value: float
    se: float
    ceiling: float

    @classmethod
    def of(cls, terms_N: Tensor, ceiling: float) -> Estimate:
        """Return the mean of `terms_N` with its standard error; the standard error of a single term is 0."""
        n = len(terms_N)
        return cls(float(terms_N.mean()), float(terms_N.std()) / math.sqrt(n) if n > 1 else 0.0, ceiling)


def _terms(q: Gaussian, noise_NZ: Tensor) -> Tensor:
    """Return log q(z_i | x_i) - log (1/N) sum_j q(z_i | x_j) at z_i = mean_i + sigma_i * noise_i, [N]."""
    draw = q.map(Tensor.double).draw(noise_NZ.double()[:, None])
    return draw.log_q().sum(-1)[:, 0] - log_mixture(draw.z_BSZ[:, 0], q)


def _ceiling(groups: Sequence[Tensor]) -> float:
    """Return the logarithm of the group size, averaged over examples."""
    return sum(len(g) * math.log(len(g)) for g in groups) / sum(len(g) for g in groups)


def mutual_information(q: Gaussian, noise_NZ: Tensor) -> Estimate:
    """Return mean_i [log q(z_i|x_i) - log (1/N) sum_j q(z_i|x_j)] over the whole split (`mi`).

    There is one sample per example, z_i = mean_i + sigma_i * noise_i. The estimate is unbiased if the N examples are
    the data distribution. As an estimate for the population it is biased downwards, and it never exceeds ln N. Source:
    Hoffman & Johnson 2016; the mixture contains the sample's own posterior, as in Dieng et al. 2019.
    """
    return Estimate.of(_terms(q, noise_NZ), math.log(len(noise_NZ)))


def mutual_information_within(q: Gaussian, noise_NZ: Tensor, groups: Sequence[Tensor]) -> Estimate:
    """Return the mutual information within each group of examples, averaged over examples (`mi_batch`).

    This is the protocol of He et al. 2019, where groups are test batches. The estimate is at most the logarithm of the
    group size and is biased downwards accordingly, so it is comparable only between equal group sizes.

    Departures from the code of He et al.: their code replaces log q(z_i|x_i) by the analytic entropy; this code
    evaluates log q(z_i|x_i) at the sample, which reduces the noise and preserves the upper bound. The groups do not
    depend on the training batch size.
    """
    terms = torch.cat([_terms(q.select(group), noise_NZ[group]) for group in groups])
    return Estimate.of(terms, _ceiling(groups))


@torch.no_grad()
def aggregate_kl(q: Gaussian, z_NZ: Tensor, log_p_N: Tensor) -> Estimate:
    """Return an estimate of KL(q(z) || p(z)): mean_i [log (1/N) sum_j q(z_i|x_j) - log p(z_i)].

    q(z) is the mixture of the posteriors of the split. If the samples are those of `mutual_information`, the result
    differs from `kl` - `mi` only by the Monte Carlo noise of the KL. The mixture contains the sample's own posterior,
    which biases this estimate upwards as it biases `mi` downwards.

    Args:
        q: Posteriors of N examples.
        z_NZ: One sample of q per example.
        log_p_N: Log-density of the prior at the samples.
    """
    return Estimate.of(log_mixture(z_NZ, q) - log_p_N.double(), math.inf)


@torch.no_grad()
def pairwise_information(q: Proposal, z_NZ: Tensor, log_q_N: Tensor, groups: Sequence[Tensor]) -> Estimate:
    """Return `mutual_information_within` for a q that is not Gaussian, from log q(z_i|x_j) for all pairs in a group.

    With a flow, each log q(z_i|x_j) with i != j requires inverting the flow, which takes Z passes per step of the flow.

    Args:
        q: Posteriors of N examples.
        z_NZ: One sample of q per example.
        log_q_N: Log-density of each sample under its own posterior.
        groups: Indices of the examples of each group.
    """
    terms = []
    for group in groups:
        z_BSZ = z_NZ[group].expand(len(group), -1, -1)
        log_q_BS = q.select(group).log_prob(z_BSZ).double()
        terms.append(log_q_N[group] - (log_q_BS.logsumexp(0) - math.log(len(group))))
    return Estimate.of(torch.cat(terms), _ceiling(groups))
