import itertools
import math

import pytest
from helpers import assert_equals_plain_vae, tiny

from lagvae_core.errors import ConfigError
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.kl_exp import KlExp
from lagvae_core.strategies.kl_linear_iter import KlLinearIter

SETTINGS = [
    {"warm_up": warm_up, "curvature": curvature, "w_start": w_start, "w_end": w_end}
    for warm_up, curvature, (w_start, w_end) in itertools.product(
        (0, 7, 40), (-50.0, -1.0, 0.0, 5.0, 50.0), ((0.0, 1.0), (0.1, 0.4), (0.3, 0.3), (0.0, 2.0))
    )
]


def weights(strategy=KlExp, count=60, **fields):
    weight = strategy(**fields).build(BuildContext(2, 7))["kl_weight"]
    return [weight(step) for step in range(count)]


@pytest.mark.parametrize("neutral", [{"w_start": 1.0, "w_end": 1.0}, {"warm_up": 0}])
def test_full_weight_from_the_start_is_the_plain_vae(neutral):
    assert_equals_plain_vae({"kind": "kl_exp", **neutral})


@pytest.mark.parametrize("fields", SETTINGS)
def test_the_weight_never_falls_and_stays_in_its_range(fields):
    values = weights(**fields)
    assert all(fields["w_start"] <= value <= fields["w_end"] for value in values)
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert values[-1] == fields["w_end"]


@pytest.mark.parametrize("curvature", [-3.0, 0.5, 5.0])
def test_it_is_the_exponential_through_both_ends(curvature):
    expected = [(math.exp(curvature * t / 40) - 1) / (math.exp(curvature) - 1) for t in range(40)] + [1.0] * 20
    assert weights(warm_up=40, curvature=curvature) == pytest.approx(expected, rel=1e-12)
    assert weights(warm_up=40, curvature=curvature)[0] == 0.0


def test_the_last_slope_is_the_exponential_of_the_curvature_times_the_first():
    values = weights(count=4001, warm_up=4000, curvature=2.0)
    assert (values[-1] - values[-2]) / (values[1] - values[0]) == pytest.approx(math.exp(2.0), rel=1e-3)


def test_without_curvature_it_is_linear_and_little_curvature_is_near_it():
    assert weights(warm_up=40, curvature=0.0) == weights(KlLinearIter, warm_up=40)
    assert weights(warm_up=40, curvature=1e-9) == pytest.approx(weights(KlLinearIter, warm_up=40), abs=1e-9)


@pytest.mark.parametrize("step", [0, 1, 7, 39, 40, 41])
@pytest.mark.parametrize("fields", SETTINGS[::9])
def test_a_weight_built_anew_at_any_update_goes_on_with_the_same_sequence(fields, step):
    fresh = KlExp(**fields).build(BuildContext(2, 7))["kl_weight"]
    fresh.load_state_dict({})
    assert [fresh(later) for later in range(step, step + 5)] == weights(**fields)[step : step + 5]


def test_a_schedule_that_falls_is_refused():
    with pytest.raises(ConfigError, match=r"\(E-RANGE\).*w_start <= w_end must hold, but got 0.5 > 0.2"):
        tiny({"kind": "kl_exp", "w_start": 0.5, "w_end": 0.2})
