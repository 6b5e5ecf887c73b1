"""The common style of all figures (colours, markers, axis labels, sizes), and `save_figure`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sweeps.plots.fonts import DEFAULT_FONT, missing_letters, supplementary_fonts

__all__ = ["COLOURS", "COUNTS", "DPI", "MARKERS", "PAGE_WIDTH", "WIDTH", "add_title", "axis_label", "save_figure"]


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
"""Axis labels by column; a column that is not listed is its own label."""

COUNTS = frozenset({"au"})
"""Columns that hold counts. Their axes have ticks only at integers."""

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


def axis_label(column: str) -> str:
    """Return the axis label of a column."""
    return AXIS_LABELS.get(column, column)


def add_title(figure: Figure, title: str, fontsize: float = 7.5) -> None:
    """Write `title` at the top left of the figure, unless it is empty."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=fontsize)


def save_figure(draw: Callable[[], Figure], path: Path | str) -> None:
    """Draw a figure in the common style and write it without changing matplotlib's global state.

    The settings of the user (matplotlibrc) have no effect. Letters that the default font lacks are drawn with other
    fonts of the system; if none has them, a warning lists them. A PNG is always written. If `path` has another
    extension, that format is written as well: `front.pdf` gives `front.pdf` and `front.png`. The folder must exist.

    Args:
        draw: Builds the figure; called only if the extension is valid.
        path: File to write, with or without an extension.

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


def _figure_files(path: Path) -> list[Path]:
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(f"the extension of a figure must be one of {', '.join(sorted(known))}")
    if path.suffix.lower() == ".png":
        return [path]
    return [path.with_suffix(".png"), *([path] if path.suffix else [])]
