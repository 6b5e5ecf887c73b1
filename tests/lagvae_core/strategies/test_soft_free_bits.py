import itertools

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, tiny, trial_of

from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.soft_free_bits import SoftFreeBits
from lagvae_core.training import checkpoint as checkpoints


def objective_of(**fields):
    return SoftFreeBits(**fields).build(BuildContext(2, 4))["objective"]


def weight(objective):
    return float(objective.state_dict()["weight"])


def kl_of(nats):
    """Return kl [B, Z]; the batch mean of its sum over dimensions is `nats`, exactly if nats / 8 is exact."""
    return torch.tensor([[0.25 * nats, 0.25 * nats], [1.0 * nats, 0.5 * nats]], dtype=torch.float64)


def test_a_factor_of_one_from_full_weight_is_the_plain_vae():
    assert_equals_plain_vae({"kind": "soft_free_bits", "factor": 1.0, "weight_start": 1.0})


@pytest.mark.parametrize("nats", [5.0, 5.1, 5.25])
def test_the_weight_does_not_change_between_the_rate_and_the_tolerance_above_it(nats):
    objective = objective_of(weight_start=0.3)
    objective.after_step(kl_of(nats))
    assert weight(objective) == 0.3


@pytest.mark.parametrize(("nats", "expected"), [(4.999, 0.3 / 1.1), (5.251, 0.3 * 1.1), (0.0, 0.3 / 1.1)])
def test_it_changes_by_the_factor_outside(nats, expected):
    objective = objective_of(weight_start=0.3)
    objective.after_step(kl_of(nats))
    assert weight(objective) == pytest.approx(expected, rel=1e-15)


def test_it_stays_between_weight_min_and_1():
    objective, generator = objective_of(weight_start=0.9, factor=1.7, weight_min=0.2), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(200):
        objective.after_step(kl_of(float(10 * torch.rand((), generator=generator))))
        seen.add(weight(objective))
        assert 0.2 <= weight(objective) <= 1.0
    assert {0.2, 1.0} <= seen


def test_without_kl_it_falls_to_weight_min_and_stays():
    objective, seen = objective_of(weight_start=1.0, weight_min=1e-3), [1.0]
    for _ in range(100):
        objective.after_step(kl_of(0.0))
        seen.append(weight(objective))
    assert all(b < a or a == 1e-3 for a, b in itertools.pairwise(seen))
    assert seen[-1] == 1e-3


def test_the_weight_multiplies_the_kl_alone():
    rec = torch.tensor([10.0, 20.0], dtype=torch.float64)
    assert float(objective_of(weight_start=0.5)(rec, kl_of(8.0), 1.0)) == 15.0 + 0.5 * 8.0


def test_the_unweighted_kl_of_the_update_is_compared_with_the_rate():
    trial = trial_of(tiny({"kind": "soft_free_bits", "rate": 1e-6, "weight_start": 1e-3}))
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    assert float(trial.history[0][2]) > 1.05e-6
    assert weight(trial.components.objective) == pytest.approx(1.1e-3)


def test_the_loss_has_the_precision_of_the_model():
    for precision in (torch.float32, torch.float64):
        assert objective_of()(torch.ones(2, dtype=precision), kl_of(1.0).to(precision), 1.0).dtype == precision


@pytest.mark.parametrize("step", range(6))
def test_a_checkpoint_restores_the_weight_at_any_update(step):
    kls = [kl_of(nats) for nats in (0.0, 9.0, 5.1, 9.0, 9.0, 0.0, 9.0)]
    one, other = objective_of(), objective_of()
    for kl in kls[:step]:
        one.after_step(kl)
    stored = checkpoints.decode(checkpoints.encode({"identity": "x", "record": None, **one.state_dict()}), "x")
    other.load_state_dict({"weight": stored["weight"]})
    for kl in kls[step:]:
        assert torch.equal(one.state_dict()["weight"], other.state_dict()["weight"])
        one.after_step(kl)
        other.after_step(kl)
    assert torch.equal(one.state_dict()["weight"], other.state_dict()["weight"])


def test_a_decay_of_the_learning_rate_does_not_change_the_weight():
    trial = trial_of(tiny("soft_free_bits", training={"decay_patience": 1, "decay_min_epoch": 0}))
    trial.model.train()
    for batch in trial.train_batches:
        trial.train_batch(batch)
    before = weight(trial.components.objective)
    record = trial.validate()
    trial.decay.reference = -float("inf")
    trial.end_epoch(record)
    assert trial.decay.decays == 1
    assert weight(trial.components.objective) == before != 0.1


SCHEDULES = [kind for kind, strategy in CATALOGUE.items() if "kl_weight" in strategy.slots]


@pytest.mark.parametrize("other", [*SCHEDULES, "beta_vae"])
def test_another_strategy_that_sets_the_kl_weight_is_rejected(other):
    for stack in (("soft_free_bits", other), (other, "soft_free_bits")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == "E01"


def test_a_weight_min_above_weight_start_is_rejected():
    with rejects("strategies") as issues:
        tiny({"kind": "soft_free_bits", "weight_min": 0.2})
    assert issues[0].code == "E-RANGE"
    assert "weight_min" in str(issues[0])
