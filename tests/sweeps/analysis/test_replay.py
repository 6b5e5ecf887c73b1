"""What early stopping would have saved and lost, on stored curves that are written down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from worlds import FINGERPRINT, TINY_TRIAL, play, spec_of

from sweeps.analysis.replay import replay
from sweeps.search.budget import Cost
from sweeps.search.plan import Plan
from sweeps.spec.sections import StoppingSpec

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCHS = 10


def world(values, statuses=None, minutes=None, seeds=4):
    """Return the plan and the curves of a sweep.

    Args:
        values: For each value of beta its validation ELBO, without the difference between seeds, and its test NLL.
        statuses: Status of the runs by number of the configuration; finished if not given.
        minutes: Start of the runs by number of the configuration; they follow each other if not given.
        seeds: Number of seeds.
    """
    arms = {"beta": [{"kind": "beta_vae", "beta": {"choices": list(values)}}]}
    trial = TINY_TRIAL | {"training": {"epochs": EPOCHS}}
    spec = spec_of(arms=arms, trial=trial, search={"sampler": "grid", "seeds": seeds, "seed": 0})
    rows, curves = [], []

    def answer(run):
        elbo, nll = values[run.parameters["beta_vae.beta"]]
        started = START + timedelta(
            minutes=(minutes or {}).get(run.configuration, run.configuration * 60), seconds=run.seed
        )
        for n in range(1, EPOCHS + 1):
            curves.append(
                {
                    "run_id": run.run_id,
                    "epoch": n,
                    "step": 10 * n,
                    "skipped_batches": 0,
                    "encoder_steps": 20 * n,
                    "decoder_steps": 10 * n,
                    "seconds": 60.0 * n,
                    "valid_nll_elbo": elbo + run.seed,
                    "valid_au": 1,
                }
            )
        status = (statuses or {}).get(run.configuration, "finished")
        measured = {"nll_iw": nll + run.seed, "au": 1} if status == "finished" else {}
        cost = {"encoder_steps": 20 * EPOCHS, "decoder_steps": 10 * EPOCHS, "seconds": 700.0}
        return {"status": status, "started_at": started, **cost, **measured}

    rows, _ = play(spec, answer=answer)
    return Plan(spec, FINGERPRINT, rows), sorted(curves, key=lambda c: (c["run_id"], c["epoch"]))


def test_savings_are_what_the_stopped_runs_cost_after_their_stops():
    """All seeds of the worse configuration stop at the first rung after the grace, which is epoch 2 of 10."""
    result = replay(StoppingSpec(grace=1), *world({1.0: (100.0, 90.0), 0.5: (120.0, 110.0)}))
    assert [(stop.run.parameters["beta_vae.beta"], stop.run.seed, stop.verdict.rung) for stop in result.stopped] == [
        (0.5, seed, 2) for seed in range(4)
    ]
    assert [stop.saved for stop in result.stopped] == [Cost(700.0 - 120.0, 0.0, 8 * 30)] * 4
    assert result.total == Cost(8 * 700.0, 0.0, 8 * 300)
    assert result.saved == Cost(2320.0, 0.0, 960)
    [arm] = result.arms
    assert (arm.arm, arm.runs, arm.stopped, arm.saved) == ("beta", 8, 4, result.saved)


def test_nothing_is_lost_if_the_validation_agrees_with_the_test():
    result = replay(StoppingSpec(grace=1), *world({1.0: (100.0, 90.0), 0.5: (120.0, 110.0)}))
    assert (len(result.members), result.lost, result.hypervolume_share) == (1, (), 1.0)


def test_a_configuration_of_the_front_is_lost_with_its_last_run():
    """The stopped configuration has the better test NLL by 10, and the reference is 1 beyond the worse one."""
    plan, curves = world({1.0: (100.0, 90.0), 0.5: (120.0, 80.0)})
    result = replay(StoppingSpec(grace=1), plan, curves)
    assert len(result.stopped) == 4
    assert result.lost == result.members == (plan.configurations["beta", 1].config_id,)
    assert result.hypervolume_share == pytest.approx(1 / 11)


def test_epochs_are_replayed_in_the_order_in_which_they_ended():
    """A worse configuration finishes if it is past its rungs when the better one gets there."""
    values = {1.0: (100.0, 90.0), 0.5: (120.0, 110.0)}
    stops = {
        start: len(replay(StoppingSpec(grace=1), *world(values, minutes={0: start, 1: 0})).stopped)
        for start in (-60, 7, 60)
    }
    assert stops == {-60: 4, 7: 0, 60: 0}


def test_runs_that_failed_stop_no_later_run_and_unfinished_runs_do_not_count():
    values = {1.0: (100.0, 90.0), 0.5: (120.0, 110.0)}
    assert not replay(StoppingSpec(grace=1), *world(values, {0: "diverged"})).stopped
    result = replay(StoppingSpec(grace=1), *world(values, {0: "running"}))
    assert (result.runs, len(result.stopped)) == (4, 0)


def test_curves_that_end_early_are_counted():
    values = {1.0: (100.0, 90.0), 0.5: (120.0, 110.0)}
    assert replay(StoppingSpec(grace=1), *world(values, {1: "stopped_early"})).stopped_before == 4


def test_without_a_finished_run_the_loss_is_unknown():
    result = replay(StoppingSpec(grace=1), *world({1.0: (100.0, 90.0)}, {0: "diverged"}))
    assert (result.members, result.lost, result.hypervolume_share) == ((), (), None)


def test_halving():
    values = {beta: (100.0 + 10 * n, 90.0 + 10 * n) for n, beta in enumerate((1.0, 0.8, 0.6, 0.4))}
    result = replay(StoppingSpec(rule="halving", grace=1), *world(values))
    assert {stop.run.configuration for stop in result.stopped} == {2, 3}
    assert all(stop.verdict.rule == "halving" for stop in result.stopped)
