"""The diagnosis finds the cause of collapse in models whose cause is known by construction."""

import os
from typing import Literal

import pytest
import torch
from helpers import dataset_of, tiny, trained_of

from lagvae_core.catalogue import Origin
from lagvae_core.config.trial import parse_trial
from lagvae_core.models import MODELS
from lagvae_core.models.lstm import LstmModel
from lagvae_core.studies.diagnosis import CAUSES, Diagnosis, causes_of
from lagvae_core.studies.trained_model import TrainedModel
from lagvae_core.training.trial import Trial

SEEDS = int(os.environ.get("LAGVAE_SEEDS", "1"))

USED = {
    "swap_cost": 2.0,
    "z_gradient": 1.0,
    "refined_gain": 0.2,
    "refined_kl": 1.0,
    "refined_mi": 0.9,
    "encoder_change": 1.0,
    "kl_slope": 1.0,
    "kl_weight_start": 1.0,
    "diagnosis_kl": 1.0,
    "diagnosis_mi": 0.9,
    "diagnosis_au": 2,
    "latent_dim": 2,
}
UNUSED = USED | {"swap_cost": 0.0, "diagnosis_kl": 0.01, "diagnosis_mi": 0.0, "refined_mi": 0.0, "diagnosis_au": 0}


@pytest.mark.parametrize(
    ("values", "causes"),
    [
        (USED, ["none"]),
        (USED | {"diagnosis_au": 1}, ["none", "dead_dimensions"]),
        (USED | {"diagnosis_kl": 4.0}, ["none", "aggregate_posterior_far"]),
        (USED | {"diagnosis_mi": None, "refined_mi": None, "refined_gain": None}, ["none"]),
        (UNUSED, ["kl_pressure"]),
        (UNUSED | {"z_gradient": 0.0, "kl_slope": 10.0}, ["decoder_cannot_read_z"]),
        (UNUSED | {"kl_slope": 10.0, "encoder_change": 0.0}, ["kl_weight_above_1"]),
        (UNUSED | {"encoder_change": 0.0}, ["encoder_not_trained"]),
        (UNUSED | {"refined_gain": 1.0, "refined_mi": 0.8}, ["inference_lags"]),
        (UNUSED | {"diagnosis_kl": 2.0}, ["kl_not_used"]),
        (USED | {"swap_cost": 0.0}, ["decoder_ignores_z"]),
        (UNUSED | {"diagnosis_mi": None, "refined_mi": None, "refined_gain": None}, ["kl_pressure"]),
    ],
)
def test_the_causes_of_measurements(values, causes):
    found = causes_of(values)
    assert [cause.cause for cause in found] == causes
    assert all(cause.means == CAUSES[cause.cause] for cause in found)


class DisconnectedModel(LstmModel):
    """An LSTM whose decoder reads zeros instead of z."""

    kind: Literal["disconnected"] = "disconnected"

    def decoder(self, domain, stream, options):
        decoder = super().decoder(domain, stream, options)
        features = decoder.features
        decoder.features = lambda history, z_BSZ: features(history, torch.zeros_like(z_BSZ))
        return decoder


@pytest.fixture
def _disconnected():
    MODELS.add(DisconnectedModel, Origin("test", ""))
    yield
    MODELS.remove("test")


def diagnosed(config):
    trial = Trial(config, dataset_of(config.data), torch.device("cpu"))
    trial.fit()
    return Diagnosis(examples=250).measure(TrainedModel.of(trial), lambda *arguments: None)


@pytest.mark.usefixtures("_disconnected")
def test_a_decoder_without_z_has_no_gradient_and_no_cost_of_a_swap():
    findings = diagnosed(tiny(model={"kind": "disconnected"}))
    assert findings.values["z_gradient"] == 0.0
    assert findings.values["swap_cost"] == 0.0
    assert findings.tables["causes"]["cause"] == ["decoder_cannot_read_z"]


def test_the_weight_of_the_kl_is_that_of_the_objective():
    stacks = {
        1.0: (),
        0.4: ("beta_vae",),
        7.0: ({"kind": "beta_vae", "beta": 7},),
        0.5: ({"kind": "kl_linear_epoch", "w_end": 0.5},),
    }
    for slope, stack in stacks.items():
        assert diagnosed(tiny(*stack)).values["kl_slope"] == pytest.approx(slope)
    floors = diagnosed(tiny({"kind": "free_bits", "floor": 5.0}))
    assert floors.values["kl_slope"] == pytest.approx(1.0)


def test_an_encoder_at_its_initial_weights_has_not_changed():
    trained = TrainedModel.untrained(tiny(), dataset_of(tiny().data), torch.device("cpu"))
    assert Diagnosis(examples=8, steps=2).measure(trained, lambda *a: None).values["encoder_change"] == 0.0


def test_refined_posteriors_are_never_worse_and_never_touch_the_model():
    trained = trained_of(tiny("bn_vae"))
    before = {name: value.clone() for name, value in trained.model.named_parameters()}
    values = Diagnosis().measure(trained, lambda *a: None).values
    assert values["refined_gain"] >= 0.0
    assert all(torch.equal(value, before[name]) for name, value in trained.model.named_parameters())
    assert all(value.requires_grad for value in trained.model.parameters())


ADAM = {"optimiser": "adam", "learning_rate": 0.005, "epochs": 10}
CASES = {
    "encoder_not_trained": ("lstm", ADAM, [{"kind": "encoder_lr", "multiplier": 1e-6}]),
    "kl_weight_above_1": ("lstm", ADAM, [{"kind": "beta_vae", "beta": 10}]),
    "decoder_cannot_read_z": ("disconnected", ADAM, []),
    "kl_not_used": ("lstm", {"epochs": 10}, [{"kind": "free_bits", "floor": 1.0}]),
    "none": ("lstm", {"epochs": 20}, ["aggressive", "kl_linear_epoch"]),
}
"""For each cause, a model, training and remedies that produce it."""


@pytest.mark.slow
@pytest.mark.usefixtures("_disconnected")
@pytest.mark.parametrize("cause", CASES)
def test_it_finds_the_cause_that_was_constructed(cause):
    """In at least nine of ten runs. LAGVAE_SEEDS sets the number of runs."""
    model, training, strategies = CASES[cause]
    found = []
    for seed in range(SEEDS):
        config = parse_trial(
            {
                "data": {"kind": "synthetic", "examples": 800, "heldout": 250, "vocabulary": 100},
                "model": {"kind": model, "latent_dim": 2, "hidden": 32, "embedding": 32},
                "training": training,
                "strategies": strategies,
                "seed": seed,
            }
        )
        found.append(diagnosed(config).tables["causes"]["cause"][0])
    assert found.count(cause) >= 0.9 * SEEDS, found
