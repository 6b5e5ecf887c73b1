"""Decoders that ignore z have one likelihood, whatever the posterior, prior and procedure: that of the language model.

The bound holds for any proposal and any prior, so that every remedy that leaves the decoder alone must give it.
"""

import functools

import pytest
import torch
from helpers import ignore_z, tiny, trial_of

from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.settings import EvaluationConfig
from lagvae_core.strategies import CATALOGUE

SAMPLES, EXAMPLES = 200, 16
SAME_DECODER = [name for name, strategy in CATALOGUE.items() if not strategy.slots & {"decoder", "past", "skip"}]


def measured(trial):
    setting = EvaluationConfig(iw_samples=SAMPLES, limit=EXAMPLES)
    dataset, device = trial.dataset, torch.device("cpu")
    return evaluate(trial.model.double(), trial.components, dataset, dataset.test, setting, device)


@functools.cache
def language_model():
    trial = trial_of(tiny("lstm_lm"))
    return trial.model.decoder, measured(trial)["nll_iw"]


@pytest.mark.parametrize("silent", [True, False], ids=["silent encoder", "encoder"])
@pytest.mark.parametrize("name", SAME_DECODER)
def test_where_the_decoder_ignores_z_the_likelihood_is_that_of_the_language_model(name, silent):
    decoder, exact = language_model()
    trial = trial_of(tiny(name))
    trial.model.double()
    ignore_z(trial.model.decoder, decoder)
    if silent:
        with torch.no_grad():
            for parameter in trial.model.encoder.parameters():
                parameter.zero_()
    found = measured(trial)
    # log of a mean: an error of about nll_iw_mc_se, and too large an nll by half the mean variance of an example
    error = found["nll_iw_mc_se"]
    assert found["nll_iw"] == pytest.approx(exact, abs=1e-9 + 4 * error + EXAMPLES * error**2)
    if found["kl"] == 0:
        assert found["nll_iw"] == pytest.approx(exact, abs=1e-9)
        assert found["nll_elbo"] == pytest.approx(exact, abs=1e-9)
