import itertools
import math

import pytest
from helpers import assert_equals_plain_vae, tiny

from lagvae_core.errors import ConfigError
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.kl_cyclical import KlCyclical
from lagvae_core.strategies.kl_linear_iter import KlLinearIter

BATCHES = 7
SETTINGS = [
    {"epochs": 8.0, "cycles": cycles, "ramp": ramp, "shape": shape, "w_start": w_start, "w_end": w_end}
    for cycles, ramp, shape, (w_start, w_end) in itertools.product(
        (1, 2, 4), (0.25, 0.5, 1.0), ("linear", "sigmoid", "cosine"), ((0.0, 1.0), (0.1, 0.4))
    )
]


def weights(strategy=KlCyclical, count=80, **fields):
    weight = strategy(**fields).build(BuildContext(2, BATCHES))["kl_weight"]
    return [weight(step) for step in range(count)]


def test_full_weight_from_the_start_is_the_plain_vae():
    assert_equals_plain_vae({"kind": "kl_cyclical", "w_start": 1.0, "w_end": 1.0})


@pytest.mark.parametrize("fields", SETTINGS)
def test_the_weight_stays_in_its_range_and_is_full_once_all_cycles_are_over(fields):
    values = weights(**fields)
    assert all(fields["w_start"] <= value <= fields["w_end"] for value in values)
    assert values[56:] == [fields["w_end"]] * 24
    assert values[55] <= fields["w_end"]


@pytest.mark.parametrize("fields", SETTINGS)
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
def test_it_follows_the_function_of_its_shape_up_to_the_end_of_the_ramp(shape, function):
    values = weights(count=28, epochs=8, cycles=2, ramp=0.5, shape=shape)
    assert values == pytest.approx([function(t / 14) for t in range(15)] + [1.0] * 13, abs=1e-12)


def test_cycles_that_are_no_whole_number_of_updates_end_with_the_last_epoch():
    values = weights(epochs=4.5, cycles=4, ramp=1.0)
    starts = [t for t, (a, b) in enumerate(itertools.pairwise(values), 1) if b < a]
    assert starts == [math.ceil(cycle * 4.5 * BATCHES / 4) for cycle in (1, 2, 3)]
    assert values[31] < 1.0 == values[32]


@pytest.mark.parametrize("step", [0, 1, 13, 14, 27, 28, 55, 56, 57])
@pytest.mark.parametrize("fields", SETTINGS[::9])
def test_a_weight_built_anew_at_any_update_goes_on_with_the_same_sequence(fields, step):
    fresh = KlCyclical(**fields).build(BuildContext(2, BATCHES))["kl_weight"]
    fresh.load_state_dict({})
    assert [fresh(later) for later in range(step, step + 5)] == weights(**fields)[step : step + 5]


def test_a_schedule_that_falls_is_refused():
    with pytest.raises(ConfigError, match=r"\(E-RANGE\).*w_start <= w_end must hold, but got 0.5 > 0.2"):
        tiny({"kind": "kl_cyclical", "w_start": 0.5, "w_end": 0.2})


# --- the decay of the learning rate ----------------------------------------------------------------------------------

LONG = {"epochs": 100, "decay_min_epoch": 15, "decay_patience": 2}
"""The last of 4 cycles in 40 epochs begins after epoch 30; the first decay comes after epoch 16 at the earliest."""


def warnings(training, **fields):
    return tiny({"kind": "kl_cyclical", **fields}, training={**LONG, **training}).warnings()


def test_a_decay_that_may_return_to_weights_of_an_earlier_cycle_is_a_warning_that_names_a_way_out():
    (warning,) = warnings({})
    assert warning.startswith("W3: the last cycle of kl_cyclical begins after epoch 30, but from epoch 16 on")
    assert "training.decay_min_epoch = 29 prevents it." in warning
    assert warnings({"decay_min_epoch": 29}) == ()
    assert len(warnings({"decay_min_epoch": 28})) == 1
    assert len(warnings({"decay_min_epoch": 0})) == 1
    assert warnings({"decay_min_epoch": 0, "decay_patience": 29}) == ()
    assert "decay_min_epoch = 22 prevents" in warnings({}, epochs=45, cycles=2)[0]


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
def test_there_is_no_warning_where_no_weights_return_before_the_last_cycle(training, fields):
    assert warnings(training, **fields) == ()
