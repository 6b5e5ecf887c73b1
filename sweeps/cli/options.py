"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Json", "Results", "Spec", "Sweep", "SweepSets", "TrialSets"]

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Results = Annotated[
    str,
    typer.Option("--results", metavar="DIR", envvar="LAGVAE_RESULTS", help="Folder or URI of the results."),
]
