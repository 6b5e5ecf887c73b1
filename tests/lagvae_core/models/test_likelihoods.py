"""Likelihoods of vectors: agreement with scipy, moments of their samples, and the estimates of sigma."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lagvae_core.models.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Gaussian,
    Multinomial,
    NegativeBinomial,
    Poisson,
    StudentT,
)

B, S, X = 4, 3, 5
GENERATOR = np.random.default_rng(0)
OUTPUTS = torch.from_numpy(GENERATOR.normal(0.0, 1.0, (B, S, X)))
REAL = torch.from_numpy(GENERATOR.normal(0.0, 2.0, (B, X)))
COUNTS = torch.from_numpy(GENERATOR.poisson(3.0, (B, X)).astype(np.float64))
BINARY = torch.from_numpy(GENERATOR.integers(0, 2, (B, X)).astype(np.float64))
EXACT = OUTPUTS.numpy()


def negative_binomial(totals):
    likelihood = NegativeBinomial(totals, X).double()
    with torch.no_grad():
        likelihood.log_theta_X.copy_(torch.linspace(-1, 2, X))
    return likelihood


def shares():
    return OUTPUTS.softmax(-1).numpy()


def totals():
    return COUNTS.sum(1).numpy()[:, None, None]


THETA = np.exp(np.linspace(-1, 2, X))
CASES = {
    "gaussian": (Gaussian(0.7, "fixed"), REAL, lambda x: stats.norm(EXACT, 0.7).logpdf(x)),
    "student_t": (StudentT(0.7, "fixed", 4.0), REAL, lambda x: stats.t(4.0, EXACT, 0.7).logpdf(x)),
    "bernoulli": (Bernoulli(), BINARY, lambda x: stats.bernoulli(1 / (1 + np.exp(-EXACT))).logpmf(x)),
    "poisson": (Poisson("none"), COUNTS, lambda x: stats.poisson(np.exp(EXACT)).logpmf(x)),
    "poisson, observed": (Poisson("observed"), COUNTS, lambda x: stats.poisson(totals() * shares()).logpmf(x)),
    "negative_binomial": (
        negative_binomial("none"),
        COUNTS,
        lambda x: stats.nbinom(THETA, THETA / (THETA + np.exp(EXACT))).logpmf(x),
    ),
    "negative_binomial, observed": (
        negative_binomial("observed"),
        COUNTS,
        lambda x: stats.nbinom(THETA, THETA / (THETA + totals() * shares())).logpmf(x),
    ),
}


def test_every_likelihood_is_tested():
    assert {name.partition(",")[0] for name in CASES} | {"multinomial"} == set(LIKELIHOODS)


@pytest.mark.parametrize("name", CASES)
def test_the_log_probability_is_that_of_scipy(name):
    likelihood, x, exact = CASES[name]
    log_p = likelihood.log_prob(OUTPUTS, x).detach()
    np.testing.assert_allclose(log_p.numpy(), exact(x.numpy()[:, None]).sum(-1), rtol=1e-10, atol=1e-10)


def test_the_multinomial_is_that_of_scipy():
    log_p = Multinomial().log_prob(OUTPUTS, COUNTS)
    for b in range(B):
        for s in range(S):
            exact = stats.multinomial(int(COUNTS[b].sum()), shares()[b, s]).logpmf(COUNTS[b].numpy())
            assert float(log_p[b, s]) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("name", [*CASES, "multinomial"])
def test_samples_have_the_mean_and_only_valid_values(name):
    likelihood, x = (Multinomial(), COUNTS) if name == "multinomial" else CASES[name][:2]
    draws = 4000
    outputs = OUTPUTS[:, :1].expand(B, draws, X)
    drawn = likelihood.sample(outputs, x, np.random.default_rng(1)).detach()
    mean = likelihood.mean(outputs, x).detach()[:, 0]
    error = drawn.std(1) / math.sqrt(draws)
    assert bool(((drawn.mean(1) - mean).abs() <= 5 * error + 1e-9).all())
    if likelihood.of_counts:
        assert torch.equal(drawn, drawn.round())
        assert float(drawn.min()) >= 0
    if name == "multinomial":
        assert torch.equal(drawn.sum(-1), x.sum(1)[:, None].expand(B, draws))
    assert bool(torch.isfinite(likelihood.log_prob(outputs, drawn[:, 0])).all())


def test_a_vector_of_zeros_has_a_finite_likelihood_given_its_total():
    zeros = torch.zeros(B, X, dtype=torch.float64)
    for likelihood in (Poisson("observed"), negative_binomial("observed"), Multinomial()):
        assert float(likelihood.log_prob(OUTPUTS, zeros).detach().abs().max()) < 1e-5


def test_the_optimal_sigma_maximises_the_likelihood_of_the_batch():
    optimal = Gaussian(1.0, "optimal").double().train()
    log_p = float(optimal.log_prob(OUTPUTS, REAL).sum())
    rmse = float((REAL[:, None] - OUTPUTS).square().mean().sqrt())
    best = float(Gaussian(rmse, "fixed").log_prob(OUTPUTS, REAL).sum())
    assert log_p == pytest.approx(best, rel=1e-4)  # the soft bound raises log sigma by exp(-6 - log sigma)
    for factor in (0.9, 1.1):
        assert best > float(Gaussian(rmse * factor, "fixed").log_prob(OUTPUTS, REAL).sum())


def test_evaluation_uses_the_running_average_of_training():
    optimal = Gaussian(1.0, "optimal").double().train()
    errors = []
    for scale in (1.0, 2.0, 3.0):
        optimal.log_prob(OUTPUTS, scale * REAL)
        errors.append(float((scale * REAL[:, None] - OUTPUTS).square().mean()))
    optimal.eval()
    sigma = optimal.sigma()
    assert sigma == pytest.approx(math.sqrt(np.mean(errors)), rel=0.01)
    alone = torch.cat([optimal.log_prob(OUTPUTS[b : b + 1], REAL[b : b + 1]) for b in range(B)])
    assert torch.equal(alone, optimal.log_prob(OUTPUTS, REAL))  # no dependence on the batch
    assert optimal.sigma() == sigma
    restored = Gaussian(1.0, "optimal").double()
    restored.load_state_dict(optimal.state_dict())
    assert restored.eval().sigma() == sigma


def test_a_learned_sigma_moves_to_the_maximum_and_stays_above_its_bound():
    learned = Gaussian(1.0, "learned").double()
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        (-learned.log_prob(OUTPUTS, REAL).mean()).backward()
        optimiser.step()
    assert learned.sigma() == pytest.approx(float((REAL[:, None] - OUTPUTS).square().mean().sqrt()), rel=1e-3)
    with torch.no_grad():
        learned.log_sigma.fill_(-100.0)
    assert learned.sigma() == pytest.approx(math.exp(-6.0))
    learned.reset_parameters()
    assert float(learned.log_sigma.detach()) == 0.0
