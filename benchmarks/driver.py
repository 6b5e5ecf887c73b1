"""Measure the processor time and memory of the driver of a sweep as a function of the number of concurrent trials.

    python benchmarks/driver.py [--concurrent N ...] [--epochs N] [--pause SECONDS] [--forked] [--json FILE]
    python benchmarks/driver.py --runs N [--epochs N]        N runs, two at a time, and the resume of their rows

The benchmark runs a real sweep with Ray on this machine; Ray is configured to see N cores. The trials train nothing:
each starts, reports an epoch, waits until all have started, reports `epochs` further epochs `pause` seconds apart, and
ends with the record of a real trial. Each N runs in a new process. All results are processor time, which other
processes disturb less than wall time; `ms` are milliseconds of one core.

    start     driver, per trial that starts, including Ray's own work for it
    report    driver, per epoch that a trial reports, including its curve, without the row of the first report
    end       driver, per trial that ends: its row, its curve, the search
    head      the GCS and the node's raylet together, per report
    MiB       resident set of the driver at the end, and the increase per trial

Even such a trial is a process of some 230 MB, which limits N on one machine; with --forked it takes some 25 MB
(`forked_workers.py`). The times depend on the machine, but nothing should grow faster than N on any machine.

With --runs, the workers replay stored runs (`tabulated.py`): N / 5 configurations of one arm, chosen by TPE, with five
seeds each. There is one line for each tenth of the runs; no column should grow:

    wall      wall time per run, workers included
    driver    processor time of the driver per run
    head      processor time of the GCS and the raylet per run
    MiB       resident set of the driver
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from forked_workers import forked_workers
from tabulated import TabulatedTrial, replayed

from cluster import connection
from lagvae_core import train
from lagvae_core.config.trial import parse_trial
from sweeps.cli.live_display import Display
from sweeps.execution import driver
from sweeps.execution.monitor import SilentMonitor
from sweeps.execution.recorder import RunRecorder
from sweeps.execution.resources import NodeCapacity
from sweeps.search.plan import Run
from sweeps.spec.sweep import parse_spec
from sweeps.storage.table import ResultsFolder

TRIAL: dict[str, Any] = {
    "data": {"kind": "synthetic", "examples": 64, "heldout": 32, "vocabulary": 20, "length": 5, "hidden": 8},
    "model": {"hidden": 8, "embedding": 8, "latent_dim": 2},
    "training": {"epochs": 30},
    "evaluation": {"iw_samples": 10},
}
STARTED = {"host": "here", "device": "cpu"}


def report_only(job: dict[str, Any]) -> None:
    """Stand in for `train_run`: send the same reports without training."""
    from ray import tune

    plan = json.loads(Path(os.environ["LAGVAE_BENCHMARK_PLAN"]).read_text())
    curve = json.loads(plan["record"])["curve"]
    epochs = plan["epochs"] + 1

    def report(epoch: int) -> None:
        values = curve[(epoch - 1) % len(curve)] | {"epoch": epoch}
        tune.report(STARTED | {"pid": os.getpid(), "epoch": epoch, "epochs": epochs, "curve": json.dumps(values)})

    report(1)
    while not Path(plan["go"]).exists():
        time.sleep(5)
    for epoch in range(2, epochs + 1):
        time.sleep(plan["pause"])
        report(epoch)
    tune.report(STARTED | {"record": plan["record"]})


def cpu_seconds(pid: int | str = "self") -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def daemons() -> list[int]:
    """Return the process ids of the GCS and the raylet that this process started."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text().strip()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if name in ("gcs_server", "raylet") and parent == os.getpid():
            pids.append(int(folder.name))
    return pids


class Clock:
    """The driver's processor time at the boundaries between the phases.

    Args:
        runs: Number of trials.
        go: File that lets the trials continue once all have started.
        suspend: Suspend trials until all have started. A thousand waiting trials wake up so often that a small machine
            has no time to start another one.
    """

    def __init__(self, runs: int, go: Path, *, suspend: bool) -> None:
        self._runs, self._go, self._suspend = runs, go, suspend
        self._seen: set[str] = set()
        self._waiting: list[int] = []
        self.reports = self.ends = 0
        self.marks: dict[str, tuple[float, float, float]] = {}

    def mark(self, name: str) -> None:
        if name not in self.marks:
            self.marks[name] = (cpu_seconds(), sum(cpu_seconds(pid) for pid in daemons()), time.monotonic())
            seconds = time.monotonic() - self.marks["begin"][2]
            print(f"{name}: {seconds:.0f} s, {resident_mib():.0f} MiB, {self.marks[name][:2]}", file=sys.__stderr__)

    def progressed(self, run_id: str, report: Mapping[str, Any]) -> None:
        if run_id in self._seen:
            self.reports += "curve" in report
            return
        self._seen.add(run_id)
        self._waiting.append(report["pid"])
        if self._suspend:
            os.kill(report["pid"], signal.SIGSTOP)
        if len(self._seen) == self._runs:
            self.mark("all started")
            self._go.touch()
            for number, pid in enumerate(self._waiting):
                os.kill(pid, signal.SIGCONT)
                if self._suspend and number % 50 == 49:
                    time.sleep(1.0)  # if all were resumed at once, they would wait for each other

    def ended(self) -> None:
        if not self.ends:
            self.mark("first end")
        self.ends += 1


def watch(clock: Clock) -> None:
    """Notify `clock` of every report that the recorder receives."""
    progressed, ended = RunRecorder.on_run_progress, RunRecorder.on_run_ended

    def on_run_progress(self: RunRecorder, run_id: str, report: Mapping[str, Any]) -> None:
        progressed(self, run_id, report)
        clock.progressed(run_id, report)

    def on_run_ended(self: RunRecorder, run_id: str, report: Mapping[str, Any]) -> None:
        clock.ended()
        ended(self, run_id, report)

    RunRecorder.on_run_progress, RunRecorder.on_run_ended = on_run_progress, on_run_ended  # type: ignore[method-assign]


@contextlib.contextmanager
def forked(folder: Path) -> Iterator[None]:
    """Context manager in which Ray's workers are forks of one process."""
    original_start = connection._start
    # Without the memory monitor, Ray does not end idle workers that are swapped out. A raylet polls its agent for each
    # pending trial, so hundreds of pending trials at one node would use up its ports.
    os.environ |= {"RAY_memory_monitor_refresh_ms": "0", "TUNE_MAX_PENDING_TRIALS_PG": "16"}
    with forked_workers(folder) as script:

        def start(*arguments: Any) -> Any:
            from ray._private import parameter

            parameter.RayParams = functools.partial(parameter.RayParams, worker_path=str(script))
            return original_start(*arguments)

        connection._start = start
        yield


def measure(runs: int, epochs: int, pause: float, fork: bool) -> dict[str, float]:
    """Run one sweep with `runs` concurrent trials in this process, and return a row of the table."""
    with tempfile.TemporaryDirectory() as folder, forked(Path(folder)) if fork else contextlib.nullcontext():
        go, plan = Path(folder) / "go", Path(folder) / "plan.json"
        record = json.dumps(train(parse_trial(TRIAL)).to_json())
        plan.write_text(json.dumps({"go": str(go), "epochs": epochs, "pause": pause, "record": record}))
        os.environ["LAGVAE_BENCHMARK_PLAN"] = str(plan)
        clock = Clock(runs, go, suspend=fork)
        watch(clock)
        driver.train_run = report_only  # type: ignore[attr-defined]
        driver.local_capacity = lambda: NodeCapacity(runs, 0)  # type: ignore[attr-defined]
        search = {"sampler": "random", "configurations": 1, "seeds": runs, "seed": 0}
        spec = parse_spec(yaml.safe_dump({"name": "bench", "trial": TRIAL, "arms": {"vae": []}, "search": search}))
        before = resident_mib()
        clock.mark("begin")
        outcome = driver.run_sweep(spec, ResultsFolder(folder, "bench"), Display())
        clock.mark("end")
        assert outcome.statuses == {"finished": runs}, outcome
        begin, started, first_end, end = (clock.marks[n] for n in ("begin", "all started", "first end", "end"))
        return {
            "concurrent": runs,
            "start_ms": 1000 * (started[0] - begin[0]) / runs,
            "report_ms": 1000 * (first_end[0] - started[0]) / max(clock.reports, 1),
            "end_ms": 1000 * (end[0] - first_end[0]) / runs,
            "head_ms": 1000 * (first_end[1] - started[1]) / max(clock.reports, 1),
            "reports_per_s": clock.reports / (first_end[2] - started[2]),
            "driver_share": (first_end[0] - started[0]) / (first_end[2] - started[2]),
            "driver_mib": resident_mib(),
            "mib_a_trial": (resident_mib() - before) / runs,
            "start_s": started[2] - begin[2],
        }


class Tenths(SilentMonitor):
    """Prints what each tenth of the runs has cost."""

    def __init__(self, runs: int) -> None:
        self._size = max(runs // 10, 1)
        self._ended = 0

    def on_training_started(self, concurrent: int, cpus: int, gpus: float) -> None:
        self._mark = self._costs()

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        self._ended += 1
        if self._ended % self._size == 0:
            before, self._mark = self._mark, self._costs()
            costs = [1000 * (now - then) / self._size for now, then in zip(self._mark, before, strict=True)]
            columns = (f"{value:>10.1f}" for value in (*costs, resident_mib()))
            print(f"{self._ended:>10}", *columns, file=sys.__stdout__, flush=True)

    @staticmethod
    def _costs() -> tuple[float, float, float]:
        return time.monotonic(), cpu_seconds(), sum(cpu_seconds(pid) for pid in daemons())


def measure_runs(runs: int, epochs: int) -> None:
    """Run a sweep of replayed runs, then resume it when it is complete, and print what both cost."""
    search = {"sampler": "tpe", "configurations": -(-runs // 5), "seeds": min(runs, 5), "seed": 0}
    sweep = {
        "name": "bench",
        "trial": TRIAL | {"training": {"epochs": epochs}},
        "arms": {"free_bits": [{"kind": "free_bits", "floor": {"low": 0.0, "high": 0.8}}]},
        "space": {"training.learning_rate": {"low": 0.001, "high": 1.0, "log": True}},
        "search": search,
    }
    spec = parse_spec(yaml.safe_dump(sweep))
    trial = TabulatedTrial(Path(__file__).parent / "tables" / "free_bits.parquet", any_run=True)
    print("  ".join(f"{name:>9}" for name in ("runs", "wall_ms", "driver_ms", "head_ms", "MiB")), flush=True)
    with tempfile.TemporaryDirectory() as place, replayed(trial, workers=2):
        folder = ResultsFolder(place, spec.name)
        for name in ("all", "resume"):
            wall, cpu = time.monotonic(), cpu_seconds()
            outcome = driver.run_sweep(spec, folder, Tenths(runs))
            assert set(outcome.statuses) == {"finished"}, outcome
            print(f"{name}: {time.monotonic() - wall:.1f} s, {cpu_seconds() - cpu:.1f} s of the driver", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pause", type=float, default=10.0)
    parser.add_argument("--forked", action="store_true", help="start workers as forks that share imported modules")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, help="measure this many runs instead, two at a time")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print("RESULT " + json.dumps(measure(options.one, options.epochs, options.pause, options.forked)))
        return
    if options.runs is not None:
        measure_runs(options.runs, options.epochs)
        return
    rows: list[dict[str, float]] = []
    columns = (
        "concurrent",
        "start_ms",
        "report_ms",
        "end_ms",
        "head_ms",
        "reports_per_s",
        "driver_share",
        "driver_mib",
        "start_s",
    )
    print("  ".join(f"{name:>13}" for name in columns), flush=True)
    for runs in options.concurrent:
        command = [sys.executable, __file__, "--one", str(runs)]
        command += ["--epochs", str(options.epochs), "--pause", str(options.pause)]
        command += ["--forked"] * options.forked
        # The marks go to stderr at once, so they are not lost if a machine that is too small stalls.
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"The measurement of {runs} concurrent trials failed.")
        [line] = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        rows.append(json.loads(line.removeprefix("RESULT ")))
        print("  ".join(f"{rows[-1][name]:>13.3f}" for name in columns), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
