"""Counting how often the process of a run was lost since the run last made progress, and how often it was silent."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOST_RETRIES", "SILENT_RETRIES", "LossCounter", "Position"]

LOST_RETRIES = 3
"""Maximum number of restarts in a row of a run that makes no progress between the losses of its process or node."""

SILENT_RETRIES = 1
"""Maximum number of restarts of a run that reported nothing for too long, whatever its progress in between."""


@dataclass(frozen=True)
class Position:
    """How far a run has got.

    Args:
        epoch: Highest number of a reported epoch; 0 before the first report.
        checkpoint: Time at which its checkpoint was written [ns]; None if there is none.
    """

    epoch: int
    checkpoint: int | None

    def is_beyond(self, before: Position) -> bool:
        """Return whether the run has made progress since `before`."""
        return self.epoch > before.epoch or self.checkpoint not in (None, before.checkpoint)


class LossCounter:
    """Tells runs that fail by themselves, always at the same place, from runs whose processes are killed by others."""

    def __init__(self) -> None:
        self._losses: dict[str, int] = {}
        self._positions: dict[str, Position] = {}
        self._silences: dict[str, int] = {}

    def add(self, run_id: str, position: Position) -> int:
        """Count a loss of the run at `position`; return the number of losses in a row without progress in between."""
        before = self._positions.get(run_id)
        advanced = before is None or position.is_beyond(before)
        self._losses[run_id] = 1 if advanced else self._losses[run_id] + 1
        self._positions[run_id] = position
        return self._losses[run_id]

    def add_silence(self, run_id: str) -> int:
        """Count that the process of the run was ended because it was silent; return how often this has happened."""
        self._silences[run_id] = self._silences.get(run_id, 0) + 1
        return self._silences[run_id]

    def was_lost(self, run_id: str) -> bool:
        """Return whether the process of the run was ever lost."""
        return run_id in self._losses or run_id in self._silences
