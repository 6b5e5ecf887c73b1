"""Racing over seeds: which configurations get further seeds."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from worlds import FINGERPRINT, TINY_TRIAL, play, row_of, spec_of

from sweeps.analysis.front import front_of
from sweeps.search.plan import Plan
from sweeps.search.racing import SeedRace
from sweeps.search.scheduler import RunScheduler
from sweeps.search.stopping import restored_stopper

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

    def test_no_further_seed_starts_once_the_budget_is_used_up(self):
        """The other running runs end later, and their configurations stay in the race."""
        search = {"sampler": "grid", "seeds": {"start": 1, "up_to": 5}, "budget": {"hours": 4}}
        rows, scheduler = play(
            spec_of(arms=ARMS, search=search), answer=lambda run: answer(run) | {"seconds": 3600.0}, concurrent=3
        )
        assert len(rows) == 4 + 2
        assert (scheduler.exhausted, bool(scheduler.budget_reason)) == (True, True)


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


class KilledError(Exception):
    """The driver is killed."""


class Disk:
    """What survives a driver: rows, curves and checkpoints. It kills the driver after `lives` events, one by one.

    Args:
        lives: Number of events in the life of each driver; the last driver lives on.
        lag: Number of epochs after which the curve of a running run is written.
        checkpoints: Whether a run has a checkpoint of every epoch and of its record; otherwise, it starts again from
            scratch.
    """

    def __init__(self, lives=(), lag=1, checkpoints=False):
        self.rows, self.curves, self.order, self.events = {}, {}, [], 0
        self.lag, self.checkpoints, self._trained = lag, checkpoints, Counter()
        self._lives, self._life = iter(lives), 0

    def event(self):
        self.events += 1
        self._life -= 1
        if self._life == 0:
            raise KilledError

    def drive(self, spec, curve_of):
        """Run the sweep with one run at a time to its end, with as many drivers as are needed."""
        while True:
            self._life = next(self._lives, 0)
            try:
                self._drive(spec, curve_of)
            except KilledError:
                continue
            return self

    def _drive(self, spec, curve_of):
        rows = sorted(self.rows.values(), key=lambda row: (row["arm"], row["configuration"], row["seed"]))
        plan = Plan(spec, FINGERPRINT, rows)
        scheduler = RunScheduler(plan)
        stored = [{"run_id": name, **epoch} for name in sorted(self.curves) for epoch in self.curves[name]]
        stopper = restored_stopper(spec.stopping, plan, stored)
        while (run := scheduler.next_run()) is not None:
            self.order.append(run.run_id)
            self.rows[run.run_id] = row_of(run, status="running")
            self.event()
            values = self._train(run, stopper, curve_of(run))
            self.rows[run.run_id] = row_of(run, **values)
            self.event()
            stopper.on_run_ended(run, self.rows[run.run_id])
            scheduler.on_run_ended(run, self.rows[run.run_id])
            self.event()
        assert scheduler.exhausted

    def _train(self, run, stopper, whole):
        """Return the columns of the run at its end. The last stored epoch is reported again."""
        if self.checkpoints and self._trained[run.run_id] == len(whole):
            stopper.restore(run, whole)
            return self._end(run, whole)
        known = len(self.curves.get(run.run_id, ()))
        start = max(min(known - 1, self._trained[run.run_id]), 0) if self.checkpoints else 0
        for number, epoch in enumerate(whole[start:], start + 1):
            if not math.isfinite(epoch["valid_nll_elbo"]):
                self.curves[run.run_id] = whole[: number - 1]
                return {"status": "diverged", "epochs": number - 1}
            self._trained[run.run_id] = max(number, self._trained[run.run_id])
            verdict = stopper.observe(run, epoch)
            self.event()
            if verdict is not None or number % self.lag == 0:
                self.curves[run.run_id] = whole[:number]
                self.event()
            if verdict is not None:
                return {"status": "stopped_early", "epochs": number, "stop_reason": verdict.reason}
        return self._end(run, whole)

    def _end(self, run, whole):
        self.curves[run.run_id] = whole
        return {"status": "finished", "epochs": len(whole), "nll_elbo": whole[-1]["valid_nll_elbo"]}

    @property
    def table(self):
        columns = ("status", "epochs", "nll_elbo", "stop_reason")
        return {run_id: [row[name] for name in columns] for run_id, row in self.rows.items()}


class TestInterruptions:
    """Sweeps with racing and early stopping, one run at a time, whose driver is killed at every moment."""

    EPOCHS = 4

    def spec(self, start, up_to, sampler="grid"):
        arms = {"lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}]}
        search = {"sampler": sampler, "seeds": {"start": start, "up_to": up_to}, "seed": 0}
        search |= {} if sampler == "grid" else {"configurations": 6}
        trial = TINY_TRIAL | {"training": {"epochs": self.EPOCHS}}
        stopping = {"rule": "front", "grace": 1}
        return spec_of(arms=arms, search=search, trial=trial, objectives={"nll_elbo": "min"}, stopping=stopping)

    def curves(self, world, noise):
        """Return the function of the curve of a run. Configurations differ in mean and noise; one run diverges."""
        generator = np.random.default_rng(world)
        mean_M, noise_M = generator.normal(100, 6, 8), generator.exponential(noise, 8)
        deviation_MNE = generator.normal(0, 1, (8, 5, self.EPOCHS))

        def curve_of(run):
            place = run.parameters["encoder_lr.multiplier"] - 1
            nlls_E = mean_M[place] + noise_M[place] * deviation_MNE[place, run.seed]
            if place == 2 and run.seed == 0:
                nlls_E[2:] = float("nan")
            counts = ("step", "encoder_steps", "decoder_steps")
            constant = dict.fromkeys(("valid_kl", "valid_mi", "valid_mi_batch", "valid_au", "kl_weight"), 1.0)
            return [
                {"epoch": n, **dict.fromkeys(counts, 10 * n), "skipped_batches": 0, "valid_nll_elbo": float(nll)}
                | constant
                for n, nll in enumerate(nlls_E, 1)
            ]

        return curve_of

    # In the first two worlds, a configuration drops out of the race and comes back into it.
    @pytest.mark.parametrize(
        ("start", "up_to", "sampler", "world", "noise", "step"),
        [(2, 4, "grid", 29, 4, 1), (1, 3, "grid", 152, 8, 1), (1, 3, "tpe", 3, 8, 9)],
    )
    def test_whatever_the_moment_of_the_kill_the_decisions_are_those_of_an_undisturbed_sweep(
        self, start, up_to, sampler, world, noise, step
    ):
        spec, curve_of = self.spec(start, up_to, sampler), self.curves(world, noise)
        undisturbed = Disk().drive(spec, curve_of)
        assert {"finished", "stopped_early"} <= {row["status"] for row in undisturbed.rows.values()}
        once = [Disk([event]) for event in range(1, undisturbed.events, step)]
        often = [Disk([events] * 99, lag=3, checkpoints=True) for events in range(4, 10)]
        for disturbed in (*once, *often):
            disturbed.drive(spec, curve_of)
            assert disturbed.table == undisturbed.table
            assert disturbed.curves == undisturbed.curves
