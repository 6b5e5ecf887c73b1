import itertools

import pytest
from helpers import assert_equals_plain_vae, tiny, trial_of

from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.kl_linear_epoch import KlLinearEpoch

BATCHES = 7
CONFIGS = [
    {"warm_up": warm_up, "w_start": w_start, "w_end": w_end, "rate_mode": mode}
    for warm_up, (w_start, w_end), mode in itertools.product(
        (0.0, 0.5, 3.0, 10.0), ((0.0, 1.0), (0.1, 1.0), (0.1, 0.4), (0.3, 0.3), (0.0, 2.0)), ("exact", "kim")
    )
]


def weights(count=100, batches=BATCHES, **fields):
    weight = KlLinearEpoch(**fields).build(BuildContext(2, batches))["kl_weight"]
    return [weight(step) for step in range(count)]


@pytest.mark.parametrize(
    "neutral",
    [
        {"warm_up": 0},
        {"w_start": 1.0, "w_end": 1.0},
        {"w_start": 1.0, "w_end": 1.0, "rate_mode": "kim"},
        {"warm_up": 0, "rate_mode": "kim"},
    ],
)
def test_full_weight_from_the_first_update_is_the_plain_vae(neutral):
    assert_equals_plain_vae({"kind": "kl_linear_epoch", **neutral})


@pytest.mark.parametrize("fields", CONFIGS)
def test_the_weight_never_falls_and_stays_in_its_range(fields):
    values = weights(**fields)
    assert all(fields["w_start"] <= value <= fields["w_end"] for value in values)
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert values[-1] == fields["w_end"]


def test_the_first_update_is_one_step_above_w_start_and_the_last_of_the_warm_up_is_full():
    values = weights(warm_up=10.0, w_start=0.1)
    assert values[0] == pytest.approx(0.1 + 0.9 / 70)
    assert values[34] == pytest.approx(0.55)
    assert values[68] < 1.0
    assert values[69] == 1.0
    rises = [b - a for a, b in itertools.pairwise(values[:70])]
    assert rises == pytest.approx([0.9 / 70] * 69)


@pytest.mark.parametrize(("warm_up", "batches"), [(10, 7), (10, 100), (4, 25), (2.5, 40)])
def test_rate_mode_kim_reaches_full_weight_after_nine_tenths_of_the_warm_up(warm_up, batches):
    values = weights(count=2000, batches=batches, warm_up=warm_up, w_start=0.1, rate_mode="kim")
    first = next(step for step, value in enumerate(values) if value >= 1.0 - 1e-12)
    assert abs(first - 0.9 * warm_up * batches) <= 1
    assert values[0] == pytest.approx(0.1 + 1 / (warm_up * batches))


@pytest.mark.parametrize("fields", CONFIGS[::7])
@pytest.mark.parametrize("step", [0, 1, 6, 7, 33, 69, 70, 71])
def test_a_new_instance_continues_the_sequence_at_any_update(fields, step):
    fresh = KlLinearEpoch(**fields).build(BuildContext(2, BATCHES))["kl_weight"]
    fresh.load_state_dict({})
    assert [fresh(later) for later in range(step, step + 5)] == weights(**fields)[step : step + 5]


def test_the_warm_up_counts_the_batches_of_the_trial():
    trial = trial_of(tiny({"kind": "kl_linear_epoch", "warm_up": 1, "w_start": 0.0}))
    assert len(trial.train_batches) == 4
    assert [trial.components.kl_weight(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
