"""What studies found of models, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from lagvae_core.studies import STUDIES, Findings, Study
from sweeps.cli.terminal import console_of_stdout, plain_table, print_table
from sweeps.formatting import format_value

__all__ = ["StudyResult", "print_study_results"]


@dataclass(frozen=True)
class StudyResult:
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


def print_study_results(results: Sequence[StudyResult]) -> None:
    """A table for each study: of one model a line a column, of several a line a model."""
    console = console_of_stdout()
    for kind in dict.fromkeys(result.study.name() for result in results):
        mine = [result for result in results if result.study.name() == kind]
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
            for result in mine:
                cells = (_cell(result.findings.values[column.name]) for column in columns)
                table.add_row(result.run_id, result.arm or "", *cells)
            print_table(console, table)


def _cell(value: object) -> str:
    return "-" if value is None else format_value(value)
