"""The calibrated decoder: equality with the model's own modes, and what it does to a collapse."""

import pytest
import torch
from helpers import rejects, run, tiny_vectors, trial_of, updates

SPREAD = {
    "kind": "linear_gaussian",
    "examples": 200,
    "heldout": 50,
    "features": 4,
    "eigenvalues": [0.8, 0.4],
    "noise": 0.05,
}


@pytest.mark.parametrize("mode", ["optimal", "learned"])
def test_it_equals_the_mode_of_the_model(mode):
    losses, parameters, _ = updates(tiny_vectors({"kind": "sigma_vae", "mode": mode}), 10)
    same_losses, same, _ = updates(tiny_vectors(model={"sigma_mode": mode}), 10)
    assert losses == same_losses
    assert parameters.keys() == same.keys()
    assert all(torch.equal(parameters[name], value) for name, value in same.items())


def test_it_revives_a_latent_variable_that_a_fixed_sigma_leaves_unused():
    """sigma^2 = 1 exceeds every eigenvalue of these data; the estimated sigma^2 does not."""
    recipe = {"data": SPREAD, "model": {"layers": 0}, "training": {"epochs": 60, "learning_rate": 0.01}}
    fixed, free = (run(tiny_vectors(*stack, **recipe)).metrics for stack in ((), ("sigma_vae",)))
    assert fixed["au"] == 0
    assert fixed["sigma"] == 1.0
    assert free["au"] == 2
    assert free["sigma"] < 0.5
    assert free["nll_iw"] < fixed["nll_iw"] - 1.0


def test_the_running_error_is_restored_with_the_best_weights():
    trial = trial_of(tiny_vectors("sigma_vae"))
    trial.fit()
    best = {name: value for name, value in trial.best.weights.items() if "running_error" in name}
    assert len(best) == 1
    trial.measure(lambda place: None)
    assert all(torch.equal(trial.model.state_dict()[name], value) for name, value in best.items())


def test_it_is_refused_for_other_likelihoods_and_for_batches_of_one():
    with rejects("strategies") as issues:
        tiny_vectors("sigma_vae", model={"likelihood": "student_t"})
    assert issues[0].code == "E09"
    with rejects("strategies") as issues:
        tiny_vectors("sigma_vae", training={"batch_size": 1})
    assert issues[0].code == "E12"
    tiny_vectors({"kind": "sigma_vae", "mode": "learned"}, training={"batch_size": 1})
