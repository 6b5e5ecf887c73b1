"""Arms ranked by hypervolume, and probabilities to be on the front, against definitions and simulated sweeps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import rejects

from sweeps.analysis.pareto import front_probability, hypervolume
from sweeps.analysis.ranking import rank_arms

BOTH = {"nll_iw": "min", "mi": "max"}


def rows_of(**arms):
    """Rows of arms; each arm is a list of configurations, each configuration a list of (nll_iw, mi) by seed."""
    return [
        {
            "arm": arm,
            "config_id": f"{arm}{number}",
            "seed": seed,
            "parameters": json.dumps({}),
            "status": "finished",
            "nll_iw": nll,
            "mi": mi,
        }
        for arm, configurations in arms.items()
        for number, seeds in enumerate(configurations)
        for seed, (nll, mi) in enumerate(seeds)
    ]


def ranked(objectives=BOTH, **arms):
    return rank_arms("tiny", rows_of(**arms), objectives)


def seeds(nll, mi, spread=0.1):
    return [(nll - spread, mi), (nll, mi), (nll + spread, mi)]


class TestHypervolume:
    def test_it_is_that_of_the_means_against_the_common_reference(self):
        ranking = ranked(a=[seeds(10.0, 1.0), seeds(12.0, 2.0)], b=[seeds(11.0, 3.0), seeds(20.0, 0.5)])
        assert ranking.reference == pytest.approx({"nll_iw": 12.2, "mi": 0.8})
        volumes = {arm.arm: arm.hypervolume for arm in ranking.arms}
        point = list(ranking.reference.values())
        assert volumes["a"] == pytest.approx(hypervolume([[10, 1], [12, 2]], ("min", "max"), point))
        assert volumes["a"] == pytest.approx(2.2 * 0.2 + 0.2 * 1.0)
        assert volumes["b"] == pytest.approx(1.2 * 2.2)
        assert [(arm.rank, arm.arm) for arm in ranking.arms] == [(1, "b"), (2, "a")]

    def test_what_an_arm_itself_dominates_does_not_move_the_reference(self):
        usual = ranked(a=[seeds(10.0, 1.0)], b=[seeds(11.0, 3.0)])
        assert ranked(a=[seeds(10.0, 1.0), seeds(9e9, 0.0)], b=[seeds(11.0, 3.0)]).reference == usual.reference

    def test_arms_with_equal_volumes_share_a_rank(self):
        ranking = ranked(a=[seeds(10.0, 1.0)], b=[seeds(10.0, 1.0)], c=[seeds(11.0, 1.0)])
        assert [arm.rank for arm in ranking.arms] == [1, 1, 3]

    def test_all_equal(self):
        ranking = ranked(a=[[(1.0, 1.0)] * 3], b=[[(1.0, 1.0)] * 3])
        assert [(arm.rank, arm.hypervolume, arm.members) for arm in ranking.arms] == [(1, 1.0, 1)] * 2
        assert [arm.interval for arm in ranking.arms] == [(1.0, 1.0)] * 2

    def test_three_objectives(self):
        rows = [row | {"au": 1 + number % 2} for number, row in enumerate(rows_of(a=[[(1, 1)]], b=[[(2, 2)]]))]
        ranking = rank_arms("tiny", rows, BOTH | {"au": "max"})
        assert list(ranking.reference) == ["nll_iw", "mi", "au"]
        assert ranking.arms[0].arm == "b"


class TestSeeds:
    def test_a_front_with_one_seed_has_no_interval_and_no_probability(self):
        ranking = ranked(a=[[(10.0, 1.0)], seeds(12.0, 0.5)], b=[seeds(11.0, 3.0)])
        single, replicated = (next(arm for arm in ranking.arms if arm.arm == name) for name in "ab")
        assert (single.interval, single.single, single.configurations, single.runs) == (None, 1, 2, 4)
        assert replicated.interval is not None
        assert {c.row.config_id: c.probability for c in ranking.front} == {"a0": None, "b0": 1.0}
        assert all(interval is None for interval in ranking.front[0].intervals.values())

    def test_a_single_seed_behind_the_front_of_its_arm_leaves_the_interval(self):
        ranking = ranked(a=[seeds(10.0, 1.0), [(12.0, 0.5)]], b=[seeds(11.0, 3.0)])
        assert all(arm.interval is not None for arm in ranking.arms)

    def test_intervals_contain_the_volume_and_are_never_negative(self):
        ranking = ranked(a=[seeds(10.0, 1.0, 3.0)], b=[seeds(10.5, 1.01, 3.0)])
        for arm in ranking.arms:
            assert 0.0 <= arm.interval.low <= arm.hypervolume <= arm.interval.high

    def test_probabilities_are_those_of_the_bootstrap(self):
        rng = np.random.default_rng(0)
        values = {name: [rng.normal(size=(3, 2)).tolist() for _ in range(4)] for name in "abc"}
        ranking = ranked(**values)
        every = [np.array(configuration) for arm in values.values() for configuration in arm]
        expected = front_probability(every, ("min", "max"), seeds=[[0, 1, 2]] * 12, decimals=3)
        ids = [f"{arm}{number}" for arm in values for number in range(4)]
        for configuration in ranking.front:
            assert configuration.probability == expected[ids.index(configuration.row.config_id)]
        assert any(0 < c.probability < 1 for c in ranking.front)

    def test_draws_are_reproducible(self):
        arms = {name: [seeds(10.0 + place, 1.0 + place, 1.0)] for place, name in enumerate("ab")}
        assert ranked(**arms).to_json() == ranked(**arms).to_json()


class TestMissing:
    @pytest.mark.parametrize("missing", [None, math.nan, math.inf])
    def test_runs_without_an_objective_do_not_count(self, missing):
        arms = {"a": [[*seeds(10.0, 1.0), (5.0, missing)]], "b": [seeds(11.0, 3.0)]}
        ranking = ranked(**arms, none=[[(1.0, missing)]])
        assert {arm.arm: arm.runs for arm in ranking.arms} == {"a": 3, "b": 3}
        assert list(ranking.unranked) == ["none"]
        json.dumps(ranking.to_json(), allow_nan=False)

    def test_runs_that_did_not_finish_do_not_count(self):
        rows = rows_of(a=[seeds(10.0, 1.0)], b=[seeds(11.0, 3.0)])
        stopped = [rows[0] | {"arm": "c", "config_id": "c0", "status": "stopped_early"}]
        ranking = rank_arms("tiny", [*rows, *stopped], BOTH)
        assert {arm.arm for arm in ranking.arms} == {"a", "b"}
        assert list(ranking.unranked) == []

    @pytest.mark.parametrize("arms", [{}, {"a": [seeds(1.0, 1.0)]}, {"a": [seeds(1.0, 1.0)], "b": [[(1.0, None)]]}])
    def test_fewer_than_two_arms_are_rejected(self, arms):
        with rejects("SWEEP"):
            ranked(**arms)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_covers_the_true_hypervolume(n):
    """Over 100 simulated arms of 6 configurations. The standard error of a coverage of 95 % is 2 %."""
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(100):
        nll = np.sort(rng.uniform(0, 2, 6))
        true = np.stack([nll, nll + rng.uniform(-0.5, 0.5, 6)], axis=1)
        noise = 0.1 * (rng.normal(size=(1, n, 2)) + rng.normal(size=(6, n, 2)))
        ranking = ranked(a=(true[:, None] + noise).tolist(), b=[[(3.0, -1.0)] * n])
        (arm,) = (arm for arm in ranking.arms if arm.arm == "a")
        low, high = arm.interval
        covered += low <= hypervolume(true, ("min", "max"), list(ranking.reference.values())) <= high
    assert covered >= 88
