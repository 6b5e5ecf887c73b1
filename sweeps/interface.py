"""Sweeps from Python and in notebooks: `Sweep` plans and runs one, `read_results` reads its tables with pandas."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from lagvae_core.errors import CheckpointError, ConfigError, ValidationIssue
from lagvae_core.files import write_atomically
from sweeps.analysis.arm_comparison import compare_stored_arms
from sweeps.analysis.front import Front, front_of
from sweeps.analysis.ranking import front_probabilities, rank_arms
from sweeps.analysis.stored import stored_plan, stored_spec
from sweeps.execution.datasets import make_plan
from sweeps.execution.driver import SweepOutcome, run_sweep
from sweeps.execution.monitor import Monitor, SilentMonitor
from sweeps.formatting import describe_tracker_failure
from sweeps.spec.sections import Direction
from sweeps.spec.sweep import SweepSpec, load_spec, parse_spec
from sweeps.storage.folder import FolderFile, model_name
from sweeps.storage.plugins import load_stored_plugins, plugins_of
from sweeps.storage.row_table import RowTable
from sweeps.storage.table import ResultsFolder, find_sweep
from sweeps.studies.table import non_numeric_columns, with_evaluations
from sweeps.trackers.monitor import with_trackers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lagvae_core.fitted import FittedModel

__all__ = ["Results", "Sweep", "read_results"]

SHOWN = ("arm", "config_id", "seed", "status", "nll_iw", "kl", "mi", "au")
"""Columns of the short view of a table in a notebook."""


@dataclass(frozen=True, repr=False)
class Sweep:
    """A validated sweep.

    Args:
        spec: The content of the sweep file.

    Example:
        >>> from sweeps import Sweep
        >>> sweep = Sweep.from_yaml("quickstart", {"search.seeds": 1})
        >>> sweep.plan()
        >>> results = sweep.run("results")
        >>> results.front()
    """

    spec: SweepSpec

    @classmethod
    def from_yaml(cls, where: str | Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
        """Load a sweep file.

        Args:
            where: Path of the file, or name of a sweep that ships with lagvae.
            overrides: Dotted keys, such as `trial.training.epochs`, and the values that replace those in the file.

        Raises:
            ConfigError: The file cannot be read or is invalid; the error lists every problem.
        """
        return cls(load_spec(str(where), overrides))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sweep:
        """Return the sweep with the content of a sweep file as plain data.

        Raises:
            ConfigError: The content is invalid; the error lists every problem.
        """
        return cls(parse_spec(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), "Sweep.from_dict"))

    def __repr__(self) -> str:
        return f"Sweep({self.spec.name!r}, arms={[arm.name for arm in self.spec.arms]})"

    def plan(self, results: str | Path = "results") -> pd.DataFrame:
        """Return the number of configurations, runs and missing runs of each arm. Nothing is written.

        Args:
            results: Folder or URI of the results.

        Raises:
            DataError: The data are missing or invalid.
        """
        arms = make_plan(self.spec, ResultsFolder(str(results), self.spec.name)).arms()
        rows = [asdict(arm) | {"missing": arm.missing} for arm in arms]
        return pd.DataFrame(rows).set_index("arm")

    def run(
        self,
        results: str | Path = "results",
        *,
        address: str | None = None,
        retry: bool = False,
        seconds: float | None = None,
        monitor: Monitor | None = None,
    ) -> Results:
        """Train the missing runs, and return the results. Stored runs are never repeated.

        Call it from the main thread. An interruption of the kernel or Ctrl-C ends it after the running runs have saved
        their checkpoints; calling it again resumes the sweep.

        Args:
            results: Folder or URI of the results.
            address: Address of a running Ray cluster, `auto` or HOST:PORT; None starts Ray on this machine.
            retry: Whether runs that failed or ran out of memory are repeated.
            seconds: Time after which the sweep is interrupted [s]; None for no limit.
            monitor: Receives the events of the sweep. By default, one line is printed for each run that ends.

        Raises:
            ConfigError: No node can hold a run, the results folder is not writable, or a tracker is not installed.
            DataError: The data are missing or invalid.
            ConnectionFailed: No cluster answers at `address`, or Ray cannot start on this machine.
            StoreError: The results could not be read or written.
        """
        folder = ResultsFolder(str(results), self.spec.name)
        monitor = _Lines() if monitor is None else monitor  # type: ignore[abstract]  # events are ignored by default
        monitor = with_trackers(monitor, self.spec, folder)
        outcome = run_sweep(self.spec, folder, monitor, address, retry=retry, seconds=seconds)
        return Results(folder, outcome)


class _Lines(SilentMonitor):
    """Prints a line for each run that ends, and for each tracker that fails."""

    def __init__(self) -> None:
        self._out = sys.stdout  # while runs train, the driver redirects it

    def on_run_ended(self, run: Any, row: Mapping[str, Any]) -> None:
        values = ", ".join(f"{name} {row[name]:.3f}" for name in ("nll_iw", "mi") if row.get(name) is not None)
        print(
            f"{run.arm}, configuration {run.configuration}, seed {run.seed}: {row['status']}  {values}",
            file=self._out,
            flush=True,
        )

    def on_tracker_failed(self, tracker: str, reason: str) -> None:
        print(f"warning, {describe_tracker_failure(tracker, reason)}", file=self._out, flush=True)


@dataclass(frozen=True, repr=False)
class Results:
    """The tables of a stored sweep. Every property reads the files again, so a running sweep can be followed.

    Args:
        folder: Folder of the sweep.
        outcome: How the driver ended, if it ran in this process.
    """

    folder: ResultsFolder
    outcome: SweepOutcome | None = None

    def __repr__(self) -> str:
        counts = self.runs["status"].value_counts().to_dict()
        return f"Results({self.folder.sweep!r}, {', '.join(f'{n} {status}' for status, n in counts.items())})"

    def _repr_html_(self) -> str:
        """Return the short view that a notebook shows."""
        runs = self.runs
        html: str = runs[[name for name in SHOWN if name in runs]].to_html(index=False, max_rows=20)
        return html

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run, with all columns of the table; null values are NaN or None."""
        return pd.DataFrame(self.folder.runs())

    @property
    def curves(self) -> pd.DataFrame:
        """One row per run and epoch, with the columns of the curves, also of runs that have not ended."""
        return pd.DataFrame(self.folder.curves())

    def front(self, objectives: Mapping[str, Direction] | None = None) -> pd.DataFrame:
        """Return the configurations on the Pareto front, by means over seeds.

        Args:
            objectives: "min" or "max" by column; None for the objectives of the sweep.

        Returns:
            One row per configuration: arm, config_id, mean and standard error of each objective (`COLUMN_se`), number
            of finished seeds n, parameters, standing: "on", "in doubt" (on the front, although another one, the
            `rival`, is better beyond the error) or "tied" (dominated, but not beyond the error), and the probability
            to be on the front: the fraction of bootstrap draws over seeds; NaN for one seed, whose spread is unknown.
        """
        _, axes, rows, found = self._configurations(objectives)
        probabilities = front_probabilities(found, rows, axes)
        return pd.DataFrame([row.to_json() | {"probability": probabilities[row.config_id]} for row in found.shown()])

    def rank(self, objectives: Mapping[str, Direction] | None = None) -> pd.DataFrame:
        """Return the arms, ranked by the hypervolume of their fronts (see `sweeps.analysis.ranking.rank_arms`).

        Args:
            objectives: "min" or "max" by column; None for the objectives of the sweep.

        Returns:
            One row per arm, best first: rank, arm, hypervolume in the product of the objectives' units, the bounds of
            its interval (`hypervolume_low`, `hypervolume_high`; NaN if a configuration on the arm's front has one
            seed), numbers of configurations, of those with one seed (`single_seed`), of runs, and of configurations
            on the common front (`on_front`). `attrs["reference"]` is the common reference point by objective.

        Raises:
            ConfigError: An objective is unknown, or fewer than two arms have finished runs with all objectives.

        Example:
            >>> ranking = read_results("results/mine").rank({"nll_iw": "min", "mi": "max"})
            >>> ranking.attrs["reference"]
        """
        _, axes, rows, _ = self._configurations(objectives)
        ranking = rank_arms(self.folder.sweep, rows, axes).to_json()
        table = _frame(ranking["arms"], ("hypervolume_low", "hypervolume_high"))
        table.attrs["reference"] = ranking["reference"]
        return table

    def compare(
        self,
        arm_a: str,
        arm_b: str,
        *arms: str,
        column: str | None = None,
        select: Mapping[str, Direction] | None = None,
    ) -> pd.DataFrame:
        """Compare arms in one column with the first of them (see `sweeps.analysis.arm_comparison.compare_arms`).

        Args:
            arm_a: Name of the arm that is the baseline.
            arm_b: Name of the arm that is compared with it.
            arms: Names of further arms.
            column: A numeric column of the table; None for the first objective that is not of the validation split.
            select: Column of the validation split and "min" or "max", by which the configuration that represents an
                arm is chosen. None for `{"valid_nll_elbo": "min"}`, and for no representatives in a paired sweep.

        Returns:
            One row per compared arm: difference of the means (arm minus baseline) in the unit of the column, bounds of
            its interval (`difference_low`, `difference_high`), p-value, p-value corrected for several arms (`p_holm`),
            verdict, what the values are `matched` by, their numbers, the number that a p-value requires
            (`n_required`), both means and the `config_id`s of the representatives.

        Raises:
            ConfigError: An arm or a column is unknown, or an arm has no finished run with a value; lists every issue.

        Example:
            >>> read_results("results/mine").compare("vae", "free_bits", column="nll_iw")
        """
        comparison = compare_stored_arms(self.folder, (arm_a, arm_b, *arms), column, select).to_json()
        table = _frame(comparison.pop("arms"), ("difference_low", "difference_high", "p", "p_holm"))
        table.attrs |= comparison
        return table

    def plot(self, objectives: Mapping[str, Direction] | None = None) -> Figure:
        """Return a figure of all configurations and the Pareto front; the first objective is on the y axis.

        A notebook shows it after `%matplotlib inline`, and `savefig` writes it to a file.

        Args:
            objectives: "min" or "max" by column; None for the objectives of the sweep.

        Raises:
            ConfigError: There are not two objectives, or no finished run has a value for both.
        """
        from sweeps.plots.front import front_plot, front_points

        spec, axes, _, found = self._configurations(objectives)
        if len(axes) != 2:
            hint = 'For example: objectives={"nll_iw": "min", "mi": "max"}.'
            raise ConfigError([ValidationIssue("objectives", "must be two columns", hint, list(axes))])
        if not found:
            message = "must have finished runs with a value for both objectives"
            raise ConfigError([ValidationIssue("results", message, "Run the sweep first.", self.folder.sweep)])
        (y, y_direction), (x, x_direction) = axes.items()
        points = front_points(found, x, y, [arm.name for arm in spec.arms])
        return front_plot(points, x=x, y=y, directions=(x_direction, y_direction), title=spec.name)

    def report(self, path: str | Path, objectives: Mapping[str, Direction] | None = None) -> Path:
        """Write an HTML page to share, as `lagvae results report` does, and return its path.

        Args:
            path: File to write.
            objectives: "min" or "max" by column; None for the objectives of the sweep.

        Raises:
            ConfigError: An objective is unknown, or the sweep has no run of its current sweep file.
            OSError: The file cannot be written.
        """
        from sweeps.report import report_of

        if issues := _objective_issues(objectives or {}):
            raise ConfigError(issues)
        write_atomically(Path(path), report_of([self.folder], objectives).encode())
        return Path(path)

    def rate_distortion(self, rate: str = "mi", distortion: str = "nll_iw") -> pd.DataFrame:
        """Return what each arm reaches at equal information; see `sweeps.analysis.rate_distortion`.

        Args:
            rate: "mi" or "kl".
            distortion: "nll_iw", "nll_elbo" or "rec".

        Returns:
            One row per arm and level of the rate: arm, rate, config_id, and the best distortion with its interval,
            value, low and high [nats].
        """
        from sweeps.analysis.rate_distortion import rate_distortion

        rows = stored_plan(self.folder, stored_spec(self.folder), [rate, distortion]).current
        curves = rate_distortion(rows, rate=rate, distortion=distortion)
        return pd.DataFrame(
            [
                {"arm": curve.arm, "rate": level.rate, "config_id": level.config_id, **asdict(level.distortion)}
                for curve in curves
                for level in curve.levels
            ]
        )

    def load_model(self, run_id: str) -> FittedModel:
        """Return the model of a run; a sweep keeps models with `keep: models`.

        Raises:
            CheckpointError: The model was not kept, or is damaged.
            DataError: The data cannot be loaded.
        """
        from lagvae_core.fitted import model_of

        content = FolderFile(self.folder, model_name(run_id)).load()
        if content is None:
            hint = "Set keep: models in the sweep file, or run `lagvae evaluate --retrain`."
            raise CheckpointError(f"{self.folder.sweep} has no model of run {run_id}. {hint}")
        return model_of(content)

    def _configurations(
        self, objectives: Mapping[str, Direction] | None
    ) -> tuple[SweepSpec, Mapping[str, Direction], RowTable, Front]:
        spec = stored_spec(self.folder)
        axes = objectives or spec.objectives
        if issues := _objective_issues(axes):
            raise ConfigError(issues)
        rows = with_evaluations(self.folder, stored_plan(self.folder, spec, list(axes)).current, axes)
        return spec, axes, rows, front_of(rows, axes)


def _frame(rows: Sequence[Mapping[str, Any]], nullable: Sequence[str]) -> pd.DataFrame:
    """Return rows as a frame, with NaN in place of None in the columns `nullable`, even if all of their values are."""
    return pd.DataFrame(rows).astype(dict.fromkeys(nullable, "float64"))


def _objective_issues(objectives: Mapping[str, Direction]) -> list[ValidationIssue]:
    issues = non_numeric_columns("objectives", objectives)
    for column, direction in objectives.items():
        if direction not in ("min", "max"):
            hint = 'For example: {"nll_iw": "min", "mi": "max"}.'
            issues.append(ValidationIssue(f"objectives.{column}", "must be min or max", hint, direction))
    return issues


def read_results(path: str | Path, *, trust: bool = False) -> Results:
    """Return the results of a stored sweep.

    Args:
        path: Folder of the sweep: `results/NAME`, or a URI.
        trust: Whether plugins that are stored in the folder may be run. Read them first: they are code.

    Raises:
        ConfigError: There is no sweep, or it needs a plugin that is neither loaded nor trusted.
    """
    results, _, sweep = str(path).rstrip("/").rpartition("/")
    folder = find_sweep(results or ".", sweep)
    if trust:
        for row in folder.runs():
            load_stored_plugins(folder, plugins_of(row), trusted=True)
    return Results(folder)
