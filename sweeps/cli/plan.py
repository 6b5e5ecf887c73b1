"""Output of `lagvae plan`: what would run, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from lagvae_core.errors import ConfigError
from sweeps.catalogue.arms import describe_arm
from sweeps.cli.arms_table import print_arms
from sweeps.cli.folders import load_sweep
from sweeps.cli.terminal import ProgressLine, TextTable, console_of_stdout, print_json, print_whole
from sweeps.execution.resources import NodeCapacity, concurrent_runs, local_capacity
from sweeps.formatting import format_amount, format_count, format_duration
from sweeps.search.budget import BudgetMeter, BudgetUse, RunCost, mean_costs
from sweeps.search.plan import ArmPlan, Plan
from sweeps.spec.sections import RacingSeeds
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.table import ResultsFolder

__all__ = ["print_earlier_rows", "print_plan"]

ESTIMATE = "~"
"""Mark of a time that is not a mean over finished runs of the arm."""


@dataclass(frozen=True)
class PlanReport:
    """What `lagvae plan` shows.

    Args:
        plan: The plan.
        arms: Its arms.
        edited: Whether the sweep has a stored sweep file that differs, or rows that do not belong to the sweep.
        costs: Cost of a run by arm, of arms with finished or calibrated runs.
        failures: Reasons why the calibration of an arm failed, by arm.
        machine: Capacity of this machine.
    """

    plan: Plan
    arms: Sequence[ArmPlan]
    edited: bool
    costs: Mapping[str, RunCost]
    failures: Mapping[str, str]
    machine: NodeCapacity

    @property
    def spec(self) -> SweepSpec:
        return self.plan.spec

    @property
    def orphaned(self) -> Counter[str]:
        """Number of stored rows that do not belong to the sweep, by arm."""
        return Counter(row["arm"] for row in self.plan.others)

    @property
    def budget(self) -> list[BudgetUse]:
        return BudgetMeter(self.spec.search.budget, self.plan.rows.values()).uses()

    @property
    def is_budget_spent(self) -> bool:
        """Whether no new run starts, because a limit of the budget is reached."""
        return any(not use.left for use in self.budget)

    def needed(self, limit: str) -> float | None:
        """Return the estimated cost of all missing runs, in the unit of a limit of `BudgetSpec`; None if unknown."""
        resources = self.spec.resources
        if limit == "gpu_hours" and resources.gpus == "auto":
            return None  # the driver measures how many runs share a GPU
        of_arms = self._missing("gradient_evaluations" if limit == "gradient_evaluations" else "seconds")
        unit = 1.0 if limit == "gradient_evaluations" else 1 / 3600
        unit *= resources.gpu_share if limit == "gpu_hours" else 1.0
        return None if of_arms is None else unit * sum(of_arms)

    @property
    def missing_seconds(self) -> list[float] | None:
        """Time of the missing runs of each arm, one after another [s]; None if no cost is known."""
        return self._missing("seconds")

    def _missing(self, field: str) -> list[float] | None:
        """Return a field of `RunCost` for the missing runs of each arm together; None if no cost is known.

        For an arm without a known cost, the average over the other arms is assumed. What the runs that have started
        have cost already is not deducted.
        """
        if not self.costs:
            return None
        known = {arm: float(getattr(cost, field)) for arm, cost in self.costs.items()}
        average = sum(known.values()) / len(known)
        return [arm.missing * known.get(arm.arm, average) for arm in self.arms]

    @property
    def concurrent(self) -> int | None:
        """Number of runs at a time on this machine; None if the driver measures how many runs share a GPU.

        Raises:
            ConfigError: A run does not fit on this machine.
        """
        resources = self.spec.resources
        if resources.gpus != "auto":
            return concurrent_runs(resources, [self.machine])
        by_cores = concurrent_runs(resources.with_gpus(0), [self.machine])
        return None if self.machine.gpus else by_cores


def print_plan(
    where: str,
    sets: Mapping[str, Any],
    results: str,
    *,
    as_json: bool,
    calibrate: bool,
    points_from: str | None = None,
) -> None:
    """Print what `lagvae run` would do. Nothing is written.

    Args:
        where: Sweep file, or name of a shipped sweep.
        sets: Overridden values by dotted key.
        results: Folder or URI of the results.
        as_json: Print one JSON object instead of a table.
        calibrate: Whether to train arms without finished runs for a moment, to estimate their cost.
        points_from: Stored sweep from whose front the arms take their first points; None for none.
    """
    from sweeps.execution.datasets import load_data, make_plan

    spec = load_sweep(where, sets, results, points_from)
    folder = ResultsFolder(results, spec.name)
    data = load_data(spec) if calibrate else None
    plan = make_plan(spec, folder, data)
    costs, failures = mean_costs(plan.rows.values()), dict[str, str]()
    if data is not None:
        estimated, failures = _calibrate(plan, data, costs)
        costs |= estimated
    report = PlanReport(plan, plan.arms(), _is_edited(plan, folder), costs, failures, local_capacity())
    if as_json:
        print_json(_plan_json(report))
    else:
        _print_report(console_of_stdout(), report)


def _saving(spec: SweepSpec) -> str | None:
    """Return how configurations are paired, runs stopped and seeds raced; None if none of this is the case."""
    parts = ["paired: all arms have the same shared values"] if spec.search.paired else []
    if spec.stopping is not None:
        parts.append(f"early stopping: rule {spec.stopping.rule}, scope {spec.stopping.scope}")
    if isinstance(spec.search.seeds, RacingSeeds):
        parts.append(f"racing: {spec.search.seeds.start} to {spec.search.seeds.up_to} seeds")
    return "; ".join(parts) or None


def _print_report(console: Console, report: PlanReport) -> None:
    spec, plan = report.spec, report.plan
    print_whole(console, _plan_table(report))
    print_arms(console, {arm.name: describe_arm(spec, arm) for arm in spec.arms})
    objectives = ", ".join(f"{name} ({direction})" for name, direction in spec.objectives.items())
    runs = sum(arm.runs for arm in report.arms)
    racing = "at most " if isinstance(spec.search.seeds, RacingSeeds) else ""
    console.print(f"{racing}{plan.missing} of {runs} runs to do; sampler {spec.search.sampler} on {objectives}")
    if (saving := _saving(spec)) is not None:
        console.print(saving, soft_wrap=True)
    for line in (*_budget_lines(report), *_machine_lines(report), *_cost_lines(report)):
        console.print(line, soft_wrap=True)
    for warning in spec.warnings:
        console.print(f"warning, {warning}", soft_wrap=True)
    print_earlier_rows(console, spec.name, plan.earlier_runs)
    if plan.refused:
        run_id, reason = next(iter(plan.refused.items()))
        text = (
            f"parameters that are no longer valid in {len(plan.refused)} of them; the first is run {run_id}: {reason}"
        )
        console.print(text, soft_wrap=True)


def print_earlier_rows(console: Console, sweep: str, rows: int) -> None:
    """Print how many rows belong to an earlier version of the sweep, unless there are none."""
    if rows:
        others = format_count(rows, "stored row")
        remedy = f"`lagvae results archive {sweep} --orphans` moves them away"
        console.print(f"{others} of an earlier version of the sweep; {remedy}", soft_wrap=True)


def _calibrate(plan: Plan, data: Any, known: Mapping[str, RunCost]) -> tuple[dict[str, RunCost], dict[str, str]]:
    """Return the estimated costs of the arms that have missing but no finished runs, and why some have no estimate."""
    from sweeps.execution.calibration import CostEstimate, estimate_cost, first_runs

    costs, failures = dict[str, RunCost](), dict[str, str]()
    runs = first_runs(plan, [arm.arm for arm in plan.arms() if arm.missing and arm.arm not in known])
    with ProgressLine() as progress:
        for number, (arm, run) in enumerate(runs.items()):
            progress.advance("calibrating", number, len(runs))
            estimate = estimate_cost(run.config, data, plan.spec.resources)
            if isinstance(estimate, CostEstimate):
                costs[arm] = estimate.cost
            else:
                failures[arm] = estimate
    return costs, failures


def _is_edited(plan: Plan, folder: ResultsFolder) -> bool:
    from sweeps.analysis.stored import stored_spec

    if not folder.exists() or not folder.holds("spec.yaml"):
        return bool(plan.others)
    try:
        return bool(plan.others) or stored_spec(folder).hash != plan.spec.hash
    except ConfigError:
        return True  # an earlier version wrote a sweep file that is no longer valid


def _plan_json(report: PlanReport) -> dict[str, Any]:
    spec, plan, seconds, orphaned = report.spec, report.plan, report.missing_seconds, report.orphaned
    try:
        concurrent = report.concurrent
    except ConfigError:
        concurrent = None
    return {
        "sweep": spec.name,
        "runs": sum(arm.runs for arm in report.arms),
        "missing": plan.missing,
        "stored_of_other_versions": plan.earlier_runs,
        "stored_and_no_longer_valid": plan.refused,
        "edited": report.edited,
        "removed_arms": {arm: count for arm, count in orphaned.items() if arm not in {a.arm for a in report.arms}},
        "warnings": spec.warnings,
        "core_seconds": sum(seconds) * spec.resources.cpus if seconds is not None else None,
        "machine": asdict(report.machine) | {"concurrent": concurrent},
        "budget": [asdict(use) | {"left": use.left, "needed": report.needed(use.name)} for use in report.budget],
        "arms": [
            vars(planned)
            | {"missing": planned.missing, "kept": planned.kept, "new": planned.new, "orphaned": orphaned[arm.name]}
            | {"cost": asdict(report.costs[arm.name]) if arm.name in report.costs else None}
            | describe_arm(spec, arm)
            for planned, arm in zip(report.arms, spec.arms, strict=True)
        ],
    }


def _plan_table(report: PlanReport) -> TextTable:
    """Return one row per arm. Columns that would be empty are left out."""
    seconds, orphaned, cpus = report.missing_seconds, report.orphaned, report.spec.resources.cpus
    columns: dict[str, list[str]] = {"arm": [], "configs": [], "runs": []}
    columns |= {name: [] for name in (("kept", "new", "orphaned") if report.edited else ("stored", "resumed"))}
    columns |= {name: [] for name in ("to run", "time per run", "core time")}
    if any(use.name == "gradient_evaluations" for use in report.budget):
        columns["updates per run"] = []
    for number, arm in enumerate(report.arms):
        cost = report.costs.get(arm.arm)
        mark = "" if cost is not None and not cost.estimated else f"{ESTIMATE} "
        cells = {
            "arm": arm.arm,
            "configs": f"{arm.configurations:,}",
            "runs": f"{arm.runs:,}",
            "stored": f"{arm.ended:,}",
            "resumed": f"{arm.resumed:,}" if arm.resumed else "",
            "kept": f"{arm.kept:,}",
            "new": f"{arm.new:,}",
            "orphaned": f"{orphaned[arm.arm]:,}",
            "to run": f"{arm.missing:,}",
            "time per run": f"{mark}{format_duration(cost.seconds)}" if cost is not None else "",
            "updates per run": f"{mark}{format_amount(cost.gradient_evaluations)}" if cost is not None else "",
            "core time": f"{mark}{format_duration(seconds[number] * cpus)}" if seconds and arm.missing else "",
        }
        for name, values in columns.items():
            values.append(cells[name])
    for name in [name for name in orphaned if name not in columns["arm"]]:
        for heading, values in columns.items():
            values.append({"arm": f"{name} (removed)", "orphaned": f"{orphaned[name]:,}"}.get(heading, ""))
    columns = {name: values for name, values in columns.items() if any(values)}
    return TextTable(list(columns), list(zip(*columns.values(), strict=True)), ("arm",))


def _budget_lines(report: PlanReport) -> Iterator[str]:
    """Yield a sentence about each limit of the budget, and how much the missing runs need."""
    for use in report.budget:
        needed, text = report.needed(use.name), f"budget: {use} used, {format_amount(use.left)} left"
        if not use.left:
            text = f"budget: used up ({use})"
            text += ", so only runs that have started before continue" if report.plan.missing else ""
        if needed is not None and needed > use.left:
            total = format_amount(use.used + needed).replace(",", "")
            needs = f"{ESTIMATE} {format_amount(needed)}"
            text += f"; the missing runs need {needs}, which search.budget.{use.name}={total} allows"
        elif needed is None and not use.left and report.plan.missing:
            text += "; how much the missing runs need is unknown"
        yield text


def _cost_lines(report: PlanReport) -> Iterator[str]:
    """Yield sentences about the times in the table."""
    for arm, reason in report.failures.items():
        yield f"the calibration of {arm} failed: {reason}"
    costs, to_run = report.costs, [arm.arm for arm in report.arms if arm.missing]
    if not costs and to_run:
        yield "the duration is unknown, because no run has finished yet; --calibrate estimates it"
    if any(cost.estimated for cost in costs.values()):
        yield (
            f"{ESTIMATE} estimated on this machine from a few updates of the first run. Not known: when training or "
            "its aggressive phase ends early (`aggressive` is therefore overestimated), the effect of other values of "
            "searched fields, and how much runs slow each other down"
        )
        if report.spec.resources.gpus and not report.machine.gpus:
            yield "the estimates are for the CPU, because this machine has no GPU"
    if costs and any(arm not in costs for arm in to_run):
        yield f"{ESTIMATE} the mean over the other arms, for an arm without a finished run"


def _machine_lines(report: PlanReport) -> Iterator[str]:
    """Yield sentences about the runs that this machine can hold at a time."""
    if not report.plan.missing:
        return
    resources, machine = report.spec.resources, report.machine
    try:
        concurrent = report.concurrent
    except ConfigError as error:
        yield f"a run does not fit on this machine: {error.issues[0]}"
        return
    place = format_count(machine.cpus, "core")
    place += f" and {format_count(int(machine.gpus), 'GPU')}" if machine.gpus else ""
    if concurrent is None:
        yield f"this machine: {place}; when the sweep starts, it measures how many runs share a GPU"
        return
    seconds = report.missing_seconds
    in_all = ""
    if seconds is not None and not report.is_budget_spent:
        # A worker process trains many runs, so its start is no part of the cost of a run.
        time = format_duration(sum(seconds) / concurrent)
        in_all = f", {ESTIMATE} {time} in all, besides the start of Ray and of the worker processes"
    yield f"this machine: {format_count(concurrent, 'run')} at a time on {place}{in_all}"
    if machine.gpus and resources.gpus == 0:
        yield "no run uses the GPU, because resources.gpus is 0; `--set resources.gpus=auto` lets runs share it"
