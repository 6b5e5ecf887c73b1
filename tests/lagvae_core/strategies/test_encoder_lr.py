import pytest
import torch
from helpers import assert_equals_plain_vae, tiny, trial_of


def encoder_lr(multiplier):
    return {"kind": "encoder_lr", "multiplier": multiplier}


def test_a_multiplier_of_one_is_the_plain_vae():
    assert_equals_plain_vae(encoder_lr(1))


def one_step(multiplier):
    """The change of each parameter of encoder and decoder in one unclipped step of SGD, in float64."""
    trial = trial_of(tiny(encoder_lr(multiplier), training={"clip_norm": 1e9}))
    trial.model.double().train()
    groups = (list(trial.model.encoder_parameters()), list(trial.model.decoder_parameters()))
    before = [[p.detach().clone() for p in group] for group in groups]
    trial.components.update(trial.learner, trial.train_batches[0], 1.0)
    return [[p.detach() - b for p, b in zip(*pair, strict=True)] for pair in zip(groups, before, strict=True)]


@pytest.mark.parametrize("multiplier", [0.5, 2, 8, 50])
def test_the_step_of_the_encoder_is_multiplied_and_the_step_of_the_decoder_is_unchanged(multiplier):
    encoder, decoder = one_step(1)
    faster_encoder, same_decoder = one_step(multiplier)
    for one, other in zip(encoder, faster_encoder, strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(other, multiplier * one, rtol=1e-9, atol=1e-13)
    assert all(torch.equal(a, b) for a, b in zip(decoder, same_decoder, strict=True))


def rates(trial):
    state = trial.learner.state_dict()
    return [state[f"{name}_optimiser"]["param_groups"][0]["lr"] for name in ("encoder", "decoder")]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_reset_optimisers_keep_the_multiplier_at_a_new_rate(optimiser):
    trial = trial_of(tiny(encoder_lr(6), training={"optimiser": optimiser, "learning_rate": 0.5}))
    assert rates(trial) == [3.0, 0.5]
    trial.learner.learning_rate *= 0.5
    trial.learner.reset_optimisers()
    assert rates(trial) == [1.5, 0.25]


def test_a_checkpoint_preserves_the_multiplier():
    trial, fresh = (trial_of(tiny(encoder_lr(6))) for _ in range(2))
    trial.learner.learning_rate = 0.125
    trial.learner.reset_optimisers()
    fresh.learner.load_state_dict(trial.learner.state_dict())
    assert rates(fresh) == [0.75, 0.125]
    assert fresh.learner.learning_rate == 0.125
