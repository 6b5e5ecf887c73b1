"""The interface to Ray Tune: a searcher that supplies runs, and callbacks that forward events to the recorder.

Snapshots of Tune's state are never restored: a sweep resumes from its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.search import Searcher

from sweeps.execution.resources import NodeCapacity, exclusive_resources, shared_resources
from sweeps.search.plan import Run
from sweeps.spec.sections import ResourceSpec
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.table import ResultsFolder

if TYPE_CHECKING:
    from sweeps.execution.recorder import RunRecorder
    from sweeps.search.scheduler import RunScheduler

__all__ = ["RecorderCallback", "RunSearcher", "StopOnRecorderError", "placement_for", "worker_config"]

NEVER_RESTORED = "a snapshot of Ray Tune is never restored; the sweep resumes from its table"


class _StatelessMixin:
    """Keeps an object's state out of the snapshots that Tune pickles."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError(NEVER_RESTORED)


class RunSearcher(_StatelessMixin, Searcher):  # type: ignore[misc]
    """Passes the next run of the scheduler to Tune. The scheduler receives results from the recorder, not from Tune."""

    def __init__(self, scheduler: RunScheduler, recorder: RunRecorder) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._recorder = recorder

    def suggest(self, trial_id: str) -> Any:
        recorder = self._recorder
        if recorder.error is not None:
            return Searcher.FINISHED
        run = self._scheduler.next_run()
        if run is None:
            return Searcher.FINISHED if self._scheduler.exhausted else None
        recorder.on_run_scheduled(run)
        return {"run": worker_config(run, recorder.spec, recorder.folder, recorder.fingerprint)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError(NEVER_RESTORED)


def worker_config(run: Run, spec: SweepSpec, folder: ResultsFolder, fingerprint: str) -> dict[str, Any]:
    """Return everything that a worker needs to train `run`, as plain JSON values (see `worker.train_run`)."""
    return {
        "run_id": run.run_id,
        "config": run.config.model_dump(mode="json"),
        "results": folder.root,
        "sweep": folder.sweep,
        "data_fingerprint": fingerprint,
        "threads": spec.resources.cpus,
        "gpus": spec.resources.gpu_share,
        "alone": run.alone,
        "keep": spec.keep == "models",
    }


class RecorderCallback(_StatelessMixin, Callback):  # type: ignore[misc]
    """Forwards Tune's events to the recorder.

    If a callback raised an exception, Tune would treat it as a failure of the trial and repeat the trial. Therefore the
    recorder captures the exception, and the sweep ends.
    """

    def __init__(self, recorder: RunRecorder) -> None:
        self._recorder = recorder

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._notify(self._recorder.on_run_started, trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._notify(self._recorder.on_run_progress, trial, report=result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._notify(self._recorder.on_run_ended, trial, report=trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        text = ""
        if trial.error_file:
            with open(trial.error_file, encoding="utf-8", errors="replace") as file:
                text = file.read()
        reason = "its process or node was lost repeatedly."
        self._notify(self._recorder.on_run_failed, trial, reason=reason, error_text=text)

    def _notify(self, event: Callable[..., None], trial: Any, **values: Any) -> None:
        if self._recorder.error is None:
            with self._recorder.capture_errors():
                event(trial.config["run"]["run_id"], **values)


class StopOnRecorderError(_StatelessMixin, Stopper):  # type: ignore[misc]
    """Stops all trials once the recorder has captured an error."""

    def __init__(self, recorder: RunRecorder) -> None:
        self._recorder = recorder

    def __call__(self, trial_id: str, result: Any) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        return self._recorder.error is not None


def placement_for(resources: ResourceSpec, nodes: Sequence[NodeCapacity]) -> Callable[[dict[str, Any]], Any]:
    """Return the function from which Tune obtains the resources of a trial, given the config of the trial."""

    def placement(trial_config: dict[str, Any]) -> Any:
        if trial_config["run"]["alone"]:
            return PlacementGroupFactory([exclusive_resources(resources, nodes)])
        return PlacementGroupFactory([shared_resources(resources)])

    return placement
