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
    """The exact posteriors of `n` examples of a model whose I(x; z) is known, and one noise each."""
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
    def test_a_known_value(self):
        """The deviation over draws of 2,000 examples is about 0.02."""
        exact, q, noise = exact_posterior(2000, 2.0, 0.8)
        found = mutual_information(q, noise)
        assert found.value == pytest.approx(exact, abs=0.08)
        assert found.ceiling == math.log(2000)
        assert 0.01 < found.se < 0.04

    def test_the_average_of_seeds_is_closer(self):
        values = [mutual_information(*exact_posterior(2000, 2.0, 0.8, seed=seed)[1:]).value for seed in range(4)]
        assert sum(values) / 4 == pytest.approx(1.5107, abs=0.04)

    def test_saturation(self):
        exact, q, noise = exact_posterior(2000, 100.0, 100.0)
        found = mutual_information(q, noise)
        assert exact > found.ceiling > found.value
        assert found.value == pytest.approx(7.49, abs=0.05)

    def test_the_ceiling_is_reached_by_posteriors_that_do_not_overlap_and_never_passed(self):
        n = 50
        q = Gaussian(30.0 * torch.arange(n).double()[:, None], torch.zeros(n, 1).double())
        found = mutual_information(q, draws(n, 1))
        # squares of 1,500 leave a rounding error of 2e6 * 2e-16 in each term
        assert found.value == pytest.approx(math.log(n), abs=2e-9)
        # log q(z_i|x_i) - log mean_j q(z_i|x_j) <= ln N holds for each term, whatever the draws
        for seed in range(5):
            _, q, noise = exact_posterior(20, 30.0, 30.0, seed=seed)
            assert mutual_information(q, noise).value <= math.log(20) + 1e-12

    @pytest.mark.parametrize("logvar", [0.0, -6.0, 3.0])
    def test_collapse_gives_zero_without_noise(self, logvar):
        """Equal posteriors cancel in every term, so not even 32 dimensions leave Monte Carlo noise."""
        q = Gaussian(torch.full((300, 32), 0.7).double(), torch.full((300, 32), logvar).double())
        found = mutual_information(q, draws(300, 32))
        assert abs(found.value) < 1e-9
        assert found.se < 1e-9

    def test_a_rescaled_latent_space_keeps_its_information(self):
        _, q, noise = exact_posterior(300, 2.0, 0.8)
        factor = torch.tensor([40.0, 0.01]).double()
        scaled = Gaussian(q.mean_BZ * factor + 3.0, q.logvar_BZ + 2 * factor.log())
        # of sums with terms of size (40 * 2 / 0.01)^2 relative rounding 1e-16 is kept
        assert mutual_information(scaled, noise).value == pytest.approx(mutual_information(q, noise).value, abs=1e-9)

    def test_one_example_knows_nothing(self):
        found = mutual_information(Gaussian(torch.ones(1, 2), torch.zeros(1, 2)), draws(1, 2))
        assert found.value == pytest.approx(0.0, abs=1e-12)
        assert (found.se, found.ceiling) == (0.0, 0.0)


class TestWithinGroups:
    @pytest.mark.parametrize(
        ("size", "expected", "tolerance"),
        [(8, 1.13, 0.08), (16, 1.29, 0.08), (32, 1.39, 0.06), (50, 1.43, 0.08), (200, 1.49, 0.08), (2000, 1.511, 0.08)],
    )
    def test_the_bias_of_the_group_size(self, size, expected, tolerance):
        """Means over ten seeds, of deviation 0.02 each, were computed for this table."""
        _, q, noise = exact_posterior(2000, 2.0, 0.8)
        found = mutual_information_within(q, noise, groups_of(2000, size))
        assert found.value == pytest.approx(expected, abs=tolerance)
        assert found.ceiling == pytest.approx(math.log(size), abs=0.006)  # the last group may be smaller

    def test_larger_groups_see_more(self):
        _, q, noise = exact_posterior(2000, 2.0, 0.8)
        found = [mutual_information_within(q, noise, groups_of(2000, size)).value for size in (8, 16, 32, 200)]
        assert found == sorted(found)

    def test_saturation(self):
        _, q, noise = exact_posterior(2000, 100.0, 100.0)
        found = mutual_information_within(q, noise, groups_of(2000, 32))
        # the last group has 16 examples
        assert found.ceiling == pytest.approx((1984 * math.log(32) + 16 * math.log(16)) / 2000)
        assert found.value == pytest.approx(3.459, abs=0.02)
        assert found.value <= found.ceiling

    def test_one_group_is_the_whole_split(self):
        _, q, noise = exact_posterior(100, 2.0, 0.8)
        whole, within = mutual_information(q, noise), mutual_information_within(q, noise, groups_of(100, 100))
        assert within.value == pytest.approx(whole.value, abs=1e-12)
        assert within.se == pytest.approx(whole.se, abs=1e-12)
        assert within.ceiling == whole.ceiling

    def test_groups_weigh_by_their_size(self):
        _, q, noise = exact_posterior(40, 2.0, 0.8)
        groups = [torch.arange(30), torch.arange(30, 40)]
        components = [mutual_information(Gaussian(q.mean_BZ[g], q.logvar_BZ[g]), noise[g]).value for g in groups]
        expected = 0.75 * components[0] + 0.25 * components[1]
        assert mutual_information_within(q, noise, groups).value == pytest.approx(expected, abs=1e-12)
        assert mutual_information_within(q, noise, groups[::-1]).value == pytest.approx(expected, abs=1e-12)


class TestLogAggregate:
    def direct(self, z, q):
        normal = torch.distributions.Normal(q.mean_BZ[None], (0.5 * q.logvar_BZ).exp()[None])
        return normal.log_prob(z[:, None]).sum(-1).logsumexp(1) - math.log(len(q.mean_BZ))

    @pytest.mark.parametrize("deviation", [1.0, 0.1, 0.01])
    def test_against_the_direct_formula(self, deviation):
        mean = draws(60, 3)
        q = Gaussian(mean, 2 * (deviation * (1 + 0.3 * draws(60, 3, 2)).abs().clamp(min=0.3)).log())
        z = q.rsample(draws(60, 3, 3)[:, None])[:, 0]
        # squares of size (3 / 0.003)^2 times rounding 1e-16, a few of them
        torch.testing.assert_close(log_mixture(z, q), self.direct(z, q), rtol=0, atol=1e-9)

    def test_float32_posteriors_are_handled_in_float64(self):
        mean, logvar = draws(60, 3).float(), torch.full((60, 3), 2 * math.log(0.01))
        q32, q64 = Gaussian(mean, logvar), Gaussian(mean.double(), logvar.double())
        z = q32.rsample(draws(60, 3, 3).float()[:, None])[:, 0]
        found = log_mixture(z, q32)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, self.direct(z.double(), q64), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("rows", [7, 1000])
    @pytest.mark.parametrize("columns", [7, 1000])
    def test_blocks_do_not_matter(self, monkeypatch, rows, columns):
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
