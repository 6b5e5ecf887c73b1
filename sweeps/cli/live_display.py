"""What a person sees while a sweep runs: a live board on a terminal, plain lines elsewhere. Writes to stderr."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.execution.gpu_sharing import MemoryEstimate, largest_estimate
from sweeps.formatting import describe_data, format_duration
from sweeps.search.plan import ArmPlan, Plan, Run

__all__ = ["Display"]


class Display:
    """The board of one driver. Its methods are called from the driver's thread; a thread of its own draws it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, markup=False)
        self._live: Live | None = None
        self._running: dict[str, tuple[Run, int, int, float]] = {}
        self._recent: deque[str] = deque(maxlen=4)
        self._workers = 1
        self._started = time.monotonic()
        self._done: dict[str, int] = {}
        self._trouble: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}
        self._best: dict[str, str] = {}
        self._plans: list[ArmPlan] = []
        self._objectives: Mapping[str, str] = {}
        self._values: dict[str, dict[str, list[dict[str, float]]]] = {}

    def started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        self._plans = plan.arms()
        self._objectives = plan.spec.objectives
        self._done = {arm.arm: arm.ended for arm in self._plans}
        for row in plan.rows.values():
            self._take(row)
        total = sum(arm.runs for arm in self._plans)
        stored = sum(arm.ended for arm in self._plans)
        resumed = sum(arm.resumed for arm in self._plans)
        self._say(describe_data(report))
        for warning in plan.spec.warnings():
            self._say(f"warning, {warning}")
        self._say(
            f"sweep {plan.spec.name}: {len(self._plans)} arms, {total} runs, {stored} already stored"
            + (f", {resumed} to be taken up again" if resumed else "")
            + (f"; {len(plan.others)} stored rows belong to an earlier version of the sweep" if plan.others else "")
        )

    def waiting(self, host: str, seconds: float) -> None:
        """A driver on `host` may still be running the sweep."""
        self._say(f"a driver on {host} had the sweep; watching for {format_duration(seconds)} whether it lives")

    def workers(self, concurrent: int, cpus: int, gpus: float) -> None:
        self._workers = concurrent
        self._started = time.monotonic()
        self._say(f"{concurrent} runs at a time on {cpus} cores" + (f" and {gpus:g} GPUs" if gpus else ""))
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._board, console=self.console, refresh_per_second=2, transient=False)
            self._live.start()

    def estimating_memory(self, arms: Sequence[str]) -> None:
        """What follows takes a GPU that nobody else uses, and waits for one."""
        self._say(f"gpus: auto, rehearsing {', '.join(arms)}, each on a whole GPU")

    def memory_estimated(self, estimates: Sequence[MemoryEstimate]) -> None:
        """How many runs share a GPU, and which arm it is that no more do."""
        if not estimates:
            self._say("gpus: auto, and there is no GPU: runs are on the CPU")
            return
        least = largest_estimate(estimates)
        sharing = f"{least.runs} runs share a GPU" if least.runs > 1 else "a run has a GPU to itself"
        if least.error:
            reason = f"what {least.arm} takes is not known ({least.error})"
        else:
            reason = f"{least.arm} takes {least.peak_bytes / 2**30:.1f} of {least.device_bytes / 2**30:.1f} GiB"
        self._say(f"gpus: auto, {sharing}: {reason}")

    def run_started(self, run: Run) -> None:
        self._running[run.run_id] = (run, 0, 0, time.monotonic())

    def run_progressed(self, run: Run, epoch: int, epochs: int) -> None:
        if run.run_id in self._running:
            started = self._running[run.run_id][3]
            self._running[run.run_id] = (run, epoch, epochs, started)

    def run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        self._running.pop(run.run_id, None)
        self._done[run.arm] = self._done.get(run.arm, 0) + 1
        self._take(row)
        numbers = "  ".join(f"{name} {row[name]:.4g}" for name in self._objectives if row.get(name) is not None)
        text = f"{run.arm:<16} {_parameters(run):<32} seed {run.seed}  {row['status']}  {numbers}"
        if row["status"] != "finished":
            self._trouble[row["status"]] = self._trouble.get(row["status"], 0) + 1
            text += f" ({str(row['stop_reason'])[:120]})"
        done, total = sum(self._done.values()), sum(arm.runs for arm in self._plans)
        if self._live is None:
            self._say(f"[{done}/{total}] {text.rstrip()}  {self._time_left()}")
        self._recent.append(text.rstrip())

    def close(self) -> None:
        """The board stays as it is; what follows is printed below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def finished(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        self.close()
        counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "nothing"
        self._say(f"{counts}, after {format_duration(time.monotonic() - self._started)}")
        if stop_reason:
            self._say(stop_reason)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _take(self, row: Mapping[str, Any]) -> None:
        if row["status"] != "finished":
            return
        self._seconds.setdefault(row["arm"], []).append(float(row["seconds"] or 0.0))
        measured = {name: float(row[name]) for name in self._objectives if row.get(name) is not None}
        first, direction = next(iter(self._objectives.items()))
        if first not in measured:
            return
        self._values.setdefault(row["arm"], {}).setdefault(row["config_id"], []).append(measured)
        means = [
            {
                name: sum(run[name] for run in runs) / len(runs)
                for name in self._objectives
                if all(name in r for r in runs)
            }
            for runs in self._values[row["arm"]].values()
        ]
        best = (min if direction == "min" else max)(means, key=lambda mean: mean[first])
        self._best[row["arm"]] = "  ".join(f"{name} {value:.2f}" for name, value in best.items())

    def _time_left(self) -> str:
        """From the mean seconds of each arm's finished runs; of all of them, and said so, for an arm that has none."""
        every = [s for seconds in self._seconds.values() for s in seconds]
        if not every:
            return ""
        left, guessed = 0.0, False
        for arm in self._plans:
            known = self._seconds.get(arm.arm) or every
            guessed |= arm.arm not in self._seconds and self._done[arm.arm] < arm.runs
            left += (arm.runs - self._done[arm.arm]) * sum(known) / len(known)
        left /= self._workers
        word = "at a guess" if guessed else "about"
        return f"{word} {format_duration(left)} left" if left > 0 else ""

    def _board(self) -> Group:
        arms = Table(box=None, pad_edge=False)
        for heading in ("arm", "runs", "", "best so far"):
            arms.add_column(heading, style="bold" if heading == "arm" else "")
        for arm in self._plans:
            done = self._done.get(arm.arm, 0)
            bar = ProgressBar(total=arm.runs, completed=done, width=24)
            arms.add_row(arm.arm, f"{done}/{arm.runs}", bar, self._best.get(arm.arm, ""))
        running = Table(box=None, pad_edge=False, show_header=False)
        for run, epoch, epochs, started in list(self._running.values()):
            bar = ProgressBar(total=max(epochs, 1), completed=epoch, width=24)
            where = f"epoch {epoch}/{epochs}" if epochs else "starting"
            age = format_duration(time.monotonic() - started)
            running.add_row("▸", run.arm, _parameters(run), f"seed {run.seed}", bar, where, age)
        done, total = sum(self._done.values()), sum(arm.runs for arm in self._plans)
        trouble = "".join(f", {count} {status}" for status, count in self._trouble.items())
        head = (
            f"{done}/{total} runs{trouble}   {format_duration(time.monotonic() - self._started)}   {self._time_left()}"
        )
        recent = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in list(self._recent)]
        return Group(Text(head, style="bold"), arms, running, *recent)


def _parameters(run: Run) -> str:
    def shown(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) and math.isfinite(value) else str(value)

    return " ".join(f"{name.split('.')[1]}={shown(value)}" for name, value in run.parameters.items())
