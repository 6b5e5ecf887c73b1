"""Which runs are stopped, on curves that are written down."""

from __future__ import annotations

import functools
import itertools
import json

import pytest
from helpers import tiny
from worlds import FINGERPRINT, TINY_TRIAL, play, spec_of

from sweeps.search.plan import Plan, Run
from sweeps.search.stopping import RunStopper, is_rung, restored_stopper, rungs
from sweeps.spec.sections import StoppingSpec

OBJECTIVES = {"nll_iw": "min", "au": "max"}
EPOCHS = 100


@functools.cache
def config_of(strategy, epochs):
    return tiny(*([json.loads(strategy)] if strategy else []), training={"epochs": epochs})


def run_of(name, seed=0, strategy=None, arm="arm", epochs=EPOCHS):
    config = config_of(json.dumps(strategy) if strategy else None, epochs)
    return Run(arm=arm, configuration=0, parameters={}, config=config, config_id=name, seed=seed)


def record(epoch, nll, au=1, **values):
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "skipped_batches": 0,
        "encoder_steps": 10 * epoch,
        "decoder_steps": 10 * epoch,
        "valid_nll_elbo": nll,
        "valid_kl": 1.0,
        "valid_mi": 1.0,
        "valid_mi_batch": 1.0,
        "valid_au": au,
        "kl_weight": 1.0,
        **values,
    }


def stopper(objectives=OBJECTIVES, **stopping):
    return RunStopper(StoppingSpec(**{"grace": 1} | stopping), objectives)


def train(stopper, run, to, nll, au=1, **values):
    """Observe epochs 1 to `to`; return the verdict after the last one, which must be the only one."""
    verdicts = [stopper.observe(run, record(epoch, nll, au, **values)) for epoch in range(1, to + 1)]
    assert not any(verdicts[:-1])
    return verdicts[-1]


def with_front(**stopping):
    """Return a stopper that has seen three seeds of the configuration "good" to epoch 2: 100, 102 and 104 nats."""
    observed = stopper(**stopping)
    for seed in range(3):
        assert train(observed, run_of("good", seed), 2, 100 + 2 * seed, au=4) is None
    return observed


class TestRungs:
    def test_they_are_the_rounded_powers(self):
        assert list(itertools.islice(rungs(), 11)) == [1, 2, 3, 4, 6, 8, 12, 18, 26, 39, 58]
        assert [epoch for epoch in range(1, 40) if is_rung(epoch)] == [1, 2, 3, 4, 6, 8, 12, 18, 26, 39]


class TestFront:
    def test_a_configuration_that_is_worse_beyond_the_error_is_stopped_once_the_error_is_known(self):
        observed = with_front()
        assert train(observed, run_of("bad", 0), 2, 110, au=4) is None, "2 degrees of freedom"
        verdict = train(observed, run_of("bad", 1), 2, 112, au=4)
        assert (verdict.rung, verdict.rule, verdict.dominated_by) == (2, "front", "good")
        assert "epoch 2" in verdict.reason
        assert "front" in verdict.reason
        assert verdict.reason.endswith(".")

    @pytest.mark.parametrize(("nll", "au"), [((103, 105), 4), ((310, 312), 5), ((90, 92), 4), ((102, 102), 4)])
    def test_near_traded_better_and_equal_configurations_continue(self, nll, au):
        observed = with_front()
        assert [train(observed, run_of("other", seed), 2, nll[seed], au) for seed in (0, 1)] == [None, None]

    def test_no_run_of_the_front_is_ever_stopped_whatever_the_order(self):
        values = {"a": (100, 1), "b": (110, 2), "c": (120, 3), "d": (125, 2), "e": (130, 1)}
        for order in itertools.permutations(values):
            observed = stopper()
            stopped = {
                name
                for seed in range(3)
                for name in order
                if train(observed, run_of(name, seed), 2, values[name][0] + 0.1 * seed, values[name][1])
            }
            assert stopped == {"d", "e"}

    def test_values_that_are_not_finite_or_not_measured_never_stop_others(self):
        for bad in (float("-inf"), float("nan"), None):
            observed = stopper()
            for seed in range(5):
                assert train(observed, run_of("broken", seed), 2, bad, au=9) is None
            assert [train(observed, run_of("sound", seed), 2, 100 + seed) for seed in range(5)] == [None] * 5

    @pytest.mark.parametrize("status", ["finished", "stopped_early", "diverged", "failed", "out_of_memory"])
    def test_a_run_that_failed_no_longer_stops_others(self, status):
        observed = with_front()
        assert train(observed, run_of("bad", 0), 2, 110, au=4) is None
        for seed in range(3):
            observed.on_run_ended(run_of("good", seed), {"status": status})
        assert bool(train(observed, run_of("bad", 1), 2, 112, au=4)) == (status in ("finished", "stopped_early"))

    def test_arms_are_compared_only_with_scope_all(self):
        def verdict(scope):
            observed = with_front(scope=scope)
            return [train(observed, run_of("bad", seed, arm="other"), 2, 120 + seed, au=4) for seed in (0, 1)][1]

        assert verdict("arm") is None
        assert verdict("all").dominated_by == "good"

    def test_across_arms_the_rung_has_no_more_gradient_evaluations(self):
        observed = stopper(scope="all")
        for seed in range(3):  # 20 evaluations after epoch 1, 120 after epoch 2
            for epoch, nll, steps in ((1, 150 + seed, 10), (2, 200 + seed, 10), (3, 100 + seed, 60)):
                observed.observe(run_of("good", seed), record(epoch, nll, encoder_steps=steps, decoder_steps=steps))
        cheap = [train(observed, run_of("cheap", seed, arm="b"), 2, 120 + seed) for seed in (0, 1)]
        assert cheap == [None, None], "at 40 evaluations the good configuration still has 200 nats"
        dear = [train(observed, run_of("dear", s, arm="b"), 2, 120 + s, encoder_steps=110) for s in (0, 1)]
        assert dear[1].dominated_by == "good"

    def test_a_run_is_not_stopped_between_rungs_nor_after_its_last_epoch(self):
        observed = stopper()
        for seed in range(3):
            train(observed, run_of("good", seed, epochs=6), 6, 100 + seed)
        run = run_of("bad", 1, epochs=6)
        train(observed, run_of("bad", 0, epochs=6), 4, 99)
        verdicts = {n: observed.observe(run, record(n, 99 if n < 5 else 500)) for n in range(1, 7)}
        assert verdicts == dict.fromkeys(range(1, 7))

    def test_one_objective(self):
        observed = stopper({"nll_elbo": "min"})
        for seed in range(3):
            train(observed, run_of("good", seed), 2, 100 + seed)
        assert [bool(train(observed, run_of("bad", seed), 2, 110 + seed, au=9)) for seed in (0, 1)] == [False, True]


class TestSchedules:
    def test_a_run_is_judged_only_after_its_own_schedule_and_the_grace(self):
        """The warm-up covers epochs 1 to 3, so epoch 4 is the first with the final objective, and 6 the first rung."""
        observed = stopper()
        for seed in range(3):
            train(observed, run_of("good", seed), 8, 100 + seed)
        slow = {"kind": "kl_linear_epoch", "warm_up": 3}
        bad = [run_of("slow", seed, slow) for seed in (0, 1)]
        verdicts = [[observed.observe(run, record(n, 200 + run.seed)) for run in bad] for n in range(1, 7)]
        assert [epoch for epoch, pair in enumerate(verdicts, 1) if any(pair)] == [6]

    @pytest.mark.parametrize(("grace", "first"), [(0, 4), (1, 6), (3, 8)])
    def test_the_grace(self, grace, first):
        observed = stopper(grace=grace)
        slow = {"kind": "kl_linear_epoch", "warm_up": 3}
        for seed in range(3):
            train(observed, run_of("good", seed, slow), 8, 100 + seed)
        run, other = run_of("bad", 1, slow), run_of("bad", 0, slow)
        for epoch in range(1, 9):
            observed.observe(other, record(epoch, 200))
        verdicts = [observed.observe(run, record(epoch, 201)) for epoch in range(1, 9)]
        assert next(epoch for epoch, verdict in enumerate(verdicts, 1) if verdict) == first

    @pytest.mark.parametrize(("epochs", "epochs_of_grace"), [(2, 1), (7, 1), (8, 2), (100, 25)])
    def test_by_default_the_grace_is_a_quarter_of_the_epochs(self, epochs, epochs_of_grace):
        assert StoppingSpec().grace_of(epochs) == epochs_of_grace
        assert StoppingSpec(grace=0).grace_of(epochs) == 0

    def test_values_under_a_schedule_never_stop_others(self):
        observed = stopper()
        slow = {"kind": "kl_linear_epoch", "warm_up": 3}
        for seed in range(5):
            train(observed, run_of("annealed", seed, slow), 4, 10 + seed)
        assert [train(observed, run_of("plain", seed), 4, 100 + seed) for seed in range(5)] == [None] * 5

    def test_the_aggressive_phase_is_over_when_the_curve_shows_it(self):
        observed = stopper()
        for seed in range(3):
            train(observed, run_of("good", seed), 12, 100 + seed)
        bad = [run_of("bad", seed, "aggressive") for seed in (0, 1)]
        verdicts = {}
        for n in range(1, 13):  # the mutual information falls for the first time after epoch 5
            records = [record(n, 200 + run.seed, valid_mi_batch=float(n) if n < 5 else 1.0) for run in bad]
            verdicts[n] = [observed.observe(run, values) for run, values in zip(bad, records, strict=True)]
        assert [n for n, pair in verdicts.items() if any(pair)] == [8, 12]


class TestResume:
    def test_a_rung_is_judged_once(self):
        observed = stopper()
        run = run_of("bad", 1)
        assert train(observed, run_of("bad", 0), 2, 110) is None
        assert train(observed, run, 2, 112) is None, "nothing to compare with yet"
        for seed in range(3):
            train(observed, run_of("good", seed), 2, 100 + seed)
        assert observed.observe(run, record(2, 112)) is None, "a resumed run repeats the epoch"
        assert observed.observe(run, record(3, 112)) is None

    def test_the_last_restored_epoch_is_judged_when_it_is_reported_again(self):
        """The driver may have been killed between the curve that contains the epoch and the row of the stopped run."""

        def restored(epochs):
            observed = with_front()
            train(observed, run_of("bad", 0), 2, 110, au=4)
            observed.restore(run_of("bad", 1), [record(epoch, 112, au=4) for epoch in range(1, epochs + 1)])
            return observed

        again = [record(epoch, 112, au=4) for epoch in (1, 2, 2, 3)]
        observed = restored(2)
        assert [bool(observed.observe(run_of("bad", 1), values)) for values in again] == [False, True, False, False]
        observed = restored(3)
        assert not any(observed.observe(run_of("bad", 1), values) for values in again), "it was passed"

    def test_after_an_interruption_the_decisions_are_the_same(self):
        runs = [run_of(name, seed) for name in ("good", "bad") for seed in range(3)]

        def play(interrupted):
            observed, found, stored = stopper(), {}, {run.run_id: [] for run in runs}
            for epoch in range(1, 7):
                if epoch == interrupted:
                    observed = stopper()
                    for run in runs:
                        observed.restore(run, stored[run.run_id])
                for run in runs:
                    if run.run_id not in found:
                        values = record(epoch, (100 if run.config_id == "good" else 110) + run.seed)
                        stored[run.run_id].append(values)
                        if verdict := observed.observe(run, values):
                            found[run.run_id] = verdict
            return found

        undisturbed = play(None)
        assert set(undisturbed) == {"bad-1", "bad-2"}, "the first seed is judged before the error is known"
        assert all(play(epoch) == undisturbed for epoch in range(1, 7))

    def test_a_curve_with_a_gap_is_not_compared(self):
        observed = stopper()
        for seed in range(3):
            observed.restore(run_of("good", seed), [record(1, 10 + seed), record(3, 10 + seed), record(4, 10 + seed)])
        assert [train(observed, run_of("other", seed), 4, 100 + seed) for seed in range(3)] == [None] * 3

    def test_a_resumed_driver_restores_the_stored_curves_of_runs_that_did_not_fail(self):
        arms = {"beta": [{"kind": "beta_vae", "beta": {"choices": [0.1, 0.5, 1]}}]}
        spec = spec_of(arms=arms, trial=TINY_TRIAL | {"training": {"epochs": 12}})
        rows, _ = play(spec)
        trained = [row for row in rows if row["configuration"] < 2]
        curves = [record(n, 100 + row["seed"], run_id=row["run_id"]) for row in trained for n in range(1, 5)]
        for status, compared in (("finished", True), ("running", True), ("diverged", False), ("failed", False)):
            statuses = {0: status, 1: status, 2: "interrupted"}
            stored = [row | {"status": statuses[row["configuration"]]} for row in rows]
            plan = Plan(spec, FINGERPRINT, stored)
            restored = restored_stopper(StoppingSpec(grace=1), plan, curves)
            late = [plan.run(plan.configurations["beta", 2], seed) for seed in (0, 1)]
            verdicts = [train(restored, run, 2, 200 + run.seed) for run in late]
            assert bool(verdicts[1]) == compared

    @pytest.mark.parametrize("column", ["step", "skipped_batches", "encoder_steps", "valid_mi_batch", "kl_weight"])
    @pytest.mark.parametrize("strategy", [{"kind": "aggressive"}, {"kind": "kl_linear_epoch", "warm_up": 1}])
    def test_an_edited_curve_with_nulls_is_no_error(self, column, strategy):
        observed = stopper()
        for seed in range(5):
            observed.restore(run_of("x", seed, strategy), [record(n, 10, **{column: None}) for n in range(1, 5)])
        for epoch in range(1, 5):
            observed.observe(run_of("y", 0, strategy), record(epoch, 100))


class TestHalving:
    VALUES = (("a", 100, 1), ("b", 110, 2), ("c", 111, 2), ("d", 112, 2), ("e", 113, 2), ("f", 114, 1))

    def play(self, values, **stopping):
        observed = stopper(rule="halving", **stopping)
        return {name: train(observed, run_of(name), 2, nll, au) for name, nll, au in values}

    def test_the_better_third_and_rank_zero_continue(self):
        verdicts = self.play(self.VALUES)
        assert [name for name, verdict in verdicts.items() if verdict] == ["c", "d", "e", "f"]
        assert verdicts["f"].rule == "halving"
        assert verdicts["e"].dominated_by == "b"

    def test_the_order_is_by_rank_not_by_index(self):
        """A public implementation takes the position of a run in the order of arrival for its rank.

        There, the best run stops if it arrives last, and the worst continues if it arrives first.
        """
        for order in itertools.islice(itertools.permutations(self.VALUES), 0, None, 7):
            verdicts = self.play(order)
            assert verdicts["a"] is verdicts["b"] is None
            last = order[-1][0]
            assert (verdicts[last] is None) == (last in "ab"), order

    def test_fewer_than_three_configurations_are_not_halved(self):
        assert not any(self.play((("a", 100, 1), ("b", 200, 1))).values())

    def test_within_a_rank_the_contribution_to_the_hypervolume_decides(self):
        """Ranks: a, b, c are 0; d, e, f are 1. Of the 7 with g, 3 are kept, so the ties of rank 1 are all stopped.

        Of 12 configurations, 4 are kept: the three of rank 0 and the one of rank 1 with the largest contribution.
        """
        front = (("a", 100, 1), ("b", 110, 5), ("c", 120, 9))
        second = (("d", 101, 1), ("e", 119, 5), ("f", 121, 9))
        third = tuple((f"x{n}", 130 + n, 1) for n in range(6))
        for last, kept in (("d", False), ("e", False), ("f", True)):
            order = [item for item in (*front, *second, *third) if item[0] != last]
            verdicts = self.play([*order, next(item for item in second if item[0] == last)])
            assert (verdicts[last] is None) == kept, last

    def test_duplicates_of_the_front_continue(self):
        verdicts = self.play([(f"a{n}", 100, 2) for n in range(5)] + [("z", 101, 2)])
        assert [name for name, verdict in verdicts.items() if verdict] == ["z"]

    def test_one_objective(self):
        observed = stopper({"nll_iw": "min"}, rule="halving")
        verdicts = [train(observed, run_of(f"c{n}"), 2, 100 + n) for n in range(6)]
        assert [verdict is not None for verdict in verdicts] == [False, False, True, True, True, True]


def test_stopping_changes_no_configuration():
    plain, stopping = spec_of(), spec_of(stopping={"rule": "halving"})
    ids = [[spec.trial_config(arm, arm.probe(), 0).config_id("") for arm in spec.arms] for spec in (plain, stopping)]
    assert ids[0] == ids[1]
    assert plain.hash != stopping.hash
