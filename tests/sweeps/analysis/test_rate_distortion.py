import numpy as np
import pytest

from sweeps.analysis.rate_distortion import rate_distortion


def rows(arm, *configurations, status="finished"):
    """Return the rows of configurations, each given by the (mi, nll_iw) of its seeds."""
    return [
        {
            "arm": arm,
            "config_id": f"{arm}{number}",
            "status": status,
            "mi": mi,
            "nll_iw": nll,
            "kl": mi,
            "rec": nll and 50 - nll,
        }
        for number, seeds in enumerate(configurations)
        for mi, nll in seeds
    ]


def best(table, **options):
    return {
        curve.arm: [(level.rate, level.distortion.value) for level in curve.levels]
        for curve in rate_distortion(table, **options)
    }


def test_the_curve_is_the_best_mean_at_least_at_each_rate():
    table = rows("a", [(0.0, 10.0), (0.0, 12.0)], [(1.0, 10.0)], [(2.0, 13.0)]) + rows("b", [(0.5, 12.0)])
    assert best(table, levels=[0, 0.5, 1, 2, 3]) == {
        "a": [(0, 10.0), (0.5, 10.0), (1, 10.0), (2, 13.0)],
        "b": [(0, 12.0), (0.5, 12.0)],
    }


def test_the_best_rec_is_sought_at_most_at_each_rate():
    table = rows("a", [(0.0, 10.0)], [(1.0, 20.0)], [(2.0, 15.0)])
    assert best(table, distortion="rec", levels=[0, 1, 2]) == {"a": [(0, 40.0), (1, 30.0), (2, 30.0)]}


def test_curves_are_monotone_and_agree_with_brute_force():
    random = np.random.default_rng(0)
    table = rows("a", *([(random.uniform(0, 3), random.normal(40, 2)) for _ in range(3)] for _ in range(40)))
    levels = np.linspace(0, 2, 9).tolist()
    (curve,) = rate_distortion(table, levels=levels)
    means = {}
    for row in table:
        means.setdefault(row["config_id"], []).append((row["mi"], row["nll_iw"]))
    means = {name: np.mean(values, 0) for name, values in means.items()}
    for level in curve.levels:
        inside = {name: nll for name, (mi, nll) in means.items() if mi >= level.rate - 1e-3}
        assert level.config_id == min(inside, key=inside.get)
        assert level.distortion.low <= level.distortion.value <= level.distortion.high
    values = [level.distortion.value for level in curve.levels]
    assert values == sorted(values)


def test_the_price_is_relative_to_the_least_distortion_of_any_arm():
    table = rows("vae", [(0.0, 40.0), (0.0, 40.0)]) + rows("bn", [(2.0, 41.0), (2.0, 41.0)])
    curves = {curve.arm: curve for curve in rate_distortion(table, levels=[0, 1, 2])}
    assert curves["vae"].price is None
    price = curves["bn"].price
    assert (price.rate, price.distortion.value, price.distortion.low, price.distortion.high) == (2, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_intervals_cover_the_mean_as_often_as_they_say(seeds):
    random, covered, trials = np.random.default_rng(seeds), 0, 150
    for trial in range(trials):
        table = rows("a", [(1.0, random.normal(40, 1)) for _ in range(seeds)])
        (curve,) = rate_distortion(table, levels=[1], seed=trial)
        covered += curve.levels[0].distortion.low <= 40 <= curve.levels[0].distortion.high
    assert covered / trials == pytest.approx(0.95, abs=0.06)  # 3.4 standard errors


@pytest.mark.parametrize(
    ("table", "arms"),
    [
        ([], []),
        (rows("a", [(1.0, 2.0)], status="diverged"), []),
        (rows("a", [(None, 2.0)]) + rows("b", [(1.0, None)]), []),
        (rows("a", [(None, 2.0)]) + rows("b", [(1.0, 3.0)]), ["b"]),
    ],
)
def test_runs_without_values_do_not_count(table, arms):
    assert [curve.arm for curve in rate_distortion(table)] == arms


def test_single_seeds_have_no_interval_unless_others_tell_the_spread():
    alone = rate_distortion(rows("a", [(1.0, 2.0)]), levels=[1])[0].levels[0].distortion
    assert (alone.value, alone.low, alone.high) == (2.0, None, None)
    table = rows("a", [(1.0, 2.0)]) + rows("b", [(1.0, 2.0), (1.0, 4.0)])
    of_one_seed = rate_distortion(table, levels=[1])[0].levels[0].distortion
    assert of_one_seed.low < 2.0 < of_one_seed.high
