import itertools
import math

import pytest
from helpers import assert_equals_plain_vae, rejects, tiny

from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.kl_exp import KlExp
from lagvae_core.strategies.kl_linear_iter import KlLinearIter

CONFIGS = [
    {"warm_up": warm_up, "curvature": curvature, "w_start": w_start, "w_end": w_end}
    for warm_up, curvature, (w_start, w_end) in itertools.product(
        (0, 7, 40), (-50.0, -1.0, 0.0, 5.0, 50.0), ((0.0, 1.0), (0.1, 0.4), (0.3, 0.3), (0.0, 2.0))
    )
]


def weights(strategy=KlExp, count=60, **fields):
    weight = strategy(**fields).build(BuildContext(2, 7))["kl_weight"]
    return [weight(step) for step in range(count)]


@pytest.mark.parametrize("neutral", [{"w_start": 1.0, "w_end": 1.0}, {"warm_up": 0}])
def test_full_weight_from_the_first_update_is_the_plain_vae(neutral):
    assert_equals_plain_vae({"kind": "kl_exp", **neutral})


@pytest.mark.parametrize("fields", CONFIGS)
def test_the_weight_never_falls_and_stays_in_its_range(fields):
    values = weights(**fields)
    assert all(fields["w_start"] <= value <= fields["w_end"] for value in values)
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert values[-1] == fields["w_end"]


@pytest.mark.parametrize("curvature", [-3.0, 0.5, 5.0])
def test_it_is_the_exponential_from_0_to_1(curvature):
    expected = [(math.exp(curvature * t / 40) - 1) / (math.exp(curvature) - 1) for t in range(40)] + [1.0] * 20
    assert weights(warm_up=40, curvature=curvature) == pytest.approx(expected, rel=1e-12)
    assert weights(warm_up=40, curvature=curvature)[0] == 0.0


def test_the_curvature_is_the_logarithm_of_the_ratio_of_the_last_slope_to_the_first():
    values = weights(count=4001, warm_up=4000, curvature=2.0)
    assert (values[-1] - values[-2]) / (values[1] - values[0]) == pytest.approx(math.exp(2.0), rel=1e-3)


def test_curvature_0_is_linear_and_a_small_curvature_is_close_to_it():
    assert weights(warm_up=40, curvature=0.0) == weights(KlLinearIter, warm_up=40)
    assert weights(warm_up=40, curvature=1e-9) == pytest.approx(weights(KlLinearIter, warm_up=40), abs=1e-9)


@pytest.mark.parametrize("step", [0, 1, 7, 39, 40, 41])
@pytest.mark.parametrize("fields", CONFIGS[::9])
def test_a_new_instance_continues_the_sequence_at_any_update(fields, step):
    fresh = KlExp(**fields).build(BuildContext(2, 7))["kl_weight"]
    fresh.load_state_dict({})
    assert [fresh(later) for later in range(step, step + 5)] == weights(**fields)[step : step + 5]


def test_a_falling_schedule_is_rejected():
    with rejects("strategies") as issues:
        tiny({"kind": "kl_exp", "w_start": 0.5, "w_end": 0.2})
    assert issues[0].code == "E-RANGE"
    assert "kl_exp.w_start" in str(issues[0])
