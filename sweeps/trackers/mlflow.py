"""MLflow: an experiment with one run for the sweep, which is the parent of one run for each run of the sweep."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities import Run as MlflowRun

from sweeps.trackers.base import SUCCESSFUL, Front, TrackedRun, Tracker, curve_name

__all__ = ["MLflowTracker"]

SWEEP, RUN, STATUS, STOP_REASON, FRONT = (
    f"lagvae.{name}" for name in ("sweep", "run_id", "status", "stop_reason", "front")
)
"""Names of tags. The run of the sweep has no tag RUN."""

CURVE_EPOCH = curve_name("epoch")

FLUSH_SECONDS = 1.0
"""Time after a request with epochs of a run within which further ones are collected [s].

A request takes about as long with one epoch as with many, and the epochs of small models would wait for each other.
"""

MAX_METRICS = 1000
"""Largest number of metrics that MLflow accepts in a request."""

MAX_PARAM_CHARACTERS = 6000
"""Longest value of a parameter that MLflow accepts."""


class MLflowTracker(Tracker):
    """Finds the runs of earlier drivers by their tags and continues them. The step of the curves is the epoch."""

    def __init__(self, *, uri: str, experiment: str, artifacts: str | None, sweep: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._sweep = sweep
        stored = self._client.get_experiment_by_name(experiment)
        self._experiment = (
            self._client.create_experiment(experiment, artifact_location=artifacts)
            if stored is None
            else stored.experiment_id
        )
        self._ids: dict[str, str] = {}
        self._collected: dict[str, list[Metric]] = {}
        self._sent_at: dict[str, float] = {}
        parents = (run for run in self._search() if RUN not in run.data.tags)
        parent = next(parents, None) or self._client.create_run(self._experiment, run_name=sweep, tags={SWEEP: sweep})
        self._parent = parent.info.run_id
        self._client.update_run(self._parent, status="RUNNING")

    def start_run(self, run: TrackedRun) -> int:
        stored = next(self._search(run.run_id), None)
        if stored is not None and run.again:
            self._client.delete_run(stored.info.run_id)
            stored = None
        if stored is None:
            tags = {SWEEP: self._sweep, RUN: run.run_id, "mlflow.parentRunId": self._parent, "arm": run.arm}
            stored = self._client.create_run(self._experiment, run_name=f"{run.arm} {run.run_id}", tags=tags)
        else:
            self._client.update_run(stored.info.run_id, status="RUNNING")
        self._ids[run.run_id] = stored.info.run_id
        # MLflow refuses to change a parameter, and a path may have changed since.
        missing = {name: value for name, value in run.config.items() if name not in stored.data.params}
        params = [Param(name, str(value)[:MAX_PARAM_CHARACTERS]) for name, value in missing.items()]
        self._client.log_batch(stored.info.run_id, params=params)
        return int(stored.data.metrics.get(CURVE_EPOCH, 0))

    def log_epoch(self, run_id: str, epoch: int, values: Mapping[str, float]) -> None:
        self._collect(run_id, {curve_name(name): value for name, value in values.items()}, epoch)
        if time.monotonic() - self._sent_at.get(run_id, 0.0) > FLUSH_SECONDS:
            self._flush(run_id)

    def end_run(self, run_id: str, values: Mapping[str, float], status: str, stop_reason: str) -> None:
        self._collect(run_id, values, 0)
        self._flush(run_id)
        self._sent_at.pop(run_id)
        stored = self._ids.pop(run_id)
        self._client.set_tag(stored, STATUS, status)
        self._client.set_tag(stored, STOP_REASON, stop_reason)
        self._client.set_terminated(stored, "FINISHED" if status in SUCCESSFUL else "FAILED")

    def log_front(self, front: Front) -> None:
        for run in self._search():
            member = run.data.params.get("config_id") in front.members
            if member and FRONT not in run.data.tags:
                self._client.set_tag(run.info.run_id, FRONT, "on")
            elif not member and FRONT in run.data.tags:
                self._client.delete_tag(run.info.run_id, FRONT)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "front.csv").write_text(front.csv(), encoding="utf-8")
            if (png := front.png()) is not None:
                Path(folder, "front.png").write_bytes(png)
            self._client.log_artifacts(self._parent, folder)

    def close(self) -> None:
        for run_id, stored in self._ids.items():
            self._flush(run_id)
            self._client.set_terminated(stored, "KILLED")
        self._client.set_terminated(self._parent, "KILLED" if self._ids else "FINISHED")

    def _search(self, run_id: str | None = None) -> Iterator[MlflowRun]:
        """Yield the runs of the sweep, or only those for the run `run_id`."""
        condition = f"tags.`{SWEEP}` = '{self._sweep}'"
        if run_id is not None:
            condition += f" and tags.`{RUN}` = '{run_id}'"
        token = None
        while True:
            page = self._client.search_runs([self._experiment], condition, page_token=token)
            yield from page
            if not (token := page.token):
                return

    def _collect(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        if len(self._collected.get(run_id, ())) + len(values) > MAX_METRICS:
            self._flush(run_id)
        self._collected.setdefault(run_id, []).extend(Metric(name, value, now, step) for name, value in values.items())

    def _flush(self, run_id: str) -> None:
        self._client.log_batch(self._ids[run_id], metrics=self._collected.pop(run_id, []))
        self._sent_at[run_id] = time.monotonic()
