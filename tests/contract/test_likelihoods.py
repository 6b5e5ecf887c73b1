"""If the decoder ignores z, every strategy measures the likelihood of the language model.

The importance-weighted bound is valid for any proposal and any prior, so that every strategy with the default decoder
must give this value.
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
    config = EvaluationConfig(iw_samples=SAMPLES, limit=EXAMPLES)
    dataset, device = trial.dataset, torch.device("cpu")
    return evaluate(trial.model.double(), trial.components, dataset, dataset.test, config, device)


@functools.cache
def language_model():
    trial = trial_of(tiny("lstm_lm"))
    return trial.model.decoder, measured(trial)["nll_iw"]


@pytest.mark.parametrize("zero_encoder", [True, False], ids=["zero encoder", "encoder"])
@pytest.mark.parametrize("name", SAME_DECODER)
def test_a_decoder_that_ignores_z_has_the_likelihood_of_the_language_model(name, zero_encoder):
    decoder, exact = language_model()
    trial = trial_of(tiny(name))
    trial.model.double()
    ignore_z(trial.model.decoder, decoder)
    if zero_encoder:
        with torch.no_grad():
            for parameter in trial.model.encoder.parameters():
                parameter.zero_()
    metrics = measured(trial)
    # nll_iw has an error of about nll_iw_mc_se, and a positive bias of half the mean variance of an example's estimate
    error = metrics["nll_iw_mc_se"]
    assert metrics["nll_iw"] == pytest.approx(exact, abs=1e-9 + 4 * error + EXAMPLES * error**2)
    if metrics["kl"] == 0:
        assert metrics["nll_iw"] == pytest.approx(exact, abs=1e-9)
        assert metrics["nll_elbo"] == pytest.approx(exact, abs=1e-9)
