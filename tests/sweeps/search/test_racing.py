"""Racing over seeds: which configurations get further seeds."""

from __future__ import annotations

from collections import Counter

import pytest
from worlds import FINGERPRINT, play, spec_of

from sweeps.analysis.front import front_of
from sweeps.search.plan import Plan
from sweeps.search.racing import SeedRace
from sweeps.search.scheduler import RunScheduler

OBJECTIVES = {"nll_iw": "min", "au": "max"}
VALUES = [1, 2, 3, 4, 5, 6]
ARMS = {"lr": [{"kind": "encoder_lr", "multiplier": {"choices": VALUES}}], "vae": []}


def spec(**seeds):
    search = {"sampler": "grid", "seeds": {"start": 1, "up_to": 5} | seeds, "seed": 0}
    return spec_of(arms=ARMS, search=search)


def answer(run):
    """Return objectives by which multiplier 2 dominates 3 to 6, and trades with 1 and with the arm "vae"."""
    place = run.parameters.get("encoder_lr.multiplier", 0)
    nll = {0: 90.0, 1: 95.0, 2: 100.0}.get(place, 110.0 + place)
    return {"nll_iw": nll + (0.3, -0.2, 0.1, -0.3, 0.2)[run.seed], "au": min(place, 2), "seconds": 10.0}


def seeds_by_place(rows):
    counts = Counter(row["config_id"] for row in rows)
    places = {row["config_id"]: row["parameters"] for row in rows}
    return {places[config_id]: count for config_id, count in counts.items()}


def row(config_id, seed, nll, au=1, status="finished"):
    return {"config_id": config_id, "seed": seed, "status": status, "nll_iw": nll, "au": au}


class TestRace:
    def good(self):
        return [row("good", seed, 100.0 + seed) for seed in range(4)]

    def test_a_configuration_is_out_once_it_is_dominated_beyond_the_error(self):
        assert SeedRace(OBJECTIVES, [*self.good(), row("bad", 0, 120.0)]).is_out("bad")
        assert not SeedRace(OBJECTIVES, [*self.good(), row("near", 0, 102.0)]).is_out("near")
        assert not SeedRace(OBJECTIVES, [*self.good(), row("other", 0, 120.0, au=2)]).is_out("other")
        assert not SeedRace(OBJECTIVES, [*self.good(), row("bad", 0, 120.0)]).is_out("good")

    def test_nothing_is_out_before_the_variance_is_known(self):
        assert not SeedRace(OBJECTIVES, [*self.good()[:3], row("bad", 0, 120.0)]).is_out("bad")

    @pytest.mark.parametrize("status", ["failed", "diverged", "stopped_early", "out_of_memory"])
    def test_a_configuration_without_a_finished_run_is_out(self, status):
        race = SeedRace(OBJECTIVES, [row("broken", 0, 1.0, status=status)])
        assert race.is_out("broken")
        race.add(row("broken", 0, 1.0))
        assert not race.is_out("broken"), "a retry replaces the row"

    @pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
    def test_a_configuration_that_cannot_be_compared_stays(self, value):
        race = SeedRace(OBJECTIVES, [*self.good(), row("baseline", 0, 500.0, au=value)])
        assert not race.is_out("baseline")


class TestScheduler:
    def test_members_of_the_front_get_all_seeds_and_dominated_configurations_do_not(self):
        rows, scheduler = play(spec(), answer=answer)
        counts = seeds_by_place(rows)
        front = {r.config_id for r in front_of(rows, OBJECTIVES) if r.member}
        assert {counts.pop(place) for place in ("{}", *(f'{{"encoder_lr.multiplier": {n}}}' for n in (1, 2)))} == {5}
        assert set(counts.values()) == {1}
        assert all(sum(row["config_id"] == config_id for row in rows) == 5 for config_id in front)
        assert scheduler.exhausted

    def test_every_configuration_gets_the_seeds_of_the_start(self):
        rows, _ = play(spec(start=3), answer=answer)
        assert set(seeds_by_place(rows).values()) == {3, 5}

    def test_equal_start_and_end_are_a_number_of_seeds(self):
        racing, _ = play(spec(start=2, up_to=2), answer=answer)
        fixed, _ = play(spec_of(arms=ARMS, search={"sampler": "grid", "seeds": 2, "seed": 0}), answer=answer)
        assert [r["run_id"] for r in racing] == [r["run_id"] for r in fixed]

    def test_an_arm_with_seeds_of_its_own_does_not_race(self):
        fixed = {"strategies": ARMS["lr"], "seeds": 3}
        search = {"sampler": "grid", "seeds": {"start": 1, "up_to": 5}, "seed": 0}
        rows, scheduler = play(spec_of(arms={"lr": fixed, "vae": []}, search=search), answer=answer)
        assert set(seeds_by_place(rows).values()) == {3, 5}
        assert scheduler.exhausted

    @pytest.mark.parametrize("concurrent", [1, 3])
    @pytest.mark.parametrize("ends", range(1, 20, 3))
    def test_after_an_interruption_nothing_is_missing_and_nothing_is_repeated(self, ends, concurrent):
        rows, _ = play(spec(), answer=answer, ends=ends, concurrent=concurrent)
        rows, scheduler = play(spec(), rows, answer=answer, concurrent=concurrent)
        plan = Plan(spec(), FINGERPRINT, rows)
        assert plan.missing == 0
        assert scheduler.exhausted
        assert {row["status"] for row in rows} == {"finished"}
        assert not RunScheduler(plan).fill_queue()
        assert all(not plan.race.is_out(row["config_id"]) for row in rows if answer_is_on_the_front(row))

    def test_a_configuration_that_comes_back_into_the_race_gets_its_seeds(self):
        """The best configuration loses its lead with its later seeds, after another one was out of the race."""

        def moving(run):
            place = run.parameters.get("encoder_lr.multiplier", 0)
            if run.arm == "vae":
                return {"nll_iw": 200.0 + run.seed, "au": 0}
            if place == 1:
                return {"nll_iw": 100.0 if run.seed < 4 else 160.0, "au": 1}
            return {"nll_iw": 105.0 + place + run.seed, "au": 1}

        rows, _ = play(spec(), answer=moving, concurrent=6)
        plan = Plan(spec(), FINGERPRINT, rows)
        assert plan.missing == 0
        short = [c for c in plan.configurations.values() if len(plan.ended_rows(c)) < 5]
        assert all(plan.race.is_out(configuration.config_id) for configuration in short)

    def test_the_study_receives_the_mean_over_the_seeds_that_a_configuration_got(self):
        _, scheduler = play(spec(), answer=answer)
        trials = scheduler._studies["lr"].study.trials
        assert [len(trial.values) for trial in trials] == [2] * len(VALUES)
        assert trials[1].values == [pytest.approx(100.02), 2]
        assert trials[5].values == [pytest.approx(116.3), 2]


def answer_is_on_the_front(row):
    return row["nll_iw"] < 105


class TestPlan:
    def test_counts_are_those_that_are_still_possible(self):
        rows, _ = play(spec(), answer=answer)
        before, after = Plan(spec(), FINGERPRINT, []).arms(), Plan(spec(), FINGERPRINT, rows).arms()
        assert [(arm.runs, arm.missing) for arm in before] == [(30, 30), (5, 5)]
        assert [(arm.runs, arm.ended, arm.missing) for arm in after] == [(14, 14, 0), (5, 5, 0)]

    def test_more_seeds_extend_a_finished_sweep_where_they_are_due(self):
        rows, _ = play(spec(up_to=3), answer=answer)
        plan = Plan(spec(up_to=5), FINGERPRINT, rows)
        more, _ = play(spec(up_to=5), rows, answer=answer)
        assert plan.missing > 0
        assert len(more) - len(rows) == 2 * 3
