"""First points of a sweep from the front of another one."""

from __future__ import annotations

import json

import pytest
import yaml
from helpers import rejects
from worlds import play, spec_of, sweep

from sweeps.analysis.front_points import with_points_from
from sweeps.storage.table import ResultsFolder

RATE = {"low": 1e-3, "high": 1.0, "log": True}
BETA = {"kind": "beta_vae", "beta": {"low": 0.1, "high": 0.9}}


def answer(run):
    beta = run.parameters.get("beta_vae.beta", 1.0)
    return {"nll_iw": 100 + beta, "au": round(1000 * beta), "config": run.config.model_dump_json()}


@pytest.fixture
def stored(tmp_path):
    """A stored sweep in which every configuration of the arm `beta` is on the front, and the plain VAE."""
    values = sweep(arms={"vae": [], "beta": [BETA]})
    folder = ResultsFolder(str(tmp_path), "tiny")
    folder.write("spec.yaml", yaml.safe_dump(values, sort_keys=False).encode())
    for row in play(spec_of(arms=values["arms"]), answer=answer)[0]:
        folder.write_run(row | {"config": row["config"]})
    return folder


def betas(stored):
    rows = [row for row in stored.runs() if row["arm"] == "beta" and row["seed"] == 0]
    return {json.loads(row["parameters"])["beta_vae.beta"] for row in rows}


def test_an_arm_of_the_same_name_starts_with_the_front(stored):
    spec = with_points_from(spec_of(arms={"vae": [], "beta": [BETA]}), stored)
    beta = spec.arms[1]
    assert {point["beta_vae.beta"] for point in beta.points} == betas(stored)
    drawn = [json.loads(row["parameters"]) for row in play(spec)[0] if row["arm"] == "beta" and row["seed"] == 0]
    assert drawn == [dict(point) for point in beta.points]


def test_an_arm_with_the_same_strategies_does_too_and_values_that_were_fixed_count(stored):
    arm = {"strategies": [BETA], "space": {"training.learning_rate": RATE}, "points": [{"beta_vae.beta": 0.5}]}
    spec = with_points_from(spec_of(arms={"other": arm}), stored)
    *taken, last = spec.arms[0].points
    assert {point["beta_vae.beta"] for point in taken} == betas(stored)
    assert {point["training.learning_rate"] for point in taken} == {1.0}
    assert last == {"beta_vae.beta": 0.5}


def test_a_value_outside_the_range_is_left_to_the_sampler(stored):
    narrow = {"kind": "beta_vae", "beta": {"low": 2.0, "high": 3.0}}
    arm = {"strategies": [narrow], "space": {"training.learning_rate": RATE}, "points": []}
    spec = with_points_from(spec_of(arms={"other": arm}), stored)
    assert spec.arms[0].points == ({"training.learning_rate": 1.0},)


def test_points_that_the_arm_has_already_are_no_mistake(stored):
    points = [{"beta_vae.beta": beta} for beta in betas(stored)]
    spec = spec_of(arms={"beta": {"strategies": [BETA], "points": points}})
    again = with_points_from(spec, stored)
    assert sorted(map(str, again.arms[0].points)) == sorted(map(str, points))


@pytest.mark.parametrize("arms", [{"vae": []}, {"bits": ["free_bits"]}])
def test_a_sweep_that_takes_nothing_is_refused(stored, arms):
    with rejects("--points-from"):
        with_points_from(spec_of(arms=arms), stored)


def test_a_sweep_that_is_not_stored(tmp_path):
    with rejects("--points-from"):
        with_points_from(spec_of(), ResultsFolder(str(tmp_path), "absent"))
