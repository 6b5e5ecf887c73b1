"""Output of `lagvae plan`: what would run, and what each arm fixes and searches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from sweeps.catalogue.arms import describe_arm
from sweeps.catalogue.strategies import format_range
from sweeps.cli.terminal import TextTable, console_of_stdout, print_json, print_whole, rich_table
from sweeps.formatting import format_duration, format_parameters, format_value
from sweeps.search.plan import ArmPlan, Plan
from sweeps.spec.sweep import load_spec
from sweeps.storage.table import ResultsFolder

__all__ = ["print_earlier_rows", "print_plan"]

OWN = "*"
"""Mark of a range that the strategy declares."""

SHARED = "+"
"""Mark of a range that holds for the whole sweep."""


def print_plan(where: str, sets: Mapping[str, Any], results: str, *, as_json: bool) -> None:
    """Print what `lagvae run` would do. Nothing is written.

    Args:
        where: Sweep file, or name of a shipped sweep.
        sets: Overridden values by dotted key.
        results: Folder or URI of the results.
        as_json: Print one JSON object instead of a table.
    """
    from sweeps.execution.datasets import make_plan

    spec = load_spec(where, sets)
    plan = make_plan(spec, ResultsFolder(results, spec.name))
    arms = plan.arms()
    seconds = _missing_seconds(arms)
    if as_json:
        print_json(_plan_json(plan, arms, seconds))
        return
    console = console_of_stdout()
    print_whole(console, _plan_table(arms, seconds, spec.resources.cpus).rich())
    objectives = ", ".join(f"{name} ({direction})" for name, direction in spec.objectives.items())
    runs = sum(arm.runs for arm in arms)
    _print_arms(console, {arm.name: describe_arm(spec, arm) for arm in spec.arms})
    console.print(f"{plan.missing} of {runs} runs to do; sampler {spec.search.sampler} on {objectives}")
    for warning in spec.warnings:
        console.print(f"warning, {warning}", soft_wrap=True)
    if seconds is None:
        console.print("the duration is unknown, because no run has finished yet")
    print_earlier_rows(console, plan.spec.name, len(plan.others))
    if plan.refused:
        run_id, reason = next(iter(plan.refused.items()))
        text = (
            f"{len(plan.refused)} of them have parameters that are no longer valid; the first is run {run_id}: {reason}"
        )
        console.print(text, soft_wrap=True)


def print_earlier_rows(console: Console, sweep: str, rows: int) -> None:
    """Print how many rows belong to an earlier version of the sweep, unless there are none."""
    if rows:
        remedy = f"`lagvae results archive {sweep} --orphans` moves them away"
        console.print(f"{rows} stored rows belong to an earlier version of the sweep; {remedy}", soft_wrap=True)


def _missing_seconds(arms: Sequence[ArmPlan]) -> list[float] | None:
    """Return the estimated duration of the missing runs of each arm; None if no run has finished.

    For an arm without finished runs, the average duration over the other arms is assumed.
    """
    known = [arm.mean_seconds for arm in arms if arm.mean_seconds is not None]
    if not known:
        return None
    average = sum(known) / len(known)
    return [arm.missing * (arm.mean_seconds or average) for arm in arms]


def _plan_json(plan: Plan, arms: Sequence[ArmPlan], seconds: Sequence[float] | None) -> dict[str, Any]:
    return {
        "sweep": plan.spec.name,
        "runs": sum(arm.runs for arm in arms),
        "missing": plan.missing,
        "stored_of_other_versions": len(plan.others),
        "stored_and_no_longer_valid": plan.refused,
        "warnings": plan.spec.warnings,
        "core_seconds": sum(seconds) * plan.spec.resources.cpus if seconds is not None else None,
        "arms": [
            vars(planned) | {"missing": planned.missing} | describe_arm(plan.spec, arm)
            for planned, arm in zip(arms, plan.spec.arms, strict=True)
        ],
    }


def _plan_table(arms: Sequence[ArmPlan], seconds: Sequence[float] | None, cpus: int) -> TextTable:
    rows = []
    for number, arm in enumerate(arms):
        counts = (arm.configurations, arm.runs, arm.ended, arm.resumed, arm.missing)
        mean = "" if arm.mean_seconds is None else f"{arm.mean_seconds:.0f}"
        core_time = format_duration(seconds[number] * cpus) if seconds is not None and arm.missing else ""
        rows.append([arm.arm, *map(str, counts), mean, core_time])
    headings = ["arm", "configurations", "runs", "stored", "resumed", "to run", "seconds per run", "core time"]
    return TextTable(headings, rows, ("arm",))


def _print_arms(console: Console, arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row per strategy of each arm. `arms` maps the name of each arm to its `describe_arm`."""
    table = rich_table("arm", "points", "strategy", "searched", "fixed", right=("points",))
    for name, arm in arms.items():
        points = "" if arm["points"] is None else f"{arm['points']:,}"
        rows = [(s["kind"], _searched(s["searched"]), _fixed(s["fixed"])) for s in arm["strategies"]]
        rows = rows or [("plain VAE", "", "")]
        trial = arm["trial"]
        if trial["fixed"] or trial["searched"]:
            rows.append(("(trial)", _searched(trial["searched"]), _fixed(trial["fixed"])))
        for number, row in enumerate(rows):
            table.add_row(*((name, points) if number == 0 else ("", "")), *row)
    console.print(table)
    fields = [f for arm in arms.values() for s in (*arm["strategies"], arm["trial"]) for f in s["searched"].values()]
    if any(field.get("own") for field in fields):
        text = f"{OWN} the range that the strategy declares; `FIELD: default` fixes the field at its default"
        console.print(text, soft_wrap=True)
    if any("shared" in field for field in fields):
        console.print(f"{SHARED} the range in the `space` of the sweep", soft_wrap=True)
    for name, arm in arms.items():
        if arm["first"]:
            points = "; ".join(map(format_parameters, arm["first"]))
            console.print(f"{name} tries first: {points}", soft_wrap=True, highlight=False)


def _searched(fields: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {_range(search)}" for name, search in fields.items())


def _range(search: Mapping[str, Any]) -> str:
    when = [f"{name} is {' or '.join(map(str, values))}" for name, values in search.get("when", {}).items()]
    condition = f" if {' and '.join(when)}" if when else ""
    mark = OWN if search.get("own") else SHARED if "shared" in search else ""
    return f"{format_range(search)}{mark}{condition}"


def _fixed(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    return format_value(value) if isinstance(value, float | str) else json.dumps(value)
