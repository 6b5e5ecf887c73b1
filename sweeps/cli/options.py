"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Data",
    "Device",
    "For",
    "Json",
    "Objectives",
    "Plugins",
    "Png",
    "PointsFrom",
    "Results",
    "Retrain",
    "RunIds",
    "Spec",
    "Sweep",
    "SweepSets",
    "ThreadsOfRun",
    "TrialSets",
    "Trust",
    "Width",
]

Spec = Annotated[str, typer.Argument(help="Sweep file, or name of a shipped sweep.")]
RunIds = Annotated[list[str] | None, typer.Argument(metavar="[RUN_ID]...", help="Ids of stored runs.")]
Sweep = Annotated[str, typer.Argument(help="Name of the sweep.")]
TrialSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key: training.epochs=3. Repeatable."),
]
SweepSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key: trial.training.epochs=3. Repeatable."),
]
For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="TIME",
        help="Stop after this time, such as 2h, 90m or 1h30m: no run starts any more, and running runs save their "
        "checkpoints. The same command resumes the sweep.",
    ),
]
PointsFrom = Annotated[
    str | None,
    typer.Option(
        "--points-from",
        metavar="SWEEP",
        help="Stored sweep in the same results. Each arm first tries the configurations on its front.",
    ),
]
Data = Annotated[str | None, typer.Option(metavar="PATH", help="New path of the data, if they have moved.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ThreadsOfRun = Annotated[
    int | None, typer.Option(min=1, help="Number of CPU threads. By default, the number that the run used.")
]
Retrain = Annotated[bool, typer.Option("--retrain", help="Retrain the runs whose models were not kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Results = Annotated[
    str,
    typer.Option("--results", metavar="DIR", envvar="LAGVAE_RESULTS", help="Folder or URI of the results."),
]


def _load_plugins(paths: list[Path] | None) -> list[Path] | None:
    if paths:
        from lagvae_core.plugins import load_plugins

        load_plugins(paths)
    return paths


def _trust(is_trusted: bool) -> bool:
    from sweeps.storage.plugins import trust_stored_plugins

    trust_stored_plugins(is_trusted)
    return is_trusted


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        envvar="LAGVAE_PLUGINS",
        callback=_load_plugins,
        help="Python file with strategies, models, kinds of data or studies of your own. Repeatable.",
    ),
]
"""Plugins that are loaded before the verb runs. The verb itself does not need the value."""
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", callback=_trust, help="Run the plugins that the results folder contains. They are code: read them."
    ),
]
"""Whether stored plugins may be run. The verb itself does not need the value."""
Objectives = Annotated[
    str | None, typer.Option(help="Objectives to use instead of the sweep's own: 'nll_iw:min,mi:max'.")
]
Png = Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw a figure: .png, .pdf or .svg.")]
Width = Annotated[
    float | None,
    typer.Option(
        metavar="INCHES",
        min=3,
        max=14,
        help="Width of the figure: 3.35 (a column of a paper) or 7 (a page) by default. Fonts keep their size.",
    ),
]
