"""What a trial leaves in its stores on the way: its state when it is due, and whether its weights are there."""

from __future__ import annotations

import time
from typing import Any, Protocol

from lagvae_core import checkpoint as checkpoints
from lagvae_core.checkpoint import CheckpointStore
from lagvae_core.errors import CheckpointError
from lagvae_core.record import TrialRecord

__all__ = ["Keeper", "holds"]


def holds(kept: CheckpointStore, run_id: str) -> bool:
    """Whether the weights of this very trial are there."""
    content = kept.load()
    try:
        return content is not None and bool(checkpoints.decode(content, run_id))
    except CheckpointError:
        return False


class Resumable(Protocol):
    """A trial, as far as it is kept."""

    run_id: str

    def state_dict(self) -> dict[str, Any]: ...


class Keeper:
    """Saves the trial's state when it is due."""

    def __init__(self, trial: Resumable, store: CheckpointStore | None, seconds: float) -> None:
        self._trial, self._store, self._seconds = trial, store, seconds
        self._last = time.monotonic()

    def save_if_due(self) -> None:
        if self._store is not None and time.monotonic() - self._last >= self._seconds:
            self.save()

    def save(self, record: TrialRecord | None = None) -> None:
        if self._store is None:
            return
        state = self._trial.state_dict() if record is None else {"identity": self._trial.run_id}
        self._store.save(checkpoints.encode({**state, "record": record and record.to_json()}))
        self._last = time.monotonic()
