"""The interface to Ray Tune: a searcher that supplies runs, a callback that forwards events, and early stopping.

Snapshots of Tune's state are never restored: a sweep resumes from its table.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.execution.resources import NodeCapacity, exclusive_resources, shared_resources
from sweeps.search.plan import Run
from sweeps.spec.sections import ResourceSpec
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.table import ResultsFolder

if TYPE_CHECKING:
    from sweeps.execution.recorder import RunRecorder
    from sweeps.execution.stop_flag import StopFlag
    from sweeps.execution.supervisor import Supervisor
    from sweeps.execution.watchdog import Watchdog
    from sweeps.search.scheduler import RunScheduler
    from sweeps.search.stopping import RunStopper

__all__ = [
    "DriverCallback",
    "DriverStopper",
    "EarlyStopping",
    "RunSearcher",
    "phase_seconds",
    "placement_for",
    "worker_config",
]

CHECKPOINT_SECONDS = 30.0
"""Time between two checkpoints of a run [s]."""

CHECKPOINT_SECONDS_AFTER_LOSS = 5.0
"""The same after its process was lost, so that a run makes progress even if its processes are lost often [s]."""

PHASE_SECONDS = 5.0
"""Shortest time between two reports of a run about the progress within an epoch [s]."""

PHASE_REPORTS = 20.0
"""Largest number of such reports that the driver receives from all runs together [1/s], at 3 ms each."""

NEVER_RESTORED = "a snapshot of Ray Tune is never restored; the sweep resumes from its table"


class _StatelessMixin:
    """Keeps an object's state out of the snapshots that Tune pickles."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError(NEVER_RESTORED)


class RunSearcher(_StatelessMixin, Searcher):  # type: ignore[misc]
    """Passes the next run of the scheduler to Tune. The scheduler receives results from the recorder, not from Tune."""

    def __init__(
        self,
        scheduler: RunScheduler,
        recorder: RunRecorder,
        supervisor: Supervisor,
        stop_flag: StopFlag,
        concurrent: int,
    ) -> None:
        super().__init__()
        self._phase_seconds = phase_seconds(concurrent, recorder.spec.resources)
        self._scheduler = scheduler
        self._recorder = recorder
        self._supervisor = supervisor
        self._stop_flag = stop_flag

    def suggest(self, trial_id: str) -> Any:
        recorder = self._recorder
        if recorder.error is not None or self._supervisor.interrupted:
            return Searcher.FINISHED
        run = self._scheduler.next_run()
        if run is None:
            return Searcher.FINISHED if self._scheduler.exhausted else None
        recorder.on_run_scheduled(run)
        seconds = CHECKPOINT_SECONDS_AFTER_LOSS if recorder.was_lost(run) else CHECKPOINT_SECONDS
        values = worker_config(run, recorder.spec, recorder.folder, recorder.fingerprint)
        values |= {"stop_flag": self._stop_flag.name, "checkpoint_seconds": seconds}
        values |= {"reported": recorder.reported_epochs(run)}
        return {"run": values | {"phase_seconds": self._phase_seconds}}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError(NEVER_RESTORED)


def phase_seconds(concurrent: int, resources: ResourceSpec) -> float:
    """Return the shortest time between two reports of a run about the progress within an epoch [s].

    With many runs it is longer, so that the reports do not occupy the driver, but never so long that the watchdog takes
    the time between two reports for silence.
    """
    longest = float("inf") if resources.patience == "auto" else resources.patience / 4
    return max(PHASE_SECONDS, min(concurrent / PHASE_REPORTS, longest))


def worker_config(run: Run, spec: SweepSpec, folder: ResultsFolder, fingerprint: str) -> dict[str, Any]:
    """Return what a worker must know to train `run`, whatever the driver, as plain JSON values."""
    return {
        "run_id": run.run_id,
        "config": run.config.model_dump_json(),  # one string, because Tune copies and flattens the fields of mappings
        "plugins": json.dumps(run.config.plugins),
        "results": folder.root,
        "sweep": folder.sweep,
        "data_fingerprint": fingerprint,
        "threads": spec.resources.cpus,
        "gpus": spec.resources.gpu_share,
        "alone": run.alone,
        "keep": spec.keep == "models",
    }


class DriverCallback(_StatelessMixin, Callback):  # type: ignore[misc]
    """Forwards Tune's events to the recorder, and interruptions to the running runs. Ends runs that report nothing.

    If a callback raised an exception, Tune would treat it as a failure of the trial and repeat the trial. Therefore the
    recorder captures the exception, and the sweep ends.
    """

    def __init__(self, recorder: RunRecorder, supervisor: Supervisor, stop_flag: StopFlag, watchdog: Watchdog) -> None:
        self._recorder = recorder
        self._supervisor = supervisor
        self._stop_flag = stop_flag
        self._watchdog = watchdog
        self._told = False
        self._trials: dict[str, Any] = {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._supervisor.urgent:
            raise KeyboardInterrupt
        self._tell_runs()
        for run_id, seconds in self._watchdog.listen().items():
            self._end_silent(run_id, seconds)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._notify(self._recorder.on_run_started, trial)
        self._trials[_run_id(trial)] = trial
        self._watchdog.on_started(_run_id(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._watchdog.on_report(_run_id(trial), epoch="curve" in result)
        self._notify(self._recorder.on_run_progress, trial, report=result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._forget(trial)
        self._notify(self._recorder.on_run_ended, trial, report=trial.last_result)
        _drop_results(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._forget(trial)
        text = ""
        if trial.error_file:
            with open(trial.error_file, encoding="utf-8", errors="replace") as file:
                text = file.read()
        self._notify(self._recorder.on_run_lost, trial, error_text=text)
        _drop_results(trial)

    def _notify(self, event: Callable[..., None], trial: Any, **values: Any) -> None:
        with self._recorder.capture_errors():
            if self._recorder.error is None and not self._recorder.closed:
                event(_run_id(trial), **values)
        self._tell_runs()

    def _end_silent(self, run_id: str, seconds: float) -> None:
        """Kill the process of a silent run, which may be stopped or hang, on its node. Tune then reports an error."""
        import ray

        trial = self._trials[run_id]
        self._forget(trial)
        actor = trial.temporary_state.ray_actor
        if actor is not None:  # Tune has not begun to stop the trial
            self._notify(self._recorder.on_run_silent, trial, seconds=seconds)
            ray.kill(actor)

    def _forget(self, trial: Any) -> None:
        self._watchdog.on_ended(_run_id(trial))
        self._trials.pop(_run_id(trial), None)

    def _tell_runs(self) -> None:
        """Set the stop flag after an interruption; if a run has just reported, before it continues."""
        if self._supervisor.interrupted and not self._told:
            self._told = True
            self._stop_flag.set()


def _run_id(trial: Any) -> str:
    return str(trial.config["run"]["run_id"])


def _drop_results(trial: Any) -> None:
    """Free the results of a trial that has ended. Tune keeps each trial until the end of the sweep."""
    trial.run_metadata.last_result = {}
    trial.run_metadata.metric_analysis = {}
    trial.run_metadata.metric_n_steps = {}


class EarlyStopping(_StatelessMixin, FIFOScheduler):  # type: ignore[misc]
    """Ray Tune's scheduler: runs start in the order of the searcher, and each reported epoch may stop its run.

    In a run that is stopped, `tune.report` does not return. Its worker is free for the next run.

    Args:
        recorder: Writes the row of the stopped run.
        stopper: Decides; None stops no run.
    """

    def __init__(self, recorder: RunRecorder, stopper: RunStopper | None) -> None:
        super().__init__()
        self._recorder = recorder
        self._stopper = stopper
        self._waiting: deque[Any] = deque()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._waiting.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the trial that has waited longest. The base class searches all trials, also those that have ended."""
        while self._waiting and self._waiting[0].status != Trial.PENDING:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        recorder = self._recorder
        if self._stopper is None or recorder.closed:
            return str(TrialScheduler.CONTINUE)
        with recorder.capture_errors():
            run_id = _run_id(trial)
            if "curve" in result:
                verdict = self._stopper.observe(recorder.run(run_id), json.loads(result["curve"]))
                if verdict is not None:
                    recorder.on_run_stopped(run_id, verdict.reason)
                    return str(TrialScheduler.STOP)
            elif "record" in result:
                # If an earlier driver was killed after the run had ended, this report is the only one of the run.
                self._stopper.restore(recorder.run(run_id), json.loads(result["record"])["curve"])
        return str(TrialScheduler.CONTINUE)


class DriverStopper(_StatelessMixin, Stopper):  # type: ignore[misc]
    """Stops Tune once the recorder has captured an error, or after an interruption once no run is active any more."""

    def __init__(self, recorder: RunRecorder, supervisor: Supervisor) -> None:
        self._recorder = recorder
        self._supervisor = supervisor

    def __call__(self, trial_id: str, result: Any) -> bool:
        return self._recorder.error is not None

    def stop_all(self) -> bool:
        interrupted = self._supervisor.interrupted and not self._recorder.has_active_runs
        return interrupted or self._recorder.error is not None


def placement_for(resources: ResourceSpec, nodes: Sequence[NodeCapacity]) -> Callable[[dict[str, Any]], Any]:
    """Return the function from which Tune obtains the resources of a trial, given the config of the trial."""

    def placement(trial_config: dict[str, Any]) -> Any:
        if trial_config["run"]["alone"]:
            return PlacementGroupFactory([exclusive_resources(resources, nodes)])
        return PlacementGroupFactory([shared_resources(resources)])

    return placement
