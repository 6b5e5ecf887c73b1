import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, tiny, trial_of

from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.free_bits import FreeBits
from lagvae_core.strategies.rules import Trait

MODES = ["group_batch", "dim_sample", "total_sample", "total_batch", "habits"]
EXAMPLES, DIMENSIONS = 5, 6

each_mode = pytest.mark.parametrize("mode", MODES)


def objective_of(**fields):
    return FreeBits(**fields).build(BuildContext(DIMENSIONS, 4))["objective"]


def terms(seed=0):
    """Return rec [B] and kl [B, Z] of 0 to 1 nats a dimension, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rec, kl = (
        torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ([EXAMPLES], [EXAMPLES, DIMENSIONS])
    )
    return 10.0 * rec, kl.requires_grad_()


def definition(mode, floor, kl_BZ, groups=None):
    """Return the KL term as the docstring of FreeBits defines it, in explicit loops."""
    examples, dimensions = kl_BZ.shape
    if mode == "group_batch":
        size = dimensions // (groups or dimensions)
        components = [kl_BZ[:, start : start + size].sum(1).mean() for start in range(0, dimensions, size)]
        return sum(max(floor * size, float(part)) for part in components)
    if mode == "dim_sample":
        return sum(max(floor, float(kl)) for kl in kl_BZ.flatten()) / examples
    if mode == "total_sample":
        return sum(max(floor * dimensions, float(kl)) for kl in kl_BZ.sum(1)) / examples
    if mode == "total_batch":
        return max(floor * dimensions, float(kl_BZ.sum(1).mean()))
    return dimensions * max(floor, float(kl_BZ.mean()))


@each_mode
def test_floor_0_is_the_plain_vae(mode):
    assert_equals_plain_vae({"kind": "free_bits", "mode": mode, "floor": 0.0})


CASES = [(mode, None) for mode in MODES] + [("group_batch", groups) for groups in (1, 2, 3, 6)]


@pytest.mark.parametrize(("mode", "groups"), CASES)
@pytest.mark.parametrize("floor", [0.0, 0.2, 0.45, 0.5, 0.55, 2.0])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_kl_term_equals_its_definition_times_the_weight(mode, groups, floor, weight):
    for seed in range(5):
        rec, kl = terms(seed)
        value = float(objective_of(mode=mode, floor=floor, groups=groups)(rec, kl.detach(), weight))
        expected = float(rec.mean()) + weight * definition(mode, floor, kl.detach(), groups)
        assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("mode", "groups"), CASES)
@pytest.mark.parametrize("floor", [0.2, 0.45, 0.5, 0.55])
def test_the_gradient_equals_that_of_the_definition(mode, groups, floor):
    rec, kl = terms()
    (gradient,) = torch.autograd.grad(objective_of(mode=mode, floor=floor, groups=groups)(rec, kl, 1.0), kl)
    nudge = 1e-6
    for index in range(kl.numel()):
        values = []
        for sign in (1, -1):
            nudged = kl.detach().clone()
            nudged.view(-1)[index] += sign * nudge
            values.append(definition(mode, floor, nudged, groups))
        assert float(gradient.view(-1)[index]) == pytest.approx((values[0] - values[1]) / (2 * nudge), abs=1e-7)


def encoder_gradient(mode, term):
    trial = trial_of(tiny({"kind": "free_bits", "mode": mode, "floor": 50.0}))
    trial.model.double().train()
    loss = trial.learner.loss(trial.train_batches[0], 1.0)
    assert 1e-3 < float(loss.kl_BZ.detach().max()) < 50.0
    parameters = list(trial.model.encoder_parameters())
    return torch.autograd.grad(term(loss), parameters, materialize_grads=True)


@each_mode
def test_below_the_floor_only_the_reconstruction_has_a_gradient(mode):
    of_loss = encoder_gradient(mode, lambda loss: loss.total)
    of_rec = encoder_gradient(mode, lambda loss: loss.rec_B.mean())
    assert any(float(gradient.abs().max()) > 0 for gradient in of_rec)
    assert all(torch.equal(a, b) for a, b in zip(of_loss, of_rec, strict=True))


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.45, 0.55, 2.0])
def test_one_group_and_habits_equal_total_batch(floor):
    for seed in range(5):
        rec, kl = terms(seed)
        total = objective_of(mode="total_batch", floor=floor)(rec, kl, 0.7)
        assert torch.equal(objective_of(mode="group_batch", groups=1, floor=floor)(rec, kl, 0.7), total)
        assert torch.equal(objective_of(mode="habits", floor=floor)(rec, kl, 0.7), total)


@each_mode
def test_the_loss_exceeds_that_of_the_plain_vae_exactly_if_something_is_below_the_floor(mode):
    for floor in (0.0, 0.02, 0.2, 0.45, 0.55, 2.0):
        for seed in range(5):
            rec, kl = terms(seed)
            kl = kl.detach()
            plain = (rec + kl.sum(1)).mean()
            value = objective_of(mode=mode, floor=floor)(rec, kl, 1.0)
            compared = {
                "group_batch": kl.mean(0),
                "dim_sample": kl,
                "total_sample": kl.mean(1),
                "total_batch": kl.mean(),
                "habits": kl.mean(),
            }[mode]
            if bool((compared < floor).any()):
                assert float(value) > float(plain)
            else:
                assert torch.equal(value, plain)


def test_a_published_total_is_the_floor_times_the_dimensions():
    rec, kl = terms()
    value = objective_of(mode="total_batch", floor=8 / DIMENSIONS)(rec, kl.detach(), 1.0)
    assert float(value - rec.mean()) == pytest.approx(8.0)


@pytest.mark.parametrize("mode", ["total_sample", "total_batch", "habits"])
def test_modes_of_the_total_accept_a_kl_that_does_not_split_over_dimensions(mode):
    rec, kl = terms()
    whole = kl.sum(1, keepdim=True)
    for floor in (0.2, 2.0):
        objective = objective_of(mode=mode, floor=floor)
        torch.testing.assert_close(objective(rec, whole, 1.0), objective(rec, kl, 1.0))


def test_groups_must_divide_the_dimensions():
    with rejects("strategies") as issues:
        tiny({"kind": "free_bits", "groups": 3})
    assert issues[0].code == "E-RANGE"
    assert "free_bits.groups" in str(issues[0])
    tiny({"kind": "free_bits", "groups": 2})


@pytest.mark.parametrize("mode", MODES[1:])
def test_groups_have_no_effect_in_other_modes(mode):
    with rejects("strategies") as issues:
        tiny({"kind": "free_bits", "mode": mode, "groups": 2})
    assert issues[0].code == "E18"
    assert "free_bits.groups" in str(issues[0])


WHOLE = [kind for kind, strategy in CATALOGUE.items() if Trait.KL_NOT_BY_DIMENSION in strategy.traits]
"""Strategies under which the KL does not split over dimensions."""


def free_bits(mode, **fields):
    return {"kind": "free_bits", "mode": mode, **fields}


def assert_suggests(alternative, *stack):
    """The stack is rejected with E07, and the message names the mode `alternative`."""
    with rejects("strategies") as issues:
        tiny(*stack)
    assert issues[0].code == "E07"
    assert alternative in str(issues[0])


@pytest.mark.parametrize("mode", ["group_batch", "dim_sample"])
@pytest.mark.parametrize("other", WHOLE)
def test_dimensions_cannot_be_compared_if_the_kl_does_not_split(mode, other):
    for stack in ((free_bits(mode), other), (other, free_bits(mode))):
        assert_suggests("total_batch", *stack)


@pytest.mark.parametrize(
    ("mode", "other", "alternative"),
    [("total_sample", other, "total_batch") for other in WHOLE]
    + [(mode, "iaf_posterior", "group_batch") for mode in ("dim_sample", "total_sample")],
)
def test_examples_cannot_be_compared_if_their_kl_is_one_sample(mode, other, alternative):
    for stack in ((free_bits(mode), other), (other, free_bits(mode))):
        assert_suggests(alternative, *stack)


@pytest.mark.parametrize(
    ("mode", "other"),
    [(mode, other) for mode in ("total_batch", "habits") for other in (*WHOLE, "iaf_posterior")]
    + [("group_batch", "iaf_posterior")],
)
def test_it_trains_with_a_sampled_kl(mode, other):
    trial = trial_of(tiny(free_bits(mode), other))
    trial.model.train()
    for batch in trial.train_batches[:2]:
        trial.train_batch(batch)
    assert torch.stack(trial.history).isfinite().all()


def test_one_group_of_all_dimensions_accepts_a_kl_that_does_not_split():
    trial = trial_of(tiny(free_bits("group_batch", groups=1), "mog_prior"))
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    assert torch.stack(trial.history).isfinite().all()


@pytest.mark.parametrize("other", ["kl_linear_epoch", "kl_linear_iter", "aggressive"])
def test_it_stacks_with_annealing_and_aggressive_training(other):
    tiny("free_bits", other)
