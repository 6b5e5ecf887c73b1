"""The look that all figures share: colours, markers, labels, sizes, and how figures are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg

__all__ = ["AXIS_LABELS", "COLOURS", "COUNTS", "DPI", "MARKERS", "STYLE", "UNDATED", "WIDTH", "figure_files"]


AXIS_LABELS = {"au": "active units", "nll_iw": "NLL, importance-weighted [nats]"}


COUNTS = frozenset({"au"})
"""Columns that count: their axes have ticks at integers only."""


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette for every kind of colour vision, without the yellow that is lost on white."""


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""One more than colours, so that the pair first repeats after 56 arms."""


WIDTH = 3.35
"""Inches: one column of a two-column paper."""


DPI = 200


STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
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


UNDATED = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
"""Metadata left out, so that equal points give equal bytes."""


def figure_files(path: Path) -> list[Path]:
    """The files that a figure at `path` is written to: the PNG, and `path` itself where that is not it."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(f"A figure's extension must be one of {', '.join(sorted(known))}, but the path is {path}.")
    if path.suffix.lower() == ".png":
        return [path]
    return [path.with_suffix(".png"), *([path] if path.suffix else [])]
