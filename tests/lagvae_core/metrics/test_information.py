import math

import pytest
import torch
from linear_gaussian import LinearGaussian

from lagvae_core.metrics.information import mutual_information, mutual_information_within
from lagvae_core.models import gaussian
from lagvae_core.models.gaussian import Gaussian, log_mixture


def draws(n, size, seed=1):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_posterior(n, *scales, seed=0):
    """Return the known I(x; z) of a model, the exact posteriors of `n` examples, and noise for one sample each."""
    fixture = LinearGaussian.orthogonal(*scales)
    mean = fixture.mean(fixture.draw(n, seed))
    q = Gaussian(mean, fixture.variance_Z.log().expand_as(mean))
    return fixture.information, q, draws(n, len(scales), seed + 1000)


def groups_of(n, size):
    return list(torch.arange(n).split(size))


def test_the_information_of_the_fixture():
    assert exact_posterior(2, 2.0, 0.8)[0] == pytest.approx(1.5107, abs=5e-5)
    assert exact_posterior(2, 100.0, 100.0)[0] == pytest.approx(9.904, abs=5e-4)


class TestWholeSplit:
    def test_it_equals_the_known_information(self):
        """The standard deviation over draws of 2,000 examples is about 0.02."""
        exact, q, noise = exact_posterior(2000, 2.0, 0.8)
        estimate = mutual_information(q, noise)
        assert estimate.value == pytest.approx(exact, abs=0.08)
        assert estimate.ceiling == math.log(2000)
        assert 0.01 < estimate.se < 0.04

    def test_the_average_over_seeds_is_closer(self):
        values = [mutual_information(*exact_posterior(2000, 2.0, 0.8, seed=seed)[1:]).value for seed in range(4)]
        assert sum(values) / 4 == pytest.approx(1.5107, abs=0.04)

    def test_saturation(self):
        exact, q, noise = exact_posterior(2000, 100.0, 100.0)
        estimate = mutual_information(q, noise)
        assert exact > estimate.ceiling > estimate.value
        assert estimate.value == pytest.approx(7.49, abs=0.05)

    def test_disjoint_posteriors_reach_the_ceiling_and_none_exceed_it(self):
        n = 50
        q = Gaussian(30.0 * torch.arange(n).double()[:, None], torch.zeros(n, 1).double())
        estimate = mutual_information(q, draws(n, 1))
        # squares of 1,500 leave a rounding error of 2e6 * 2e-16 in each term
        assert estimate.value == pytest.approx(math.log(n), abs=2e-9)
        # log q(z_i|x_i) - log mean_j q(z_i|x_j) <= ln N holds for each term, whatever the draws
        for seed in range(5):
            _, q, noise = exact_posterior(20, 30.0, 30.0, seed=seed)
            assert mutual_information(q, noise).value <= math.log(20) + 1e-12

    @pytest.mark.parametrize("logvar", [0.0, -6.0, 3.0])
    def test_collapsed_posteriors_have_no_information_and_no_noise(self, logvar):
        """Equal posteriors cancel in every term, so there is no Monte Carlo noise even in 32 dimensions."""
        q = Gaussian(torch.full((300, 32), 0.7).double(), torch.full((300, 32), logvar).double())
        estimate = mutual_information(q, draws(300, 32))
        assert abs(estimate.value) < 1e-9
        assert estimate.se < 1e-9

    def test_rescaling_the_latent_space_keeps_the_information(self):
        _, q, noise = exact_posterior(300, 2.0, 0.8)
        factor = torch.tensor([40.0, 0.01]).double()
        scaled = Gaussian(q.mean_BZ * factor + 3.0, q.logvar_BZ + 2 * factor.log())
        # sums have terms of size (40 * 2 / 0.01)^2 and a relative rounding error of 1e-16
        assert mutual_information(scaled, noise).value == pytest.approx(mutual_information(q, noise).value, abs=1e-9)

    def test_one_example_has_no_information(self):
        estimate = mutual_information(Gaussian(torch.ones(1, 2), torch.zeros(1, 2)), draws(1, 2))
        assert estimate.value == pytest.approx(0.0, abs=1e-12)
        assert (estimate.se, estimate.ceiling) == (0.0, 0.0)


class TestWithinGroups:
    @pytest.mark.parametrize(
        ("size", "expected", "tolerance"),
        [(8, 1.13, 0.08), (16, 1.29, 0.08), (32, 1.39, 0.06), (50, 1.43, 0.08), (200, 1.49, 0.08), (2000, 1.511, 0.08)],
    )
    def test_the_bias_depends_on_the_group_size(self, size, expected, tolerance):
        """The expected values are means over ten seeds; the standard deviation over seeds is 0.02."""
        _, q, noise = exact_posterior(2000, 2.0, 0.8)
        estimate = mutual_information_within(q, noise, groups_of(2000, size))
        assert estimate.value == pytest.approx(expected, abs=tolerance)
        assert estimate.ceiling == pytest.approx(math.log(size), abs=0.006)  # the last group may be smaller

    def test_larger_groups_give_larger_values(self):
        _, q, noise = exact_posterior(2000, 2.0, 0.8)
        values = [mutual_information_within(q, noise, groups_of(2000, size)).value for size in (8, 16, 32, 200)]
        assert values == sorted(values)

    def test_saturation(self):
        _, q, noise = exact_posterior(2000, 100.0, 100.0)
        estimate = mutual_information_within(q, noise, groups_of(2000, 32))
        # the last group has 16 examples
        assert estimate.ceiling == pytest.approx((1984 * math.log(32) + 16 * math.log(16)) / 2000)
        assert estimate.value == pytest.approx(3.459, abs=0.02)
        assert estimate.value <= estimate.ceiling

    def test_a_single_group_equals_the_whole_split(self):
        _, q, noise = exact_posterior(100, 2.0, 0.8)
        whole, within = mutual_information(q, noise), mutual_information_within(q, noise, groups_of(100, 100))
        assert within.value == pytest.approx(whole.value, abs=1e-12)
        assert within.se == pytest.approx(whole.se, abs=1e-12)
        assert within.ceiling == whole.ceiling

    def test_groups_are_weighted_by_their_size(self):
        _, q, noise = exact_posterior(40, 2.0, 0.8)
        groups = [torch.arange(30), torch.arange(30, 40)]
        values = [mutual_information(Gaussian(q.mean_BZ[g], q.logvar_BZ[g]), noise[g]).value for g in groups]
        expected = 0.75 * values[0] + 0.25 * values[1]
        assert mutual_information_within(q, noise, groups).value == pytest.approx(expected, abs=1e-12)
        assert mutual_information_within(q, noise, groups[::-1]).value == pytest.approx(expected, abs=1e-12)


class TestLogMixture:
    def direct(self, z, q):
        normal = torch.distributions.Normal(q.mean_BZ[None], (0.5 * q.logvar_BZ).exp()[None])
        return normal.log_prob(z[:, None]).sum(-1).logsumexp(1) - math.log(len(q.mean_BZ))

    @pytest.mark.parametrize("std", [1.0, 0.1, 0.01])
    def test_it_equals_the_direct_formula(self, std):
        mean = draws(60, 3)
        q = Gaussian(mean, 2 * (std * (1 + 0.3 * draws(60, 3, 2)).abs().clamp(min=0.3)).log())
        z = q.rsample(draws(60, 3, 3)[:, None])[:, 0]
        # a few squares of size (3 / 0.003)^2 with a relative rounding error of 1e-16
        torch.testing.assert_close(log_mixture(z, q), self.direct(z, q), rtol=0, atol=1e-9)

    def test_float32_posteriors_are_converted_to_float64(self):
        mean, logvar = draws(60, 3).float(), torch.full((60, 3), 2 * math.log(0.01))
        q32, q64 = Gaussian(mean, logvar), Gaussian(mean.double(), logvar.double())
        z = q32.rsample(draws(60, 3, 3).float()[:, None])[:, 0]
        log_q = log_mixture(z, q32)
        assert log_q.dtype == torch.float64
        torch.testing.assert_close(log_q, self.direct(z.double(), q64), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("rows", [7, 1000])
    @pytest.mark.parametrize("columns", [7, 1000])
    def test_results_do_not_depend_on_the_blocks(self, monkeypatch, rows, columns):
        _, q, noise = exact_posterior(1100, 2.0, 0.8)
        z = q.rsample(noise[:, None])[:40, 0]
        monkeypatch.setattr(gaussian, "ROWS", 2000)
        monkeypatch.setattr(gaussian, "COLUMNS", 2000)
        whole = log_mixture(z, q)
        monkeypatch.setattr(gaussian, "ROWS", rows)
        monkeypatch.setattr(gaussian, "COLUMNS", columns)
        torch.testing.assert_close(log_mixture(z, q), whole, rtol=0, atol=1e-9)

    def test_samples_far_from_every_posterior_do_not_underflow(self):
        q = Gaussian(torch.zeros(10, 1).double(), torch.zeros(10, 1).double())
        z = torch.tensor([[100.0]]).double()
        assert log_mixture(z, q).item() == pytest.approx(-0.5 * (1e4 + math.log(2 * math.pi)), abs=1e-9)
