"""Where the sweep meets Ray Tune: the searcher that hands out runs and the callback that hears of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.search import Searcher

from sweeps.execution.resources import Node, alone, share
from sweeps.search.plan import Run
from sweeps.spec.sweep import ResourceSpec

if TYPE_CHECKING:
    from sweeps.execution.recorder import Book
    from sweeps.search.scheduler import Dealer

__all__ = ["EndWithBook", "RowWriter", "RunSearcher", "resources_of"]


class _NotKept:
    """Tune pickles what it is given into snapshots that we never read."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("a snapshot of Ray Tune is never restored; the table is the truth")


class RunSearcher(_NotKept, Searcher):  # type: ignore[misc]
    """Asks the dealer for the next run. It hears of ends by way of the callback, never from Tune's results."""

    def __init__(self, dealer: Dealer, book: Book) -> None:
        super().__init__()
        self._dealer = dealer
        self._book = book

    def suggest(self, trial_id: str) -> Any:
        if self._book.error is not None:
            return Searcher.FINISHED
        run = self._dealer.next()
        if run is None:
            return Searcher.FINISHED if self._dealer.exhausted else None
        return {"run": worker_setting(run, self._book)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a snapshot of Ray Tune is never restored; the table is the truth")


def worker_setting(run: Run, book: Book) -> dict[str, Any]:
    """What a worker is told of its run; plain JSON."""
    book.dealt(run)
    folder, resources = book.folder, book.spec.resources
    return {
        "run_id": run.run_id,
        "config": run.config.model_dump(mode="json"),
        "results": folder.root,
        "sweep": folder.sweep,
        "data_fingerprint": book.dealer.plan.fingerprint,
        "threads": resources.cpus,
        "gpus": resources.gpu_share,
        "alone": run.alone,
        "keep": book.spec.keep == "models",
    }


class RowWriter(_NotKept, Callback):  # type: ignore[misc]
    """Turns Tune's events into the book's.

    Tune takes an exception of a callback for a failure of the trial and repeats the trial; ours ends the sweep.
    """

    def __init__(self, book: Book) -> None:
        self._book = book

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(self._book.started, trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._tell(self._book.progressed, trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(self._book.ended, trial, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        text = ""
        if trial.error_file:
            with open(trial.error_file, encoding="utf-8", errors="replace") as file:
                text = file.read()
        self._tell(self._book.failed, trial, "its process or node was lost again and again.", text)

    def _tell(self, event: Callable[..., None], trial: Any, *more: Any) -> None:
        if self._book.error is None:
            with self._book.accountable():
                event(trial.config["run"]["run_id"], *more)


class EndWithBook(_NotKept, Stopper):  # type: ignore[misc]
    """Stops every run when the book can no longer be kept."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def __call__(self, trial_id: str, result: Any) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        return self._book.error is not None


def resources_of(wish: ResourceSpec, nodes: Sequence[Node]) -> Callable[[dict[str, Any]], Any]:
    """What a run is given: its share of a node, or more of one when it must run alone."""

    def bundle(setting: dict[str, Any]) -> Any:
        return PlacementGroupFactory([alone(wish, nodes) if setting["run"]["alone"] else share(wish)])

    return bundle
