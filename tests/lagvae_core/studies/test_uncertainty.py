"""The study `uncertainty`."""

import dataclasses

import pytest
import torch
from helpers import tiny, trained_of

from lagvae_core.evaluation.evaluate import evaluate, on_device
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.studies.uncertainty import Uncertainty

SMALL = {"seeds": 3, "iw_samples": 4}


def measured(trained, **options):
    return Uncertainty(**options).measure(trained, lambda phase, done, total: None)


@pytest.fixture(scope="module")
def trained():
    """A model with a wide posterior, so that the random draws matter."""
    config = tiny("bn_vae", training={"epochs": 6}, evaluation={"limit": None, "iw_samples": 50})
    return trained_of(config)


@pytest.fixture(scope="module")
def findings(trained):
    return measured(trained, seeds=20)


def test_columns_without_random_draws_have_no_variance(findings):
    assert findings.values["kl_eval_variance"] == findings.values["au_eval_variance"] == 0.0
    assert findings.values["kl_eval_mean"] > 0.1
    assert len(set(findings.tables["seeds"]["kl"])) == 1


def test_the_variance_of_nll_iw_is_as_predicted_by_the_importance_weights(findings):
    predicted, observed = findings.values["nll_iw_eval_predicted"], findings.values["nll_iw_eval_variance"]
    assert predicted > 1e-7
    assert 1 / 3 < observed / predicted < 3


def test_the_variance_of_nll_elbo_is_that_of_the_reconstructions_over_samples(findings, trained):
    batches = on_device(trained.split, 32, trained.device)
    rec_SN = torch.stack([encode_split(trained.model, batches, seed).rec_N for seed in range(1000, 1100)])
    predicted = float(rec_SN.var(0).mean()) / len(trained.split)
    observed = findings.values["nll_elbo_eval_variance"]
    assert predicted > 1e-7
    assert 1 / 3 < observed / predicted < 3


def test_mutual_information_has_variance(findings):
    assert findings.values["mi_eval_variance"] > 0
    assert findings.values["mi_batch_eval_variance"] > 0


def test_the_first_row_repeats_the_row_of_the_run(findings, trained):
    evaluation = trained.config.evaluation
    metrics = evaluate(trained.model, trained.components, trained.dataset, trained.split, evaluation, trained.device)
    row = {name: rows[0] for name, rows in findings.tables["seeds"].items()}
    assert row == {"seed": evaluation.seed} | {name: metrics[name] for name in row if name != "seed"}


def test_the_columns_are_the_mean_and_the_unbiased_variance(findings):
    rows = torch.tensor(findings.tables["seeds"]["nll_iw"], dtype=torch.float64)
    assert findings.values["nll_iw_eval_mean"] == pytest.approx(float(rows.mean()), rel=1e-12)
    assert findings.values["nll_iw_eval_variance"] == pytest.approx(float(rows.var()), rel=1e-9)


def test_a_language_model_has_no_variance():
    findings = measured(trained_of(tiny("lstm_lm")), seeds=3).values
    assert (
        findings["nll_iw_eval_variance"]
        == findings["nll_elbo_eval_variance"]
        == findings["nll_iw_eval_predicted"]
        == 0.0
    )
    assert findings["kl_eval_mean"] is findings["mi_eval_variance"] is findings["au_eval_mean"] is None


def test_columns_of_strategies_are_not_computed(trained):
    class Unused:
        def __getattr__(self, name):
            raise AssertionError("extra metrics must not be computed")

    stacked = dataclasses.replace(
        trained, components=dataclasses.replace(trained.components, extra_metrics=(Unused(),))
    )
    assert measured(stacked, seeds=2, iw_samples=2).values["au_eval_variance"] == 0.0
