"""Measure how much training a search needs, on tabulated sweeps: random search, TPE, early stopping and racing.

    python benchmarks/search.py [--tables NAME ...] [--repetitions N] [--configurations N] [--json FILE] [--png FILE]
    python benchmarks/search.py --replays [--confidence C] [--racing] [--configurations N] [--json FILE]
    python benchmarks/search.py --ray [--time-scale F]    one repetition through the real driver, Ray Tune and Parquet
    python benchmarks/search.py --build [--results DIR]   train the tables again (10 to 20 minutes on two cores)

A table has every configuration of a grid, each with three seeds, trained by the sweep file in `tables/`. A method
searches this grid with a smaller budget of configurations. Its runs have the stored curves and metrics, so a repetition
takes seconds. Scheduler, samplers, early stopping and racing are those of `lagvae run`; a clock stands in for Ray, and
advances by the stored times of the runs on `--workers` workers.

After each run that ends, the front that the method has found so far is judged by the means over all three seeds of the
table, which the method does not know: a configuration that owes its place to a lucky seed does not count. The reference
point is the worst value of each objective in the table.

    ratio     gradient evaluations (encoder plus decoder updates) until the mean hypervolume over the repetitions
              reaches the mean final hypervolume of random search, divided by all gradient evaluations of random search
    saved     fraction of the gradient evaluations of the same sampler without stopping and racing that were not spent
    lost      fraction of its final hypervolume that was lost

All have an interval of 90 %, by bootstrap over the repetitions.

`--replays` measures what early stopping, or racing over seeds, does to a sweep whose configurations do not depend on
it: N configurations of a table in random order, with and without it, `--repetitions` times. A member of the front of
the sweep without it is lost if the sweep with it has no finished run of this configuration (as in `lagvae replay`).

    none lost    number of replays in which no member was lost
    lost         fraction of the hypervolume that is lost with the configurations without a finished run, by the means
                 over all seeds
    front lost   the same for the front that the table of the sweep shows: a configuration may also leave the front
                 because the mean over the seeds that got through differs
    saved        fraction of the gradient evaluations that were not spent
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from tabulated import Table, TabulatedTrial, replayed, write_table

from sweeps.analysis.front import front_of
from sweeps.analysis.pareto import hypervolume
from sweeps.execution import driver
from sweeps.execution.monitor import SilentMonitor
from sweeps.search.plan import Plan, Run
from sweeps.search.scheduler import RunScheduler
from sweeps.search.stopping import RunStopper
from sweeps.spec.sweep import SweepSpec, load_spec, parse_spec
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder

FOLDER = Path(__file__).parent / "tables"
SEEDS = 3
STOPPING: dict[str, Any] = {"rule": "front", "confidence": 0.9}
RACING = {"start": 1, "up_to": SEEDS}
METHODS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random"},
    "tpe": {"sampler": "tpe"},
    "tpe + stopping": {"sampler": "tpe", "stopping": STOPPING},
    "tpe + racing": {"sampler": "tpe", "seeds": RACING},
    "tpe + both": {"sampler": "tpe", "stopping": STOPPING, "seeds": RACING},
}
BASELINE = {method: "random" if method == "random" else "tpe" for method in METHODS}
DRAWS = 1000
"""Number of bootstrap draws."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """The course of one search.

    Args:
        evaluations: Gradient evaluations at each run that ended, in order.
        hypervolumes: Hypervolume of the front found so far.
    """

    evaluations: Floats
    hypervolumes: Floats

    def at(self, evaluations: Floats) -> Floats:
        """Return the hypervolume after given numbers of gradient evaluations; 0 before the first run ended."""
        position = np.searchsorted(self.evaluations, evaluations, side="right")
        return np.concatenate([[0.0], self.hypervolumes])[position]


class Judge:
    """Judges fronts by the means over all seeds of a table."""

    def __init__(self, table: Table, objectives: Mapping[str, str]) -> None:
        self._objectives: Any = dict(objectives)
        values: dict[str, list[list[float]]] = {}
        for run_id, run in table.runs.items():
            values.setdefault(run_id.partition("-")[0], []).append([run.metrics[name] for name in objectives])
        self._means = {config_id: np.mean(runs, axis=0) for config_id, runs in values.items()}
        means_MD = np.array(list(self._means.values()))
        low, high = means_MD.min(axis=0), means_MD.max(axis=0)
        self._reference = np.where([d == "min" for d in objectives.values()], high, low)

    def hypervolume(self, rows: Sequence[Mapping[str, Any]]) -> float:
        members = [row.config_id for row in front_of(rows, self._objectives) if row.member]
        if not members:
            return 0.0
        points = np.array([self._means[config_id] for config_id in members])
        return hypervolume(points, list(self._objectives.values()), self._reference)


def spec_of(table: Table, settings: Mapping[str, Any], configurations: int, seed: int) -> SweepSpec:
    """Return the sweep that searches the grid of a table with the settings of a method."""
    values = yaml.safe_load(table.spec)
    values["search"] = {
        "sampler": settings["sampler"],
        "configurations": configurations,
        "seeds": settings.get("seeds", SEEDS),
        "seed": seed,
    }
    values["stopping"] = settings.get("stopping", "none")
    return parse_spec(yaml.safe_dump(values, sort_keys=False))


def simulate(spec: SweepSpec, table: Table, workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run a sweep by the clock of its table; for each run that ends, yield the evaluations so far and its row."""
    scheduler = RunScheduler(Plan(spec, table.fingerprint, []))
    stopper = RunStopper(spec.stopping, spec.objectives) if spec.stopping is not None else None
    events: list[tuple[float, int, Run, int]] = []
    order = itertools.count()
    now, total, spent = 0.0, 0, dict[str, int]()
    while True:
        while len(events) < workers and (run := scheduler.next_run()) is not None:
            heapq.heappush(events, (now + table.runs[run.run_id].curve[0]["seconds"], next(order), run, 0))
        if not events:
            return
        now, _, run, number = heapq.heappop(events)
        curve, stored = table.runs[run.run_id].curve, table.runs[run.run_id]
        if number < len(curve):
            epoch = curve[number]
            evaluations = epoch["encoder_steps"] + epoch["decoder_steps"]
            total += evaluations - spent.get(run.run_id, 0)
            spent[run.run_id] = evaluations
            if stopper is None or stopper.observe(run, epoch) is None:
                later = curve[number + 1]["seconds"] if number + 1 < len(curve) else stored.costs["seconds"]
                heapq.heappush(events, (now + max(later - epoch["seconds"], 0.0), next(order), run, number + 1))
                continue
            values: dict[str, Any] = {"status": "stopped_early"}
        else:
            values = {"status": "finished", **stored.metrics}
        row = dict.fromkeys(runs_schema().names) | {
            "arm": run.arm,
            "run_id": run.run_id,
            "config_id": run.config_id,
            "seed": run.seed,
            "parameters": json.dumps(dict(run.parameters)),
            **values,
        }
        scheduler.on_run_ended(run, row)
        if stopper is not None:
            stopper.on_run_ended(run, row)
        yield total, row


def search(table: Table, method: str, options: argparse.Namespace, seed: int) -> Trajectory:
    """Return the course of one repetition of a method."""
    spec = spec_of(table, METHODS[method], options.configurations, seed)
    judge = Judge(table, spec.objectives)
    rows: list[dict[str, Any]] = []
    points: list[tuple[int, float]] = []
    for total, row in simulate(spec, table, options.workers):
        rows.append(row)
        points.append((total, judge.hypervolume(rows)))
    evaluations, hypervolumes = np.array(points, dtype=np.float64).T
    return Trajectory(evaluations, hypervolumes)


def search_with_ray(file: Path, method: str, options: argparse.Namespace, seed: int) -> Trajectory:
    """Return the end of one repetition of a method through the driver, Ray Tune and Parquet."""
    table = Table(file)
    spec = spec_of(table, method, options.configurations, seed)
    with tempfile.TemporaryDirectory() as place, replayed(TabulatedTrial(file, options.time_scale), options.workers):
        folder = ResultsFolder(place, spec.name)
        driver.run_sweep(spec, folder, SilentMonitor())
        rows = folder.runs()
    total = sum(row["encoder_steps"] + row["decoder_steps"] for row in rows)
    return Trajectory(np.array([float(total)]), np.array([Judge(table, spec.objectives).hypervolume(rows)]))


def summary(name: str, courses: Mapping[str, Sequence[Trajectory]]) -> list[dict[str, Any]]:
    """Return one row per method, with intervals by bootstrap over the repetitions."""
    repetitions = len(courses["random"])
    generator = np.random.default_rng(0)
    draws = [np.arange(repetitions), *generator.integers(0, repetitions, (DRAWS, repetitions))]
    longest = max(t.evaluations[-1] for ts in courses.values() for t in ts)
    grid = np.linspace(0.0, longest, 2000)
    curves = {method: np.array([t.at(grid) for t in ts]) for method, ts in courses.items()}
    totals = {method: np.array([t.evaluations[-1] for t in ts]) for method, ts in courses.items()}
    finals = {method: np.array([t.hypervolumes[-1] for t in ts]) for method, ts in courses.items()}
    rows = []
    for method in courses:
        ratios, saved, lost = [], [], []
        base = BASELINE[method]
        for draw in draws:
            reached = curves[method][draw].mean(axis=0) >= finals["random"][draw].mean()
            first = grid[reached.argmax()] if reached.any() else np.inf
            ratios.append(first / totals["random"][draw].mean())
            saved.append(1 - totals[method][draw].mean() / totals[base][draw].mean())
            lost.append(1 - finals[method][draw].mean() / finals[base][draw].mean())
        low, high = np.quantile(ratios, [0.05, 0.95], method="nearest")
        rows.append(
            {
                "table": name,
                "method": method,
                "ratio_to_random": _finite(ratios[0]),
                "low": _finite(low),
                "high": _finite(high),
                "hypervolume_lost": lost[0],
                "hypervolume_lost_interval": np.quantile(lost, [0.05, 0.95]).tolist(),
                "saved": saved[0],
                "saved_interval": np.quantile(saved, [0.05, 0.95]).tolist(),
                "hypervolume": float(finals[method].mean()),
                "repetitions": repetitions,
            }
        )
    return rows


def replays(name: str, table: Table, options: argparse.Namespace) -> dict[str, Any]:
    """Return the losses and savings in sweeps with the same configurations in the same order."""
    stopping = STOPPING | {"confidence": options.confidence}
    settings = {"seeds": RACING} if options.racing else {"stopping": stopping}
    none_lost, losses = 0, []
    for seed in range(options.repetitions):
        sweeps = []
        for changes in ({}, settings):
            spec = spec_of(table, {"sampler": "random", **changes}, options.configurations, seed)
            rows = list(simulate(spec, table, options.workers))
            sweeps.append(([row for _, row in rows], rows[-1][0]))
        (complete, total), (rows, spent) = sweeps
        judge = Judge(table, spec.objectives)
        left = {row["config_id"] for row in rows if row["status"] == "finished"}
        members = {row.config_id for row in front_of(complete, spec.objectives) if row.member}
        none_lost += members <= left
        volume = judge.hypervolume(complete)
        kept = judge.hypervolume([row for row in complete if row["config_id"] in left])
        losses.append((1 - kept / volume, 1 - judge.hypervolume(rows) / volume, 1 - spent / total))
    mean = np.mean(losses, axis=0)
    return {
        "table": name,
        "method": "racing" if options.racing else f"stopping {options.confidence:g}",
        "configurations": options.configurations,
        "replays": options.repetitions,
        "none_lost": none_lost,
        **dict(zip(("lost", "front_lost", "saved"), mean.tolist(), strict=True)),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def draw(courses: Mapping[str, Mapping[str, Sequence[Trajectory]]], path: Path) -> None:
    """Draw the mean hypervolume of each method against gradient evaluations, with a band of one standard error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(courses), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, methods) in enumerate(courses.items(), start=1):
        axes = figure.add_subplot(1, len(courses), number)
        for method, trajectories in methods.items():
            grid = np.linspace(0, max(t.evaluations[-1] for t in trajectories), 400)
            values = np.array([t.at(grid) for t in trajectories])
            mean, se = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))
            [line] = axes.plot(grid, mean, label=method, linewidth=1.3)
            axes.fill_between(grid, mean - se, mean + se, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(title=name, xlabel="gradient evaluations", ylabel="hypervolume of the front", ylim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def build(names: Sequence[str], results: str) -> None:
    """Train the grids and write the tables."""
    for name in names:
        spec = load_spec(str(FOLDER / f"{name}.yaml"))
        folder = ResultsFolder(results, spec.name)
        outcome = driver.run_sweep(spec, folder, SilentMonitor())
        print(f"{name}: {dict(outcome.statuses)}", file=sys.stderr)
        if outcome.exit_code:
            sys.exit(outcome.exit_code)
        write_table(folder, FOLDER / f"{name}.parquet")


def main() -> None:
    names = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tables", nargs="+", choices=names, default=names)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--configurations", type=int, default=24)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--replays", action="store_true", help="compare sweeps with the same configurations")
    parser.add_argument("--confidence", type=float, default=STOPPING["confidence"], help="confidence of the replays")
    parser.add_argument("--racing", action="store_true", help="replay racing over seeds instead of early stopping")
    parser.add_argument("--ray", action="store_true", help="run each method once through the driver and Ray Tune")
    parser.add_argument("--time-scale", type=float, default=0.0, help="factor on the stored times of runs with --ray")
    parser.add_argument("--build", action="store_true", help="train the tables")
    parser.add_argument("--results", default="results", help="folder of the sweeps that --build trains")
    options = parser.parse_args()
    if options.build:
        build(options.tables, options.results)
        return
    if options.replays:
        rows = [replays(name, Table(FOLDER / f"{name}.parquet"), options) for name in options.tables]
        _print(rows, tuple(rows[0]))
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
        return
    methods = list(dict.fromkeys(["random", "tpe", *options.methods]))
    courses: dict[str, dict[str, list[Trajectory]]] = {}
    rows = []
    for name in options.tables:
        file = FOLDER / f"{name}.parquet"
        table = Table(file)
        seeds = range(options.repetitions)
        if options.ray:
            courses[name] = {m: [search_with_ray(file, m, options, 0)] for m in methods}
        else:
            courses[name] = {m: [search(table, m, options, seed) for seed in seeds] for m in methods}
        rows += summary(name, courses[name])
    columns = ("table", "method", "ratio_to_random", "low", "high", "saved", "hypervolume_lost", "hypervolume")
    _print(rows, columns)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.png:
        draw(courses, options.png)


def _print(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    print("  ".join(f"{column:>16}" for column in columns))
    for row in rows:
        print("  ".join(f"{_text(row[column]):>16}" for column in columns))


def _text(value: object) -> str:
    return "never" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
