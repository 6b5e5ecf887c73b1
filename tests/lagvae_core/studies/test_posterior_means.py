"""The study `posterior_means`."""

import math

import pytest
import torch
from helpers import ignore_z, tiny, trial_of
from linear_gaussian import LinearGaussian

from lagvae_core.columns import Column
from lagvae_core.metrics.information import aggregate_kl, mutual_information
from lagvae_core.metrics.posterior_means import moments_by_grid
from lagvae_core.models.gaussian import Gaussian, NormalPrior
from lagvae_core.studies import STUDIES
from lagvae_core.studies.posterior_means import PosteriorMeans
from lagvae_core.studies.trained_model import TrainedModel

SMALL = {"examples": 6}


def trained_of(*strategies, **sections):
    trial = trial_of(tiny(*strategies, **sections))
    return TrainedModel(trial.config, trial.dataset, trial.model.eval(), trial.components, trial.device)


def measure(trained, **options):
    progress = []
    findings = PosteriorMeans(**options).measure(trained, lambda *place: progress.append(place))
    assert set(findings.values) == {column.name for column in PosteriorMeans.columns}
    return findings, progress


def test_the_study_is_in_the_catalogue():
    assert STUDIES["posterior_means"] is PosteriorMeans
    assert all(isinstance(column, Column) for column in PosteriorMeans.columns)


def test_the_table_has_one_row_per_example():
    trained = trained_of(model={"latent_dim": 1, "init_range": 1.0})
    findings, progress = measure(trained, examples=10)
    table = findings.tables["means"]
    assert {name: len(column) for name, column in table.items()} == dict.fromkeys(
        ("example", "p_mean", "q_mean", "p_sd", "ess", "log_px"), 10
    )
    exact = moments_by_grid(trained.model, trained.split.limit(10).batches(1))
    assert table["p_mean"] == exact.mean_NZ.tolist()
    assert table["q_mean"] == trained.encoded.mean_NZ[:10].tolist()
    assert table["ess"] == [None] * 10
    assert findings.values["nll_grid"] == pytest.approx(-sum(table["log_px"]) / 10)
    assert progress[-1] == ("posterior means", 10, 10)


def test_the_columns_summarise_the_table():
    findings, _ = measure(trained_of(model={"latent_dim": 1, "init_range": 1.0}))
    p, q = (torch.tensor(findings.tables["means"][name])[:, 0] for name in ("p_mean", "q_mean"))
    values = findings.values
    assert values["p_mean_sd"] == pytest.approx(float(p.std()), rel=1e-4)
    assert values["q_mean_sd"] == pytest.approx(float(q.std()), rel=1e-4)
    assert values["p_q_correlation"] == pytest.approx(float(torch.corrcoef(torch.stack([p, q]))[0, 1]), abs=1e-4)
    assert values["p_q_slope"] == pytest.approx(values["p_q_correlation"] * float(q.std() / p.std()), abs=1e-4)


def test_a_model_that_ignores_z_has_collapsed_for_every_encoder():
    trained = trained_of(model={"latent_dim": 1, "init_range": 1.0})
    ignore_z(trained.model.decoder, trial_of(tiny("lstm_lm")).model.decoder)
    with torch.no_grad():
        trained.model.encoder.to_latent.weight[0] *= 100.0
    values = measure(trained)[0].values
    assert values["p_mean_sd"] < 1e-5
    assert (values["model_collapse"], values["inference_collapse"]) == (1, 0)


def test_an_inference_network_that_ignores_x_has_collapsed_for_every_model():
    trained = trained_of(model={"latent_dim": 1, "init_range": 1.0})
    with torch.no_grad():
        trained.model.encoder.to_latent.weight.zero_()
    values = measure(trained)[0].values
    assert (values["model_collapse"], values["inference_collapse"]) == (0, 1)
    assert (values["q_mean_sd"], values["p_q_correlation"], values["p_q_slope"]) == (0.0, None, 0.0)
    assert values["kl_agg_direct"] == pytest.approx(0.0, abs=1e-6)


def test_more_than_two_latent_dimensions_are_sampled():
    findings, _ = measure(trained_of(model={"latent_dim": 3}), samples=20)
    assert findings.values["nll_grid"] is None
    assert all(1.0 <= ess <= 20.0 + 1e-9 for ess in findings.tables["means"]["ess"])
    assert all(len(mean) == 3 for mean in findings.tables["means"]["p_mean"])


def test_the_aggregate_kl_of_a_flow_is_not_measured():
    values = measure(trained_of("iaf_posterior", model={"latent_dim": 3}), samples=20)[0].values
    assert values["kl_agg_direct"] is None
    assert values["p_mean_sd"] > 0


def test_a_model_without_z_is_refused():
    trained = trained_of("lstm_lm")
    issues = PosteriorMeans().issues(trained.config, trained.dataset)
    assert [issue.where for issue in issues] == ["posterior_means"]


class TestAggregateKl:
    """x = 1.5 z + N(0, 0.5), q = N(0.6 m(x), 0.4): E[KL] 0.30542 = I 0.27590 + KL(q(z) || p(z)) 0.02952."""

    def estimates(self, mean_NZ, variance, seed=0):
        q = Gaussian(mean_NZ, torch.full_like(mean_NZ, variance).log())
        noise = torch.randn(q.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        z = q.rsample(noise[:, None])
        direct = aggregate_kl(q, z[:, 0], NormalPrior().log_prob(z)[:, 0])
        return direct, float(q.kl_standard().sum(1).mean()), mutual_information(q, noise).value

    def known(self, seed=0):
        fixture = LinearGaussian(torch.tensor([[1.5]]))
        return self.estimates(0.6 * fixture.mean(fixture.draw(4000, seed)), 0.4, seed + 1000)

    def test_a_known_value(self):
        direct, kl, mi = self.known()
        assert kl == pytest.approx(0.30542, abs=0.01)
        assert direct.value == pytest.approx(0.034, abs=0.01)
        assert kl - mi == pytest.approx(0.033, abs=0.01)
        assert direct.ceiling == math.inf

    def test_the_exact_posterior_has_the_prior_as_its_mixture(self):
        fixture = LinearGaussian.orthogonal(2.0)
        direct, *_ = self.estimates(fixture.mean(fixture.draw(4000)), float(fixture.variance_Z))
        assert direct.value == pytest.approx(0.0, abs=4 * direct.se + 0.005)
