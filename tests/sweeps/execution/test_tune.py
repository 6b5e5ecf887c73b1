"""The interface to Ray Tune, compared with Tune's own classes."""

from __future__ import annotations

import contextlib
import json
import random
from types import SimpleNamespace

from helpers import tiny
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from sweeps.execution.tune import EarlyStopping
from sweeps.search.plan import Run
from sweeps.search.stopping import RunStopper
from sweeps.spec.sections import StoppingSpec


def test_trials_start_in_the_order_of_tunes_scheduler():
    draw, trials = random.Random(0), []
    controller = SimpleNamespace(get_trials=lambda: trials)
    scheduler, reference = EarlyStopping(None, None), FIFOScheduler()
    chosen = set()
    for _ in range(300):
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if draw.random() < 0.4:
            trials.append(Trial("none", stub=True))
            scheduler.on_trial_add(controller, trials[-1])
        elif waiting:
            draw.choice(waiting[:3]).set_status(draw.choice([Trial.RUNNING, Trial.TERMINATED, Trial.ERROR]))
        trial = scheduler.choose_trial_to_run(controller)
        assert trial is reference.choose_trial_to_run(controller)
        chosen.add(trial)
    assert len(chosen) > 30


def test_a_run_whose_checkpoint_holds_its_record_is_compared_with_others():
    """The driver was killed after the run had ended and before it wrote the row, so no epoch is reported again."""
    config = tiny(training={"epochs": 9})
    runs = {f"{name}-{seed}": Run("a", 0, {}, config, name, seed) for name in ("good", "bad") for seed in range(4)}
    recorder = SimpleNamespace(closed=False, run=runs.get, capture_errors=contextlib.nullcontext, on_run_stopped=print)
    stopping = EarlyStopping(recorder, RunStopper(StoppingSpec(grace=1), {"nll_elbo": "min"}))
    counts = dict.fromkeys(("step", "skipped_batches", "encoder_steps", "decoder_steps"), 1)
    decisions = []
    for run_id, run in runs.items():
        nll = run.seed + (100.0 if run.config_id == "good" else 200.0)
        curve = [{"epoch": n, "valid_nll_elbo": nll, **counts} for n in (1, 2)]
        trial = SimpleNamespace(config={"run": {"run_id": run_id}})
        if run.config_id == "good":
            reports = [{"record": json.dumps({"curve": curve})}]
        else:
            reports = [{"curve": json.dumps(epoch)} for epoch in curve]
        decisions.append([stopping.on_trial_result(None, trial, report) for report in reports])
    assert decisions[:4] == [["CONTINUE"]] * 4
    assert decisions[4:] == [["CONTINUE", "STOP"]] * 4
