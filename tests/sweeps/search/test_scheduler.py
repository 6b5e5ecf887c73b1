"""Which run starts next, and what the Optuna studies receive."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import ClassVar

import pytest
from optuna.trial import TrialState
from worlds import FINGERPRINT, plausible, play, row_of, run_ids, spec_of

from sweeps.search.budget import cost_of
from sweeps.search.plan import Plan
from sweeps.search.scheduler import RunScheduler

ARMS = {
    "vae": [],
    "beta": ["beta_vae"],
    "lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2, 4, 8]}}],
    "both": [{"kind": "aggressive", "budget": {"choices": [10, "converge"]}}, "kl_linear_epoch"],
}
SAMPLERS = ["tpe", "random", "nsga2", "gp"]

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of GPSampler


def search(sampler="random", **changes):
    values = {"sampler": sampler, "configurations": 3, "seeds": 2, "seed": 0} | changes
    return {key: value for key, value in values.items() if value is not None}


def spec(sampler="random", arms=ARMS, **changes):
    return spec_of(arms=arms, search=search(sampler, **changes))


def study(scheduler, arm):
    return scheduler._studies[arm].study


class TestOrder:
    def test_arms_take_turns_and_the_seeds_of_a_configuration_are_adjacent(self):
        rows, _ = play(spec())
        order = [(row["arm"], row["configuration"], row["seed"]) for row in rows]
        assert order[:8] == [(arm, 0, seed) for arm in ARMS for seed in (0, 1)]
        assert order[8:] == [(arm, i, seed) for i in (1, 2) for arm in ARMS if arm != "vae" for seed in (0, 1)]

    def test_the_seeds_of_a_configuration_share_its_parameters(self):
        rows, _ = play(spec())
        by_config = {(row["config_id"], row["parameters"]) for row in rows}
        assert len(by_config) == len({row["config_id"] for row in rows}) == 10

    def test_exhausted_only_after_all_runs(self):
        """A driver that is interrupted before it requests the first run must not report the sweep as complete."""
        assert not RunScheduler(Plan(spec(), FINGERPRINT, [])).exhausted
        _, scheduler = play(spec())
        assert scheduler.exhausted

    def test_exhausted_does_not_sample(self):
        scheduler = RunScheduler(Plan(spec(), FINGERPRINT, []))
        assert not scheduler.exhausted
        assert all(study(scheduler, arm).trials == [] for arm in ARMS)
        assert scheduler.fill_queue()
        assert [len(study(scheduler, arm).trials) for arm in ARMS] == [1, 0, 0, 0]

    def test_the_plan_is_not_changed(self):
        plan = Plan(spec(), FINGERPRINT, [])
        scheduler = RunScheduler(plan)
        while (run := scheduler.next_run()) is not None:
            scheduler.on_run_ended(run, row_of(run, **plausible(run)))
        assert plan.configurations == plan.rows == {}
        assert plan.missing == 20

    def test_a_complete_sweep_has_no_run_to_queue(self):
        rows, _ = play(spec())
        scheduler = RunScheduler(Plan(spec(), FINGERPRINT, rows))
        assert not scheduler.fill_queue()
        assert scheduler.exhausted

    def test_not_exhausted_while_a_run_is_running(self):
        scheduler = RunScheduler(Plan(spec(arms={"vae": []}, seeds=1), FINGERPRINT, []))
        run = scheduler.next_run()
        assert scheduler.next_run() is None
        assert not scheduler.exhausted
        scheduler.on_run_ended(run, row_of(run))
        assert scheduler.next_run() is None
        assert scheduler.exhausted

    def test_the_search_seed_determines_the_search(self):
        first, again, other = (play(spec(seed=seed))[0] for seed in (0, 0, 1))
        assert run_ids(first) == run_ids(again) != run_ids(other)

    def test_an_arm_does_not_depend_on_the_other_arms(self):
        alone, _ = play(spec(arms={"beta": ARMS["beta"]}))
        among, _ = play(spec())
        assert run_ids(alone) == run_ids(row for row in among if row["arm"] == "beta")

    @pytest.mark.parametrize("sampler", ["random", "tpe"])
    def test_the_random_start_of_a_search_does_not_depend_on_concurrency(self, sampler):
        assert run_ids(play(spec(sampler), concurrent=5)[0]) == run_ids(play(spec(sampler))[0])


class TestFiniteSpaces:
    LR: ClassVar = {"lr": ARMS["lr"]}

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("seed", [0, 1])
    def test_every_point_runs_once(self, sampler, seed):
        rows, scheduler = play(spec(sampler, self.LR, configurations=20, seeds=1, seed=seed))
        assert sorted(json.loads(row["parameters"])["encoder_lr.multiplier"] for row in rows) == [1, 2, 4, 8]
        assert scheduler.exhausted

    def test_no_configuration_runs_twice(self):
        rows, _ = play(spec(configurations=7, seeds=1))
        assert max(Counter(row["config_id"] for row in rows).values()) == 1

    @pytest.mark.parametrize("seed", range(5))
    def test_searched_arms_leave_the_point_of_a_fixed_arm_to_it(self, seed):
        arms = self.LR | {"fixed": [{"kind": "encoder_lr", "multiplier": 4}]}
        rows, _ = play(spec(arms=arms, configurations=4, seeds=1, seed=seed))
        multipliers = {(row["arm"], json.loads(row["parameters"]).get("encoder_lr.multiplier")) for row in rows}
        assert multipliers == {("lr", 1), ("lr", 2), ("lr", 8), ("fixed", None)}


class TestGrid:
    ARMS: ClassVar = {
        "vae": [],
        "grid": [
            {"kind": "encoder_lr", "multiplier": {"choices": [1, 2]}},
            {"kind": "aggressive", "budget": {"choices": [10, "converge"]}, "max_inner": {"low": 2, "high": 4}},
        ],
    }

    def test_every_combination_runs_once_in_order(self):
        rows, _ = play(spec("grid", self.ARMS, configurations=None, seeds=1))
        points = [tuple(json.loads(row["parameters"]).values()) for row in rows if row["arm"] == "grid"]
        assert points == [(m, b, i) for m in (1, 2) for b in (10, "converge") for i in (2, 3, 4)]


class TestInterruption:
    """The stored rows are enough to resume the same search, whenever it was interrupted."""

    CASES: ClassVar = {
        "random": spec("random", configurations=4),
        "grid": spec("grid", TestGrid.ARMS, configurations=None),
        "tpe": spec("tpe", configurations=4),
    }

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("concurrent", [1, 3])
    def test_after_any_number_of_runs(self, case, concurrent):
        whole = run_ids(play(self.CASES[case], concurrent=concurrent)[0])
        for ends in range(len(whole)):
            part, _ = play(self.CASES[case], ends=ends, concurrent=concurrent)
            resumed, scheduler = play(self.CASES[case], part, concurrent=concurrent)
            assert run_ids(resumed) == whole, f"interrupted after {ends} runs"
            assert scheduler.exhausted

    def test_after_every_run(self):
        rows: list[dict] = []
        for _ in range(len(run_ids(play(self.CASES["tpe"])[0]))):
            rows, _ = play(self.CASES["tpe"], rows, ends=1, concurrent=2)
        assert run_ids(rows) == run_ids(play(self.CASES["tpe"])[0])
        assert {row["status"] for row in rows} == {"finished"}

    def test_interrupted_runs_are_resumed_as_the_next_attempt(self):
        part, _ = play(self.CASES["random"], ends=3, concurrent=3)
        cut = {row["run_id"] for row in part if row["status"] == "running"}
        assert len(cut) == 3
        resumed, _ = play(self.CASES["random"], part)
        assert {row["run_id"]: row["attempt"] for row in resumed if row["attempt"] != 1} == dict.fromkeys(cut, 2)


class TestResultsOfStudies:
    def trial_of(self, answer, **changes):
        _, scheduler = play(spec(arms={"beta": ARMS["beta"]}, configurations=1, **changes), answer=answer)
        (trial,) = study(scheduler, "beta").trials
        return trial

    def test_values_are_means_over_the_seeds(self):
        trial = self.trial_of(lambda run: {"nll_iw": 10.0 + run.seed, "au": 2 * run.seed})
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [10.5, 1.0]

    def test_values_are_means_over_finished_seeds_only(self):
        ends = {0: {"nll_iw": 7.0, "au": 1}, 1: {"status": "diverged"}, 2: {"status": "failed", "nll_iw": 1.0, "au": 9}}
        trial = self.trial_of(lambda run: ends[run.seed], seeds=3)
        assert trial.values == [7.0, 1.0]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
    def test_seeds_without_finite_objectives_are_ignored(self, bad):
        trial = self.trial_of(lambda run: {"nll_iw": bad, "au": 2})
        assert (trial.state, trial.values) == (TrialState.FAIL, None)
        trial = self.trial_of(lambda run: {"nll_iw": bad if run.seed == 0 else 3.0, "au": 2})
        assert (trial.state, trial.values) == (TrialState.COMPLETE, [3.0, 2.0])

    @pytest.mark.parametrize(
        ("statuses", "state"),
        [
            (["stopped_early", "stopped_early"], TrialState.PRUNED),
            (["stopped_early", "diverged"], TrialState.PRUNED),
            (["diverged", "diverged"], TrialState.FAIL),
            (["failed", "failed"], TrialState.FAIL),
            (["stopped_early", "finished"], TrialState.COMPLETE),
        ],
    )
    def test_states_by_status(self, statuses, state):
        trial = self.trial_of(lambda run: plausible(run) | {"status": statuses[run.seed]})
        assert trial.state == state

    def test_a_trial_has_no_result_before_its_last_seed(self):
        _, scheduler = play(spec(arms={"beta": ARMS["beta"]}, configurations=1), ends=1)
        assert [t.state for t in study(scheduler, "beta").trials] == [TrialState.RUNNING]

    def test_a_rebuilt_study_equals_the_original(self):
        rows, original = play(spec())
        rebuilt = RunScheduler(Plan(spec(), FINGERPRINT, rows))
        for arm in ARMS:
            results = [[(t.state, t.values, t.params) for t in study(s, arm).trials] for s in (original, rebuilt)]
            complete = [[entry for entry in trials if entry[0] == TrialState.COMPLETE] for trials in results]
            assert complete[0] == complete[1]
            assert all(entry[0] in (TrialState.COMPLETE, TrialState.FAIL) for trials in results for entry in trials)

    def test_directions_come_from_the_objectives(self):
        _, scheduler = play(spec_of(objectives={"mi": "max", "kl_agg": "min"}), ends=0)
        assert [d.name for d in study(scheduler, "beta").directions] == ["MAXIMIZE", "MINIMIZE"]


class TestOutOfMemory:
    def test_a_second_attempt_follows_at_the_end_and_alone(self):
        seen = []

        def answer(run):
            seen.append((run.run_id, run.alone, run.attempt))
            return {"status": "out_of_memory"} if run.arm == "vae" and not run.alone else plausible(run)

        rows, scheduler = play(spec(), answer=answer, concurrent=3)
        again = [(run_id, attempt) for run_id, alone, attempt in seen if alone]
        assert again == [(run_id, 2) for run_id, _, _ in seen[-2:]]
        assert Counter(run_id for run_id, _, _ in seen).most_common(3)[1][1] == 2
        assert {row["status"] for row in rows} == {"finished"}
        assert scheduler.exhausted

    def test_there_is_no_third_attempt(self):
        rows, scheduler = play(spec(arms={"vae": []}), answer=lambda run: {"status": "out_of_memory"})
        assert [(row["status"], row["attempt"]) for row in rows] == [("out_of_memory", 2)] * 2
        assert scheduler.exhausted
        (trial,) = study(scheduler, "vae").trials
        assert trial.state == TrialState.FAIL

    def test_second_attempts_run_one_at_a_time(self):
        scheduler = RunScheduler(Plan(spec(arms={"vae": []}, seeds=2), FINGERPRINT, []))
        first, second = scheduler.next_run(), scheduler.next_run()
        scheduler.on_run_ended(first, row_of(first, status="out_of_memory"))
        assert scheduler.next_run() is None, "the other run has not ended"
        scheduler.on_run_ended(second, row_of(second, status="out_of_memory"))
        assert scheduler.next_run().alone
        assert scheduler.next_run() is None, "the first second attempt has not ended"
        assert not scheduler.exhausted

    def test_a_new_driver_makes_the_second_attempt(self):
        first = row_of(
            RunScheduler(Plan(spec(arms={"vae": []}, seeds=1), FINGERPRINT, [])).next_run(), status="out_of_memory"
        )
        rows, _ = play(spec(arms={"vae": []}, seeds=1), rows=[first])
        assert [(row["status"], row["attempt"]) for row in rows] == [("finished", 2)]


class TestRetry:
    @staticmethod
    def bad(run):
        status = {"vae": "failed", "beta": "out_of_memory", "lr": "diverged"}.get(run.arm)
        return {"status": status, "traceback": run.run_id} if status else plausible(run)

    def test_only_runs_that_failed_or_were_out_of_memory_run_again(self):
        before, _ = play(spec(), answer=self.bad)
        after, scheduler = play(spec(), rows=before, retry=True)
        again = {row["run_id"] for row in before if row["status"] in ("failed", "out_of_memory")}
        assert again
        assert {row["run_id"] for row in after if row["attempt"] > 1} == again
        assert {row["status"] for row in after} == {"finished", "diverged"}
        assert [row for row in after if row["run_id"] not in again] == [r for r in before if r["run_id"] not in again]
        assert scheduler.exhausted

    def test_without_retry_they_stay(self):
        before, _ = play(spec(), answer=self.bad)
        after, _ = play(spec(), rows=before)
        assert after == before


class TestIdenticalFailures:
    @staticmethod
    def failure(line):
        return {"status": "failed", "error_class": "OSError", "traceback": f"Traceback\n  a line\n{line}\n"}

    def test_identical_first_failures_abort_the_sweep(self):
        rows, scheduler = play(spec(), answer=lambda run: self.failure("OSError: no such file"))
        assert len(rows) >= 3
        assert len({row["arm"] for row in rows}) == 2, "the failures of a single arm do not abort"
        assert scheduler.exhausted
        assert "OSError: no such file" in scheduler.stop_reason

    def test_different_failures_do_not_abort(self):
        rows, scheduler = play(spec(), answer=lambda run: self.failure(f"OSError: {run.run_id}"))
        assert len(rows) == 20
        assert scheduler.stop_reason == ""

    def test_one_success_disables_the_abort(self):
        ends = iter(["no", "no", None])

        def answer(run):
            line = next(ends, "no")
            return plausible(run) if line is None else self.failure(line)

        rows, scheduler = play(spec(), answer=answer)
        assert len(rows) == 20
        assert scheduler.stop_reason == ""

    def test_the_failures_of_one_arm_do_not_stop_the_others(self):
        broken = next(iter(spec().arms)).name

        def answer(run):
            return self.failure("ValueError: batches are too small") if run.arm == broken else plausible(run)

        rows, scheduler = play(spec(), answer=answer)
        assert len(rows) == 20
        assert scheduler.stop_reason == ""
        assert {row["status"] for row in rows if row["arm"] != broken} == {"finished"}

    def test_a_single_arm_aborts_after_three_failures(self):
        rows, scheduler = play(spec(arms={"vae": []}, seeds=6), answer=lambda run: self.failure("OSError: x"))
        assert len(rows) == 3
        assert scheduler.stop_reason

    def test_divergence_does_not_abort(self):
        rows, _ = play(spec(), answer=lambda run: {"status": "diverged"})
        assert len(rows) == 20


class TestSamplers:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_twelve_configurations_with_two_objectives(self, sampler):
        arms = {"beta": ["beta_vae"], "both": ARMS["both"]}
        rows, scheduler = play(spec(sampler, arms, configurations=12, seeds=1))
        assert len(rows) == len({row["run_id"] for row in rows}) == 24
        assert {t.state for arm in arms for t in study(scheduler, arm).trials} <= {TrialState.COMPLETE, TrialState.FAIL}
        for row in rows:
            if row["arm"] == "beta":
                assert 0.1 <= json.loads(row["parameters"])["beta_vae.beta"] <= 1.0

    def test_grid_with_two_objectives(self):
        choices = [round(0.05 * n, 2) for n in range(1, 13)]
        arms = {"beta": [{"kind": "beta_vae", "beta": {"choices": choices}}]}
        rows, scheduler = play(spec("grid", arms, configurations=None, seeds=1))
        assert [json.loads(row["parameters"])["beta_vae.beta"] for row in rows] == choices
        assert {t.state for t in study(scheduler, "beta").trials} == {TrialState.COMPLETE}

    def test_tpe_concentrates_on_good_values(self):
        """After its random start it samples where the objectives were good, at the top of the range."""
        arms = {"beta": ["beta_vae"]}

        def answer(run):
            beta = run.parameters["beta_vae.beta"]
            return {"nll_iw": 100.0 * (1.0 - beta), "au": 1}

        def mean_of_last(sampler):
            rows, _ = play(spec(sampler, arms, configurations=30, seeds=1), answer=answer)
            return sum(json.loads(row["parameters"])["beta_vae.beta"] for row in rows[-10:]) / 10

        assert mean_of_last("tpe") > mean_of_last("random") + 0.1


class TestBudget:
    """Each run of `costs` takes an hour on half a GPU, with 300 gradient evaluations."""

    COST: ClassVar = {"seconds": 3600.0, "encoder_steps": 200, "decoder_steps": 100, "gpus": 0.5}

    def spec(self, **budget):
        return spec_of(arms=ARMS, search=search(budget=budget), resources={"gpus": 0.5})

    def costs(self, run):
        return plausible(run) | self.COST

    @pytest.mark.parametrize(
        ("budget", "runs"),
        [
            ({"hours": 5}, 5),
            ({"gpu_hours": 2.4}, 5),
            ({"gradient_evaluations": 1200}, 4),
            ({"hours": 7, "gpu_hours": 2.4, "gradient_evaluations": 1e6}, 5),
        ],
    )
    def test_the_first_limit_ends_the_sweep(self, budget, runs):
        rows, scheduler = play(self.spec(**budget), answer=self.costs)
        assert len(rows) == runs
        assert scheduler.exhausted
        assert scheduler.budget_reason
        assert scheduler.stop_reason == ""

    def test_running_runs_finish(self):
        rows, scheduler = play(self.spec(hours=5), answer=self.costs, concurrent=4)
        assert [row["status"] for row in rows] == ["finished"] * 8
        assert scheduler.exhausted

    def test_a_resumed_sweep_has_what_is_left(self):
        rows, _ = play(self.spec(hours=5), answer=self.costs, ends=3)
        rows, _ = play(self.spec(hours=5), [row for row in rows if row["status"] == "finished"], self.costs)
        assert len(rows) == 5
        again, scheduler = play(self.spec(hours=5), rows, self.costs)
        assert again == rows
        assert scheduler.budget_reason
        more, _ = play(self.spec(hours=6), rows, self.costs)
        assert len(more) == 6

    def test_runs_that_have_started_are_resumed_although_it_is_used_up(self):
        rows, _ = play(self.spec(hours=50), answer=self.costs, ends=4, concurrent=3)
        unfinished = [row["run_id"] for row in rows if row["status"] == "running"]
        assert unfinished
        rows, scheduler = play(self.spec(hours=4), rows, self.costs)
        assert {row["run_id"]: row["status"] for row in rows if row["run_id"] in unfinished} == dict.fromkeys(
            unfinished, "finished"
        )
        assert len(rows) == 4 + len(unfinished)
        assert scheduler.budget_reason

    def test_the_cost_of_running_runs_counts(self):
        scheduler = RunScheduler(Plan(self.spec(hours=5), FINGERPRINT, []))
        first = scheduler.next_run()
        scheduler.on_run_progress(row_of(first, status="running", **self.COST | {"seconds": 4 * 3600.0}))
        second = scheduler.next_run()
        scheduler.on_run_progress(row_of(second, status="running", **self.COST))
        assert scheduler.next_run() is None
        assert not scheduler.exhausted
        scheduler.on_run_ended(first, row_of(first, **self.costs(first)))
        scheduler.on_run_lost(second)
        assert scheduler.next_run() == second, "a run that has started is started again"

    def test_nothing_is_said_if_no_run_is_left(self):
        rows, scheduler = play(self.spec(hours=20), answer=self.costs)
        assert len(rows) == 20
        assert scheduler.budget_reason == ""
        again = RunScheduler(Plan(self.spec(hours=1), FINGERPRINT, rows))
        assert not again.fill_queue()
        assert (again.exhausted, again.budget_reason) == (True, "")

    def test_a_run_of_an_earlier_version_on_a_gpu_counts_as_a_whole_gpu(self):
        run = RunScheduler(Plan(self.spec(hours=1), FINGERPRINT, [])).next_run()
        row = row_of(run, **self.COST | {"gpus": None})
        costs = [cost_of(row | {"device": device}).gpu_hours for device in ("NVIDIA H200", "cpu", None)]
        assert costs == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_goes_on_after_configurations_whose_runs_were_stopped_early(sampler):
    def answer(run):
        statuses = (["finished", "finished"], ["stopped_early", "stopped_early"], ["finished", "stopped_early"])
        status = statuses[run.configuration % 3][run.seed]
        return plausible(run) if status == "finished" else {"status": status}

    changes = {"arms": {"beta": ARMS["beta"]}, "configurations": 9}  # more than the samplers draw at random
    rows, scheduler = play(spec(sampler, **changes), answer=answer)
    states = [trial.state for trial in study(scheduler, "beta").get_trials(deepcopy=False)]
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [s for s in states if s != TrialState.FAIL] == [complete, pruned, complete] * 3
    assert len(rows) == 18


@pytest.mark.parametrize("ends", [8, 10, 12])
def test_nsga2_resumes_although_only_one_of_its_first_configurations_finished(ends):
    def answer(run):
        return {"status": "stopped_early"} if run.configuration < 3 else plausible(run)

    nsga2 = spec("nsga2", {"beta": ARMS["beta"]}, configurations=9)
    undisturbed, _ = play(nsga2, answer=answer)
    rows, _ = play(nsga2, answer=answer, ends=ends)
    rows, scheduler = play(nsga2, rows, answer=answer)
    assert scheduler.exhausted
    assert run_ids(rows) == run_ids(undisturbed)
