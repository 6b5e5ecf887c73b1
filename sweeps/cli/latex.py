"""LaTeX tables of configurations: means with standard errors, and the clearly best values in bold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.analysis.front import DIGITS, ERRORS, clear_best
from sweeps.analysis.pareto import Direction
from sweeps.analysis.statistics import Statistic
from sweeps.formatting import format_parameters, printable

__all__ = ["LatexRow", "escape", "format_statistic", "latex_table"]

_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}

DECIMALS = 2
"""Decimals of a value without an error, the result of a single seed."""

ARROWS: Mapping[Direction, str] = {"min": r" $\downarrow$", "max": r" $\uparrow$"}


@dataclass(frozen=True)
class LatexRow:
    """One configuration of a table.

    Args:
        arm: Name of the arm.
        config_id: Id of the configuration.
        parameters: Values of the searched fields.
        n: Number of finished seeds.
        columns: Statistic of each column; None if no seed measured it.
    """

    arm: str
    config_id: str
    parameters: Mapping[str, object]
    n: int
    columns: Mapping[str, Statistic | None]


def escape(text: str) -> str:
    """Return `text` on one line, with the characters escaped that have a meaning in LaTeX."""
    return re.sub(r'[&%$#_{}\\~^<>|"]', lambda match: _SPECIAL[match[0]], _one_line(text))


def latex_table(
    rows: Sequence[LatexRow], columns: Mapping[str, Direction | None], *, command: str, caption: str, label: str
) -> str:
    """Return a table in the style of the package booktabs.

    The ids and searched fields of the configurations are comments at the ends of the rows. Only if an arm has several
    rows do the searched fields also have a column of the table, because they are long.

    Args:
        rows: The configurations; at least one.
        columns: The columns, with the directions in which they improve; None for a column without a best value.
        command: Command that writes the table, for a comment.
        caption: Start of the caption, as plain text. The meaning of the numbers is added.
        label: Label of the table.
    """
    cells = {name: _cells([row.columns[name] for row in rows], direction) for name, direction in columns.items()}
    arms = [row.arm for row in rows]
    with_parameters = len(set(arms)) < len(arms)
    headings = ["arm", *["parameters"] * with_parameters, "$n$"]
    headings += [f"{escape(name)}{ARROWS[direction] if direction else ''}" for name, direction in columns.items()]
    lines = []
    for position, row in enumerate(rows):
        parameters = format_parameters(row.parameters)
        first = [escape(row.arm), *[escape(parameters)] * with_parameters, str(row.n)]
        values = [cells[name][position] for name in columns]
        comment = _one_line(f"{row.config_id} {parameters}")
        lines.append(f"    {' & '.join([*first, *values])} \\\\ % {comment}".rstrip())
    means = rf"mean $\pm$ standard error over $n$ seeds, rounded to two digits of the error (at most {DIGITS} decimals)"
    bold = (
        f"Bold: better than every other row by more than {ERRORS:g} standard errors of the difference; "
        "the best and the second best have at least two seeds"
    )
    return "\n".join(
        [
            f"% {_one_line(command)}",
            r"% Requires \usepackage{booktabs}. The comment of each row is its config_id and its searched fields.",
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{escape(caption)}: {means}. {bold}.}}",
            f"  \\label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{l{'l' * with_parameters}{'r' * (1 + len(columns))}}}",
            r"    \toprule",
            f"    {' & '.join(headings)} \\\\",
            r"    \midrule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def format_statistic(statistic: Statistic) -> str:
    r"""Return a statistic as a LaTeX formula without dollars, such as `41.73 \pm 0.12`.

    It is rounded to two significant digits of its error, with at most `DIGITS` decimals.
    """
    decimals = DECIMALS if statistic.se is None else _decimals(statistic.mean, statistic.se)
    shown = max(0, decimals)
    mean, se = (f"{round(v, decimals) + 0.0:.{shown}f}" for v in (statistic.mean, statistic.se or 0.0))  # never -0.00
    return mean if statistic.se is None else rf"{mean} \pm {se}"


def _decimals(mean: float, se: float) -> int:
    """Return the number of decimals that show two significant digits of an error; negative for tens and more."""
    if round(se, DIGITS) == 0:
        return 0 if mean.is_integer() else DIGITS
    exponent = int(f"{se:.1e}".partition("e")[2])
    return min(DIGITS, 1 - exponent)


def _cells(statistics: Sequence[Statistic | None], direction: Direction | None) -> list[str]:
    best = clear_best(statistics, direction) if direction is not None else None
    cells = []
    for position, statistic in enumerate(statistics):
        formula = format_statistic(statistic) if statistic is not None else ""
        formula = rf"\mathbf{{{formula}}}" if position == best else formula
        cells.append(f"${formula}$" if formula else "--")
    return cells


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
