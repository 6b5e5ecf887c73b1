"""Every strategy on images: it trains with finite numbers, or is refused with a code before data are read."""

import math

import pytest
import torch
from helpers import (
    SHORT_AGGRESSIVE,
    VECTOR_STRATEGIES,
    essence,
    rejects,
    run,
    run_interrupted,
    tiny,
    tiny_images,
    trial_of,
)

from lagvae_core.errors import ConfigError
from lagvae_core.evaluation.data_specific_metrics import DATA_COLUMNS
from lagvae_core.models.image_vae import DECODERS
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.rules import Trait
from lagvae_core.training.record import METRIC_COLUMNS

TEXT_STRATEGIES = sorted(kind for kind, strategy in CATALOGUE.items() if Trait.TEXT_ONLY in strategy.traits)
WITH_VALUES = [
    SHORT_AGGRESSIVE,
    {**SHORT_AGGRESSIVE, "clip_scope": "per_module"},
    {"kind": "skip_vae", "path": "add"},
]
"""Strategies that are slow, or refused on images, at their defaults."""

TRAINABLE = [
    *sorted(set(CATALOGUE) - set(TEXT_STRATEGIES) - VECTOR_STRATEGIES - {strategy["kind"] for strategy in WITH_VALUES}),
    *WITH_VALUES,
    *({"kind": "sa_vae", "refinement_steps": 2, "backward": backward} for backward in ("autograd", "none", "none_kl")),
    {"kind": "delta_vae", "prior": "ar1"},
]


@pytest.mark.parametrize("name", [*TEXT_STRATEGIES, *sorted(VECTOR_STRATEGIES), "skip_vae"])
def test_a_strategy_for_other_data_is_refused(name):
    """skip_vae is refused at its default path."""
    with pytest.raises(ConfigError) as caught:
        tiny_images(name)
    assert any(issue.code == "E09" and name in issue.hint for issue in caught.value.issues)


@pytest.mark.parametrize("strategy", TRAINABLE, ids=str)
def test_every_other_strategy_trains_all_its_networks(strategy):
    trial = trial_of(tiny_images(strategy))
    trial.model.train()
    before = {name: value.clone() for name, value in trial.model.named_parameters()}
    for batch in trial.train_batches[:2]:
        trial.train_batch(trial.learner.observed(batch))
    assert all(torch.isfinite(entry).all() for entry in trial.history)
    assert len(trial.history) == 2
    changed = {name.split(".")[0] for name, value in trial.model.named_parameters() if not value.equal(before[name])}
    assert changed == {name.split(".")[0] for name in before}


@pytest.mark.parametrize("variant", DECODERS)
def test_a_trial_measures_every_column(variant):
    record = run(tiny_images(model={"variant": variant}, evaluation={"limit": None, "iw_samples": 50}))
    metrics = record.metrics
    assert set(metrics) == {column.name for column in METRIC_COLUMNS}
    null = {name for name, value in metrics.items() if value is None}
    assert null == {"tokens", "ppl", "nats_per_feature"} < set(DATA_COLUMNS)
    assert metrics["bits_per_dim"] == pytest.approx(metrics["nll_iw"] / (36 * math.log(2)))
    assert metrics["n"] == 32
    assert metrics["mi"] <= metrics["kl"] + 3 * metrics["mi_se"] + 0.005
    assert metrics["nll_iw"] <= metrics["nll_elbo"] + 4 * metrics["nll_iw_mc_se"] + 0.5
    assert record.data["height"] == record.data["width"] == 6


@pytest.mark.parametrize("stack", [(), (SHORT_AGGRESSIVE,), ("vamp_prior", "bn_vae")], ids=str)
def test_a_trial_resumes_bit_for_bit(stack):
    config = tiny_images(*stack, training={"epochs": 2})
    record, places = run_interrupted(
        config, lambda place: (place.phase, place.epoch, place.done) in {("train", 1, 3), ("train", 2, 2)}
    )
    assert len(places) == 2
    assert essence(record) == essence(run(config))


def test_inner_steps_draw_new_binarisations_and_enter_the_running_statistics():
    trial = trial_of(tiny_images({"kind": "aggressive", "budget": 3}))
    trial.model.train()
    encoded = []
    forward = trial.model.encoder.forward
    trial.model.encoder.forward = lambda batch: encoded.append(batch) or forward(batch)
    trial.train_batch(trial.learner.observed(trial.train_batches[0]))
    assert (trial.learner.encoder_steps, trial.learner.decoder_steps) == (3, 1)
    assert encoded[0] is encoded[3]  # the update starts and ends with the outer batch
    assert all(set(batch.pixels_BHW.unique().tolist()) == {0.0, 1.0} for batch in encoded)
    for batch in encoded[1:3]:
        again = trial.learner.observed(trial.dataset.train.grey(batch.index_B.numpy()))
        assert not torch.equal(again.pixels_BHW, batch.pixels_BHW)
    counts = {int(value) for name, value in trial.model.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == {4}


def test_the_best_weights_are_restored_with_their_running_statistics():
    trial = trial_of(tiny_images(training={"epochs": 2}))
    trial.fit(lambda record: None, lambda place: None, NoCheckpoints())
    best = {name: value.clone() for name, value in trial.best.weights.items()}
    assert any(name.endswith("running_mean") for name in best)
    trial.measure(lambda place: None)
    assert all(torch.equal(value, best[name]) for name, value in trial.model.state_dict().items())


class NoCheckpoints:
    def save_if_due(self):
        pass

    def save(self):
        pass


def test_the_language_model_of_pixels_is_refused_on_words_and_with_strategies_that_act_on_z():
    with rejects("strategies") as issues:
        tiny("pixelcnn_lm", data={})
    assert issues[0].code == "E09"
    with rejects("strategies") as issues:
        tiny_images("pixelcnn_lm", "beta_vae")
    assert issues[0].code == "E10"
