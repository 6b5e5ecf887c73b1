import dataclasses
import math

import pytest
import torch
from helpers import essence, rejects, run, run_interrupted, tiny, trial_of, updates
from torch import nn

from lagvae_core.config.trial import parse_trial
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.randomness import Streams
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.du_vae import DuVae

FLOOR = 1 / (2 * math.pi * math.e)
TEXT = {"data": {"kind": "text", "path": "somewhere"}}


def posterior_of(latent_dim=5, **fields):
    return DuVae(**fields).build(BuildContext(latent_dim, 4, streams=Streams(3)))["posterior"].double()


def encoded(batch=16, latent_dim=5, seed=0, logvar=None):
    draw = torch.Generator().manual_seed(seed)
    mean, random = (torch.randn(batch, latent_dim, generator=draw, dtype=torch.float64) for _ in range(2))
    return Gaussian(mean, 3 * random if logvar is None else torch.full_like(mean, logvar))


def du_vae(**fields):
    return {"kind": "du_vae", **fields}


def annealed(**fields):
    """A trial with a KL weight that reaches 1 at update 6 (from 0), in the second epoch of four updates."""
    return trial_of(tiny(du_vae(**fields), {"kind": "kl_linear_epoch", "warm_up": 1.75}))


def train(trial, count):
    trial.model.train()
    for batch in (trial.train_batches * 10)[:count]:
        trial.train_batch(batch)


def set_weight_to_zero(trial):
    trial.components = dataclasses.replace(trial.components, kl_weight=lambda step: 0.0)


def floor_of(trial):
    return float(trial.model.posterior.log_floor.exp())


# --- neutral values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularise_from", ["start", "full_weight"])
def test_without_dropout_floor_and_learned_standard_deviations_it_is_bn_vae(regularise_from):
    neutral = {"gamma": 0.6, "learn_gamma": False, "dropout": 0, "delta_rate": 0, "regularise_from": regularise_from}
    losses, parameters, _ = updates(tiny(du_vae(**neutral)), 20)
    bn_losses, bn_parameters, _ = updates(tiny({"kind": "bn_vae", "gamma": 0.6}), 20)
    assert losses == bn_losses
    assert parameters.keys() == bn_parameters.keys()
    assert all(torch.equal(value, bn_parameters[name]) for name, value in parameters.items())


# --- variances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("delta_rate", [0.5, 1.0, 2.0])
def test_no_variance_is_below_the_floor(training, delta_rate):
    posterior = posterior_of(delta_rate=delta_rate, dropout=0.5, regularise_from="start").train(training)
    for logvar in (None, -1000.0, -20.0, 5.0):
        variance = posterior(encoded(logvar=logvar)).q.logvar_BZ.exp()
        assert (variance >= delta_rate * FLOOR * (1 - 1e-6)).all()
        assert variance.isfinite().all()


def test_at_a_rate_of_one_the_entropy_of_each_dimension_is_at_least_zero():
    posterior = posterior_of(dropout=0.3, regularise_from="start")
    for seed in range(5):
        q = posterior(encoded(seed=seed)).q
        entropy = 0.5 * (math.log(2 * math.pi * math.e) + q.logvar_BZ)
        assert (entropy >= -1e-7).all()
        assert (entropy < 1e-6).any(), "none was dropped"


def test_the_mean_over_masks_is_the_variance_plus_the_floor():
    posterior, rows, rate = posterior_of(1, dropout=0.3, regularise_from="start"), 40_000, 0.3
    variance = posterior(encoded(rows, 1, logvar=0.4)).q.logvar_BZ.exp()
    original = math.exp(0.4)
    kept = variance > 2 * FLOOR
    torch.testing.assert_close(variance[kept], torch.full_like(variance[kept], original / (1 - rate) + FLOOR))
    torch.testing.assert_close(variance[~kept], torch.full_like(variance[~kept], FLOOR))
    se = original * math.sqrt(rate / (1 - rate) / rows)
    assert float(variance.mean()) == pytest.approx(original + FLOOR, abs=4 * se)


def test_each_example_and_dimension_has_its_own_mask():
    posterior = posterior_of(dropout=0.5, regularise_from="start")
    dropped = posterior(encoded(200, logvar=0.0)).q.logvar_BZ.exp() < 2 * FLOOR
    assert (dropped.double().mean(0) - 0.5).abs().max() < 0.15
    assert len({tuple(row) for row in dropped.tolist()}) > 20
    again = posterior(encoded(200, logvar=0.0)).q.logvar_BZ.exp() < 2 * FLOOR
    assert not torch.equal(dropped, again)


def test_only_kept_variances_have_a_gradient():
    posterior = posterior_of(dropout=0.5, regularise_from="start")
    logvar = torch.linspace(-20, 5, 80, dtype=torch.float64).view(16, 5).requires_grad_()
    out = posterior(Gaussian(encoded().mean_BZ, logvar)).q.logvar_BZ
    (gradient,) = torch.autograd.grad(out.sum(), logvar)
    dropped = out == posterior.log_floor
    assert 0 < int(dropped.sum()) < 80
    assert (gradient[dropped] == 0).all()
    raised = logvar.exp() / 0.5
    torch.testing.assert_close(gradient[~dropped], (raised / (raised + FLOOR))[~dropped].detach(), rtol=1e-5, atol=0)


def test_half_precision_is_converted_to_single_precision():
    posterior, gaussian = posterior_of(regularise_from="start").float(), encoded()
    q = posterior(Gaussian(gaussian.mean_BZ.bfloat16(), gaussian.logvar_BZ.bfloat16())).q
    assert q.mean_BZ.dtype == q.logvar_BZ.dtype == torch.float32


# --- means -----------------------------------------------------------------------------------------------------------


def uneven(**fields):
    posterior = posterior_of(**fields)
    draw = torch.Generator().manual_seed(5)
    nn.init.uniform_(posterior.gamma, 0.1, 3, generator=draw)
    nn.init.uniform_(posterior.beta, -1, 1, generator=draw)
    return posterior


@pytest.mark.parametrize("gamma", [0.3, 0.5, 2.0])
def test_the_standard_deviations_have_root_mean_square_gamma(gamma):
    posterior = uneven(gamma=gamma, epsilon=1e-300)
    std = posterior(encoded()).q.mean_BZ.std(0, correction=0)
    assert float(std.square().mean().sqrt().detach()) == pytest.approx(gamma)
    assert float(std.max().detach()) > 1.2 * float(std.min().detach())
    torch.testing.assert_close(posterior.gamma.data, std.detach())


def test_evaluation_rescales_a_copy_and_stores_nothing():
    posterior = uneven().eval()
    before = {name: value.clone() for name, value in posterior.state_dict().items()}
    evaluated = posterior(encoded()).q.mean_BZ.detach()
    assert all(torch.equal(value, before[name]) for name, value in posterior.state_dict().items())
    posterior.gamma.data *= 7
    torch.testing.assert_close(posterior(encoded()).q.mean_BZ.detach(), evaluated)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_mean_kl_of_a_batch_is_above_its_lower_bound(dropout, seed):
    posterior = uneven(dropout=dropout, regularise_from="start")
    kl = posterior(encoded(seed=seed)).q.kl_standard().sum(1).mean()
    assert kl >= 0.5 * (5 * 0.5**2 + posterior.beta.square().sum()) * (1 - 1e-4)


def test_standard_deviations_and_centres_are_trained_at_a_fixed_root_mean_square():
    trial = trial_of(tiny(du_vae()))
    train(trial, 8)
    posterior = trial.model.posterior
    assert posterior.gamma[0] != posterior.gamma[1]
    assert (posterior.beta != 0).all()
    trial.model.infer(trial.train_batches[0])
    assert float(posterior.gamma.detach().square().mean().sqrt()) == pytest.approx(0.5, rel=1e-6)


def test_two_forward_passes_before_a_backward_pass_are_possible():
    posterior = uneven()
    (posterior(encoded()).q.mean_BZ.square() + posterior(encoded(seed=1)).q.mean_BZ.square()).sum().backward()
    assert (posterior.gamma.grad != 0).all()


# --- the begin of floor and dropout ----------------------------------------------------------------------------------


def test_they_begin_with_the_first_update_of_full_weight():
    trial, seen = annealed(), []
    trial.model.train()
    for batch in trial.train_batches * 2:
        weight = trial.components.kl_weight(trial.step)
        unused = trial.streams["variance_dropout"].get_state()
        trial.train_batch(batch)
        drawn = not torch.equal(trial.streams["variance_dropout"].get_state(), unused)
        seen.append((weight == 1.0, floor_of(trial) > 0, drawn))
    assert seen == [(False,) * 3] * 6 + [(True,) * 3] * 2


@pytest.mark.parametrize(("weight", "begun"), [(1 - 1e-10, True), (1.0, True), (3.0, True), (1 - 1e-8, False)])
def test_full_weight_allows_for_rounding(weight, begun):
    posterior = posterior_of()
    posterior.before_step(weight)
    assert bool(posterior.log_floor.isfinite()) == begun


def test_with_start_they_begin_before_the_first_update():
    posterior = posterior_of(regularise_from="start")
    posterior.before_step(0.0)
    assert float(posterior.log_floor) == pytest.approx(math.log(FLOOR))


def test_once_begun_they_stay_at_a_lower_weight():
    posterior = posterior_of()
    for weight in (0.5, 1.0, 0.0):
        posterior.before_step(weight)
    assert posterior.log_floor.isfinite()
    assert posterior(encoded(logvar=-20.0)).q.logvar_BZ.exp().min() >= FLOOR * (1 - 1e-6)


def test_without_annealing_they_begin_at_the_first_update():
    trial = trial_of(tiny(du_vae()))
    assert floor_of(trial) == 0
    train(trial, 1)
    assert floor_of(trial) == pytest.approx(FLOOR)


def test_before_they_begin_the_log_variance_is_unchanged_bit_for_bit():
    posterior, gaussian = posterior_of(dropout=0.5), encoded()
    assert torch.equal(posterior(gaussian).q.logvar_BZ, gaussian.logvar_BZ)
    assert torch.equal(posterior.eval()(gaussian).q.logvar_BZ, gaussian.logvar_BZ)


def test_evaluation_has_the_floor_without_dropout_or_draws():
    posterior, gaussian = posterior_of(dropout=0.9, regularise_from="start").eval(), encoded()
    before = posterior._masks.get_state()
    variance = posterior(gaussian).q.logvar_BZ.exp()
    torch.testing.assert_close(variance, gaussian.logvar_BZ.exp() + FLOOR, rtol=1e-6, atol=1e-7)
    assert torch.equal(posterior._masks.get_state(), before)


def test_in_evaluation_an_example_does_not_depend_on_its_batch():
    posterior, gaussian = uneven(regularise_from="start"), encoded(33)
    for seed in range(4):
        posterior(encoded(seed=seed))
    whole = posterior.eval()(gaussian).q
    for row in range(33):
        alone = posterior(Gaussian(gaussian.mean_BZ[row : row + 1], gaussian.logvar_BZ[row : row + 1])).q
        assert torch.equal(alone.mean_BZ[0], whole.mean_BZ[row])
        torch.testing.assert_close(alone.logvar_BZ[0], whole.logvar_BZ[row], rtol=1e-13, atol=1e-13)


def test_weights_from_before_the_floor_are_measured_without_it_and_trained_with_it():
    trial = annealed()
    train(trial, 4)
    early = {name: value.clone() for name, value in trial.model.state_dict().items()}
    batch = trial.train_batches[0]
    expected = trial.model.eval().infer(batch).q.logvar_BZ
    train(trial, 4)
    assert floor_of(trial) > 0
    trial.model.load_state_dict(early)
    assert torch.equal(trial.model.eval().infer(batch).q.logvar_BZ, expected)
    set_weight_to_zero(trial)
    train(trial, 1)
    assert floor_of(trial) == pytest.approx(FLOOR)


def test_weights_include_the_floor():
    trial, fresh = annealed(), annealed()
    train(trial, 8)
    fresh.model.load_state_dict(trial.model.state_dict())
    assert floor_of(fresh) == floor_of(trial) > 0


def test_a_checkpoint_restores_that_they_have_begun():
    trial, fresh = annealed(), annealed()
    train(trial, 8)
    fresh.load_state_dict(trial.state_dict())
    for one in (trial, fresh):
        set_weight_to_zero(one)
        train(one, 2)
    assert floor_of(fresh) > 0
    for name, value in trial.model.state_dict().items():
        assert torch.equal(fresh.model.state_dict()[name], value), name


def test_an_interruption_around_their_begin_does_not_change_the_record():
    config = tiny(du_vae(), {"kind": "kl_linear_epoch", "warm_up": 1.75}, training={"epochs": 3})
    record, places = run_interrupted(config, lambda place: (place.phase, place.epoch) == ("train", 2))
    assert len(places) == 4
    assert essence(record) == essence(run(config))


def test_the_masks_do_not_affect_other_random_streams():
    states = []
    for rate in (0.0, 0.3):
        trial = trial_of(tiny(du_vae(dropout=rate)))
        train(trial, 4)
        states.append({name: value.tolist() for name, value in trial.streams.state_dict().items()})
    one, other = states
    assert {name for name in one if one[name] != other[name]} == {"variance_dropout"}


# --- incompatibilities and warnings ----------------------------------------------------------------------------------


def refused(*stack, **sections):
    """The only issue of a stack."""
    with rejects("strategies") as issues:
        parse_trial({"strategies": list(stack), **sections})
    return issues[0]


@pytest.mark.parametrize("other", ["bn_vae", "scale_vae"])
def test_another_strategy_that_sets_the_spread_is_refused_by_name(other):
    for stack in (("du_vae", other), (other, "du_vae")):
        issue = refused(*stack)
        assert issue.code == "E03"
        assert all(kind in issue.hint for kind in stack)


def test_the_batch_size_must_reach_min_batch():
    issue = refused("du_vae", training={"batch_size": 15})
    assert issue.code == "E12"
    assert "du_vae.min_batch" in issue.hint
    parse_trial({"strategies": [du_vae(min_batch=15)], "training": {"batch_size": 15}})


def test_dropping_variances_without_a_floor_is_refused():
    assert refused(du_vae(delta_rate=0)).code == "E-RANGE"
    parse_trial({"strategies": [du_vae(delta_rate=0, dropout=0)]})


def test_small_batches_are_skipped():
    record = run(tiny(du_vae(), data={"examples": 40}))
    assert [epoch["skipped_batches"] for epoch in record.curve] == [1, 1]


def test_batches_of_one_group_give_a_warning():
    (warning,) = parse_trial({**TEXT, "strategies": ["du_vae"]}).warnings()
    assert warning.code == "W4"
    assert "du_vae" in warning.message
    assert parse_trial({"strategies": ["du_vae"]}).warnings() == ()


def test_a_weight_that_never_reaches_one_gives_a_warning():
    def warnings(w_end, **fields):
        return parse_trial({"strategies": [du_vae(**fields), {"kind": "kl_linear_epoch", "w_end": w_end}]}).warnings()

    (warning,) = warnings(0.4)
    assert warning.code is None
    assert "kl_linear_epoch" in warning.message
    assert warnings(1.0) == warnings(0.4, regularise_from="start") == ()


def test_it_settles_after_the_first_epoch_that_ends_at_full_weight():
    curve = [{"epoch": n, "step": 4 * n, "skipped_batches": 0, "kl_weight": w} for n, w in ((1, 0.6), (2, 1.0))]
    schedule = {"kind": "kl_linear_epoch", "warm_up": 2}
    for stack, settled in (
        (({"kind": "du_vae"},), (1, 1, 1)),
        (({"kind": "du_vae"}, schedule), (10, 10, 3)),
        (({"kind": "du_vae", "regularise_from": "start"}, schedule), (3, 3, 3)),
        (({"kind": "du_vae"}, schedule | {"w_end": 0.9}), (3, 3, 3)),
    ):
        config = tiny(*stack, training={"epochs": 9})
        assert tuple(config.settled_epoch(curve[:n]) for n in range(3)) == settled
