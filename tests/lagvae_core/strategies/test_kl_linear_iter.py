import itertools

import pytest
from helpers import assert_equals_plain_vae, rejects, tiny, trial_of

from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.kl_linear_iter import KlLinearIter

CONFIGS = [
    {"warm_up": warm_up, "w_start": w_start, "w_end": w_end}
    for warm_up, (w_start, w_end) in itertools.product(
        (0, 1, 7, 40), ((0.0, 1.0), (0.1, 1.0), (0.1, 0.4), (0.3, 0.3), (0.0, 2.0))
    )
]


def weights(count=60, **fields):
    weight = KlLinearIter(**fields).build(BuildContext(2, 7))["kl_weight"]
    return [weight(step) for step in range(count)]


@pytest.mark.parametrize("neutral", [{"w_start": 1.0, "w_end": 1.0}, {"warm_up": 0}])
def test_full_weight_from_the_first_update_is_the_plain_vae(neutral):
    assert_equals_plain_vae({"kind": "kl_linear_iter", **neutral})


@pytest.mark.parametrize("fields", CONFIGS)
def test_the_weight_never_falls_and_stays_in_its_range(fields):
    values = weights(**fields)
    assert all(fields["w_start"] <= value <= fields["w_end"] for value in values)
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert values[-1] == fields["w_end"]


def test_update_t_has_weight_t_over_the_warm_up():
    assert weights(60, warm_up=40) == [min(1.0, t / 40) for t in range(60)]


def test_the_length_of_the_warm_up_does_not_depend_on_the_final_weight():
    values = weights(60, warm_up=40, w_start=0.1, w_end=0.5)
    assert values[20] == pytest.approx(0.3)
    assert values[39] < 0.5 == values[40]


@pytest.mark.parametrize("step", [0, 1, 6, 7, 33, 39, 40, 41])
@pytest.mark.parametrize("fields", CONFIGS[::4])
def test_a_new_instance_continues_the_sequence_at_any_update(fields, step):
    fresh = KlLinearIter(**fields).build(BuildContext(2, 7))["kl_weight"]
    fresh.load_state_dict({})
    assert [fresh(later) for later in range(step, step + 5)] == weights(**fields)[step : step + 5]


def test_outer_updates_count_and_inner_ones_do_not():
    trial = trial_of(tiny({"kind": "kl_linear_iter", "warm_up": 4}, {"kind": "aggressive", "budget": 3}))
    trial.model.train()
    weights, loss = [], trial.learner.loss

    def spy(batch, weight):
        weights.append(weight)
        return loss(batch, weight)

    trial.learner.loss = spy
    for batch in trial.train_batches:
        trial.train_batch(batch)
    assert weights == [weight for weight in (0.0, 0.25, 0.5, 0.75) for _ in range(4)]


def test_a_falling_schedule_is_rejected():
    with rejects("strategies") as issues:
        tiny({"kind": "kl_linear_iter", "w_start": 0.5, "w_end": 0.2})
    assert issues[0].code == "E-RANGE"
    assert "kl_linear_iter.w_start" in str(issues[0])
