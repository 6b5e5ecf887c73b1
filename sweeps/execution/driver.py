"""Plan to Ray Tune to rows: runs what is missing of a sweep."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.connection import check_address, connect
from sweeps.execution.datasets import load_data, make_plan
from sweeps.execution.monitor import Monitor
from sweeps.execution.recorder import RunRecorder
from sweeps.execution.resources import NodeCapacity, capacity, local_capacity, nodes_of
from sweeps.execution.worker import train_run
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.folder import PATIENCE_SECONDS
from sweeps.storage.provenance import provenance
from sweeps.storage.table import ResultsFolder

__all__ = ["SweepOutcome", "run_sweep"]

LOST_RETRIES = 3
"""Restarts of a run whose process or node was lost; it goes on from its checkpoint."""


@dataclass(frozen=True)
class SweepOutcome:
    """How a driver's work ended: the rows by status, and why it stopped early, if it did."""

    statuses: Mapping[str, int]
    stop_reason: str
    interrupted: bool

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        return 1 if self.stop_reason or self.statuses.get("failed") or self.statuses.get("out_of_memory") else 0


def run_sweep(
    spec: SweepSpec, folder: ResultsFolder, monitor: Monitor, address: str | None = None, *, retry: bool = False
) -> SweepOutcome:
    """Run everything that is missing of `spec`, with `retry` also what failed, and return when nothing is.

    Rows that ended are never touched and never repeated; runs that an earlier driver left `running` go on from their
    checkpoints. A second driver on the same folder is refused.
    """
    data = load_data(spec)
    if address is None:
        wish = spec.resources
        capacity(wish.with_gpus(0) if wish.gpus == "auto" else wish, [local_capacity()])
    else:
        check_address(address)
    folder.prepare()
    with folder.locked(monitor.waiting) as guard, contextlib.closing(monitor):
        plan = make_plan(spec, folder, data.fingerprint, retry=retry)
        monitor.started(plan, data.report)
        folder = replace(folder, patience=PATIENCE_SECONDS, guard=guard)
        outcome = _run_with_ray(plan, folder, monitor, address)
        rows = make_plan(spec, folder, data.fingerprint).rows.values()
        outcome = SweepOutcome(dict(Counter(row["status"] for row in rows)), outcome.stop_reason, outcome.interrupted)
        reason = "interrupted; the same command goes on where it stood" if outcome.interrupted else outcome.stop_reason
        monitor.finished(outcome.statuses, reason)
        return outcome


def _run_with_ray(plan: Plan, folder: ResultsFolder, monitor: Monitor, address: str | None) -> SweepOutcome:
    from sweeps.search.scheduler import RunScheduler

    scheduler = RunScheduler(plan)
    if scheduler.exhausted:
        _store_spec(plan, folder)
        return SweepOutcome({}, "", False)
    with connect(address, cpus=local_capacity().cpus) as ray:
        from sweeps.execution.tune import RecorderCallback, RunSearcher, StopOnRecorderError, resources_of

        nodes = nodes_of(ray)
        spec = _with_gpu_share(ray, plan, nodes, monitor)
        concurrent = capacity(spec.resources, nodes, grows=address is not None)
        _store_spec(plan, folder)
        monitor.workers(concurrent, sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
        recorder = RunRecorder(spec, folder, monitor, scheduler, provenance())
        told = (RunSearcher(scheduler, recorder), RecorderCallback(recorder), StopOnRecorderError(recorder))
        _fit(*told, resources_of(spec.resources, nodes), concurrent)
    # Tune swallows SIGINT and returns as if all were done; only the dealer knows better.
    interrupted = not scheduler.exhausted and recorder.error is None
    recorder.close("the sweep was interrupted." if interrupted else "the driver failed.")
    if recorder.error is not None:
        raise recorder.error
    return SweepOutcome({}, scheduler.stop_reason, interrupted)


def _store_spec(plan: Plan, folder: ResultsFolder) -> None:
    """From now on the table is that of this version of the sweep."""
    folder.write("spec.yaml", plan.spec.source.encode())


def _with_gpu_share(ray: Any, plan: Plan, nodes: Sequence[NodeCapacity], monitor: Monitor) -> SweepSpec:
    """The spec of `plan` with a number in the place of `gpus: auto`, which holds for what is still missing."""
    from sweeps.execution.gpu_sharing import estimate_memory, gpu_share_for

    spec = plan.spec
    if spec.resources.gpus != "auto":
        return spec
    estimates = []
    if any(node.gpus >= 1 for node in nodes):
        capacity(spec.resources.with_gpus(1.0), nodes)
        arms = [arm.arm for arm in plan.arms() if arm.missing]
        monitor.estimating_memory(arms)
        estimates = estimate_memory(ray, spec, arms)
    monitor.memory_estimated(estimates)
    return replace(spec, resources=spec.resources.with_gpus(gpu_share_for(estimates) if estimates else 0.0))


def _fit(searcher: Any, callback: Any, stopper: Any, resources: Any, concurrent: int) -> None:
    """Ray Tune over the searcher's runs; returns early on SIGINT."""
    from ray import tune

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # Tune keeps its own snapshots, of which nothing is ever read; the table is the truth.
    scratch = Path(tempfile.mkdtemp(prefix="lagvae-tune-"))
    try:
        tuner = tune.Tuner(
            tune.with_resources(train_run, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="runs",
                storage_path=str(scratch),
                callbacks=[callback],
                stop=stopper,
                failure_config=tune.FailureConfig(max_failures=LOST_RETRIES),
                verbose=0,
            ),
        )
        with _silence(), _terminable():
            tuner.fit()
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, which schedulers send, interrupts as SIGINT does; Ray would die of it, and leave rows as if they ran."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Tune prints tables and hints even at verbosity 0; our monitor writes to the real streams."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
