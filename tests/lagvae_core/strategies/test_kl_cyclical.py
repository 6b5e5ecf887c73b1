import itertools
import math

import pytest
from helpers import assert_equals_plain_vae, rejects, tiny

from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.kl_cyclical import KlCyclical
from lagvae_core.strategies.kl_linear_iter import KlLinearIter

BATCHES = 7
CONFIGS = [
    {"epochs": 8.0, "cycles": cycles, "ramp": ramp, "shape": shape, "w_start": w_start, "w_end": w_end}
    for cycles, ramp, shape, (w_start, w_end) in itertools.product(
        (1, 2, 4), (0.25, 0.5, 1.0), ("linear", "sigmoid", "cosine"), ((0.0, 1.0), (0.1, 0.4))
    )
]


def weights(strategy=KlCyclical, count=80, **fields):
    weight = strategy(**fields).build(BuildContext(2, BATCHES))["kl_weight"]
    return [weight(step) for step in range(count)]


def test_full_weight_from_the_first_update_is_the_plain_vae():
    assert_equals_plain_vae({"kind": "kl_cyclical", "w_start": 1.0, "w_end": 1.0})


@pytest.mark.parametrize("fields", CONFIGS)
def test_the_weight_stays_in_its_range_and_is_full_once_all_cycles_are_over(fields):
    values = weights(**fields)
    assert all(fields["w_start"] <= value <= fields["w_end"] for value in values)
    assert values[56:] == [fields["w_end"]] * 24
    assert values[55] <= fields["w_end"]


@pytest.mark.parametrize("fields", CONFIGS)
def test_every_cycle_is_the_same_and_rises(fields):
    values, period = weights(**fields), 56 // fields["cycles"]
    assert values[:56] == values[:period] * fields["cycles"]
    assert all(a <= b for a, b in itertools.pairwise(values[:period]))


@pytest.mark.parametrize("ramp", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("w_end", [1.0, 0.4])
def test_one_linear_cycle_is_the_linear_warm_up(ramp, w_end):
    one_cycle = weights(epochs=8, cycles=1, ramp=ramp, w_end=w_end)
    assert one_cycle == weights(KlLinearIter, warm_up=int(ramp * 56), w_end=w_end)


@pytest.mark.parametrize(
    ("shape", "function"),
    [
        ("linear", lambda a: a),
        ("sigmoid", lambda a: 1 / (1 + math.exp(-(12 * a - 6)))),
        ("cosine", lambda a: 0.5 - 0.5 * math.cos(math.pi * a)),
    ],
)
def test_the_ramp_follows_the_function_of_its_shape(shape, function):
    values = weights(count=28, epochs=8, cycles=2, ramp=0.5, shape=shape)
    assert values == pytest.approx([function(t / 14) for t in range(15)] + [1.0] * 13, abs=1e-12)


def test_fractional_cycles_end_with_the_last_epoch():
    values = weights(epochs=4.5, cycles=4, ramp=1.0)
    starts = [t for t, (a, b) in enumerate(itertools.pairwise(values), 1) if b < a]
    assert starts == [math.ceil(cycle * 4.5 * BATCHES / 4) for cycle in (1, 2, 3)]
    assert values[31] < 1.0 == values[32]


@pytest.mark.parametrize("step", [0, 1, 13, 14, 27, 28, 55, 56, 57])
@pytest.mark.parametrize("fields", CONFIGS[::9])
def test_a_new_instance_continues_the_sequence_at_any_update(fields, step):
    fresh = KlCyclical(**fields).build(BuildContext(2, BATCHES))["kl_weight"]
    fresh.load_state_dict({})
    assert [fresh(later) for later in range(step, step + 5)] == weights(**fields)[step : step + 5]


def test_a_falling_schedule_is_rejected():
    with rejects("strategies") as issues:
        tiny({"kind": "kl_cyclical", "w_start": 0.5, "w_end": 0.2})
    assert issues[0].code == "E-RANGE"
    assert "kl_cyclical.w_start" in str(issues[0])


# --- the decay of the learning rate ----------------------------------------------------------------------------------

LONG = {"epochs": 100, "decay_min_epoch": 15, "decay_patience": 2}
"""The last of 4 cycles in 40 epochs begins after epoch 30; the first decay is after epoch 16 at the earliest."""


def warnings(training, **fields):
    config = tiny({"kind": "kl_cyclical", **fields}, training={**LONG, **training})
    return tuple(str(warning) for warning in config.warnings())


def test_a_decay_that_can_restore_weights_of_an_earlier_cycle_gives_a_warning_with_a_remedy():
    (warning,) = warnings({})
    assert warning.startswith("W3: ")
    assert "epoch 30" in warning
    assert "epoch 16" in warning
    assert "training.decay_min_epoch = 29" in warning
    assert warnings({"decay_min_epoch": 29}) == ()
    assert len(warnings({"decay_min_epoch": 28})) == 1
    assert len(warnings({"decay_min_epoch": 0})) == 1
    assert warnings({"decay_min_epoch": 0, "decay_patience": 29}) == ()
    assert "training.decay_min_epoch = 22" in warnings({}, epochs=45, cycles=2)[0]


@pytest.mark.parametrize(
    ("training", "fields"),
    [
        ({"reload_best_on_decay": False}, {}),
        ({"max_decays": 1}, {}),
        ({"epochs": 16}, {}),
        ({}, {"cycles": 1}),
        ({}, {"epochs": 20}),
    ],
)
def test_there_is_no_warning_if_no_decay_precedes_the_last_cycle(training, fields):
    assert warnings(training, **fields) == ()
