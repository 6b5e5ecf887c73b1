import math

import pytest
import torch
from torch.nn import functional

from lagvae_core.models.gaussian import Gaussian, log_mixture
from lagvae_core.models.kl import inverse_multiquadratic, log_aggregate, mmd, mutual_divergence, radial


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posteriors(batch=5, dimensions=3, seed=0, spread=1.0):
    parameters = (spread * draws(batch, dimensions, seed=seed), spread * draws(batch, dimensions, seed=seed + 100))
    return Gaussian(*(parameter.requires_grad_() for parameter in parameters))


def kl(q, i, j, d):
    """Return KL(q_i || q_j) in dimension d, from the definition for Gaussians."""
    mean, variance = q.mean_BZ, q.logvar_BZ.exp()
    ratio = variance[i, d] / variance[j, d]
    return 0.5 * (ratio - 1 - ratio.log() + (mean[i, d] - mean[j, d]) ** 2 / variance[j, d])


def by_loops(q):
    """Return m [Z] and s of `mutual_divergence`."""
    batch, dimensions = q.size
    pairs = [(i, j) for i in range(batch) for j in range(batch) if i != j]
    m = torch.stack([torch.stack([kl(q, i, j, d) for i, j in pairs]).mean() for d in range(dimensions)])
    total = torch.stack([sum(kl(q, i, j, d) for d in range(dimensions)) for i, j in pairs])
    s = ((total - total.mean()) ** 2).sum() / (batch**2 - batch - 1)
    return m, s.sqrt()


def gradients(value, *inputs):
    return torch.autograd.grad(value, inputs)


# --- mutual divergence -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [3, 4, 7])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (2.0, 0.2)])
def test_mutual_divergence_and_its_gradient_equal_explicit_loops(weights, batch):
    diversity, smoothness = weights
    q = posteriors(batch)
    m, s = by_loops(q)
    expected = diversity * functional.softplus(-m).sum() + smoothness * s
    value = mutual_divergence(q, diversity, smoothness)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    slopes = (gradients(scalar, q.mean_BZ, q.logvar_BZ) for scalar in (value, expected))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_the_gradient_of_mutual_divergence_equals_finite_differences():
    q = posteriors(4, 2)
    assert torch.autograd.gradcheck(
        lambda m, v: 3 * mutual_divergence(Gaussian(m, v), 2.0, 0.5), (q.mean_BZ, q.logvar_BZ)
    )


def test_equal_posteriors_have_divergence_and_gradient_exactly_zero():
    row = draws(1, 4)
    q = Gaussian(row.repeat(6, 1).requires_grad_(), row.repeat(6, 1).requires_grad_())
    assert float(mutual_divergence(q, 0.0, 1.0).detach()) == 0
    value = mutual_divergence(q, 1.0, 1.0)
    assert float(value.detach()) == pytest.approx(4 * math.log(2), rel=1e-15)
    for slope in gradients(value, q.mean_BZ, q.logvar_BZ):
        assert torch.equal(slope, torch.zeros_like(slope))


def test_mutual_divergence_of_nearly_equal_posteriors_is_accurate_in_float32():
    double = posteriors(16, 2, spread=1e-3)
    single = Gaussian(double.mean_BZ.detach().float().requires_grad_(), double.logvar_BZ.detach().float())
    exact = Gaussian(single.mean_BZ.detach().double().requires_grad_(), single.logvar_BZ.double())
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        one, other = mutual_divergence(single, *weights), mutual_divergence(exact, *weights)
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=0)
        (slope,), (truth,) = gradients(one, single.mean_BZ), gradients(other, exact.mean_BZ)
        assert (slope.double() - truth).norm() < 1e-3 * truth.norm()


def test_the_mutual_divergence_of_extreme_posteriors_is_finite():
    for logvar in (-20.0, 5.0):
        mean = torch.tensor([[100.0], [-100.0], [0.0]], requires_grad=True)
        logvars = torch.tensor([[logvar], [-20.0], [5.0]], requires_grad=True)
        value = mutual_divergence(Gaussian(mean, logvars), 1.0, 0.2)
        assert value.isfinite()
        assert all(slope.isfinite().all() for slope in gradients(value, mean, logvars))


# --- mixture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_log_aggregate_and_its_gradient_equal_log_mixture(spread):
    q, z = posteriors(6, 3, spread=spread), draws(4, 3, seed=7).requires_grad_()
    inputs = (q.mean_BZ, q.logvar_BZ, z)
    value, expected = log_aggregate(q, z), log_mixture(z, q).mean()
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    for one, other in zip(gradients(value, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def test_the_gradient_of_log_aggregate_equals_finite_differences():
    q, z = posteriors(4, 2), draws(3, 2, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v, z: 3 * log_aggregate(Gaussian(m, v), z), (q.mean_BZ, q.logvar_BZ, z))


def test_log_aggregate_of_narrow_posteriors_is_accurate_in_float32():
    """The expanded square of log_mixture would lose all digits here."""
    mean, noise = draws(32, 4).float(), draws(32, 4, seed=7).float()
    q = Gaussian(mean, torch.full_like(mean, 2 * math.log(0.01)))
    z = q.rsample(noise[:, None])[:, 0]
    exact = log_mixture(z, q).mean()
    assert abs(float(log_aggregate(q, z)) - float(exact)) < 1e-3


# --- discrepancy -----------------------------------------------------------------------------------------------------

KERNELS = [radial(3.0), inverse_multiquadratic(3.0)]


def similarity(kernel, one, other):
    return sum(float(kernel((a - b).square().sum())) for a in one for b in other)


def mmd_by_loops(one, other, kernel, biased=False):
    n = len(one)
    between = similarity(kernel, one, other) / n**2
    within = [similarity(kernel, side, side) for side in (one, other)]
    if biased:
        return sum(within) / n**2 - 2 * between
    return (sum(within) - 2 * n) / (n * (n - 1)) - 2 * between


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_discrepancy_equals_explicit_loops(kernel):
    one, other = draws(5, 3), 2 * draws(5, 3, seed=1) + 1
    assert float(mmd(one, other, kernel)) == pytest.approx(mmd_by_loops(one, other, kernel), rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_samples_of_one_distribution_have_a_mean_discrepancy_of_zero(kernel):
    values = torch.stack([mmd(draws(8, 2, seed=k), draws(8, 2, seed=10_000 + k), kernel) for k in range(1500)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 1500**0.5
    assert float(values.min()) < 0
    apart = torch.stack([mmd(draws(8, 2, seed=k), draws(8, 2, seed=10_000 + k) + 0.5, kernel) for k in range(300)])
    assert float(apart.mean()) > 4 * float(apart.std()) / 300**0.5


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_sets_have_a_biased_discrepancy_of_zero_and_an_unbiased_one_below_zero(kernel):
    one = draws(6, 3)
    assert mmd_by_loops(one, one, kernel, biased=True) == pytest.approx(0, abs=1e-12)
    mean_within = (similarity(kernel, one, one) - 6) / 30
    expected = 2 * mean_within - 2 * (30 * mean_within + 6) / 36
    assert float(mmd(one, one, kernel)) == pytest.approx(expected)
    assert float(mmd(one, one, kernel)) < 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_of_the_discrepancy_equals_finite_differences(kernel):
    one, other = draws(4, 2).requires_grad_(), draws(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mmd(a, b, kernel), (one, other))


def test_identical_samples_have_a_finite_gradient():
    one = torch.zeros(4, 2, requires_grad=True)
    (slope,) = gradients(mmd(one, draws(4, 2).float(), radial(4.0)), one)
    assert slope.isfinite().all()
