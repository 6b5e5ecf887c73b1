"""`lagvae replay`: what early stopping would have saved and lost in a stored sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.replay import Replay, replay
from sweeps.analysis.stored import current_plan, stored_spec
from sweeps.cli.terminal import TextTable, console_of_stdout, print_json, print_whole
from sweeps.formatting import format_duration
from sweeps.search.budget import Cost
from sweeps.spec.sections import StoppingSpec
from sweeps.spec.validation import check_stopping
from sweeps.storage.table import ResultsFolder

__all__ = ["print_replay"]


def print_replay(folder: ResultsFolder, options: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the result of a rule on the stored curves. Nothing is written.

    Args:
        folder: The results of the sweep.
        options: Fields of `StoppingSpec`; None takes the value of the sweep file, or else the default.
        as_json: Print one JSON object instead of text.

    Raises:
        ConfigError: An option is invalid, or an objective of the sweep is not validated after each epoch.
    """
    spec = stored_spec(folder)
    issues: list[ValidationIssue] = []
    stopping = _stopping(options, spec.stopping or StoppingSpec(), issues)
    check_stopping(spec.objectives, issues)
    if issues:
        raise ConfigError(issues)
    result = replay(stopping, current_plan(spec, folder.runs()), folder.curves())
    if as_json:
        print_json(_as_json(folder.sweep, stopping, result))
    else:
        _print_text(folder.sweep, stopping, result)


def _stopping(options: Mapping[str, Any], default: StoppingSpec, issues: list[ValidationIssue]) -> StoppingSpec:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return StoppingSpec.model_validate(default.model_dump() | given)
    except ValidationError as error:
        names = {"rule": "--stopping"}
        found = issues_of(error, StoppingSpec)
        issues += [replace(issue, where=names.get(issue.where, f"--{issue.where}")) for issue in found]
        return default


def _as_json(sweep: str, stopping: StoppingSpec, result: Replay) -> dict[str, Any]:
    return {
        "sweep": sweep,
        "stopping": stopping.model_dump(mode="json"),
        "runs": result.runs,
        "stopped": len(result.stopped),
        "stopped_before": result.stopped_before,
        **_costs(result.total, result.saved),
        "front": list(result.members),
        "lost": list(result.lost),
        "hypervolume_share": result.hypervolume_share,
        "arms": [
            {"arm": arm.arm, "runs": arm.runs, "stopped": arm.stopped, **_costs(arm.total, arm.saved)}
            for arm in result.arms
        ],
        "stops": [
            {
                "run_id": stop.run.run_id,
                "arm": stop.run.arm,
                "rung": stop.verdict.rung,
                "dominated_by": stop.verdict.dominated_by,
                "gradient_evaluations_saved": stop.saved.gradient_evaluations,
                "hours_saved": stop.saved.hours,
                "stop_reason": stop.verdict.reason,
            }
            for stop in result.stopped
        ],
    }


def _costs(total: Cost, saved: Cost) -> dict[str, Any]:
    return {
        "gradient_evaluations": total.gradient_evaluations,
        "gradient_evaluations_saved": saved.gradient_evaluations,
        "gradient_evaluations_saved_share": _share(saved.gradient_evaluations, total.gradient_evaluations),
        "hours": total.hours,
        "hours_saved": saved.hours,
        "hours_saved_share": _share(saved.seconds, total.seconds),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _print_text(sweep: str, stopping: StoppingSpec, result: Replay) -> None:
    console = console_of_stdout()
    if not result.runs:
        console.print("no ended run has a stored curve")
        return
    settings = f"confidence {stopping.confidence:g}, " if stopping.rule == "front" else ""
    settings += f"scope {stopping.scope}, grace {stopping.grace}"
    console.print(f"{sweep} with the rule {stopping.rule} ({settings}):")
    console.print(f"{len(result.stopped)} of {result.runs} runs would have been stopped")
    saved, total = result.saved, result.total
    console.print(
        f"saved: {saved.gradient_evaluations:,} of {total.gradient_evaluations:,} gradient evaluations "
        f"({_percent(saved.gradient_evaluations, total.gradient_evaluations)}), {format_duration(saved.seconds)} of "
        f"{format_duration(total.seconds)} ({_percent(saved.seconds, total.seconds)})",
        soft_wrap=True,
    )
    if result.hypervolume_share is None:
        console.print("lost: unknown, because no finished run has a value for every objective")
    else:
        lost = f" ({', '.join(result.lost)})" if result.lost else ""
        console.print(
            f"lost: {len(result.lost)} of {len(result.members)} configurations on the Pareto front{lost}, "
            f"{1 - result.hypervolume_share:.2%} of the hypervolume",
            soft_wrap=True,
        )
    rows = [
        [
            arm.arm,
            str(arm.runs),
            str(arm.stopped),
            f"{arm.saved.gradient_evaluations:,}",
            _percent(arm.saved.gradient_evaluations, arm.total.gradient_evaluations),
            format_duration(arm.saved.seconds),
        ]
        for arm in result.arms
    ]
    if result.stopped_before:
        text = (
            f"{result.stopped_before} of these runs were stopped early in the sweep itself, and their curves end there"
        )
        console.print(text, soft_wrap=True)
    headings = ["arm", "runs", "stopped", "evaluations saved", "share", "time saved"]
    print_whole(console, TextTable(headings, rows, ("arm",)))


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else ""
