import itertools

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, tiny

from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.kl_sigmoid import KlSigmoid

CONFIGS = [
    {"slope": slope, "midpoint": midpoint, "w_start": w_start, "w_end": w_end}
    for slope, midpoint, (w_start, w_end) in itertools.product(
        (0.0025, 0.3, 40.0), (0, 30), ((0.0, 1.0), (0.1, 0.4), (0.3, 0.3), (0.0, 2.0))
    )
]


def weight_of(**fields):
    return KlSigmoid(**fields).build(BuildContext(2, 7))["kl_weight"]


def weights(count=80, **fields):
    return [weight_of(**fields)(step) for step in range(count)]


def test_full_weight_from_the_first_update_is_the_plain_vae():
    assert_equals_plain_vae({"kind": "kl_sigmoid", "w_start": 1.0, "w_end": 1.0})


@pytest.mark.parametrize("fields", CONFIGS)
def test_the_weight_never_falls_and_stays_in_its_range(fields):
    values = weights(**fields)
    assert all(fields["w_start"] <= value <= fields["w_end"] for value in values)
    assert all(a <= b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("end", [1.0, 0.4])
def test_it_is_the_logistic_function(end):
    steps = torch.arange(0, 10_000, 250, dtype=torch.float64)
    weight = weight_of(w_end=end)
    expected = end * torch.sigmoid(0.0025 * (steps - 2500))
    torch.testing.assert_close(
        torch.tensor([weight(int(step)) for step in steps], dtype=torch.float64), expected, rtol=1e-13, atol=0.0
    )


def test_the_midpoint_has_half_the_rise_and_the_first_weight_is_above_0():
    weight = weight_of()
    assert weight(2500) == 0.5
    assert weight(0) == pytest.approx(0.00193, abs=1e-5)
    assert weight_of(w_start=0.2, w_end=0.8)(2500) == 0.5


def test_a_steep_slope_far_from_the_midpoint_does_not_overflow():
    assert weight_of(slope=40.0, midpoint=20_000)(0) == 0.0
    assert weight_of(slope=40.0, midpoint=20_000)(10**9) == 1.0


@pytest.mark.parametrize("step", [0, 1, 29, 30, 31, 70])
@pytest.mark.parametrize("fields", CONFIGS[::5])
def test_a_new_instance_continues_the_sequence_at_any_update(fields, step):
    fresh = weight_of(**fields)
    fresh.load_state_dict({})
    assert [fresh(later) for later in range(step, step + 5)] == weights(**fields)[step : step + 5]


def test_a_falling_schedule_is_rejected():
    with rejects("strategies") as issues:
        tiny({"kind": "kl_sigmoid", "w_start": 0.5, "w_end": 0.2})
    assert issues[0].code == "E-RANGE"
    assert "kl_sigmoid.w_start" in str(issues[0])
