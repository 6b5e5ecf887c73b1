"""Pictures of what studies found: one function for each kind of study that has a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lagvae_core.studies import Findings, Table
from sweeps.plots.style import COLOURS, DPI, MARKERS, STYLE, WIDTH

__all__ = ["PICTURES", "draw_study"]

HEIGHT = 2.9
LEGEND_LABELS = 12
"""Labels beyond which colours say nothing and are left out."""
DRAWINGS_IN_A_ROW = 10
FRAME = 0.75
"""Grey of the line around a drawing."""
NAMES = {
    "means": "posterior means, standardised",
    "raw_means": "posterior means as they are",
    "random_encoder": "encoder before training",
    "bag_of_words": "counts of words",
    "majority": "largest class",
}


def draw_study(kind: str, findings: Findings, path: Path, *, title: str = "") -> bool:
    """Draw what a study of this kind found as a PNG at `path`; False where the kind, or the finding, has no picture."""
    draw = PICTURES.get(kind)
    if draw is None or not findings.tables:
        return False
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        draw(axes, findings.tables)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=7.0)
        figure.savefig(path, dpi=DPI)
    return True


def _draw_probe(axes: Axes, tables: dict[str, Table]) -> None:
    """Accuracy against the number of labels: mean and standard deviation over draws, a line a representation."""
    table = tables["accuracy"]
    features, labels = np.array(table["features"]), np.array(table["labels"])
    accuracy = np.array(table["accuracy"])
    for number, name in enumerate(dict.fromkeys(table["features"])):
        mine = features == name
        if name == "majority":
            axes.axhline(accuracy[mine][0], color="0.5", linewidth=0.7, linestyle=":", label=NAMES[name])
            continue
        sizes = np.unique(labels[mine])
        groups = [accuracy[mine & (labels == size)] for size in sizes]
        axes.errorbar(
            sizes,
            [group.mean() for group in groups],
            yerr=[group.std(ddof=1) if len(group) > 1 else 0.0 for group in groups],
            label=NAMES.get(name, name),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=3,
            linewidth=0.8,
            capsize=1.5,
        )
    axes.set_xscale("log")
    wished = np.unique(labels[features != "majority"])
    axes.set_xticks(wished, [f"{size:g}" for size in wished])
    axes.minorticks_off()
    axes.set_xlabel("labelled examples")
    axes.set_ylabel("accuracy on test")
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)


def _draw_tsne(axes: Axes, tables: dict[str, Table]) -> None:
    """The map, a colour a label; its axes mean nothing."""
    _scatter(axes, tables["map"])
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_plane(axes: Axes, tables: dict[str, Table]) -> None:
    """Posterior means, a colour a label."""
    _scatter(axes, tables["means"])
    axes.set_xlabel("mean of the dimension that varies most")
    axes.set_ylabel("of the next")


def _scatter(axes: Axes, table: Table) -> None:
    place = np.array([table["x"], table["y"]])
    found = ["" if label is None else str(label) for label in table["label"]]
    labels = sorted(set(found))
    if len(labels) > LEGEND_LABELS:
        labels, found = [""], [""] * len(found)
    chosen = np.array(found)
    for number, label in enumerate(labels):
        x, y = place[:, chosen == label]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.scatter(x, y, s=4, color=colour, marker=marker, linewidths=0, alpha=0.7, label=label or None)
    axes.set_aspect("equal", adjustable="datalim")
    if labels != [""]:
        axes.figure.legend(loc="outside lower center", ncols=6, frameon=False, markerscale=2)


def _draw_drawings(axes: Axes, tables: dict[str, Table]) -> None:
    """A row for each kind of drawing, under the images that it is of; then a row for each interpolation."""
    table = tables["drawings"]
    what, example = np.array(table["what"]), np.array(table["example"])
    images = np.array(table["pixels"]).reshape(len(what), -1, table["width"][0])
    rows = [
        (name, images[what == name][:DRAWINGS_IN_A_ROW]) for name in ("image", "reconstruction", "swapped", "sample")
    ]
    between = what == "interpolation"
    rows += [("interpolation", images[between & (example == path)]) for path in np.unique(example[between])]
    cell = np.array(images.shape[1:]) + 3
    height, width = cell * (len(rows), max(len(row) for _, row in rows))
    canvas = np.ones((height, width))
    for line, (_, row) in enumerate(rows):
        for column, image in enumerate(row):
            top, left = cell * (line, column)
            canvas[top : top + image.shape[0] + 2, left : left + image.shape[1] + 2] = FRAME
            canvas[top + 1 : top + image.shape[0] + 1, left + 1 : left + image.shape[1] + 1] = 1 - image
    axes.imshow(canvas, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    names = [name for name, _ in rows]
    labels = {"swapped": "with the next one's z", "sample": "from the prior"}
    shown = ["" if name in names[:line] else labels.get(name, name) for line, name in enumerate(names)]
    axes.set_yticks((np.arange(len(rows)) + 0.5) * cell[0], shown)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes stand in a figure"
    figure.set_size_inches(WIDTH, WIDTH * (0.08 + 0.75 * height / width))


PICTURES: dict[str, Callable[[Axes, dict[str, Table]], None]] = {
    "drawings": _draw_drawings,
    "latent_plane": _draw_plane,
    "probe": _draw_probe,
    "tsne": _draw_tsne,
}
