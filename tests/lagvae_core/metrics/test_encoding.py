import math
from dataclasses import replace

import pytest
import torch
from linear_gaussian import LinearGaussian, VectorBatch, batches

from lagvae_core.metrics.encoding import EncodedSplit, encode_split
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.metrics.posterior import posterior_columns
from lagvae_core.models.gaussian import Gaussian, Inference, NormalPrior, Prior

FIELDS = ("noise_NZ", "rec_N", "kl_ND", "kl_train_N", "z_NZ")


def standard_error(values):
    return float(values.std()) / math.sqrt(len(values))


def columns(model, x, group=32):
    encoded = encode_split(model, batches(x), 0)
    return posterior_columns(model, encoded, list(torch.arange(len(x)).split(group)))


def encoded_of(q, noise):
    """Return a split with the posteriors `q` and a reconstruction term of 0."""
    rec, kl, draw = torch.zeros(len(noise)), q.kl_standard(), q.draw(noise[:, None])
    z, log_q = draw.z_BSZ[:, 0], draw.log_q().sum(-1)[:, 0]
    return EncodedSplit(Inference.plain(q), noise, z, log_q, rec, q.mean_BZ, 0 * q.mean_BZ[0], kl, kl.sum(1))


class Sampled(NormalPrior):
    """N(0, I) whose KL is never in closed form."""

    def closed_form(self, q):
        return False

    def kl(self, q, draw):
        return Prior.kl(self, q, draw)


class TestEncodeSplit:
    def test_reconstruction_belongs_to_the_sample_and_kl_to_the_posterior(self):
        fixture = LinearGaussian.oblique()
        model, x = fixture.vae(), fixture.draw(50)
        encoded = encode_split(model, batches(x, 8), 3)
        assert encoded.z_NZ.shape == encoded.kl_ND.shape == (50, 2)
        torch.testing.assert_close(encoded.q.mean_BZ, fixture.mean(x))
        rec = model.decoder(None, x, encoded.z_NZ[:, None])[:, 0]
        torch.testing.assert_close(encoded.rec_N, rec, rtol=0, atol=1e-12)
        torch.testing.assert_close(encoded.kl_ND, encoded.q.kl_standard(), rtol=0, atol=1e-14)
        torch.testing.assert_close(encoded.kl_train_N, encoded.kl_ND.sum(1), rtol=0, atol=1e-14)

    def test_results_do_not_depend_on_the_batches(self):
        fixture = LinearGaussian.oblique()
        model, x = fixture.vae(), fixture.draw(30)
        whole = encode_split(model, batches(x, 30), 0)
        shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(1)).split(7)
        for data in (batches(x, 1), batches(x, 7), [VectorBatch(x[rows], rows) for rows in shuffled]):
            encoded = encode_split(model, data, 0)
            for name in FIELDS:
                torch.testing.assert_close(getattr(encoded, name), getattr(whole, name), rtol=0, atol=1e-12)

    def test_the_noise_is_standard_normal_and_determined_by_the_seed(self):
        fixture = LinearGaussian.oblique()
        data = batches(fixture.draw(2000))
        noise = encode_split(fixture.vae(), data, 0).noise_NZ
        assert noise.mean().abs() < 4 / math.sqrt(4000)
        assert noise.var().item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / 4000))
        assert torch.equal(noise, encode_split(fixture.vae(), data, 0).noise_NZ)
        assert not torch.equal(noise, encode_split(fixture.vae(), data, 1).noise_NZ)

    def test_the_noise_differs_from_that_of_the_importance_samples(self):
        """Otherwise the errors of nll_iw and nll_elbo would be correlated."""
        fixture = LinearGaussian.oblique()
        model, z_seen = fixture.vae(), []
        model.decoder.register_forward_pre_hook(lambda module, args: z_seen.append(args[2]))
        data = batches(fixture.draw(5))
        encode_split(model, data, 0)
        importance_weighted(model, data, 1, 0, {"nll_iw": proposal_weight(model)})
        assert z_seen[0].shape == z_seen[1].shape
        assert bool((z_seen[0] != z_seen[1]).all())

    def test_it_reports_progress_and_requires_eval_mode(self):
        fixture = LinearGaussian.oblique()
        reported = []
        encode_split(fixture.vae(), batches(fixture.draw(10), 4), 0, progress=reported.append)
        assert reported == [4, 8, 10]
        with pytest.raises(AssertionError, match="eval mode"):
            encode_split(fixture.vae().train(), batches(fixture.draw(2)), 0)


class TestBoundOnTheLikelihood:
    """-ELBO = -log p(x) + KL(q || posterior) for the best diagonal posterior and for a worse one."""

    @pytest.fixture(params=["best", "worse"])
    def case(self, request):
        fixture = LinearGaussian.oblique()
        offset = torch.zeros(2).double() if request.param == "best" else 0.5 * fixture.variance_Z.sqrt()
        variance = fixture.variance_Z if request.param == "best" else 2.0 * fixture.variance_Z
        return fixture, fixture.vae(lambda x: fixture.mean(x) + offset, variance), fixture.gap(offset, variance)

    def test_the_expected_bound_is_exact(self, case):
        fixture, model, gap = case
        x = fixture.draw(100)
        encoded = encode_split(model, batches(x), 0)
        bound = fixture.expected_rec(x, encoded.q) + encoded.kl_ND.sum(1)
        excess = bound + fixture.log_marginal(x)
        torch.testing.assert_close(excess, torch.full_like(excess, gap), rtol=0, atol=1e-12)

    def test_with_one_sample_the_bound_is_exact_up_to_noise(self, case):
        fixture, model, gap = case
        x = fixture.draw(4000)
        encoded = encode_split(model, batches(x), 0)
        excess = encoded.rec_N + encoded.kl_ND.sum(1) + fixture.log_marginal(x)
        assert float(excess.mean()) == pytest.approx(gap, abs=4 * standard_error(excess))
        metrics = columns(model, x)
        assert metrics["nll_elbo"] == pytest.approx(float((encoded.rec_N + encoded.kl_ND.sum(1)).mean()), abs=1e-12)


def collapsed(n=200):
    """Return a model whose decoder ignores z and whose posterior is the prior."""
    fixture = LinearGaussian(torch.zeros(6, 2), bias=0.3)
    return fixture, fixture.vae(), fixture.draw(n)


class TestPosteriorColumns:
    def test_a_collapsed_model(self):
        fixture, model, x = collapsed()
        metrics = columns(model, x)
        assert metrics["kl"] == 0.0
        assert metrics["kl_by_dimension"] == [0.0, 0.0]
        assert metrics["nll_elbo"] == pytest.approx(-float(fixture.log_marginal(x).mean()), abs=1e-12)
        assert abs(metrics["mi"]) < 1e-12
        assert abs(metrics["mi_batch"]) < 1e-12
        assert abs(metrics["kl_agg"]) < 1e-12
        assert metrics["au"] == 0

    def test_kl_without_information_appears_as_kl_agg(self):
        """All posteriors are N(0.7, 1): the KL is 0.245 in each dimension, the information is 0."""
        fixture = LinearGaussian(torch.zeros(6, 2), bias=0.3)
        model = fixture.vae(lambda x: torch.full((len(x), 2), 0.7, dtype=torch.float64), torch.ones(2).double())
        metrics = columns(model, fixture.draw(100))
        assert metrics["kl"] == pytest.approx(0.49, abs=1e-12)
        assert metrics["kl_agg"] == pytest.approx(0.49, abs=1e-12)
        assert metrics["au"] == 0

    def test_kl_is_the_sum_of_information_and_aggregate_kl(self):
        """x = 1.5 z + noise, q = N(0.6 m(x), 0.4): the means have variance 0.36 (1 - S), so q(z) is Gaussian."""
        fixture = LinearGaussian(torch.tensor([[1.5]]))
        spread = 0.36 * float(1 - fixture.covariance_ZZ)
        exact_kl = 0.5 * (spread + 0.4 - math.log(0.4) - 1)
        exact_mi = 0.5 * math.log((spread + 0.4) / 0.4)
        exact_agg = 0.5 * (spread + 0.4 - math.log(spread + 0.4) - 1)
        assert (exact_kl, exact_mi, exact_agg) == pytest.approx((0.30542, 0.27590, 0.02952), abs=5e-6)
        model = fixture.vae(lambda x: 0.6 * fixture.mean(x), torch.tensor([0.4]).double())
        metrics = [columns(model, fixture.draw(4000, seed)) for seed in range(2)]
        kl = sum(row["kl"] for row in metrics) / 2
        mi = sum(row["mi"] for row in metrics) / 2
        # the KL of an example is half a squared Gaussian of variance `spread`; its standard deviation is
        # spread / sqrt 2
        assert kl == pytest.approx(exact_kl, abs=4 * spread / math.sqrt(2 * 8000))
        assert mi == pytest.approx(exact_mi, abs=4 * metrics[0]["mi_se"] / math.sqrt(2))
        assert sum(row["kl_agg"] for row in metrics) / 2 == pytest.approx(exact_agg, abs=0.02)
        assert metrics[0]["kl_agg"] == metrics[0]["kl"] - metrics[0]["mi"]

    def test_the_mutual_information_of_the_exact_posterior(self):
        fixture = LinearGaussian.orthogonal(2.0, 0.8)
        metrics = columns(fixture.vae(), fixture.draw(2000))
        assert metrics["mi"] == pytest.approx(fixture.information, abs=0.08)
        assert metrics["mi_batch"] == pytest.approx(1.39, abs=0.06)
        assert metrics["mi_cap"] == math.log(2000)
        # the aggregate of exact posteriors is the prior
        assert metrics["kl_agg"] == pytest.approx(0.0, abs=0.08)
        assert metrics["au"] == 2

    def test_the_kl_is_the_sum_over_dimensions(self):
        fixture = LinearGaussian.oblique()
        metrics = columns(fixture.vae(), fixture.draw(300))
        assert sum(metrics["kl_by_dimension"]) == pytest.approx(metrics["kl"], abs=1e-12)
        assert metrics["kl_train"] == pytest.approx(metrics["kl"], abs=1e-12)
        assert len(metrics["mean_variance"]) == 2
        assert metrics["n"] == 300

    def test_information_above_the_kl_is_an_internal_error(self):
        """This happens if KL and information are computed from different posteriors, as in published tables."""
        _, model, _ = collapsed()
        n = 100
        q = Gaussian(torch.linspace(-50, 50, n).double()[:, None], torch.zeros(n, 1).double())
        noise = torch.zeros(n, 1).double()
        honest = encoded_of(q, noise)
        groups = [torch.arange(n)]
        assert posterior_columns(model, honest, groups)["mi"] > 2
        mixed = replace(honest, kl_ND=0.01 * torch.ones(n, 1))
        with pytest.raises(AssertionError, match="must be at most E"):
            posterior_columns(model, mixed, groups)

    def test_of_few_examples_a_correct_estimate_may_exceed_the_kl(self):
        """Both samples lie on the far sides of both posteriors, and their terms are equal: the standard error is 0."""
        _, model, _ = collapsed()
        q = Gaussian(torch.tensor([[-0.5], [0.5]]).double(), torch.zeros(2, 1).double())
        noise = torch.tensor([[-2.0], [2.0]]).double()
        values = posterior_columns(model, encoded_of(q, noise), [torch.arange(2)])
        assert values["kl"] == 0.125
        assert 0.125 < values["mi"] < values["mi_cap"] == math.log(2)
        assert values["mi_se"] == pytest.approx(0.0, abs=1e-12)

    def test_a_sampled_kl_can_be_below_the_information_only_by_its_standard_error(self):
        """All posteriors are N(0.01, I): the information is 0, the KL is 1e-4, its samples deviate by about 0.014."""
        fixture = LinearGaussian(torch.zeros(6, 2), bias=0.3)
        nearly = fixture.vae(
            lambda x: torch.full((len(x), 2), 0.01, dtype=torch.float64), torch.ones(2).double(), prior=Sampled()
        )
        x, groups = fixture.draw(40), [torch.arange(40)]
        kl_agg = [
            posterior_columns(nearly, encode_split(nearly, batches(x), seed), groups)["kl_agg"] for seed in range(20)
        ]
        assert min(kl_agg) < -1e-4 < 1e-4 < max(kl_agg)
        informative = replace(
            encode_split(nearly, batches(x), 0),
            inference=Inference.plain(Gaussian(x[:, :2] * 10, torch.zeros(40, 2).double())),
        )
        with pytest.raises(AssertionError, match="must be at most E"):
            posterior_columns(nearly, informative, groups)

    def test_a_kl_of_nan_is_returned_for_the_divergence_rule(self):
        _, model, _ = collapsed()
        q = Gaussian(torch.full((4, 1), torch.nan).double(), torch.zeros(4, 1).double())
        encoded = encoded_of(q, torch.zeros(4, 1))
        assert math.isnan(posterior_columns(model, encoded, [torch.arange(4)])["kl"])

    def test_a_wide_prior_enters_the_kl_and_sets_the_unit_of_active_units(self):
        fixture = LinearGaussian(torch.tensor([[1.5]]), prior_std=3.0)
        prior = NormalPrior(torch.tensor([3.0]).double())
        x = fixture.draw(2000)
        metrics = columns(fixture.vae(prior=prior), x)
        assert metrics["mi"] == pytest.approx(fixture.information, abs=0.1)
        # E[KL] of exact posteriors is the information; the KL of an example is at most half a squared standard Gaussian
        assert metrics["kl"] == pytest.approx(fixture.information, abs=4 / math.sqrt(2 * 2000))
        assert metrics["mean_variance"][0] == pytest.approx(1 - float(fixture.covariance_ZZ) / 9, rel=4 * 0.032)
