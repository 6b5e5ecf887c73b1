"""`lagvae trial --watch`: what a watcher sees goes into a folder as it comes, and is drawn at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.files import write_atomically
from lagvae_core.studies.posterior_mean_recorder import PosteriorMeanRecorder, Rows, Snapshots
from lagvae_core.training.callbacks import TrainingState

__all__ = ["SNAPSHOT_SCHEMA", "TRAJECTORY_SCHEMA", "PosteriorMeanWriter", "parse_watch"]

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
"""One row a snapshot and example. `step`: outer updates; lists over latent dimensions; nats over the snapshot."""

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
"""One row a step of an optimiser, within the outer update `step`."""

EXAMPLE = "--watch 'posterior_means:every=100,panels=[0,200,2000]'"


def parse_watch(text: str) -> PosteriorMeanRecorder:
    """`posterior_means`, perhaps with fields as of `--arm`, as a setting; ConfigError with every mistake."""
    from sweeps.spec.arm_syntax import parse_arm_text

    items = parse_arm_text(text)
    kind = PosteriorMeanRecorder.model_fields["kind"].default
    if len(items) != 1 or items[0]["kind"] != kind:
        raise ConfigError(
            [ValidationIssue("--watch", f"must be {kind}, the one thing that can be watched", f"{EXAMPLE}.", text)]
        )
    try:
        return PosteriorMeanRecorder.model_validate(items[0])
    except ValidationError as error:
        raise ConfigError(issues_of(error, PosteriorMeanRecorder), "--watch") from None


class PosteriorMeanWriter:
    """The posterior means of one run: `posterior_means.parquet`, `posterior_means_way.parquet` and their pictures.

    Each file is replaced as a whole at each snapshot, and so is whole whenever the run is killed. A run that goes on
    from its checkpoint adds to them.
    """

    def __init__(self, setting: PosteriorMeanRecorder, folder: Path, run_id: str) -> None:
        self._setting, self._folder, self._run_id = setting, folder, run_id
        self._snapshots = self._stored("posterior_means", SNAPSHOT_SCHEMA)
        self._trajectories = self._stored("posterior_means_way", TRAJECTORY_SCHEMA)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".probe").touch()
            (folder / ".probe").unlink()
        except OSError as error:
            message = f"must be a folder that can be written to ({error.strerror})"
            raise ConfigError([ValidationIssue("--out", message, "Choose another.", str(folder))]) from None
        self._hear = Snapshots(setting, self._write_snapshot, self._write_trajectory)

    def __call__(self, watched: TrainingState) -> None:
        if watched.event == "start":
            self._snapshots, self._trajectories = [], []
        self._hear(watched)

    def _stored(self, name: str, schema: pa.Schema) -> Rows:
        file = self._folder / f"{name}.parquet"
        if not file.exists():
            return []
        try:
            table = pq.read_table(file)
        except (pa.ArrowException, OSError):
            table = None
        if table is None or not table.schema.equals(schema):
            message = "must be free of files of that name that no run of this version has written"
            raise ConfigError([ValidationIssue("--out", message, "Choose another folder.", str(file))])
        rows: Rows = table.to_pylist()
        if others := sorted({row["run_id"] for row in rows} - {self._run_id}):
            message = f"must be that of run {self._run_id}, and it holds {', '.join(others)}"
            raise ConfigError([ValidationIssue("--out", message, "Choose another folder.", str(self._folder))])
        return rows

    def _write_snapshot(self, rows: Rows) -> None:
        self._snapshots = _with(self._snapshots, rows)
        self._write("posterior_means", self._snapshots, SNAPSHOT_SCHEMA)

    def _write_trajectory(self, rows: Rows) -> None:
        self._trajectories = _with(self._trajectories, rows)
        self._write("posterior_means_way", self._trajectories, TRAJECTORY_SCHEMA)

    def _write(self, name: str, rows: Rows, schema: pa.Schema) -> None:
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
        write_atomically(self._folder / f"{name}.parquet", buffer.getvalue().to_pybytes())

    def draw(self, title: str) -> list[Path]:
        """The pictures of what is stored, and where they are."""
        from sweeps.plots.posterior_means import Place, chosen_steps, scatter_figure, trajectory_figure

        drawn = []
        if self._snapshots:
            steps = chosen_steps(sorted({row["step"] for row in self._snapshots}), self._setting.panels)
            shown = [[row for row in self._snapshots if row["step"] == step] for step in steps]
            dimensions = len(shown[0][0]["p_mean"])
            panels = [[_panel(rows, d, dimensions) for rows in shown] for d in range(dimensions)]
            drawn.append(self._folder / "posterior_means.png")
            scatter_figure(panels, drawn[-1], title=title)
        for d in range(len(self._trajectories[0]["p_mean"]) if self._trajectories else 0):
            places = [Place(row["step"], row["p_mean"][d], row["q_mean"][d]) for row in self._trajectories]
            dimension = "" if len(self._trajectories[0]["p_mean"]) == 1 else f"_{d}"
            drawn.append(self._folder / f"posterior_means_way{dimension}.png")
            trajectory_figure(places, drawn[-1], title=title)
        return drawn


def _with(stored: Rows, rows: Rows) -> Rows:
    """`stored` and `rows` in the order of their steps; rows of one step replace those before."""
    steps = {row["step"] for row in rows}
    return sorted([row for row in stored if row["step"] not in steps] + rows, key=lambda row: row["step"])


def _panel(rows: Sequence[dict[str, Any]], d: int, dimensions: int) -> Any:
    from sweeps.plots.posterior_means import Scatter

    p, q = (np.array([row[name][d] for row in rows]) for name in ("p_mean", "q_mean"))
    which = f", z{d + 1}" if dimensions > 1 else ""
    said = [(name, rows[0][column]) for name, column in (("KL", "kl"), ("MI", "mi")) if rows[0][column] is not None]
    note = "\n".join(f"{name} {round(value, 2) + 0.0:.2f}" for name, value in said)  # never -0.00
    return Scatter(p, q, f"update {rows[0]['step']:,}{which}", note)
