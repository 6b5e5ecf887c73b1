import dataclasses

import pytest
import torch
from helpers import tiny, trained_of

from lagvae_core.evaluation.evaluate import evaluate, on_device
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.studies import Uncertainty

SMALL = {"seeds": 3, "iw_samples": 4}


def measured(trained, **options):
    return Uncertainty(**options).measure(trained, lambda phase, done, total: None)


@pytest.fixture(scope="module")
def trained():
    """A model whose posterior is far from narrow, so that the draws matter."""
    config = tiny("bn_vae", training={"epochs": 6}, evaluation={"limit": None, "iw_samples": 50})
    return trained_of(config)


@pytest.fixture(scope="module")
def found(trained):
    return measured(trained, seeds=20)


def test_what_has_a_closed_form_or_draws_nothing_does_not_vary(found):
    assert found.values["kl_eval_variance"] == found.values["au_eval_variance"] == 0.0
    assert found.values["kl_eval_mean"] > 0.1
    assert len(set(found.tables["seeds"]["kl"])) == 1


def test_nll_iw_varies_as_its_importance_weights_foretell(found):
    predicted, observed = found.values["nll_iw_eval_predicted"], found.values["nll_iw_eval_variance"]
    assert predicted > 1e-7
    assert 1 / 3 < observed / predicted < 3


def test_nll_elbo_varies_as_the_reconstructions_of_other_samples_do(found, trained):
    batches = on_device(trained.split, 32, trained.device)
    rec_SN = torch.stack([encode_split(trained.model, batches, seed).rec_N for seed in range(1000, 1100)])
    predicted = float(rec_SN.var(0).mean()) / len(trained.split)
    observed = found.values["nll_elbo_eval_variance"]
    assert predicted > 1e-7
    assert 1 / 3 < observed / predicted < 3


def test_mutual_information_varies(found):
    assert found.values["mi_eval_variance"] > 0
    assert found.values["mi_batch_eval_variance"] > 0


def test_the_first_row_is_the_run_s_own(found, trained):
    setting = trained.config.evaluation
    own = evaluate(trained.model, trained.components, trained.dataset, trained.split, setting, trained.device)
    row = {name: rows[0] for name, rows in found.tables["seeds"].items()}
    assert row == {"seed": setting.seed} | {name: own[name] for name in row if name != "seed"}


def test_mean_and_unbiased_variance(found):
    rows = torch.tensor(found.tables["seeds"]["nll_iw"], dtype=torch.float64)
    assert found.values["nll_iw_eval_mean"] == pytest.approx(float(rows.mean()), rel=1e-12)
    assert found.values["nll_iw_eval_variance"] == pytest.approx(float(rows.var()), rel=1e-9)


def test_a_language_model_has_no_luck_at_all():
    found = measured(trained_of(tiny("lstm_lm")), seeds=3).values
    assert found["nll_iw_eval_variance"] == found["nll_elbo_eval_variance"] == found["nll_iw_eval_predicted"] == 0.0
    assert found["kl_eval_mean"] is found["mi_eval_variance"] is found["au_eval_mean"] is None


def test_a_remedy_s_own_columns_are_not_computed(trained):
    class Refusing:
        def __getattr__(self, name):
            raise AssertionError("a protocol was asked")

    stacked = dataclasses.replace(
        trained, components=dataclasses.replace(trained.components, extra_metrics=(Refusing(),))
    )
    assert measured(stacked, seeds=2, iw_samples=2).values["au_eval_variance"] == 0.0
