"""Weights & Biases: one run for each run of the sweep, grouped by arm, and one run with the Pareto front."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from sweeps.trackers.base import SUCCESSFUL, Front, TrackedRun, Tracker, curve_name

__all__ = ["WandbTracker"]

FRONT = "front"
"""Name and type of the run with the Pareto front, and of what it logs."""


class WandbTracker(Tracker):
    """Continues a run that the server has. The step of the curves is the epoch.

    Without a server, a run that resumes is written again from its first epoch, in place of its earlier files.
    """

    def __init__(self, *, project: str, entity: str | None, mode: str | None, folder: str, sweep: str) -> None:
        self._project, self._entity = project, entity
        self._folder, self._sweep = Path(folder), sweep
        options: dict[str, Any] = {} if mode is None else {"mode": mode}
        wandb.setup(wandb.Settings(silent=True, **options))  # if it is silent, it does not ask for an API key
        self._runs: dict[str, wandb.Run] = {}

    def start_run(self, run: TrackedRun) -> int:
        started = self._init(run.run_id, again=run.again, name=run.run_id, group=run.arm, config=dict(run.config))
        self._runs[run.run_id] = started
        return max(0, int(started.step) - 1)

    def log_epoch(self, run_id: str, epoch: int, values: Mapping[str, float]) -> None:
        self._runs[run_id].log({curve_name(name): value for name, value in values.items()}, step=epoch, commit=True)

    def end_run(self, run_id: str, values: Mapping[str, float], status: str, stop_reason: str) -> None:
        run = self._runs.pop(run_id)
        run.summary.update({**values, "status": status, "stop_reason": stop_reason})
        run.finish(exit_code=0 if status in SUCCESSFUL else 1)

    def log_front(self, front: Front) -> None:
        run = self._init(FRONT, again=True, name=f"{self._sweep}: Pareto front", job_type=FRONT)
        rows = [[row[name] if name != "parameters" else str(row[name]) for name in front.columns] for row in front.rows]
        run.log({FRONT: wandb.Table(columns=front.columns, data=rows)})
        if (png := front.png()) is not None:
            run.log({f"{FRONT}_figure": wandb.Image(Image.open(io.BytesIO(png)))})
        run.finish()

    def close(self) -> None:
        for run in self._runs.values():
            run.mark_preempting()
            run.finish(exit_code=1)
        wandb.teardown()

    def _init(self, name_of_run: str, *, again: bool, **options: Any) -> wandb.Run:
        """Start the run with the id SWEEP-NAME_OF_RUN; several sweeps may share a project."""
        run_id = f"{self._sweep}-{name_of_run}"
        for earlier in self._folder.glob(f"wandb/offline-run-????????_??????-{run_id}"):
            shutil.rmtree(earlier)
        # Runs train elsewhere: machine, code and output of this process say nothing about them.
        settings = wandb.Settings(console="off", x_disable_stats=True, disable_git=True, disable_code=True)
        return wandb.init(
            project=self._project,
            entity=self._entity,
            dir=self._folder,
            id=run_id,
            resume=None if again else "allow",
            reinit="create_new",
            tags=[self._sweep],
            settings=settings,
            **options,
        )
