"""`lagvae trial --watch`: print every optimiser step, or write and draw the posterior means during training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationError

from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.files import write_atomically
from lagvae_core.settings import FrozenConfig
from lagvae_core.studies.posterior_mean_recorder import PosteriorMeanRecorder, Rows, Snapshots
from lagvae_core.training.callbacks import TrainingState
from sweeps.cli.terminal import folder_issues
from sweeps.plots.posterior_means import ScatterPanel, TrajectoryPoint, scatter_figure, select_steps, trajectory_figure
from sweeps.storage.parquet import DamagedFileError, decode_table, encode_table

__all__ = ["SNAPSHOT_SCHEMA", "TRAJECTORY_SCHEMA", "PosteriorMeanWriter", "StepWatch", "StepWriter", "parse_watch"]

SNAPSHOT_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("example", pa.int64()),
        ("p_mean", pa.list_(pa.float64())),
        ("p_sd", pa.list_(pa.float64())),
        ("q_mean", pa.list_(pa.float64())),
        ("kl", pa.float64()),
        ("mi", pa.float64()),
    ]
)
"""One row per snapshot and example.

`step` is the number of outer updates (optimiser steps on the main objective, as opposed to inner encoder steps). Lists
have one value per latent dimension. `kl` and `mi` refer to the whole snapshot [nats].
"""

TRAJECTORY_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),
        ("encoder_steps", pa.int64()),
        ("decoder_steps", pa.int64()),
        ("example", pa.int64()),
        ("p_mean", pa.list_(pa.float64())),
        ("q_mean", pa.list_(pa.float64())),
    ]
)
"""One row per optimiser step, for the example whose trajectory is recorded.

`step` is the number of the outer update that contains the optimiser step.
"""

SNAPSHOTS, TRAJECTORY = "posterior_means", "posterior_means_way"
"""Names of the files without extension."""

EXAMPLE = "--watch steps:every=10, or --watch 'posterior_means:every=100,panels=[0,200,2000]' --out FOLDER"


class StepWatch(FrozenConfig):
    """A line for optimiser steps: the terms of the loss, and the norms of the gradients before they are clipped."""

    kind: Literal["steps"] = "steps"
    every: Annotated[int, Field(ge=1, description="number of optimiser steps between two lines")] = 1


class StepWriter:
    """A training callback that writes a line for optimiser steps, inner steps of the encoder included.

    Args:
        config: Which steps are written.
        write: Called with each line.
    """

    def __init__(self, config: StepWatch, write: Callable[[str], None]) -> None:
        self._config, self._write, self._decoder_steps = config, write, 0
        self._number: int | None = None

    def __call__(self, state: TrainingState) -> None:
        if state.event != "step":
            return
        inner, self._decoder_steps = state.decoder_steps == self._decoder_steps, state.decoder_steps
        if self._number is None:  # the trial may have resumed
            self._number = max(state.encoder_steps, state.decoder_steps) - 1
        self._number += 1
        number, terms = self._number, state.terms
        if number % self._config.every or terms is None:
            return
        norms = (("encoder", terms.encoder_norm), ("decoder", terms.decoder_norm))
        shown = ", ".join(f"{name} {norm:.3g}" for name, norm in norms if norm is not None)
        self._write(
            f"epoch {state.epoch}, step {number:,}{' (inner)' if inner else ''}: loss {terms.total:.4f}  "
            f"rec {terms.rec:.4f}  kl {terms.kl:z.4f}  gradients {shown}"
        )


_WATCHERS: dict[str, type[StepWatch] | type[PosteriorMeanRecorder]] = {
    "steps": StepWatch,
    "posterior_means": PosteriorMeanRecorder,
}


def parse_watch(text: str) -> StepWatch | PosteriorMeanRecorder:
    """Parse the name of a watcher, optionally with fields in the syntax of `--arm`.

    Raises:
        ConfigError: Lists all issues about `--watch`.
    """
    from sweeps.spec.arm_syntax import parse_arm_text

    items = parse_arm_text(text)
    if len(items) != 1 or items[0]["kind"] not in _WATCHERS:
        message = f"must be {' or '.join(_WATCHERS)}, optionally with fields"
        raise ConfigError([ValidationIssue("--watch", message, f"For example: {EXAMPLE}.", text)])
    watcher = _WATCHERS[items[0]["kind"]]
    try:
        return watcher.model_validate(items[0])
    except ValidationError as error:
        issues = issues_of(error, watcher)
        raise ConfigError(replace(issue, where=f"--watch: {issue.where}") for issue in issues) from None


class PosteriorMeanWriter:
    """A training callback that writes the posterior means of one run, and draws them.

    It writes `posterior_means.parquet` (snapshots) and `posterior_means_way.parquet` (the trajectory of one example).
    Both files are replaced atomically at each snapshot, so that they stay valid even if the run is killed. A run that
    resumes from its checkpoint extends the files.

    Args:
        config: Configuration of the recorder.
        folder: Folder of the files; created if missing.
        run_id: Id of the run.

    Raises:
        ConfigError: The folder is not writable, or contains files that are damaged or belong to another run or
            another version of lagvae.
    """

    def __init__(self, config: PosteriorMeanRecorder, folder: Path, run_id: str) -> None:
        self._config, self._folder, self._run_id = config, folder, run_id
        self._snapshots = self._stored_rows(SNAPSHOTS, SNAPSHOT_SCHEMA)
        self._trajectory = self._stored_rows(TRAJECTORY, TRAJECTORY_SCHEMA)
        if issues := folder_issues("--out", folder):
            raise ConfigError(issues)
        self._record = Snapshots(config, self._write_snapshot, self._write_trajectory)

    def __call__(self, state: TrainingState) -> None:
        if state.event == "start":
            self._snapshots, self._trajectory = [], []
        self._record(state)

    def _stored_rows(self, name: str, schema: pa.Schema) -> Rows:
        file = self._folder / f"{name}.parquet"
        if not os.path.exists(file):  # also if the folder may not be entered
            return []
        try:
            table = decode_table(file.read_bytes())
        except (DamagedFileError, OSError):
            table = None
        if table is None or not table.schema.equals(schema):
            message = f"must not contain a {file.name} that is damaged or was written by another version of lagvae"
            hint = "Choose another folder, or delete the file."
            raise ConfigError([ValidationIssue("--out", message, hint, str(self._folder))])
        rows: Rows = table.to_pylist()
        if others := sorted({row["run_id"] for row in rows} - {self._run_id}):
            message = f"must not contain files of a run other than {self._run_id} (found {', '.join(others)})"
            raise ConfigError([ValidationIssue("--out", message, "Choose another folder.", str(self._folder))])
        return rows

    def _write_snapshot(self, rows: Rows) -> None:
        self._snapshots = _merged(self._snapshots, rows)
        self._write(SNAPSHOTS, self._snapshots, SNAPSHOT_SCHEMA)

    def _write_trajectory(self, rows: Rows) -> None:
        self._trajectory = _merged(self._trajectory, rows)
        self._write(TRAJECTORY, self._trajectory, TRAJECTORY_SCHEMA)

    def _write(self, name: str, rows: Rows, schema: pa.Schema) -> None:
        write_atomically(self._folder / f"{name}.parquet", encode_table(pa.Table.from_pylist(rows, schema=schema)))

    def draw(self, title: str) -> list[Path]:
        """Draw the snapshots at the selected steps and the whole trajectory, and return the files of the figures."""
        files = []
        if self._snapshots:
            steps = select_steps(sorted({row["step"] for row in self._snapshots}), self._config.panels)
            snapshots = [[row for row in self._snapshots if row["step"] == step] for step in steps]
            dimensions = len(snapshots[0][0]["p_mean"])
            panels = [[_panel(rows, d, dimensions) for rows in snapshots] for d in range(dimensions)]
            files.append(self._folder / f"{SNAPSHOTS}.png")
            scatter_figure(panels, files[-1], title=title)
        dimensions = len(self._trajectory[0]["p_mean"]) if self._trajectory else 0
        for d in range(dimensions):
            points = [TrajectoryPoint(row["step"], row["p_mean"][d], row["q_mean"][d]) for row in self._trajectory]
            files.append(self._folder / f"{TRAJECTORY}{f'_{d}' if dimensions > 1 else ''}.png")
            trajectory_figure(points, files[-1], title=title)
        return files


def _merged(stored: Rows, rows: Rows) -> Rows:
    """Merge stored and new rows in the order of their steps. A step in `rows` replaces the same stored step."""
    steps = {row["step"] for row in rows}
    return sorted([row for row in stored if row["step"] not in steps] + rows, key=lambda row: row["step"])


def _panel(rows: Sequence[dict[str, Any]], d: int, dimensions: int) -> ScatterPanel:
    """Return the panel that shows dimension `d` of a snapshot."""
    p, q = (np.array([row[name][d] for row in rows]) for name in ("p_mean", "q_mean"))
    dimension = f", z{d + 1}" if dimensions > 1 else ""
    measured = [(name, rows[0][column]) for name, column in (("KL", "kl"), ("MI", "mi")) if rows[0][column] is not None]
    note = "\n".join(f"{name} {value:z.2f}" for name, value in measured)
    return ScatterPanel(p, q, f"update {rows[0]['step']:,}{dimension}", note)
