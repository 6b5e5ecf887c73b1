"""Output of `lagvae evaluate`: the findings of studies as tables or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from lagvae_core.studies import STUDIES, Findings, Study
from sweeps.cli.terminal import console_of_stdout, print_whole, rich_table
from sweeps.formatting import format_value

__all__ = ["StudyResult", "print_study_results"]


@dataclass(frozen=True)
class StudyResult:
    """The findings of one study for one model, and the files in which they are stored."""

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
    """Print a table for each study: one line per column for a single model, one line per model for several models."""
    console = console_of_stdout()
    for kind in dict.fromkeys(result.study.name() for result in results):
        of_kind = [result for result in results if result.study.name() == kind]
        columns = [column for column in STUDIES[kind].columns if column.kind != "floats"]
        console.print(kind, style="bold")
        if len(of_kind) == 1:
            table = rich_table("column", "value", "meaning")
            for column in columns:
                value = of_kind[0].findings.values[column.name]
                table.add_row(column.name, _cell(value), Text(column.doc, style="dim"))
            console.print(table)
        else:
            table = rich_table("run", "arm", *(column.name for column in columns))
            for result in of_kind:
                cells = (_cell(result.findings.values[column.name]) for column in columns)
                table.add_row(result.run_id, result.arm or "", *cells)
            print_whole(console, table)


def _cell(value: object) -> str:
    return "-" if value is None else format_value(value)
