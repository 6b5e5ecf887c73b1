"""Where the sweep meets Ray Tune: the searcher that hands out runs and the callback that hears of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.search import Searcher

from sweeps.execution.resources import NodeCapacity, alone, share
from sweeps.search.plan import Run
from sweeps.spec.sweep import ResourceSpec

if TYPE_CHECKING:
    from sweeps.execution.recorder import RunRecorder
    from sweeps.search.scheduler import RunScheduler

__all__ = ["RecorderCallback", "RunSearcher", "StopOnRecorderError", "resources_of"]


class _StatelessMixin:
    """Tune pickles what it is given into snapshots that we never read."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("a snapshot of Ray Tune is never restored; the table is the truth")


class RunSearcher(_StatelessMixin, Searcher):  # type: ignore[misc]
    """Asks the dealer for the next run. It hears of ends by way of the callback, never from Tune's results."""

    def __init__(self, scheduler: RunScheduler, recorder: RunRecorder) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._recorder = recorder

    def suggest(self, trial_id: str) -> Any:
        if self._recorder.error is not None:
            return Searcher.FINISHED
        run = self._scheduler.next()
        if run is None:
            return Searcher.FINISHED if self._scheduler.exhausted else None
        return {"run": worker_config(run, self._recorder)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a snapshot of Ray Tune is never restored; the table is the truth")


def worker_config(run: Run, recorder: RunRecorder) -> dict[str, Any]:
    """What a worker is told of its run; plain JSON."""
    recorder.on_run_scheduled(run)
    folder, resources = recorder.folder, recorder.spec.resources
    return {
        "run_id": run.run_id,
        "config": run.config.model_dump(mode="json"),
        "results": folder.root,
        "sweep": folder.sweep,
        "data_fingerprint": recorder.scheduler.plan.fingerprint,
        "threads": resources.cpus,
        "gpus": resources.gpu_share,
        "alone": run.alone,
        "keep": recorder.spec.keep == "models",
    }


class RecorderCallback(_StatelessMixin, Callback):  # type: ignore[misc]
    """Turns Tune's events into the book's.

    Tune takes an exception of a callback for a failure of the trial and repeats the trial; ours ends the sweep.
    """

    def __init__(self, recorder: RunRecorder) -> None:
        self._recorder = recorder

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._notify(self._recorder.started, trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._notify(self._recorder.progressed, trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._notify(self._recorder.ended, trial, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        text = ""
        if trial.error_file:
            with open(trial.error_file, encoding="utf-8", errors="replace") as file:
                text = file.read()
        self._notify(self._recorder.failed, trial, "its process or node was lost again and again.", text)

    def _notify(self, event: Callable[..., None], trial: Any, *more: Any) -> None:
        if self._recorder.error is None:
            with self._recorder.capture_errors():
                event(trial.config["run"]["run_id"], *more)


class StopOnRecorderError(_StatelessMixin, Stopper):  # type: ignore[misc]
    """Stops every run when the book can no longer be kept."""

    def __init__(self, recorder: RunRecorder) -> None:
        self._recorder = recorder

    def __call__(self, trial_id: str, result: Any) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        return self._recorder.error is not None


def resources_of(wish: ResourceSpec, nodes: Sequence[NodeCapacity]) -> Callable[[dict[str, Any]], Any]:
    """What a run is given: its share of a node, or more of one when it must run alone."""

    def bundle(setting: dict[str, Any]) -> Any:
        return PlacementGroupFactory([alone(wish, nodes) if setting["run"]["alone"] else share(wish)])

    return bundle
