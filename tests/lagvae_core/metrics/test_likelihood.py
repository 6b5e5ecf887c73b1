import math

import pytest
import torch
from linear_gaussian import LinearGaussian, VectorBatch, batches

from lagvae_core.metrics.likelihood import (
    LogMean,
    StreamedLogMean,
    importance_weighted,
    likelihood_columns,
    proposal_weight,
)


def weighted(model, data, samples, seed=0, **options):
    return importance_weighted(model, data, samples, seed, {"nll_iw": proposal_weight(model)}, **options)["nll_iw"]


def wrong_proposal(fixture):
    """Return a model whose q is half a posterior standard deviation off, with twice the variance."""
    offset, variance = 0.5 * fixture.variance_Z.sqrt(), 2.0 * fixture.variance_Z
    return fixture.vae(lambda x: fixture.mean(x) + offset, variance), offset, variance


def standard_error(values):
    return float(values.std()) / math.sqrt(len(values))


class TestAgainstClosedForms:
    @pytest.mark.parametrize("samples", [1, 2, 10])
    def test_with_the_exact_posterior_every_log_weight_is_the_log_likelihood(self, samples):
        fixture = LinearGaussian.orthogonal(2.0, 0.8)
        x = fixture.draw(200)
        log_mean = weighted(fixture.vae(), batches(x), samples)
        exact = fixture.log_marginal(x)
        # float64 rounding of a sum of about ten terms of size 10
        torch.testing.assert_close(log_mean.value_N, exact, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_mean.ess_N, torch.full_like(exact, samples), rtol=1e-12, atol=0)
        assert log_mean.nll == pytest.approx(-float(exact.mean()), abs=1e-12)
        assert log_mean.mc_se < 1e-6

    def test_with_one_sample_the_gap_is_the_kl_to_the_posterior(self):
        fixture = LinearGaussian.oblique()
        x = fixture.draw(4000)
        for model, offset, variance in (
            (fixture.vae(), torch.zeros(2).double(), fixture.variance_Z),
            wrong_proposal(fixture),
        ):
            excess = fixture.log_marginal(x) - weighted(model, batches(x), 1).value_N
            gap = fixture.gap(offset, variance)
            assert gap > 1e-3
            assert float(excess.mean()) == pytest.approx(gap, abs=4 * standard_error(excess))

    def test_the_gaps_of_the_fixture_have_known_values(self):
        fixture = LinearGaussian.oblique()
        _, offset, variance = wrong_proposal(fixture)
        assert fixture.gap(torch.zeros(2).double(), fixture.variance_Z) == pytest.approx(0.0016168, abs=5e-8)
        assert fixture.gap(offset, variance) == pytest.approx(0.57267, abs=5e-6)

    @pytest.mark.parametrize(("samples", "examples"), [(10, 2000), (50, 2000), (500, 500)])
    def test_the_gap_follows_from_the_effective_sample_size(self, samples, examples):
        """E[-log mean w] = -log E w + (dispersion - 1) / 2K + O(1/K^2)."""
        fixture = LinearGaussian.oblique()
        x = fixture.draw(examples)
        for model, offset, variance in (
            (fixture.vae(), torch.zeros(2).double(), fixture.variance_Z),
            wrong_proposal(fixture),
        ):
            log_mean = weighted(model, batches(x), samples)
            excess = fixture.log_marginal(x) - log_mean.value_N
            dispersion = fixture.weight_dispersion(offset, variance)
            predicted = (dispersion - 1) / (2 * samples)
            # the next term of the expansion is of the order of dispersion^2 / K^2
            tolerance = 4 * standard_error(excess) + (dispersion - 1) * dispersion / samples**2
            assert float(excess.mean()) == pytest.approx(predicted, abs=tolerance)

    def test_the_effective_sample_size_follows_from_the_weight_moments(self):
        fixture = LinearGaussian.oblique()
        model, offset, variance = wrong_proposal(fixture)
        ess = weighted(model, batches(fixture.draw(400)), 500).ess_N
        dispersion = fixture.weight_dispersion(offset, variance)
        # ESS / K is a ratio of moments with a relative bias of O(1/K)
        assert float(ess.mean()) / 500 == pytest.approx(1 / dispersion, rel=0.02)
        assert bool((ess > 1).all())
        assert bool((ess < 500).all())

    def test_the_bound_decreases_with_the_number_of_samples(self):
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        data = batches(fixture.draw(1000))
        nll = [weighted(model, data, samples).nll for samples in (1, 5, 50, 500)]
        assert nll == sorted(nll, reverse=True)
        assert nll[0] - nll[1] > 0.3
        assert nll[1] - nll[2] > 0.03

    def test_the_standard_error_is_the_standard_deviation_over_evaluation_seeds(self):
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        data = batches(fixture.draw(20))
        means = [weighted(model, data, 100, seed) for seed in range(60)]
        spread = torch.tensor([mean.nll for mean in means]).std()
        stated = torch.tensor([mean.mc_se for mean in means]).mean()
        # a standard deviation from 60 draws has a relative error of 1 / sqrt(118) = 0.09
        assert float(stated / spread) == pytest.approx(1.0, abs=0.37)


class TestStreaming:
    def test_results_do_not_depend_on_the_chunks(self):
        """37 does not divide 500, so the last chunk is smaller."""
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        data = batches(fixture.draw(10), size=1)
        whole = weighted(model, data, 500, sequences=500)
        for sequences in (1, 37, 100):
            log_mean = weighted(model, data, 500, sequences=sequences)
            torch.testing.assert_close(log_mean.value_N, whole.value_N, rtol=0, atol=1e-10)
            torch.testing.assert_close(log_mean.ess_N, whole.ess_N, rtol=1e-10, atol=0)
            assert log_mean.samples == 500

    @pytest.mark.parametrize("samples", [1, 7, 100, 101])
    def test_every_sample_is_decoded_once_and_counted(self, samples):
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        z_seen = []
        decoder = model.decoder.forward
        model.decoder.forward = lambda inputs, x, z: z_seen.append(z) or decoder(inputs, x, z)
        batch = batches(fixture.draw(3))[0]
        log_mean = weighted(model, [batch], samples, sequences=12)
        assert {z.shape[1] for z in z_seen} <= {4, samples % 4, samples}
        z = torch.cat(z_seen, 1)
        assert z.shape[1] == samples
        q = model.infer(batch).q
        log_w = -decoder(None, batch.x_BD, z) + model.prior.log_prob(z) - q.log_prob(z)
        torch.testing.assert_close(log_mean.value_N, log_w.logsumexp(1) - math.log(samples), rtol=0, atol=1e-12)

    def test_a_batch_larger_than_the_limit_is_decoded_sample_by_sample(self):
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        x = fixture.draw(30)
        small = weighted(model, batches(x, 30), 20, sequences=4)
        torch.testing.assert_close(small.value_N, weighted(model, batches(x, 30), 20).value_N, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("level", [-330.0, -3000.0, 3000.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_log_weights_far_from_zero_do_not_underflow(self, level, dtype):
        draws = torch.randn(5, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        log_w = (level + 2 * draws).to(dtype)
        stream = StreamedLogMean(5, torch.device("cpu"))
        for chunk in log_w.split(37, dim=1):
            stream.add(chunk)
        log_mean = stream.result()
        centred = log_w.double() - level
        exact = level + centred.exp().mean(1).log()
        torch.testing.assert_close(log_mean.value_N, exact, rtol=0, atol=1e-10)
        ess = centred.exp().sum(1).square() / centred.exp().square().sum(1)
        torch.testing.assert_close(log_mean.ess_N, ess, rtol=1e-10, atol=0)

    def test_a_new_maximum_rescales_earlier_chunks(self):
        stream = StreamedLogMean(1, torch.device("cpu"))
        for value in (-3000.0, -1000.0, -1000.0, -2000.0):
            stream.add(torch.full((1, 1), value))
        log_mean = stream.result()
        assert log_mean.value_N.item() == pytest.approx(-1000.0 + math.log(2 / 4), abs=1e-10)
        assert log_mean.ess_N.item() == pytest.approx(2.0, abs=1e-12)

    def test_likelihoods_of_a_thousand_dimensions_are_accurate(self):
        fixture = LinearGaussian(torch.ones(1500, 1) * 0.1)
        x = fixture.draw(5)
        exact = fixture.log_marginal(x)
        assert float(exact.max()) < -1000
        # terms of size 3000 have a float64 rounding error of about 1e-12 each
        torch.testing.assert_close(weighted(fixture.vae(), batches(x), 50).value_N, exact, rtol=0, atol=1e-9)


class TestBatching:
    def test_results_do_not_depend_on_the_batches(self):
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        x = fixture.draw(30)
        whole = weighted(model, batches(x, 30), 50)
        shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(1)).split(7)
        for data in (batches(x, 1), batches(x, 7), [VectorBatch(x[rows], rows) for rows in shuffled]):
            log_mean = weighted(model, data, 50)
            torch.testing.assert_close(log_mean.value_N, whole.value_N, rtol=0, atol=1e-12)
            torch.testing.assert_close(log_mean.ess_N, whole.ess_N, rtol=1e-12, atol=0)

    def test_the_seed_determines_the_samples(self):
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        data = batches(fixture.draw(5))
        assert torch.equal(weighted(model, data, 5, 1).value_N, weighted(model, data, 5, 1).value_N)
        assert not torch.equal(weighted(model, data, 5, 1).value_N, weighted(model, data, 5, 2).value_N)

    def test_several_log_weights_share_their_samples(self):
        fixture = LinearGaussian.oblique()
        model, _, _ = wrong_proposal(fixture)
        weight = proposal_weight(model)
        shifted = {"one": weight, "other": lambda *args: weight(*args) + 1.5}
        log_mean = importance_weighted(model, batches(fixture.draw(10)), 20, 0, shifted)
        torch.testing.assert_close(log_mean["other"].value_N - log_mean["one"].value_N, torch.full((10,), 1.5).double())

    def test_progress_counts_examples(self):
        fixture = LinearGaussian.oblique()
        reported = []
        weighted(fixture.vae(), batches(fixture.draw(10), 4), 2, progress=reported.append)
        assert reported == [4, 8, 10]

    def test_train_mode_is_an_error(self):
        fixture = LinearGaussian.oblique()
        with pytest.raises(AssertionError, match="eval mode"):
            weighted(fixture.vae().train(), batches(fixture.draw(2)), 2)


def test_the_standard_error_treats_examples_as_independent():
    log_mean = LogMean(torch.tensor([-1.0, -3.0]), torch.tensor([4.0, 2.0]), 8, torch.zeros(2))
    assert log_mean.nll == 2.0
    assert log_mean.mc_se == pytest.approx(math.sqrt((1 / 4 - 1 / 8) + (1 / 2 - 1 / 8)) / 2)


class TestReliability:
    """A linear Gaussian model, in which the exact likelihood shows whether the estimate can be trusted."""

    def columns(self, offset, scale, samples=100):
        """Return the likelihood columns of two draws, and the exact NLL.

        q is `offset` posterior standard deviations off in each of 6 dimensions, with `scale` times its variance.
        """
        fixture = LinearGaussian.orthogonal(*[0.5 + 0.3 * number for number in range(6)])
        x = fixture.draw(100)
        shift = offset * fixture.variance_Z.sqrt()
        model = fixture.vae(lambda x: fixture.mean(x) + shift, scale * fixture.variance_Z)
        draws = [likelihood_columns(weighted(model, batches(x), samples, seed)) for seed in (0, 1)]
        return draws, -float(fixture.log_marginal(x).mean())

    def test_with_the_exact_posterior_the_estimate_is_reliable_and_right(self):
        (one, _), exact = self.columns(0.0, 1.0)
        assert one["iw_unreliable"] == 0.0
        assert one["nll_iw"] == pytest.approx(exact, abs=1e-9)

    def test_near_the_posterior_the_estimate_is_reliable_and_its_standard_error_covers_the_error(self):
        (one, other), exact = self.columns(0.1, 1.1)
        assert one["iw_unreliable"] < 0.2
        assert abs(one["nll_iw"] - other["nll_iw"]) < 4 * math.hypot(one["nll_iw_mc_se"], other["nll_iw_mc_se"])
        assert one["nll_iw"] == pytest.approx(exact, abs=0.02)

    def test_far_from_the_posterior_the_error_is_many_standard_errors_and_the_column_says_so(self):
        (one, _), exact = self.columns(3.0, 1.0)
        assert one["nll_iw"] - exact > 50 * one["nll_iw_mc_se"]
        assert one["nll_iw_mc_se"] <= 0.1  # 1 / sqrt(n)
        assert one["iw_ess"] < 2
        assert one["iw_unreliable"] > 0.95
        assert one["iw_khat"] > 1.0

    def test_one_sample_has_neither_value(self):
        (one, _), _ = self.columns(1.0, 1.0, samples=1)
        assert one["iw_khat"] is None
        assert one["iw_unreliable"] is None
