import math

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, run, tiny, trial_of

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
    """Return m_d [Z], computed from the loss of each dimension alone by inverting softplus(-m)."""
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
    distance = ((mean[:, None] - mean).square() / variance).mean((0, 1))
    closed = 0.5 * (distance + variance.mean(0) * (1 / variance).mean(0) - 1)
    torch.testing.assert_close(mean_divergence(q) * 6 / 7, closed, rtol=1e-10, atol=0)


def test_the_order_of_the_batch_has_no_effect():
    q = posteriors()
    permuted = q.select(torch.tensor([3, 1, 6, 0, 2, 5, 4]))
    torch.testing.assert_close(
        mutual_divergence(permuted, 1.0, 0.2), mutual_divergence(q, 1.0, 0.2), rtol=1e-13, atol=0
    )


def test_the_diversity_term_is_between_0_and_ln_2_a_dimension():
    q = posteriors(dimensions=3)
    far = Gaussian(1e4 * q.mean_BZ, q.logvar_BZ)
    assert float(mutual_divergence(far, 2.0, 0.0)) == pytest.approx(0, abs=1e-300)
    same = Gaussian(q.mean_BZ[:1].repeat(5, 1), q.logvar_BZ[:1].repeat(5, 1))
    assert float(mutual_divergence(same, 2.0, 0.0)) == pytest.approx(3 * 2 * math.log(2))


@pytest.mark.parametrize("posterior", [(), ("scale_vae",)])
def test_the_loss_includes_the_divergence_of_the_posteriors_in_the_objective(posterior):
    losses = []
    for stack in ((*posterior, mae(diversity=2, smoothness=0.3)), posterior):
        trial = trial_of(tiny(*stack))
        trial.model.double().train()
        batch = trial.train_batches[0]
        losses.append(trial.learner.loss(batch, 0.5).total)
    kl_posterior = trial.model.infer(batch).kl_posterior.base
    torch.testing.assert_close(losses[0] - losses[1], mutual_divergence(kl_posterior, 2.0, 0.3), rtol=1e-9, atol=1e-12)


def test_batches_too_small_for_the_statistics_are_skipped():
    """41 sentences in batches of 16 leave 9, in batches of 13 leave 2."""
    for strategy, skipped in ((mae(), 1), (mae(smoothness=0), 0), (mae(diversity=0), 1)):
        record = run(tiny(strategy, data={"examples": 41}, training={"batch_size": 13, "epochs": 1}))
        assert record.curve[0]["skipped_batches"] == skipped
    small = [Mae(**f).build(BuildContext(2, 4))["penalties"][0].least_batch for f in ({}, {"smoothness": 0})]
    assert small == [3, 2]


# --- incompatibilities and warnings ----------------------------------------------------------------------------------


def test_batch_sizes_too_small_for_the_statistics_are_rejected():
    for strategy, batch in ((mae(), 2), (mae(smoothness=0), 1)):
        with rejects("strategies") as issues:
            tiny(strategy, training={"batch_size": batch})
        assert issues[0].code == "E12"
        assert f"at least {batch + 1}" in str(issues[0])
        tiny(strategy, training={"batch_size": batch + 1})


@pytest.mark.parametrize("other", ["fisher", "info_mmd", "multitask_bow"])
def test_several_penalties_give_one_warning(other):
    assert tiny("mae").warnings() == ()
    for stack in (("mae", other), (other, "mae")):
        (warning,) = map(str, tiny(*stack).warnings())
        assert warning.startswith("W6: ")
        assert all(kind in warning for kind in stack)


def test_listing_it_twice_is_rejected():
    with rejects("strategies") as issues:
        tiny("mae", mae(diversity=2))
    assert issues[0].code == "E-SLOT"
    assert "mae" in issues[0].message
