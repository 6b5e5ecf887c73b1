"""The driver of a sweep: it plans the missing runs, trains them with Ray Tune and records them in the table."""

from __future__ import annotations

import contextlib
import io
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.connection import check_address, connect
from cluster.processes import RayProcesses
from cluster.scratch import scratch_folder
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.packages import find_foreign
from sweeps.execution.datasets import load_data, make_plan
from sweeps.execution.monitor import Monitor
from sweeps.execution.recorder import RunRecorder
from sweeps.execution.resources import NodeCapacity, check_fits, cluster_nodes, concurrent_runs, local_capacity
from sweeps.execution.stop_flag import StopFlag
from sweeps.execution.supervisor import INTERRUPTED, Supervisor
from sweeps.execution.watchdog import Watchdog
from sweeps.execution.worker import train_run
from sweeps.search.plan import Plan, Run
from sweeps.spec.sections import ResourceSpec
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.folder import PATIENCE_SECONDS
from sweeps.storage.plugins import store_plugins
from sweeps.storage.provenance import provenance
from sweeps.storage.table import ResultsFolder

if TYPE_CHECKING:
    from sweeps.search.scheduler import RunScheduler
    from sweeps.search.stopping import RunStopper

__all__ = ["SweepOutcome", "run_sweep"]


@dataclass(frozen=True)
class SweepOutcome:
    """The outcome of `run_sweep`.

    Args:
        statuses: Number of rows of the sweep by status, including rows from earlier drivers.
        stop_reason: Sentence that explains why the sweep was stopped early; "" if it was not.
        interrupted: Whether SIGINT, SIGTERM, SIGHUP or the end of its time interrupted the driver and runs are left.
        budget_reason: Sentence that says which budget is used up although runs are left; "" if there is none.
    """

    statuses: Mapping[str, int]
    stop_reason: str
    interrupted: bool
    budget_reason: str = ""

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 130 after an interruption, 1 if runs failed or ran out of memory, else 0."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.stop_reason or self.statuses.get("failed") or self.statuses.get("out_of_memory") else 0


def run_sweep(
    spec: SweepSpec,
    folder: ResultsFolder,
    monitor: Monitor,
    address: str | None = None,
    *,
    retry: bool = False,
    seconds: float | None = None,
) -> SweepOutcome:
    """Train the missing runs of a sweep.

    Runs that have ended are not repeated (see `Plan.has_ended`). Runs that an earlier driver left `running` or
    `interrupted` resume from their checkpoints.

    The work is done in a thread, from which the monitor is called; the calling thread answers signals. After the first
    SIGINT, SIGTERM or SIGHUP, or after `seconds`, no run starts any more, and running runs save their checkpoints. A
    further signal stops them at once.

    Args:
        spec: The sweep.
        folder: Folder with the table of the sweep.
        monitor: Receives the events of the sweep.
        address: Address of a running Ray cluster, `auto` or HOST:PORT. None starts Ray on this machine.
        retry: Whether runs that failed or ran out of memory are repeated.
        seconds: Time after which the sweep is interrupted [s], counted from this call; None for no limit.

    Raises:
        ConfigError: No node can hold a run, the results folder or the temporary folder is not writable, or the current
            folder contains a package `sweeps` of the user's.
        DataError: The data are missing or invalid.
        ConnectionFailed: No cluster answers at `address`, or Ray cannot start on this machine.
        LeaseHeldError: Another driver is running the sweep.
        StoreError: The results could not be read or written during the sweep.
        RayLost: A process of the embedded Ray ended unexpectedly.
        KeyboardInterrupt: A signal arrived or the time ended before the first run started, or the work could not be
            stopped.
    """
    supervisor = Supervisor(monitor, seconds)
    return supervisor.run(lambda: _run_sweep(spec, folder, monitor, address, supervisor, retry=retry))


def _run_sweep(
    spec: SweepSpec,
    folder: ResultsFolder,
    monitor: Monitor,
    address: str | None,
    supervisor: Supervisor,
    *,
    retry: bool,
) -> SweepOutcome:
    if (place := find_foreign("sweeps", Path.cwd())) is not None:
        message = "must not be called sweeps, because the workers would import it instead of the package of lagvae"
        hint = "Rename it, or start lagvae in another folder."
        raise ConfigError([ValidationIssue(place, message, hint)])
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
        outcome = _run_with_ray(plan, folder, monitor, address, supervisor)
        monitor.on_sweep_ended(outcome.statuses, _end_reason(outcome, supervisor))
        return outcome


def _run_with_ray(
    plan: Plan, folder: ResultsFolder, monitor: Monitor, address: str | None, supervisor: Supervisor
) -> SweepOutcome:
    from sweeps.search.scheduler import RunScheduler
    from sweeps.search.stopping import restored_stopper

    statuses = {run_id: row["status"] for run_id, row in plan.rows.items()}
    scheduler = RunScheduler(plan)
    if not scheduler.fill_queue():
        _store_spec(plan, folder)
        return SweepOutcome(Counter(statuses.values()), "", False, scheduler.budget_reason)
    with scratch_folder() as scratch, _connected(address, supervisor, scratch) as ray:
        nodes = cluster_nodes(ray)
        spec = _with_gpu_share(ray, plan, nodes, monitor)
        concurrent = concurrent_runs(spec.resources, nodes, grows=address is not None)
        _store_spec(plan, folder)
        monitor.on_training_started(concurrent, sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
        stopping = spec.stopping
        stopper = None if stopping is None else restored_stopper(stopping, plan, folder.curves())

        def on_run_ended(run: Run, row: Mapping[str, Any]) -> None:
            if stopper is not None:
                stopper.on_run_ended(run, row)
            scheduler.on_run_ended(run, row)

        recorder = RunRecorder(
            spec,
            folder,
            monitor,
            fingerprint=plan.fingerprint,
            origin=provenance(),
            on_run_ended=on_run_ended,
            on_run_lost=scheduler.on_run_lost,
            on_run_progress=scheduler.on_run_progress,
        )
        supervisor.on_abandoned.append(lambda: recorder.close(_reason(recorder, supervisor)))
        supervisor.start_training()
        _train_runs(scheduler, recorder, supervisor, stopper, spec.resources, nodes, concurrent, scratch)
        recorder.close(_reason(recorder, supervisor))
    if error := recorder.error or supervisor.failure:
        raise error
    interrupted = not scheduler.exhausted
    statuses |= recorder.statuses
    return SweepOutcome(Counter(statuses.values()), scheduler.stop_reason, interrupted, scheduler.budget_reason)


def _end_reason(outcome: SweepOutcome, supervisor: Supervisor) -> str:
    """Return why the driver ended before the end of the sweep; "" if it did not."""
    if outcome.interrupted:
        cause = "the time of --for is over" if supervisor.timed_out else "interrupted"
        return f"{cause}; the same command resumes the sweep"
    return outcome.stop_reason or outcome.budget_reason


def _reason(recorder: RunRecorder, supervisor: Supervisor) -> str:
    """Return the reason why runs of this driver did not end."""
    if recorder.error is not None:
        return "the driver failed."
    return "the sweep was interrupted." if supervisor.failure is None else "Ray was lost."


@contextlib.contextmanager
def _connected(address: str | None, supervisor: Supervisor, scratch: Path) -> Iterator[Any]:
    """Context manager. Connects to Ray. An embedded Ray is watched, and all its processes are gone afterwards."""
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(RayProcesses()) if address is None else None
        ray = stack.enter_context(connect(address, local_capacity().cpus, scratch))
        if processes is not None:
            supervisor.on_abandoned.append(processes.kill)
            stack.enter_context(supervisor.watching(processes.failure))
        yield ray


def _store_spec(plan: Plan, folder: ResultsFolder) -> None:
    """Store the sweep file and its plugins, which show to which version of the sweep the table belongs."""
    folder.write("spec.yaml", plan.spec.source.encode())
    store_plugins(folder, plan.spec.plugins)


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
    supervisor: Supervisor,
    stopper: RunStopper | None,
    resources: ResourceSpec,
    nodes: Sequence[NodeCapacity],
    concurrent: int,
    scratch: Path,
) -> None:
    """Train the runs of the scheduler with Ray Tune; return early if the supervisor demands it.

    At the end, Tune stores a snapshot of its state in `scratch`, although it is never read here.
    """
    from ray import tune

    from sweeps.execution.tune import DriverCallback, DriverStopper, EarlyStopping, RunSearcher, placement_for

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    stop_flag = StopFlag(f"lagvae-stop-{secrets.token_hex(8)}")
    try:
        tuner = tune.Tuner(
            tune.with_resources(train_run, placement_for(resources, nodes)),
            tune_config=tune.TuneConfig(
                search_alg=RunSearcher(scheduler, recorder, supervisor, stop_flag, concurrent),
                scheduler=EarlyStopping(recorder, stopper),
                num_samples=-1,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="runs",
                storage_path=str(scratch / "tune"),
                callbacks=[DriverCallback(recorder, supervisor, stop_flag, Watchdog(resources.patience))],
                stop=DriverStopper(recorder, supervisor),
                failure_config=tune.FailureConfig(max_failures=0),  # the recorder decides about restarts
                verbose=0,
            ),
        )
        with _silenced(), _without_usage_tags():
            tuner.fit()
    except KeyboardInterrupt:
        pass


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Context manager. Discards standard output and error, because Tune prints tables and hints even at verbosity 0.

    The monitor can still print, because it keeps references to the original streams.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _without_usage_tags() -> Iterator[None]:
    """Context manager. Keeps Tune from importing MLflow and W&B, if they are installed, only to count their callbacks.

    This takes a second, and Ray's usage statistics, for which it counts, are off (see `cluster.connection.QUIET`).
    """
    from ray.air._internal import usage

    tag_callbacks = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = tag_callbacks
