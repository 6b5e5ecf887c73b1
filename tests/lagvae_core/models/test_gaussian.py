import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from lagvae_core.models.gaussian import Gaussian, Inference, NormalPrior


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_gaussian():
    return Gaussian(draws(5, 3, seed=1), draws(5, 3, seed=2))


def reference(q):
    """Return the same density as a PyTorch distribution that broadcasts over samples [B, 1, Z]."""
    return Independent(Normal(q.mean_BZ[:, None], (0.5 * q.logvar_BZ).exp()[:, None]), 1)


class TestGaussian:
    def test_log_prob_equals_pytorch(self):
        q, z = some_gaussian(), draws(5, 7, 3)
        torch.testing.assert_close(q.log_prob(z), reference(q).log_prob(z), rtol=0, atol=1e-12)

    def test_samples_have_the_stated_moments(self):
        q, n = some_gaussian(), 100_000
        z = q.rsample(draws(5, n, 3))
        variance = q.logvar_BZ.exp()
        assert z.shape == (5, n, 3)
        assert bool(((z.mean(1) - q.mean_BZ).abs() < 4 * (variance / n).sqrt()).all())
        assert bool(((z.var(1) - variance).abs() < 4 * variance * math.sqrt(2 / n)).all())

    def test_samples_are_differentiable_in_both_parameters(self):
        mean, logvar = draws(2, 3).requires_grad_(), draws(2, 3, seed=1).requires_grad_()
        noise = draws(2, 4, 3, seed=2)
        to_mean, to_logvar = torch.autograd.grad(Gaussian(mean, logvar).rsample(noise).sum(), (mean, logvar))
        torch.testing.assert_close(to_mean, torch.full((2, 3), 4.0).double())
        torch.testing.assert_close(to_logvar, (0.5 * (0.5 * logvar).exp() * noise.sum(1)).detach())

    def test_kl_equals_pytorch(self):
        q = some_gaussian()
        standard = Normal(torch.zeros(3).double(), torch.ones(3).double())
        exact = kl_divergence(Normal(q.mean_BZ, (0.5 * q.logvar_BZ).exp()), standard)
        torch.testing.assert_close(q.kl_standard(), exact, rtol=0, atol=1e-12)

    def test_kl_is_the_mean_log_ratio_of_the_densities(self):
        q, n = some_gaussian(), 50_000
        z = q.rsample(draws(5, n, 3))
        ratio = q.log_prob(z) - NormalPrior().log_prob(z)
        error = ratio.std(1) / math.sqrt(n)
        assert bool(((ratio.mean(1) - q.kl_standard().sum(1)).abs() < 4 * error).all())
        assert float(error.max()) < 0.03

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_kl_from_the_standard_normal_to_itself_is_exactly_zero(self, dtype):
        q = Gaussian(torch.zeros(4, 3, dtype=dtype), torch.zeros(4, 3, dtype=dtype))
        assert torch.equal(q.kl_standard(), torch.zeros(4, 3, dtype=dtype))

    def test_kl_is_never_negative(self):
        q = Gaussian(torch.zeros(1, 201).double(), torch.linspace(-20, 5, 201)[None].double())
        assert bool((q.kl_standard() >= 0).all())


class TestNormalPrior:
    std = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)

    def test_log_prob(self):
        z = draws(5, 7, 3)
        for prior, std in ((NormalPrior(), torch.ones(3).double()), (NormalPrior(self.std), self.std)):
            exact = Independent(Normal(torch.zeros(3).double(), std), 1).log_prob(z)
            torch.testing.assert_close(prior.log_prob(z), exact, rtol=0, atol=1e-12)

    def test_kl(self):
        q = some_gaussian()
        kl = NormalPrior(self.std).kl(q, draws(5, 1, 3))
        exact = kl_divergence(Normal(q.mean_BZ, (0.5 * q.logvar_BZ).exp()), Normal(0.0, self.std))
        torch.testing.assert_close(kl, exact, rtol=0, atol=1e-12)
        assert torch.equal(NormalPrior().kl(q, draws(5, 1, 3)), q.kl_standard())

    def test_kl_does_not_depend_on_the_samples(self):
        q, prior = some_gaussian(), NormalPrior(self.std)
        assert torch.equal(prior.kl(q, draws(5, 1, 3)), prior.kl(q, draws(5, 4, 3, seed=1)))

    def test_unit_standard_deviations_give_the_standard_normal_bit_for_bit(self):
        q, z = some_gaussian(), draws(5, 2, 3)
        unit = NormalPrior(torch.ones(3).double())
        assert torch.equal(unit.kl(q, z), q.kl_standard())
        assert torch.equal(unit.log_prob(z), NormalPrior().log_prob(z))

    def test_kl_from_the_prior_to_itself_is_zero(self):
        q = Gaussian(torch.zeros(1, 3).double(), 2 * self.std.log()[None])
        assert float(NormalPrior(self.std).kl(q, draws(1, 1, 3)).abs().max()) < 1e-15

    def test_its_standard_deviation(self):
        assert NormalPrior().std() is None
        assert torch.equal(NormalPrior(self.std).std(), self.std)


def test_plain_inference_uses_one_density_for_samples_and_kl():
    q = some_gaussian()
    inference = Inference.plain(q)
    assert inference.q is q
    assert inference.kl_posterior is q
