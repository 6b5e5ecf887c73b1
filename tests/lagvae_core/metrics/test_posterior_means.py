import math

import pytest
import torch
from helpers import ignore_z, tiny, trial_of
from linear_gaussian import LinearGaussian, VectorDecoder, batches
from torch import nn

from lagvae_core.metrics import posterior_means
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.metrics.posterior_means import mean_space, moments_by_grid, moments_by_importance, moments_of
from lagvae_core.models.gaussian import NormalPrior
from lagvae_core.models.vae import Vae


def ignoring_z(latent):
    """Return a model with `latent` dimensions whose decoder ignores z."""
    fixture = LinearGaussian(torch.zeros(3, latent))
    return fixture, fixture.vae()


class TwoModes(nn.Module):
    """Decoder of a scalar z for which the posterior has two narrow modes of equal weight, at -1.03 and 2.03."""

    sd = 0.004

    def forward(self, history, x_BD, z_BSZ):
        modes = torch.stack([-0.5 * ((z_BSZ[..., 0] - mode) / self.sd) ** 2 for mode in (-1.03, 2.03)])
        return -(modes.logsumexp(0) + 0.5 * z_BSZ[..., 0].square())  # cancels the prior


class TestScalarGrid:
    @pytest.mark.parametrize("length", [0.3, 1.5, 7.0, 30.0, 4000.0])
    def test_closed_form(self, length):
        """Posterior standard deviations range from 0.96 to 0.0002, far below the first step of 0.1."""
        fixture = LinearGaussian.orthogonal(length)
        x = fixture.draw(20)
        moments = moments_by_grid(fixture.vae(), batches(x, 1))
        torch.testing.assert_close(moments.mean_NZ, fixture.mean(x), atol=1e-6, rtol=0)
        sd = fixture.covariance_ZZ.diagonal().sqrt().expand(20, 1)
        torch.testing.assert_close(moments.sd_NZ, sd, atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.log_px_N, fixture.log_marginal(x), atol=1e-6, rtol=0)
        assert moments.ess_N is None

    def test_the_first_step_alone_is_too_coarse(self, monkeypatch):
        monkeypatch.setattr(posterior_means, "REFINEMENTS", 0)
        fixture = LinearGaussian.orthogonal(30.0)
        x = fixture.draw(20)
        moments = moments_by_grid(fixture.vae(), batches(x, 1))
        assert float((moments.mean_NZ - fixture.mean(x)).abs().max()) > 1e-3

    def test_a_prior_with_a_different_standard_deviation(self):
        fixture = LinearGaussian(LinearGaussian.orthogonal(0.2).weight_DZ, prior_std=30.0)
        x = fixture.draw(20)
        prior = NormalPrior(torch.tensor([30.0], dtype=torch.float64))
        moments = moments_by_grid(fixture.vae(prior=prior), batches(x, 1))
        torch.testing.assert_close(moments.mean_NZ, fixture.mean(x), atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.log_px_N, fixture.log_marginal(x), atol=1e-6, rtol=0)

    def test_the_posterior_of_a_decoder_that_ignores_z_is_the_prior(self):
        fixture, model = ignoring_z(1)
        x = fixture.draw(5)
        moments = moments_by_grid(model, batches(x, 1))
        torch.testing.assert_close(moments.mean_NZ, torch.zeros(5, 1).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.sd_NZ, torch.ones(5, 1).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.log_px_N, fixture.log_marginal(x), atol=1e-9, rtol=0)

    def test_the_posterior_of_a_text_decoder_that_ignores_z_is_the_prior(self):
        trial = trial_of(tiny(model={"latent_dim": 1}))
        ignore_z(trial.model.decoder, trial_of(tiny("lstm_lm")).model.decoder)
        examples = trial.dataset.test.limit(4).batches(1)
        moments = moments_by_grid(trial.model.eval(), examples)
        # float32: each weight has a rounding error of 1e-7 times an NLL of about 15
        torch.testing.assert_close(moments.mean_NZ, torch.zeros(4, 1).double(), atol=5e-6, rtol=0)
        torch.testing.assert_close(moments.sd_NZ, torch.ones(4, 1).double(), atol=5e-6, rtol=0)

    def test_two_narrow_modes(self):
        """The standard deviation is 1.5 in total and 0.004 per mode, so the first grid samples the modes unevenly."""
        fixture = LinearGaussian.orthogonal(1.0)
        model = Vae(fixture.vae().encoder, TwoModes(), fixture.vae().posterior, NormalPrior()).eval()
        moments = moments_by_grid(model, batches(fixture.draw(1), 1))
        assert float(moments.mean_NZ) == pytest.approx(0.5, abs=1e-6)
        assert float(moments.sd_NZ) == pytest.approx(math.sqrt(1.53**2 + TwoModes.sd**2), abs=1e-6)
        exact = math.log(2 * TwoModes.sd)  # 2 sqrt(2 pi) sd from the modes, 1 / sqrt(2 pi) from the prior
        assert float(moments.log_px_N) == pytest.approx(exact, abs=1e-6)

    def test_a_narrow_grid_is_widened(self):
        fixture = LinearGaussian.orthogonal(1.0)
        x = fixture.draw(10)
        moments = moments_by_grid(fixture.vae(), batches(x, 1), half_width=0.7)
        torch.testing.assert_close(moments.mean_NZ, fixture.mean(x), atol=1e-6, rtol=0)

    def test_a_posterior_outside_the_widest_grid_is_an_error(self):
        fixture = LinearGaussian.orthogonal(30.0)
        with pytest.raises(ArithmeticError, match=r"a grid 26 times as wide"):
            moments_by_grid(fixture.vae(), batches(fixture.draw(1) + 1000.0, 1), half_width=0.3)


class TestPlane:
    @pytest.mark.parametrize("scale", [1.0, 12.0])
    def test_closed_form(self, scale):
        fixture = LinearGaussian(scale * LinearGaussian.oblique().weight_DZ, bias=0.3)
        x = fixture.draw(3)
        moments = moments_by_grid(fixture.vae(), batches(x, 1), sequences=4096)
        torch.testing.assert_close(moments.mean_NZ, fixture.mean(x), atol=1e-6, rtol=0)
        sd = fixture.covariance_ZZ.diagonal().sqrt().expand(3, 2)
        torch.testing.assert_close(moments.sd_NZ, sd, atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.log_px_N, fixture.log_marginal(x), atol=1e-6, rtol=0)

    def test_a_narrow_ridge_across_the_axes(self):
        """Standard deviations are 0.7 along both axes and 0.035 across, so the marginals do not show a coarse step."""
        fixture = LinearGaussian(torch.tensor([[20.0, 20.0], [0.1, -0.1]]))
        assert float(fixture.variance_Z.max().sqrt()) < 0.04 < 0.6 < float(fixture.covariance_ZZ[0, 0].sqrt())
        x = fixture.draw(2)
        moments = moments_by_grid(fixture.vae(), batches(x, 1), sequences=4096)
        torch.testing.assert_close(moments.mean_NZ, fixture.mean(x), atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.log_px_N, fixture.log_marginal(x), atol=1e-6, rtol=0)

    def test_the_grid_of_a_decoder_that_ignores_z_is_widened_beyond_five_standard_deviations(self):
        fixture, model = ignoring_z(2)
        moments = moments_by_grid(model, batches(fixture.draw(2), 1), sequences=4096)
        torch.testing.assert_close(moments.mean_NZ, torch.zeros(2, 2).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.sd_NZ, torch.ones(2, 2).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("latent", [1, 2])
def test_results_do_not_depend_on_the_chunks(latent):
    fixture = LinearGaussian.orthogonal(*([2.0, 1.0][:latent]))
    data = batches(fixture.draw(2), 1)
    whole = moments_by_grid(fixture.vae(), data, sequences=100_000)
    for sequences in (37, 1000):
        chunked = moments_by_grid(fixture.vae(), data, sequences=sequences)
        torch.testing.assert_close(chunked.mean_NZ, whole.mean_NZ, atol=1e-10, rtol=0)
        torch.testing.assert_close(chunked.log_px_N, whole.log_px_N, atol=1e-10, rtol=0)


def test_no_decoder_pass_exceeds_the_chunk_size(monkeypatch):
    fixture, sizes = LinearGaussian.orthogonal(1.0), []
    whole = VectorDecoder.forward

    def counted(self, history, x_BD, z_BSZ):
        sizes.append(z_BSZ.shape[1])
        return whole(self, history, x_BD, z_BSZ)

    monkeypatch.setattr(VectorDecoder, "forward", counted)
    moments_by_grid(fixture.vae(), batches(fixture.draw(1), 1), sequences=64)
    assert max(sizes) == 64
    assert sum(sizes) == 401


def test_results_are_in_the_order_of_the_examples():
    fixture = LinearGaussian.orthogonal(1.0)
    x = fixture.draw(5)
    shuffled = [batches(x, 1)[position] for position in (3, 0, 4, 1, 2)]
    for moments in (moments_by_grid(fixture.vae(), shuffled), moments_by_importance(fixture.vae(), shuffled, 0)):
        torch.testing.assert_close(moments.mean_NZ, fixture.mean(x), atol=0.5, rtol=0)
        torch.testing.assert_close(moments.log_px_N, fixture.log_marginal(x), atol=1e-6, rtol=0)


class TestImportance:
    def test_it_agrees_with_the_grid(self):
        fixture = LinearGaussian.orthogonal(1.5)
        x = fixture.draw(200)
        wide = fixture.vae(lambda x: fixture.mean(x) + 0.3 * fixture.variance_Z.sqrt(), 2 * fixture.variance_Z)
        grid, moments = moments_by_grid(wide, batches(x, 1)), moments_by_importance(wide, batches(x, 1), 0, samples=500)
        assert moments.ess_N is not None
        assert 100 < float(moments.ess_N.mean()) < 500
        error_N = (moments.mean_NZ - grid.mean_NZ)[:, 0]
        se_N = grid.sd_NZ[:, 0] / moments.ess_N.sqrt()
        assert abs(float(error_N.mean())) < 4 * float(se_N.mean()) / math.sqrt(200)
        assert float((error_N / se_N).abs().max()) < 4
        assert float((moments.sd_NZ / grid.sd_NZ).mean()) == pytest.approx(1.0, abs=0.01)

    def test_the_exact_posterior_has_equal_weights(self):
        fixture = LinearGaussian.orthogonal(2.0, 0.8, 0.5)
        x = fixture.draw(10)
        moments = moments_of(fixture.vae(), batches(x, 1), 0, samples=50)
        torch.testing.assert_close(moments.ess_N, torch.full((10,), 50.0).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(moments.log_px_N, fixture.log_marginal(x), atol=1e-9, rtol=0)

    def test_up_to_two_dimensions_are_integrated_and_more_are_sampled(self):
        for latent, sampled in ((1, False), (2, False), (3, True)):
            fixture = LinearGaussian.orthogonal(*([1.0] * latent))
            moments = moments_of(fixture.vae(), batches(fixture.draw(1), 1), 0, sequences=4096)
            assert (moments.ess_N is not None) == sampled


def test_the_importance_weighted_bound_agrees_with_the_integral():
    """For a tiny LSTM with one latent dimension, the means over the split differ by less than 0.01 nats."""
    config = tiny(model={"latent_dim": 1, "init_range": 1.0})
    trial = trial_of(config)
    model = trial.model.eval()
    examples = trial.dataset.test.batches(1)
    exact = moments_by_grid(model, examples).log_px_N
    bound = importance_weighted(model, examples, 500, 0, {"nll_iw": proposal_weight(model)})["nll_iw"]
    assert float((exact - bound.value_N).mean()) == pytest.approx(0.0, abs=0.01)
    assert float(exact.std()) > 0.1


class TestMeanSpace:
    def test_points_on_a_line(self):
        p = torch.tensor([[-1.0], [0.0], [1.0]])
        summary = mean_space(p, 2 * p + 5)
        assert (summary.p_sd, summary.q_sd) == (1.0, 2.0)
        assert summary.correlation == pytest.approx(1.0)
        assert summary.slope == pytest.approx(2.0)

    def test_a_collapsed_inference_network_has_no_correlation(self):
        summary = mean_space(torch.tensor([[-1.0], [1.0]]), torch.full((2, 1), 0.3))
        assert summary.p_sd == pytest.approx(math.sqrt(2))
        assert (summary.q_sd, summary.correlation, summary.slope) == (0.0, None, 0.0)

    def test_a_collapsed_model_has_no_slope(self):
        assert mean_space(torch.zeros(3, 1), torch.tensor([[0.0], [1.0], [2.0]])).slope is None

    def test_dimensions_are_averaged_in_units_of_the_prior(self):
        p = torch.tensor([[-1.0, 3.0], [1.0, 3.0]])
        assert mean_space(p, p, torch.tensor([0.5, 1.0])).p_sd == pytest.approx(math.sqrt((8.0 + 0.0) / 2))

    def test_uncorrelated_means(self):
        p, q = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]), torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
        assert mean_space(p, q).correlation == 0.0
