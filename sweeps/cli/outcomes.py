"""What studies found of models, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from lagvae_core.studies import STUDIES, Findings, Study
from sweeps.cli.terminal import console_of_stdout, plain_table, print_table
from sweeps.formatting import shown

__all__ = ["Outcome", "print_outcomes"]


@dataclass(frozen=True)
class Outcome:
    """What one study found of one model, and the files that hold it."""

    run_id: str
    arm: str | None
    study: Study
    findings: Findings
    seconds: float
    files: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "arm": self.arm,
            "study": self.study.name(),
            "settings": self.study.model_dump(mode="json", exclude={"kind"}),
            "values": self.findings.values,
            "seconds": self.seconds,
            "files": list(self.files),
        }


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """A table for each study: of one model a line a column, of several a line a model."""
    console = console_of_stdout()
    for kind in dict.fromkeys(outcome.study.name() for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.study.name() == kind]
        columns = [column for column in STUDIES[kind].columns if column.kind != "floats"]
        console.print(kind, style="bold")
        if len(mine) == 1:
            table = plain_table("column", "value", "meaning")
            for column in columns:
                value = mine[0].findings.values[column.name]
                table.add_row(column.name, _cell(value), Text(column.doc, style="dim"))
            console.print(table)
        else:
            table = plain_table("run", "arm", *(column.name for column in columns))
            for outcome in mine:
                cells = (_cell(outcome.findings.values[column.name]) for column in columns)
                table.add_row(outcome.run_id, outcome.arm or "", *cells)
            print_table(console, table)


def _cell(value: object) -> str:
    return "-" if value is None else shown(value)
