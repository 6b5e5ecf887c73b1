"""What a tracker receives about a sweep: runs, epochs, final values and the Pareto front."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["SUCCESSFUL", "Front", "TrackedRun", "Tracker", "curve_name"]

SUCCESSFUL = ("finished", "stopped_early")
"""Values of `status` that a tracker shows as the success of a run."""


@dataclass(frozen=True)
class TrackedRun:
    """A run of the sweep when it starts or resumes.

    Args:
        run_id: Id of the run.
        config: Its configuration by dotted name: `run_id`, `config_id`, `arm`, `seed`, and every field of the trial
            and of its strategies that is not null.
        again: Whether an earlier attempt ended and the run is trained again from its start.
    """

    run_id: str
    config: Mapping[str, Any]
    again: bool

    @property
    def arm(self) -> str:
        return str(self.config["arm"])


@dataclass(frozen=True)
class Front:
    """All configurations in the space of the objectives, from best to worst in the first objective.

    Args:
        title: Name of the sweep.
        objectives: "min" or "max" by column.
        arms: Names of all arms, in the order of the sweep file.
        rows: Columns of each configuration (see `FrontRow.to_json`). `standing` is "on", "in doubt", "tied" or "off".
    """

    title: str
    objectives: Mapping[str, str]
    arms: Sequence[str]
    rows: Sequence[Mapping[str, Any]]

    @property
    def columns(self) -> list[str]:
        """Names of the columns, the same for every row."""
        return list(self.rows[0])

    @property
    def members(self) -> set[str]:
        """The `config_id`s of the configurations on the front."""
        return {row["config_id"] for row in self.rows if row["standing"] in ("on", "in doubt")}

    def csv(self) -> str:
        """Return the table as CSV text."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def png(self) -> bytes | None:
        """Return the front as a picture; None unless there are two objectives."""
        if len(self.objectives) != 2:
            return None
        from sweeps.plots.front import FrontPoint, front_plot

        (y, y_direction), (x, x_direction) = self.objectives.items()
        points = [
            FrontPoint(
                arm=row["arm"],
                config_id=row["config_id"],
                mean=(row[x], row[y]),
                se=(row[f"{x}_se"], row[f"{y}_se"]),
                n=row["n"],
                standing=row["standing"],
            )
            for row in sorted(self.rows, key=lambda row: self.arms.index(row["arm"]))
        ]
        directions: Any = (x_direction, y_direction)
        content = io.BytesIO()
        front_plot(points, x=x, y=y, directions=directions, title=self.title).savefig(content, format="png", dpi=150)
        return content.getvalue()


class Tracker(ABC):
    """Writes one sweep to a tool. It runs in a process of its own, where any exception ends it.

    A tracker must be able to repeat what an earlier process has done: after a kill, runs are started and ended again.
    """

    @abstractmethod
    def start_run(self, run: TrackedRun) -> int:
        """Start a run, or continue it if the tool has it already, and return the last epoch that the tool keeps."""

    @abstractmethod
    def log_epoch(self, run_id: str, epoch: int, values: Mapping[str, float]) -> None:
        """Add an epoch, with its numeric columns, to the curve of a run."""

    @abstractmethod
    def end_run(self, run_id: str, values: Mapping[str, float], status: str, stop_reason: str) -> None:
        """End a run with the numeric columns of its row."""

    @abstractmethod
    def log_front(self, front: Front) -> None:
        """Replace the Pareto front of the sweep."""

    @abstractmethod
    def close(self) -> None:
        """Mark the runs that have not ended as interrupted, and write everything."""


def curve_name(column: str) -> str:
    """Return the name of a column of the curves. Without the prefix, some would be called like final columns."""
    return f"curve/{column}"
