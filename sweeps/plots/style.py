"""The common style of all figures (colours, markers, axis labels, sizes), and `save_figure`."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lagvae_core.columns import Column
from lagvae_core.studies import STUDIES
from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.plots.fonts import DEFAULT_FONT, missing_letters, supplementary_fonts
from sweeps.storage.schema import COST_COLUMNS, metric_columns

__all__ = [
    "COLOURS",
    "DPI",
    "MARKERS",
    "MIN_SPAN",
    "NOISE",
    "PAGE_WIDTH",
    "WIDTH",
    "add_title",
    "axis_label",
    "column_of",
    "is_count",
    "least_span",
    "save_figure",
    "styled",
    "widened",
]

AXIS_LABELS = {
    "au": "active units",
    "kl": "KL [nats]",
    "kl_weight": "KL weight",
    "learning_rate": "learning rate",
    "mi": "mutual information [nats]",
    "nll_iw": "NLL, importance-weighted [nats]",
    "step": "outer update",
    "time": "training time / baseline",
    "valid_au": "active units",
    "valid_kl": "KL(q(z|x) || p(z)) [nats]",
    "valid_kl_agg": "KL(q(z) || p(z)) [nats]",
    "valid_mi": "I(x; z) [nats]",
    "valid_mi_batch": "I(x; z) within batches [nats]",
    "valid_nll_elbo": "-ELBO [nats]",
}
"""Axis labels by column. Any other label is the name of the column, with the unit from its description."""

MIN_SPAN = 0.1
"""Least range of an axis, in the unit of its column. It keeps an axis from magnifying noise."""

NOISE = 0.01
"""Size of a negative estimate of a quantity that is never negative."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colour-blind-safe palette of Okabe and Ito, without its yellow, which is hard to see on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""Markers of the arms. There is one more marker than there are colours, so that pairs repeat only after 56 arms."""

WIDTH = 3.35
"""Width of one column of a two-column paper [inches]."""

PAGE_WIDTH = 7.0
"""Width of both columns of a two-column paper [inches]."""

DPI = 200

STYLE: dict[Any, Any] = {
    "font.family": DEFAULT_FONT,
    "font.size": 7.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "lagvae",
}

NO_DATE = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
"""Metadata that removes the date from a file, so that equal data give equal bytes."""


def column_of(name: str) -> Column | None:
    """Return the declaration of a measured column; None for any other quantity."""
    studies = (column for study in STUDIES.values() for column in study.columns)
    columns = (*metric_columns(), *COST_COLUMNS, *CURVE_COLUMNS, *studies)
    return next((column for column in columns if column.name == name), None)


def is_count(name: str) -> bool:
    """Return whether a column holds counts. Its axis has ticks only at integers."""
    column = column_of(name)
    return column is not None and column.kind == "int"


def axis_label(name: str) -> str:
    """Return the axis label of a column."""
    if name in AXIS_LABELS:
        return AXIS_LABELS[name]
    unit = _unit(name)
    return f"{name} {unit}" if unit else name


def _unit(name: str) -> str:
    """Return the unit in the description of a column, such as "[nats]"; "" if it has none."""
    column = column_of(name)
    unit = re.search(r"\[[^\]]+\]", column.doc) if column is not None else None
    return unit[0] if unit is not None else ""


def least_span(name: str) -> float:
    """Return the least range of the axis of a column; 0 for a column without a unit, such as the learning rate."""
    if is_count(name):
        return 1.0
    return MIN_SPAN if _unit(name) else 0.0


def widened(low: float, high: float, span: float, *, count: bool) -> tuple[float, float]:
    """Return the range from `low` to `high`, extended to a range of `span` with the same centre if it is narrower.

    A quantity that is never negative gets no axis below 0, unless it is a count.
    """
    if high - low >= span:
        return low, high
    centre = (low + high) / 2
    low = max(centre - span / 2, 0.0 if -NOISE < low < span / 2 and not count else -math.inf)
    return low, low + span


def add_title(figure: Figure, title: str, fontsize: float = 7.5) -> None:
    """Write `title` at the top left of the figure, unless it is empty."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=fontsize)


def styled(draw: Callable[[], Figure]) -> Figure:
    """Return a figure in the common style, for example for a notebook; see `save_figure`."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        return draw()


def save_figure(draw: Callable[[], Figure], path: Path | str) -> list[Path]:
    """Draw a figure in the common style and write it without changing matplotlib's global state.

    The settings of the user (matplotlibrc) have no effect. Letters that the default font lacks are drawn with other
    fonts of the system; if none has them, a warning lists them. A PNG is always written. If `path` has another
    extension, that format is written as well: `front.pdf` gives `front.pdf` and `front.png`. The folder must exist.

    Args:
        draw: Builds the figure; called only if the extension is valid.
        path: File to write, with or without an extension.

    Returns:
        The written files.

    Raises:
        ValueError: matplotlib cannot write files with the extension of `path`.
        OSError: A file cannot be written.
    """
    files = _figure_files(Path(path))
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # the settings of the user have no effect
        matplotlib.rcParams.update(STYLE)
        figure = draw()
        if letters := missing_letters(figure):
            matplotlib.rcParams["font.family"] = [DEFAULT_FONT, *supplementary_fonts(letters)]
            figure = draw()
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `supplementary_fonts` has listed them
        for file in files:
            figure.savefig(file, dpi=DPI, metadata=NO_DATE.get(file.suffix.lower()))
    return files


def _figure_files(path: Path) -> list[Path]:
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(f"the extension of a figure must be one of {', '.join(sorted(known))}")
    if path.suffix.lower() == ".png":
        return [path]
    return [path.with_suffix(".png"), *([path] if path.suffix else [])]
