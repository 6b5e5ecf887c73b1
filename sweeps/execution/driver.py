"""The driver of a sweep: it plans the missing runs, trains them with Ray Tune and records them in the table."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.connection import check_address, connect
from cluster.scratch import scratch_folder
from sweeps.execution.datasets import load_data, make_plan
from sweeps.execution.monitor import Monitor
from sweeps.execution.recorder import RunRecorder
from sweeps.execution.resources import NodeCapacity, check_fits, cluster_nodes, concurrent_runs, local_capacity
from sweeps.execution.worker import train_run
from sweeps.search.plan import Plan
from sweeps.spec.sections import ResourceSpec
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.folder import PATIENCE_SECONDS
from sweeps.storage.provenance import provenance
from sweeps.storage.table import ResultsFolder

if TYPE_CHECKING:
    from sweeps.search.scheduler import RunScheduler

__all__ = ["SweepOutcome", "run_sweep"]

LOST_RETRIES = 3
"""Maximum number of restarts of a run after its process or node is lost. A restart resumes from the checkpoint."""


@dataclass(frozen=True)
class SweepOutcome:
    """The outcome of `run_sweep`.

    Args:
        statuses: Number of rows of the sweep by status, including rows from earlier drivers.
        stop_reason: Sentence that explains why the sweep was stopped early; "" if it was not.
        interrupted: Whether SIGINT or SIGTERM interrupted the driver.
    """

    statuses: Mapping[str, int]
    stop_reason: str
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 130 after an interruption, 1 if runs failed or ran out of memory, else 0."""
        if self.interrupted:
            return 130
        return 1 if self.stop_reason or self.statuses.get("failed") or self.statuses.get("out_of_memory") else 0


def run_sweep(
    spec: SweepSpec, folder: ResultsFolder, monitor: Monitor, address: str | None = None, *, retry: bool = False
) -> SweepOutcome:
    """Train the missing runs of a sweep.

    Runs that have ended are not repeated (see `Plan.has_ended`). Runs that an earlier driver left `running` or
    `interrupted` resume from their checkpoints.

    Args:
        spec: The sweep.
        folder: Folder with the table of the sweep.
        monitor: Receives the events of the sweep.
        address: Address of a running Ray cluster, `auto` or HOST:PORT. None starts Ray on this machine.
        retry: Whether runs that failed or ran out of memory are repeated.

    Raises:
        ConfigError: No node can hold a run, or the results folder or the temporary folder is not writable.
        DataError: The data are missing or invalid.
        ConnectionFailed: No cluster answers at `address`, or Ray cannot start on this machine.
        LeaseHeldError: Another driver is running the sweep.
        StoreError: The results could not be read or written during the sweep.
    """
    data = load_data(spec)
    if address is None:
        check_fits(spec.resources, [local_capacity()])
    else:
        check_address(address)
    folder.prepare()
    with folder.locked(monitor.on_lease_wait) as guard, contextlib.closing(monitor):
        plan = make_plan(spec, folder, data, retry=retry, set_aside=True)
        monitor.on_sweep_started(plan, data.report)
        folder = replace(folder, patience=PATIENCE_SECONDS, guard=guard)
        outcome = _run_with_ray(plan, folder, monitor, address)
        reason = "interrupted; the same command resumes the sweep" if outcome.interrupted else outcome.stop_reason
        monitor.on_sweep_ended(outcome.statuses, reason)
        return outcome


def _run_with_ray(plan: Plan, folder: ResultsFolder, monitor: Monitor, address: str | None) -> SweepOutcome:
    from sweeps.search.scheduler import RunScheduler

    statuses = {run_id: row["status"] for run_id, row in plan.rows.items()}
    scheduler = RunScheduler(plan)
    if not scheduler.fill_queue():
        _store_spec(plan, folder)
        return SweepOutcome(Counter(statuses.values()), "", False)
    with scratch_folder() as scratch, connect(address, local_capacity().cpus, scratch) as ray:
        nodes = cluster_nodes(ray)
        spec = _with_gpu_share(ray, plan, nodes, monitor)
        concurrent = concurrent_runs(spec.resources, nodes, grows=address is not None)
        _store_spec(plan, folder)
        monitor.on_training_started(concurrent, sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
        recorder = RunRecorder(
            spec,
            folder,
            monitor,
            fingerprint=plan.fingerprint,
            origin=provenance(),
            on_run_ended=scheduler.on_run_ended,
        )
        _train_runs(scheduler, recorder, spec.resources, nodes, concurrent, scratch)
    # After SIGINT, Tune returns as if all runs had ended. Without an error, remaining runs mean an interruption.
    interrupted = not scheduler.exhausted and recorder.error is None
    recorder.close("the sweep was interrupted." if interrupted else "the driver failed.")
    if recorder.error is not None:
        raise recorder.error
    statuses |= recorder.statuses
    return SweepOutcome(Counter(statuses.values()), scheduler.stop_reason, interrupted)


def _store_spec(plan: Plan, folder: ResultsFolder) -> None:
    """Store the sweep file, so that the folder shows which version of the sweep its table belongs to."""
    folder.write("spec.yaml", plan.spec.source.encode())


def _with_gpu_share(ray: Any, plan: Plan, nodes: Sequence[NodeCapacity], monitor: Monitor) -> SweepSpec:
    """Return the sweep with `gpus: auto` replaced by the fraction of a GPU that each run needs."""
    from sweeps.execution.gpu_sharing import estimate_memory, gpu_share_for

    spec = plan.spec
    if spec.resources.gpus != "auto":
        return spec
    estimates = []
    if any(node.gpus >= 1 for node in nodes):
        # Raises an error if no node can hold a run, because an estimate would then wait forever.
        concurrent_runs(spec.resources.with_gpus(1.0), nodes)
        arms = [arm.arm for arm in plan.arms() if arm.missing]
        monitor.on_memory_estimation(arms)
        estimates = estimate_memory(ray, spec, arms)
    monitor.on_memory_estimated(estimates)
    return replace(spec, resources=spec.resources.with_gpus(gpu_share_for(estimates) if estimates else 0.0))


def _train_runs(
    scheduler: RunScheduler,
    recorder: RunRecorder,
    resources: ResourceSpec,
    nodes: Sequence[NodeCapacity],
    concurrent: int,
    scratch: Path,
) -> None:
    """Train the runs of the scheduler with Ray Tune; return early on SIGINT.

    Tune always stores snapshots of its state in `scratch`, although they are never read here.
    """
    from ray import tune

    from sweeps.execution.tune import RecorderCallback, RunSearcher, StopOnRecorderError, placement_for

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        tuner = tune.Tuner(
            tune.with_resources(train_run, placement_for(resources, nodes)),
            tune_config=tune.TuneConfig(
                search_alg=RunSearcher(scheduler, recorder),
                num_samples=-1,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="runs",
                storage_path=str(scratch / "tune"),
                callbacks=[RecorderCallback(recorder)],
                stop=StopOnRecorderError(recorder),
                failure_config=tune.FailureConfig(max_failures=LOST_RETRIES),
                verbose=0,
            ),
        )
        with _silenced(), _sigterm_as_sigint():
            tuner.fit()
    except KeyboardInterrupt:
        pass


@contextlib.contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Context manager. Treats SIGTERM, which cluster schedulers such as Slurm send, as SIGINT.

    Ray's own handler would exit at once and leave rows with status `running`. Python can set signal handlers only in
    the main thread, so in other threads this context manager has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Context manager. Discards standard output and error, because Tune prints tables and hints even at verbosity 0.

    The monitor can still print, because it keeps references to the original streams.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
