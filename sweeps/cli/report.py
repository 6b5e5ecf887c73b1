"""`lagvae results report`: one HTML file about one or several sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeps.analysis.pareto import Direction
from sweeps.cli.terminal import console_of_stdout, write_file
from sweeps.report import report_of
from sweeps.storage.table import ResultsFolder

__all__ = ["print_report"]


def print_report(folders: Sequence[ResultsFolder], path: Path, objectives: Mapping[str, Direction] | None) -> None:
    """Write the report, and print its file.

    Args:
        folders: The results of one or several sweeps.
        path: File to write.
        objectives: Directions by column; None for the objectives of the first sweep.

    Raises:
        ConfigError: A sweep has no run of its current sweep file, a stored sweep file is invalid, or the file cannot be
            written.
    """
    content = report_of(folders, objectives).encode()
    write_file("--out", path, content)
    console_of_stdout().print(f"report: {path} ({len(content) / 2**20:.1f} MB), opens in any browser", soft_wrap=True)
