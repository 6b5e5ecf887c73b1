"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["For", "Json", "PointsFrom", "Results", "Spec", "Sweep", "SweepSets", "TrialSets"]

Spec = Annotated[str, typer.Argument(help="Sweep file, or name of a shipped sweep.")]
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
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Results = Annotated[
    str,
    typer.Option("--results", metavar="DIR", envvar="LAGVAE_RESULTS", help="Folder or URI of the results."),
]
