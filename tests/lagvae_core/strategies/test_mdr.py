import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, tiny, trial_of
from torch.nn import functional

from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.mdr import Mdr
from lagvae_core.training import checkpoint as checkpoints

each_parametrisation = pytest.mark.parametrize("parametrisation", ["abs", "softplus"])


def mdr(**fields):
    return {"kind": "mdr", **fields}


def objective_of(**fields):
    return Mdr(**fields).build(BuildContext(2, 4))["objective"]


def kl_of(nats):
    """Return kl [B, Z]; the batch mean of its sum over dimensions is `nats`."""
    return torch.tensor([[0.25 * nats, 0.25 * nats], [1.0 * nats, 0.5 * nats]], dtype=torch.float64)


REC = torch.tensor([10.0, 20.0], dtype=torch.float64)


def test_a_multiplier_of_0_is_the_plain_vae():
    assert_equals_plain_vae(mdr(multiplier_start=0.0))


@each_parametrisation
@pytest.mark.parametrize("start", [1e-3, 0.5, 1.01, 30.0, 1000.0])
def test_the_multiplier_starts_at_multiplier_start(parametrisation, start):
    objective = objective_of(multiplier_start=start, parametrisation=parametrisation)
    assert float(objective.multiplier) == pytest.approx(start, rel=1e-12)


def test_the_loss_is_the_lagrangian():
    value = objective_of(rate=5.0, multiplier_start=0.25)(REC, kl_of(8.0), 1.0)
    assert float(value) == pytest.approx(15.0 + 8.0 + 0.25 * (5.0 - 8.0))


@each_parametrisation
@pytest.mark.parametrize("nats", [0.0, 1.0, 4.99, 5.01, 8.0, 400.0])
def test_the_multiplier_grows_exactly_if_the_kl_is_below_the_rate(parametrisation, nats):
    objective = objective_of(rate=5.0, parametrisation=parametrisation)
    for _ in range(5):
        before = float(objective.multiplier)
        objective.after_step(kl_of(nats))
        assert (float(objective.multiplier) > before) == (nats < 5.0)
        assert float(objective.multiplier) != before


@each_parametrisation
def test_at_the_rate_the_multiplier_has_no_effect_and_does_not_change(parametrisation):
    objectives = [objective_of(rate=5.0, multiplier_start=m, parametrisation=parametrisation) for m in (0.5, 1.01, 7.0)]
    assert len({float(objective(REC, kl_of(5.0), 1.0)) for objective in objectives}) == 1
    for objective in objectives:
        before = objective.multiplier
        objective.after_step(kl_of(5.0))
        assert torch.equal(objective.multiplier, before)


TERMS = (
    lambda loss: loss.total,
    lambda loss: loss.rec_B.mean(),
    lambda loss: loss.kl_BZ.sum(1).mean(),
)


def gradients(start):
    """Return the encoder gradients of the objective, the mean reconstruction and the mean KL, in float64."""
    by_term = []
    for term in TERMS:
        trial = trial_of(tiny(mdr(multiplier_start=start)))
        trial.model.double().train()
        loss = trial.learner.loss(trial.train_batches[0], 1.0)
        parameters = list(trial.model.encoder_parameters())
        by_term.append(torch.autograd.grad(term(loss), parameters, materialize_grads=True))
    return by_term


@pytest.mark.parametrize("start", [0.0, 0.25, 1.0, 3.0])
def test_the_gradient_of_the_kl_is_scaled_by_one_minus_the_multiplier(start):
    objective, rec, kl = gradients(start)
    assert any(float(g.abs().max()) > 1e-3 for g in kl)
    for of_objective, of_rec, of_kl in zip(objective, rec, kl, strict=True):
        torch.testing.assert_close(of_objective, of_rec + (1.0 - start) * of_kl, rtol=1e-9, atol=1e-12)


@each_parametrisation
def test_the_multiplier_is_never_negative(parametrisation):
    objective = objective_of(multiplier_start=0.05, multiplier_lr=0.1, parametrisation=parametrisation)
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        scale = 30.0 if step < 100 else 9.0
        objective.after_step(kl_of(float(scale * torch.rand((), generator=generator))))
        assert float(objective.multiplier) >= 0.0


@each_parametrisation
def test_the_multiplier_takes_rmsprop_ascent_steps(parametrisation):
    objective = objective_of(multiplier_lr=0.01, multiplier_start=0.3, parametrisation=parametrisation)
    learned = objective.state_dict()["learned"].clone().requires_grad_()
    optimiser = torch.optim.RMSprop([learned], lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        kl = kl_of(float(12.0 * torch.rand((), generator=generator)))
        multiplier = learned.abs() if parametrisation == "abs" else functional.softplus(learned)
        optimiser.zero_grad()
        (-multiplier * (5.0 - kl.sum(1).mean())).backward()
        optimiser.step()
        objective.after_step(kl)
        torch.testing.assert_close(objective.state_dict()["learned"], learned.detach(), rtol=1e-12, atol=1e-14)


def one_update(clip_norm):
    trial = trial_of(tiny("mdr", training={"clip_norm": clip_norm}))
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    return trial


def test_the_multiplier_is_independent_of_the_models_optimisers_and_clipping():
    loose, tight = one_update(1e9), one_update(1e-6)
    assert torch.equal(loose.components.objective.multiplier, tight.components.objective.multiplier)
    assert float(loose.components.objective.multiplier) == pytest.approx(1.01 + 1e-3 / 0.01**0.5, rel=1e-6)
    assert loose.model.state_dict().keys() == trial_of(tiny()).model.state_dict().keys()


def test_the_constraint_uses_the_unscaled_kl_summed_over_dimensions():
    trial = trial_of(tiny(mdr(rate=5.0, multiplier_start=3.0)))
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    kl = float(trial.history[0][2])
    assert float(trial.components.objective.state_dict()["mean_square"]) == pytest.approx(
        0.01 * (5.0 - kl) ** 2, rel=1e-6
    )


def test_the_loss_has_the_precision_of_the_model():
    for precision in (torch.float32, torch.float64):
        assert objective_of()(REC.to(precision), kl_of(1.0).to(precision), 1.0).dtype == precision


@each_parametrisation
@pytest.mark.parametrize("step", range(6))
def test_a_checkpoint_restores_the_multiplier_and_its_optimiser_at_any_update(parametrisation, step):
    kls = [kl_of(nats) for nats in (0.0, 9.0, 5.1, 9.0, 7.0, 0.0, 9.0)]
    one, other = (objective_of(parametrisation=parametrisation) for _ in range(2))
    for kl in kls[:step]:
        one.after_step(kl)
    stored = checkpoints.decode(checkpoints.encode({"identity": "x", "record": None, "mdr": one.state_dict()}), "x")
    other.load_state_dict(stored["mdr"])
    for kl in kls[step:]:
        assert torch.equal(one(REC, kl, 1.0), other(REC, kl, 1.0))
        one.after_step(kl)
        other.after_step(kl)
    assert one.state_dict() == other.state_dict()


def test_a_decay_of_the_learning_rate_does_not_change_multiplier_and_optimiser():
    trial = trial_of(tiny("mdr", training={"decay_patience": 1, "decay_min_epoch": 0}))
    trial.model.train()
    for batch in trial.train_batches:
        trial.train_batch(batch)
    before = trial.components.objective.state_dict()
    record = trial.validate()
    trial.decay.reference = -float("inf")
    trial.end_epoch(record)
    assert trial.decay.decays == 1
    assert trial.components.objective.state_dict() == before
    assert float(before["learned"]) != 1.01


# --- stacks ----------------------------------------------------------------------------------------------------------

SCHEDULES = [kind for kind, strategy in CATALOGUE.items() if "kl_weight" in strategy.slots]


@pytest.mark.parametrize("other", [*SCHEDULES, "beta_vae"])
def test_another_strategy_that_sets_the_kl_weight_is_rejected(other):
    for stack in (("mdr", other), (other, "mdr")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == "E01"


@pytest.mark.parametrize("other", ["free_bits", "soft_free_bits"])
def test_a_second_objective_is_rejected(other):
    with rejects("strategies") as issues:
        tiny("mdr", other)
    assert issues[0].code == "E-SLOT"


def test_a_start_of_0_is_rejected_with_softplus():
    with rejects("strategies") as issues:
        tiny(mdr(parametrisation="softplus", multiplier_start=0.0))
    assert issues[0].code == "E-RANGE"
    assert "multiplier_start" in str(issues[0])


def test_aggressive_training_gives_a_warning_and_updates_the_multiplier_once_per_outer_step():
    assert tiny("mdr").warnings() == ()
    config = tiny("mdr", {"kind": "aggressive", "budget": 3})
    (warning,) = map(str, config.warnings())
    assert warning.startswith("W2: ")
    trial = trial_of(config)
    trial.model.train()
    calls, after_step = [], trial.components.objective.after_step
    trial.components.objective.after_step = lambda kl: calls.append(after_step(kl))
    for batch in trial.train_batches[:2]:
        trial.train_batch(batch)
    assert trial.learner.encoder_steps == 6
    assert len(calls) == 2
