"""Estimates of the cost of runs from a few updates."""

from __future__ import annotations

import pytest
import torch
from worlds import FINGERPRINT, plausible, play, spec_of

from lagvae_core import train
from lagvae_core.training.trial import Trial
from sweeps.execution import calibration
from sweeps.execution.calibration import CostEstimate, estimate_cost, first_runs
from sweeps.search.plan import Plan
from sweeps.spec.sections import ResourceSpec


def estimate(config, **resources):
    result = estimate_cost(config, config.data.load(), ResourceSpec(**resources))
    assert isinstance(result, CostEstimate), result
    return result


class TestFirstRuns:
    def test_are_those_that_would_start_first(self):
        spec = spec_of()
        rows, _ = play(spec, ends=0)
        runs = first_runs(Plan(spec, FINGERPRINT, []), ["vae", "beta"])
        assert {arm: (run.configuration, run.seed) for arm, run in runs.items()} == {"vae": (0, 0), "beta": (0, 0)}
        assert runs["vae"].run_id == rows[0]["run_id"]

    def test_arms_without_missing_runs_have_none(self):
        spec = spec_of()
        rows, _ = play(spec, answer=plausible)
        vae = [row for row in rows if row["arm"] == "vae"]
        assert list(first_runs(Plan(spec, FINGERPRINT, vae), ["vae", "beta"])) == ["beta"]


class TestEstimate:
    @pytest.mark.parametrize("stack", [[], ["beta_vae"], ["mae"]])
    def test_updates_are_those_of_the_whole_run(self, stack):
        spec = spec_of(arms={"arm": [{"kind": kind} for kind in stack]})
        config = spec.trial_config(spec.arms[0], spec.arms[0].probe(), seed=0)
        cost = train(config).cost
        estimated = estimate(config)
        assert estimated.gradient_evaluations == cost["encoder_steps"] + cost["decoder_steps"]
        assert min(estimated.seconds_train, estimated.seconds_validate, estimated.seconds_evaluate) > 0
        assert estimated.cost.seconds >= estimated.seconds_train
        assert estimated.cost.estimated

    @pytest.mark.parametrize(("updates", "timed"), [(1, 1), (2, 2), (100, 3)])
    def test_it_ends_after_the_given_number_of_updates(self, monkeypatch, updates, timed):
        spec = spec_of()
        config = spec.trial_config(spec.arms[0], {}, seed=0)
        monkeypatch.setattr(calibration, "MAX_UPDATES", updates)
        assert len(Trial(config, config.data.load(), torch.device("cpu")).train_batches) == 4
        assert estimate(config).updates == timed

    def test_it_ends_after_the_given_time(self, monkeypatch):
        spec = spec_of()
        monkeypatch.setattr(calibration, "MAX_SECONDS", 0.0)
        assert estimate(spec.trial_config(spec.arms[0], {}, seed=0)).updates == 1

    def test_an_error_is_the_reason_why_there_is_none(self, monkeypatch):
        def fail(self, batch):
            raise MemoryError("too large")

        monkeypatch.setattr(Trial, "train_batch", fail)
        spec = spec_of()
        config = spec.trial_config(spec.arms[0], {}, seed=0)
        assert isinstance(estimate_cost(config, config.data.load(), ResourceSpec()), str)

    def test_samples_grow_until_their_time_is_sufficient(self, monkeypatch):
        clock = calibration._Clock(torch.device("cpu"))
        now, sizes = [0.0], []

        def work(size):
            sizes.append(size)
            now[0] += 0.1 + 0.01 * size

        monkeypatch.setattr(clock, "now", lambda: now[0])
        assert clock.extrapolate(work, 1000, first=8) == pytest.approx((0.1 + 0.01 * 128) * 1000 / 128)
        assert sizes == [8, 32, 128]
        assert clock.extrapolate(work, 20, first=8) == pytest.approx(0.1 + 0.01 * 20)
        assert sizes[3:] == [8, 20]
