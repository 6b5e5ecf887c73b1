"""Importance of searched fields: a field that decides, fields that do not matter, and too few configurations."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import spec_of

from sweeps.analysis.front import FrontRow
from sweeps.analysis.importance import LEAST_CONFIGURATIONS, field_importances

SPACE = {
    "training.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "training.optimiser": {"choices": ["sgd", "adam"]},
}
OBJECTIVES = {"nll_iw": "min"}


def arm():
    """Return an arm with two searched fields."""
    (found,) = spec_of(arms={"vae": []}, space=SPACE).arms
    return found


def configurations(count: int, value, seed: int = 0) -> list[FrontRow]:
    """Return configurations drawn at random, whose objective is `value(learning_rate, optimiser, noise)`."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        rate, optimiser = float(10 ** draw.uniform(-3, -1)), str(draw.choice(["sgd", "adam"]))
        mean = {"nll_iw": float(value(rate, optimiser, draw.normal()))}
        parameters = {"training.learning_rate": rate, "training.optimiser": optimiser}
        rows.append(FrontRow("vae", f"{number:012}", parameters, mean, {"nll_iw": None}, 1, False, False))
    return rows


def test_the_field_that_decides_exceeds_chance():
    found = field_importances([arm()], configurations(60, lambda rate, _, noise: np.log(rate)), OBJECTIVES)
    assert found[0].field == "training.learning_rate"
    assert found[0].exceeds_chance
    assert found[0].value > 0.8
    assert sum(importance.value for importance in found) == pytest.approx(1.0)


def test_noise_rarely_exceeds_chance():
    exceeding = [
        importance.exceeds_chance
        for seed in range(12)
        for importance in field_importances([arm()], configurations(20, lambda *drawn: drawn[2], seed), OBJECTIVES)
    ]
    assert len(exceeding) == 24
    assert sum(exceeding) <= 5


def test_too_few_configurations_give_no_importance():
    few = configurations(LEAST_CONFIGURATIONS - 1, lambda rate, _, noise: rate)
    assert field_importances([arm()], few, OBJECTIVES) == []
    assert field_importances([arm()], configurations(20, lambda *_: 1.0), OBJECTIVES) == []
