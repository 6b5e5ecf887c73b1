"""The front of stored rows: differences within the error and below the printed digits are ties."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sweeps.analysis.front import front_of
from sweeps.analysis.pareto import front, rivals

BOTH = {"nll_iw": "min", "mi": "max"}


def rows_of(**configurations: list[tuple[float, float]]):
    return [
        {"arm": name, "config_id": name, "parameters": json.dumps({}), "status": "finished", "nll_iw": nll, "mi": mi}
        for name, seeds in configurations.items()
        for nll, mi in seeds
    ]


def standings(**configurations):
    return {row.arm: row.standing for row in front_of(rows_of(**configurations), BOTH)}


def seeds(nll: float, mi: float, spread: float = 0.02, spread_mi: float = 0.0) -> list[tuple[float, float]]:
    """Return three seeds with these means. The standard errors are the spreads divided by the square root of 3."""
    return [(nll + d * spread, mi + d * spread_mi) for d in (-1.0, 0.0, 1.0)]


def test_differences_below_the_printed_digits_are_ties():
    vae, beta = seeds(14.43299527, 0.0), seeds(14.43299525, 1e-9)
    assert standings(vae=vae, beta=beta, worse=seeds(15.0, -1e-9)) == {"vae": "on", "beta": "on", "worse": "off"}


def test_noise_of_the_objectives_puts_nothing_on_the_front():
    collapsed = {f"c{i}": seeds(330.0 + 0.1 * i, 1e-5 * i) for i in range(3)}
    assert standings(**collapsed) == {"c0": "on", "c1": "off", "c2": "off"}


def test_configurations_within_the_error_of_the_front_are_tied():
    assert standings(a=seeds(330.0, 0.0), b=seeds(330.03, 0.0), c=seeds(330.04, 0.0)) == {
        "a": "on",
        "b": "tied",
        "c": "off",
    }


def test_a_member_that_is_beaten_beyond_the_error_is_in_doubt():
    """Its only advantage is within the error, and it is clearly worse otherwise."""
    vae, bn_vae = seeds(330.0, 0.0), seeds(329.97, 5.0, spread=0.1)
    assert standings(vae=vae, bn_vae=bn_vae) == {"vae": "off", "bn_vae": "on"}
    assert standings(vae=vae, bn_vae=seeds(330.02, 5.0)) == {"vae": "in doubt", "bn_vae": "on"}
    assert standings(vae=vae, bn_vae=seeds(331.0, 5.0)) == {"vae": "on", "bn_vae": "on"}


def test_without_a_second_seed_every_difference_counts():
    assert standings(a=[(330.0, 0.0)], b=[(330.01, 0.0)], c=[(331.0, 1.0)]) == {"a": "on", "b": "off", "c": "on"}


def test_a_configuration_in_doubt_names_a_better_one_on_the_front_if_there_is_one():
    vae, dominated, better = seeds(330.0, 0.0), seeds(330.01, 5.0), seeds(330.01, 5.1)
    found = front_of(rows_of(vae=vae, dominated=dominated, better=better), BOTH)
    assert {row.config_id: row.rival for row in found} == {"vae": "better", "dominated": "better", "better": None}
    assert json.loads(json.dumps([row.to_json()["rival"] for row in found.shown()])) == ["better", None]


def test_the_standing_is_in_the_json():
    assert {row.to_json()["standing"] for row in front_of(rows_of(a=seeds(1.0, 0.0), b=seeds(2.0, 0.0)), BOTH)} == {
        "on",
        "off",
    }


@pytest.mark.parametrize("seed", range(5))
def test_without_errors_beaten_is_dominated(seed):
    points = np.random.default_rng(seed).integers(0, 4, size=(40, 3)).astype(float)
    directions = ("min", "max", "min")
    dominated = ~front(points, directions)
    assert (rivals(points, np.full_like(points, np.nan), directions, 2.0) >= 0).tolist() == dominated.tolist()
    assert (rivals(points, np.full_like(points, 9.0), directions, 2.0) < 0).all()
