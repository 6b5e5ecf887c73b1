import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers import ignore_z, run, tiny, trial_of, updates

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import BOS, History, TextDomain
from lagvae_core.errors import ConfigError
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.metrics.posterior import LATENT_COLUMNS
from lagvae_core.models.decoder import DecoderOptions, Skip
from lagvae_core.models.lstm import LstmDecoder, LstmModel
from lagvae_core.models.without_z import decoder_without_z
from lagvae_core.settings import EvaluationConfig
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.lstm_lm import LstmLm
from lagvae_core.strategies.rules import Trait
from lagvae_core.training.record import TrialRecord

EVALUATION = EvaluationConfig(iw_samples=20)


def language_model(vocabulary=6, options=None):
    config = LstmModel(latent_dim=3, hidden=7, embedding=5, init_range=0.8, init_embedding=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            decoder_without_z(config, TextDomain(vocabulary), torch.Generator(), options or DecoderOptions())
            .double()
            .eval()
        )


def no_z(batch):
    """Return samples of a z of no dimensions."""
    return torch.zeros(batch, 1, 0, dtype=torch.float64)


def measured(trial, **changes):
    trial.model.double()
    evaluation, dataset = EVALUATION.model_copy(update=changes), trial.dataset
    return evaluate(trial.model, trial.components, dataset, dataset.test, evaluation, torch.device("cpu"))


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocabulary", "embedding", "hidden", "exact"),
    [(1004, 50, 50, 120_800), (19_997, 512, 1024, 37_015_040)],
    ids=["synthetic", "yelp"],
)
def test_its_size_equals_the_decoder_without_z(vocabulary, embedding, hidden, exact):
    config = LstmModel(latent_dim=32, hidden=hidden, embedding=embedding)
    with torch.device("meta"):
        model = decoder_without_z(config, TextDomain(vocabulary), torch.Generator(), DecoderOptions())
        vae = LstmDecoder(config, vocabulary, torch.Generator(), DecoderOptions())
    count, of_vae = (sum(p.numel() for p in module.parameters()) for module in (model, vae))
    lstm = 4 * hidden * (embedding + hidden) + 8 * hidden
    assert count == exact == vocabulary * embedding + lstm + hidden * vocabulary
    assert of_vae - count == 32 * 4 * hidden + 32 * hidden


@pytest.mark.parametrize("steps", [1, 3])
def test_all_sequences_of_one_length_sum_to_one(steps):
    every = torch.tensor(list(itertools.product(range(4), repeat=steps)))
    history = History(torch.cat([torch.full((len(every), 1), BOS), every[:, :-1]], 1))
    with torch.no_grad():
        probability = (-language_model(4)(history, every, no_z(len(every)))).exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(probability.std()) > 0.01 / len(every)


def test_it_equals_the_equations_word_by_word():
    model = language_model()
    tokens = torch.randint(0, 6, (3, 6), generator=torch.Generator().manual_seed(0))
    actual = model(History(tokens[:, :-1]), tokens[:, 1:], no_z(3))[:, 0]
    lstm, hidden, cell = model.lstm, torch.zeros(3, 7).double(), torch.zeros(3, 7).double()
    nll = torch.zeros(3).double()
    for word, target in itertools.pairwise(tokens.T):
        gates = model.reader.embedding.weight[word] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0
        i, f, g, o = (gates + hidden @ lstm.weight_hh_l0.T + lstm.bias_hh_l0).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        nll = nll - (hidden @ model.output.weight.T).log_softmax(1)[torch.arange(3), target]
    torch.testing.assert_close(actual, nll, rtol=0, atol=1e-12)


def test_latent_dim_has_no_effect():
    (losses, parameters, trial), (others, _, _) = (
        updates(tiny("lstm_lm", model={"latent_dim": size}), 10) for size in (2, 7)
    )
    assert losses == others
    assert list(trial.model.encoder_parameters()) == []
    assert all(name.startswith("decoder.") for name in parameters)
    assert losses[-1] < losses[0]


# --- its numbers -----------------------------------------------------------------------------------------------------


def test_a_collapsed_vae_has_the_same_likelihood():
    lm, vae = trial_of(tiny("lstm_lm")), trial_of(tiny())
    lm.model.double()
    vae.model.double()
    ignore_z(vae.model.decoder, lm.model.decoder)
    with torch.no_grad():
        vae.model.encoder.to_latent.weight.zero_()
    exact, of_vae = measured(lm), measured(vae)
    assert of_vae["kl"] == 0
    for name in ("nll_iw", "nll_elbo", "rec", "ppl"):
        assert of_vae[name] == pytest.approx(exact[name], abs=1e-10), name
    # With the paths of z the likelihood differs.
    assert abs(measured(trial_of(tiny()))["nll_iw"] - exact["nll_iw"]) > 1e-3


def test_the_likelihood_is_exact_for_any_number_of_samples():
    trial = trial_of(tiny("lstm_lm"))
    metrics = measured(trial)
    assert metrics == measured(trial, iw_samples=1)
    assert metrics["nll_iw"] == pytest.approx(metrics["rec"], abs=1e-12)
    assert metrics["nll_elbo"] == metrics["rec"]
    assert (metrics["iw_k"], metrics["iw_ess"], metrics["nll_iw_mc_se"]) == (1, 1.0, 0.0)
    split = trial.dataset.test
    with torch.no_grad():
        by_hand = sum(
            float(trial.model.decoder(batch.history, batch.targets_BT, no_z(batch.size)).sum())
            for batch in split.batches(32)
        )
    assert metrics["nll_iw"] == pytest.approx(by_hand / len(split), abs=1e-12)
    assert metrics["ppl"] == pytest.approx(math.exp(by_hand / split.units), rel=1e-12)


def test_columns_about_z_are_null_and_not_zero():
    record = run(tiny("lstm_lm"))
    assert record.status == "finished"
    of_z = {*LATENT_COLUMNS, "valid_kl", "valid_mi", "valid_au", "kl_weight", "kl_weight_final"}
    of_z |= {"iw_khat", "iw_unreliable"}
    assert {name for name, value in record.metrics.items() if value is None} == of_z | {
        "bits_per_dim",
        "nats_per_feature",
    }
    assert of_z == LstmLm.unmeasured
    for epoch in record.curve:
        nulls = {name for name, value in epoch.values.items() if value is None}
        assert nulls == {"train_kl", "kl_weight", "valid_kl", "valid_mi", "valid_mi_batch", "valid_kl_agg", "valid_au"}
        assert epoch["valid_loss"] == epoch["valid_nll_elbo"]
    assert (record.cost["encoder_steps"], record.cost["decoder_steps"]) == (0, 8)
    assert TrialRecord.from_json(record.to_json()).to_json() == record.to_json()


# --- stacks ----------------------------------------------------------------------------------------------------------

ACTS_ON_Z = [kind for kind, strategy in CATALOGUE.items() if Trait.WORKS_WITHOUT_Z not in strategy.traits]


@pytest.mark.parametrize("kind", ACTS_ON_Z)
def test_strategies_that_act_on_z_are_rejected(kind):
    for stack in ((kind, "lstm_lm"), ("lstm_lm", kind)):
        with pytest.raises(ConfigError) as caught:
            parse_trial({"strategies": list(stack)})
        assert "E10" in {issue.code for issue in caught.value.issues}


def test_it_is_rejected_on_images():
    (incompatibility,) = LstmLm().incompatibilities(replace(tiny("lstm_lm").context, data_kind="images"))
    assert incompatibility.code == "E09"
    assert "lstm_lm" in incompatibility.message


def test_a_skip_of_a_z_without_dimensions_has_no_effect():
    """The options of the decoder also apply to a model without z."""
    plain, skipping = language_model(), language_model(options=DecoderOptions(skip=Skip("concat")))
    tokens = torch.randint(0, 6, (3, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(model(History(tokens), tokens, no_z(3)) for model in (plain, skipping)))
