"""A sweep whose runs are stopped early, with real Ray and real training."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from processes import lagvae
from tiny import TinySweep
from worlds import TINY_TRIAL, sweep

from sweeps.analysis.stored import current_plan, stored_spec

LAST = ("valid_loss", "valid_nll_elbo", "valid_kl", "valid_mi", "valid_au", "seconds", "encoder_steps", "decoder_steps")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> TinySweep:
    """Return a sweep of three learning rates of the encoder; the second one is clearly too high."""
    here = tmp_path_factory.mktemp("stopped")
    values = sweep(
        trial=TINY_TRIAL | {"model": {**TINY_TRIAL["model"], "init_range": 0.5}, "training": {"epochs": 12}},
        arms={"lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 12, 2]}}]},
        search={"sampler": "grid", "seeds": 4},
        objectives={"nll_elbo": "min"},
        stopping={"rule": "front", "grace": 1},
    )
    (here / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return TinySweep(here, lagvae("run", "tiny.yaml", cwd=here))


def test_runs_that_cannot_reach_the_front_are_stopped_and_the_others_finish(stopped):
    """Which seeds are stopped depends on the order in which they reach a rung, but the last ones are."""
    assert stopped.ended.returncode == 0, stopped.ended.stderr
    rows = stopped.folder.runs()
    statuses = [[row["status"] for row in rows if row["configuration"] == i] for i in range(3)]
    assert "finished" in statuses[0]
    assert "stopped_early" in statuses[1]
    assert {row["status"] for row in rows} <= {"finished", "stopped_early", "diverged"}
    first_stop = min(row["ended_at"] for row in rows if row["status"] == "stopped_early")
    assert any(row["started_at"] > first_stop for row in rows), "the workers of stopped runs train others"


def test_the_row_of_a_stopped_run_has_the_validation_columns_of_its_last_epoch(stopped):
    curves = stopped.folder.curves()
    for row in stopped.folder.runs():
        if row["status"] == "stopped_early":
            curve = [epoch for epoch in curves if epoch["run_id"] == row["run_id"]]
            assert [epoch["epoch"] for epoch in curve] == list(range(1, row["epochs"] + 1))
            assert row["epochs"] < 12
            assert {name: row[name] for name in LAST} == {name: curve[-1][name] for name in LAST}
            assert all(row[name] is None for name in ("nll_iw", "nll_elbo", "au", "best_epoch", "error_class"))
            assert f"epoch {row['epochs']}" in row["stop_reason"]


def test_no_checkpoint_is_left(stopped):
    assert list(Path(stopped.folder.local_path, "checkpoints").iterdir()) == []


def test_stopped_runs_are_complete(stopped):
    plan = current_plan(stored_spec(stopped.folder), stopped.folder.runs())
    assert plan.missing == 0
    assert len(plan.rows) == 12
