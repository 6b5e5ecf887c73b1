"""Likelihoods p(x|z) of vectors, given the outputs of a decoder network, one number per feature.

Shape suffixes: B examples, S samples of z, X features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data.vectors.arrays import Values

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Gaussian",
    "Likelihood",
    "LikelihoodName",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "SigmaMode",
    "StudentT",
    "Totals",
]

LikelihoodName = Literal["gaussian", "bernoulli", "poisson", "negative_binomial", "multinomial", "student_t"]
SigmaMode = Literal["fixed", "learned", "optimal"]
Totals = Literal["none", "observed"]

LOG_2PI = math.log(2.0 * math.pi)

LOWEST_LOG_SIGMA = -6.0
"""Soft lower bound of a log sigma that is not fixed, as in the published code of sigma-VAE."""

MOMENTUM = 0.05
"""Smallest weight of a batch in the running average of the squared error."""


class Likelihood(nn.Module, ABC):
    """p(x|z) of vectors. Every method takes the outputs of the decoder network, [B, S, X].

    Attributes:
        values: The values for which it is a probability, or a density with respect to the Lebesgue measure.
        of_counts: Whether it is a distribution of counts; encoders then read log(1 + x).
    """

    values: ClassVar[frozenset[Values]]
    of_counts: ClassVar[bool] = False

    @abstractmethod
    def log_prob(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        """Return log p(x|z) summed over features, [B, S] [nats]."""

    @abstractmethod
    def mean(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        """Return E[x|z], [B, S, X]. Only the totals of `x_BX` are used, by likelihoods that are conditional on them."""

    @abstractmethod
    def sample(self, outputs_BSX: Tensor, x_BX: Tensor, generator: np.random.Generator) -> Tensor:
        """Return one draw of x for each z, [B, S, X]. Only the totals of `x_BX` are used, as in `mean`."""

    def sigma(self) -> float | None:
        """Return the scale of the noise in evaluation; None if there is none."""
        return None


class _Location(Likelihood):
    """Independent noise of one scale sigma around the outputs.

    `fixed`: sigma is constant. `learned`: log sigma is a parameter. Both bounds below are soft: log sigma becomes
    -6 + softplus(log sigma + 6), as in the published code of sigma-VAE.

    Args:
        sigma: The scale, or the initial scale.
        mode: How the scale is determined.
    """

    values: ClassVar[frozenset[Values]] = frozenset({"real", "counts", "binary"})

    def __init__(self, sigma: float, mode: SigmaMode) -> None:
        super().__init__()
        self._mode = mode
        self._start = math.log(sigma)
        self.log_sigma = nn.Parameter(torch.tensor(self._start)) if mode == "learned" else None

    def reset_parameters(self) -> None:
        """Set the scale to its initial value."""
        if self.log_sigma is not None:
            nn.init.constant_(self.log_sigma, self._start)

    def _log_sigma(self, outputs: Tensor) -> Tensor:
        if self.log_sigma is None:
            return outputs.new_tensor(self._start)
        return _bounded(self.log_sigma.to(outputs))

    def mean(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        return outputs_BSX

    @torch.no_grad()
    def sigma(self) -> float:
        return float(self._log_sigma(torch.zeros((), dtype=torch.float64)).exp())


def _bounded(log_sigma: Tensor) -> Tensor:
    return LOWEST_LOG_SIGMA + functional.softplus(log_sigma - LOWEST_LOG_SIGMA)


class Gaussian(_Location):
    """x = f(z) + N(0, sigma^2 I).

    With `optimal`, sigma^2 maximises the likelihood in closed form. In training it is the mean squared error of the
    batch, over examples, samples and features. A likelihood of held-out data must not depend on the batch, so in
    evaluation sigma^2 is the running average of these errors over training: batch n enters it with weight
    max(0.05, 1 / n). This average belongs to the weights of the model and is restored with them.

    Source: Rybkin et al. 2021, Simple and Effective VAE Training with Calibrated Decoders, section 4. Their code
    evaluates with the error of the evaluated batch, which is no likelihood.
    """

    running_error: Tensor
    count: Tensor

    def __init__(self, sigma: float, mode: SigmaMode) -> None:
        super().__init__(sigma, mode)
        if mode == "optimal":
            self.register_buffer("running_error", torch.tensor(sigma**2))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def log_prob(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        error_BSX = (x_BX[:, None] - outputs_BSX).square()
        if self._mode == "optimal" and self.training:
            batch_error = error_BSX.mean()
            self._record(batch_error.detach())
            log_sigma = _bounded(0.5 * batch_error.clamp(min=1e-30).log())
        else:
            log_sigma = self._log_sigma(outputs_BSX)
        features = x_BX.shape[1]
        return -0.5 * (error_BSX.sum(-1) * (-2.0 * log_sigma).exp() + features * (LOG_2PI + 2.0 * log_sigma))

    def _log_sigma(self, outputs: Tensor) -> Tensor:
        if self._mode != "optimal":
            return super()._log_sigma(outputs)
        return _bounded(0.5 * self.running_error.to(outputs).clamp(min=1e-30).log())

    def _record(self, error: Tensor) -> None:
        self.count += 1
        self.running_error.lerp_(error.to(self.running_error), self.count.to(error).reciprocal().clamp(min=MOMENTUM))

    def sample(self, outputs_BSX: Tensor, x_BX: Tensor, generator: np.random.Generator) -> Tensor:
        noise = torch.from_numpy(generator.standard_normal(outputs_BSX.shape)).to(outputs_BSX)
        return outputs_BSX + self._log_sigma(outputs_BSX).exp() * noise


class StudentT(_Location):
    """x = f(z) + sigma * t, with independent t of `degrees` degrees of freedom; less sensitive to outliers.

    Args:
        sigma: The scale, or the initial scale.
        mode: `fixed` or `learned`.
        degrees: Degrees of freedom, more than 1.
    """

    def __init__(self, sigma: float, mode: SigmaMode, degrees: float) -> None:
        super().__init__(sigma, mode)
        self._degrees = degrees

    def log_prob(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        degrees, log_sigma = self._degrees, self._log_sigma(outputs_BSX)
        scaled_BSX = (x_BX[:, None] - outputs_BSX).square() * (-2.0 * log_sigma).exp() / degrees
        constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
        return (constant - log_sigma - 0.5 * (degrees + 1) * scaled_BSX.log1p()).sum(-1)

    def sample(self, outputs_BSX: Tensor, x_BX: Tensor, generator: np.random.Generator) -> Tensor:
        noise = torch.from_numpy(generator.standard_t(self._degrees, outputs_BSX.shape)).to(outputs_BSX)
        return outputs_BSX + self._log_sigma(outputs_BSX).exp() * noise


class Bernoulli(Likelihood):
    """Independent x in {0, 1}, each 1 with probability sigmoid(output)."""

    values: ClassVar[frozenset[Values]] = frozenset({"binary"})

    def log_prob(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        x_BSX = x_BX[:, None].expand_as(outputs_BSX)
        return -functional.binary_cross_entropy_with_logits(outputs_BSX, x_BSX, reduction="none").sum(-1)

    def mean(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        return outputs_BSX.sigmoid()

    def sample(self, outputs_BSX: Tensor, x_BX: Tensor, generator: np.random.Generator) -> Tensor:
        draws = torch.from_numpy(generator.random(outputs_BSX.shape)).to(outputs_BSX)
        return (draws < outputs_BSX.sigmoid()).to(outputs_BSX)


class _Counts(Likelihood):
    """Independent counts with the means exp(output), or l * softmax(output) with the library size l.

    With `observed`, l is the total count of x itself, as in scVI by default. Then p(x|z, l) is a likelihood of x given
    its total, as if the total were known beforehand; it must not be compared with a likelihood without this knowledge.
    An l of 0 counts as 1e-6.
    """

    values: ClassVar[frozenset[Values]] = frozenset({"counts", "binary"})
    of_counts: ClassVar[bool] = True

    def __init__(self, totals: Totals) -> None:
        super().__init__()
        self._totals = totals

    def _log_mean(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        if self._totals == "none":
            return outputs_BSX
        total_B11 = x_BX.sum(1).clamp(min=1e-6)[:, None, None]
        return outputs_BSX.log_softmax(-1) + total_B11.log()

    def mean(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        return self._log_mean(outputs_BSX, x_BX).exp()


class Poisson(_Counts):
    """Independent Poisson counts."""

    def log_prob(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        log_mean, x = self._log_mean(outputs_BSX, x_BX), x_BX[:, None]
        return (x * log_mean - log_mean.exp() - (x + 1).lgamma()).sum(-1)

    def sample(self, outputs_BSX: Tensor, x_BX: Tensor, generator: np.random.Generator) -> Tensor:
        return _drawn(generator.poisson, outputs_BSX, self.mean(outputs_BSX, x_BX))


class NegativeBinomial(_Counts):
    """Independent counts with mean mu and variance mu + mu^2 / theta; the inverse dispersion theta is a parameter of
    each feature, 1 at the start.

    Source: Lopez et al. 2018, Deep generative modeling for single-cell transcriptomics (scVI), with one dispersion per
    gene and without zero inflation.
    """

    def __init__(self, totals: Totals, features: int) -> None:
        super().__init__(totals)
        self.log_theta_X = nn.Parameter(torch.zeros(features))

    def reset_parameters(self) -> None:
        """Set every theta to 1."""
        nn.init.zeros_(self.log_theta_X)

    def log_prob(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        log_mean, x, log_theta = self._log_mean(outputs_BSX, x_BX), x_BX[:, None], self.log_theta_X
        theta = log_theta.exp()
        log_total = torch.logaddexp(log_theta, log_mean)
        choose = (x + theta).lgamma() - theta.lgamma() - (x + 1).lgamma()
        return (choose + theta * (log_theta - log_total) + x * (log_mean - log_total)).sum(-1)

    def sample(self, outputs_BSX: Tensor, x_BX: Tensor, generator: np.random.Generator) -> Tensor:
        mean, theta = self.mean(outputs_BSX, x_BX), self.log_theta_X.exp()
        return _drawn(generator.negative_binomial, outputs_BSX, theta.expand_as(mean), theta / (theta + mean))


class Multinomial(Likelihood):
    """The counts of l draws from softmax(outputs), given their number l, the total of x: p(x|z, l).

    It is the likelihood of topic models. It says nothing about l, so it must not be compared with likelihoods that do.
    """

    values: ClassVar[frozenset[Values]] = frozenset({"counts", "binary"})
    of_counts: ClassVar[bool] = True

    def log_prob(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        choose_B = (x_BX.sum(1) + 1).lgamma() - (x_BX + 1).lgamma().sum(1)
        return choose_B[:, None] + (x_BX[:, None] * outputs_BSX.log_softmax(-1)).sum(-1)

    def mean(self, outputs_BSX: Tensor, x_BX: Tensor) -> Tensor:
        return outputs_BSX.softmax(-1) * x_BX.sum(1)[:, None, None]

    def sample(self, outputs_BSX: Tensor, x_BX: Tensor, generator: np.random.Generator) -> Tensor:
        shares = outputs_BSX.detach().double().cpu().softmax(-1).numpy()
        totals = x_BX.sum(1).cpu().numpy().astype(np.int64)[:, None]
        return torch.from_numpy(generator.multinomial(totals, shares)).to(outputs_BSX)


def _drawn(draw: Callable[..., Any], like: Tensor, *parameters: Tensor) -> Tensor:
    """Return independent draws of a distribution of numpy."""
    return torch.from_numpy(draw(*(value.detach().double().cpu().numpy() for value in parameters))).to(like)


LIKELIHOODS: dict[LikelihoodName, type[Likelihood]] = {
    "gaussian": Gaussian,
    "bernoulli": Bernoulli,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "multinomial": Multinomial,
    "student_t": StudentT,
}
"""Classes of likelihoods by name."""
