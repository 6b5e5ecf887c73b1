import math

import pytest
import torch
from helpers import assert_equals_plain_vae, run, tiny, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.kl import mutual_divergence
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.mae import Mae


def mae(**fields):
    return {"kind": "mae", **fields}


def posteriors(batch=7, dimensions=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Gaussian(*(torch.randn(batch, dimensions, generator=draw, dtype=torch.float64) for _ in range(2)))


def mean_divergence(q):
    """m_d, [Z], out of the loss of each dimension alone: the inverse of softplus(-m)."""
    alone = [Gaussian(q.mean_BZ[:, d : d + 1], q.logvar_BZ[:, d : d + 1]) for d in range(q.size[1])]
    return torch.stack([-mutual_divergence(one, 1.0, 0.0).expm1().log() for one in alone])


def test_without_weights_it_is_the_plain_vae():
    assert_equals_plain_vae(mae(diversity=0, smoothness=0))
    record = run(tiny(mae(diversity=0, smoothness=0), training={"batch_size": 1, "epochs": 1}))
    assert record.curve[0]["skipped_batches"] == 0


def test_the_mean_over_all_pairs_has_the_closed_form_of_song_et_al():
    """With i = j among the pairs: sum_d (mean_ij (mu_i - mu_j)^2 / s_j^2 + mean s^2 * mean 1/s^2 - 1) / 2."""
    q = posteriors()
    mean, variance = q.mean_BZ, q.logvar_BZ.exp()
    apart = ((mean[:, None] - mean).square() / variance).mean((0, 1))
    closed = 0.5 * (apart + variance.mean(0) * (1 / variance).mean(0) - 1)
    torch.testing.assert_close(mean_divergence(q) * 6 / 7, closed, rtol=1e-10, atol=0)


def test_the_order_of_the_batch_does_not_count():
    q = posteriors()
    turned = q.select(torch.tensor([3, 1, 6, 0, 2, 5, 4]))
    torch.testing.assert_close(mutual_divergence(turned, 1.0, 0.2), mutual_divergence(q, 1.0, 0.2), rtol=1e-13, atol=0)


def test_the_reward_of_diversity_ends_at_ln_2_a_dimension():
    q = posteriors(dimensions=3)
    far = Gaussian(1e4 * q.mean_BZ, q.logvar_BZ)
    assert float(mutual_divergence(far, 2.0, 0.0)) == pytest.approx(0, abs=1e-300)
    same = Gaussian(q.mean_BZ[:1].repeat(5, 1), q.logvar_BZ[:1].repeat(5, 1))
    assert float(mutual_divergence(same, 2.0, 0.0)) == pytest.approx(3 * 2 * math.log(2))


@pytest.mark.parametrize("posterior", [(), ("scale_vae",)])
def test_it_is_added_to_the_loss_for_the_posteriors_that_are_charged(posterior):
    found = []
    for stack in ((*posterior, mae(diversity=2, smoothness=0.3)), posterior):
        trial = trial_of(tiny(*stack))
        trial.model.double().train()
        batch = trial.train_batches[0]
        found.append(trial.learner.loss(batch, 0.5).total)
    kl_posterior = trial.model.infer(batch).kl_posterior.base
    torch.testing.assert_close(found[0] - found[1], mutual_divergence(kl_posterior, 2.0, 0.3), rtol=1e-9, atol=1e-12)


def test_batches_too_small_for_the_statistics_are_skipped():
    """41 sentences in batches of 16 leave 9, in batches of 13 leave 2."""
    for setting, skipped in ((mae(), 1), (mae(smoothness=0), 0), (mae(diversity=0), 1)):
        record = run(tiny(setting, data={"examples": 41}, training={"batch_size": 13, "epochs": 1}))
        assert record.curve[0]["skipped_batches"] == skipped
    small = [Mae(**f).build(BuildContext(2, 4))["penalties"][0].least_batch for f in ({}, {"smoothness": 0})]
    assert small == [3, 2]


# --- refusals and warnings -------------------------------------------------------------------------------------------


def test_statistics_of_pairs_need_companions():
    for setting, batch in ((mae(), 2), (mae(smoothness=0), 1)):
        with pytest.raises(ConfigError) as caught:
            tiny(setting, training={"batch_size": batch})
        assert "(E12)" in str(caught.value)
        message = f"mae needs the statistics of batches of at least {batch + 1}, but training.batch_size is {batch};"
        assert f"{message} raise it." in str(caught.value)
        tiny(setting, training={"batch_size": batch + 1})


@pytest.mark.parametrize("other", ["fisher", "info_mmd", "multitask_bow"])
def test_weights_that_nobody_balanced_are_warned_of_once(other):
    assert tiny("mae").warnings() == ()
    for stack in (("mae", other), (other, "mae")):
        (warning,) = tiny(*stack).warnings()
        first, second = sorted(stack)
        assert warning.startswith(f"W6: {first} and {second} each add to the loss")


def test_it_is_named_once():
    with pytest.raises(ConfigError, match=r"name each strategy once \(E-SLOT\), and mae is there twice"):
        parse_trial({"strategies": ["mae", mae(diversity=2)]})
