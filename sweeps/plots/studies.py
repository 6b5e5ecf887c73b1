"""Figures of the findings of studies: one function per kind of study that has a figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lagvae_core.studies import Findings, Table
from sweeps.plots.style import COLOURS, MARKERS, WIDTH, add_title, save_figure

__all__ = ["STUDY_PLOTS", "draw_study"]

HEIGHT = 2.9
MAX_LEGEND_LABELS = 12
"""Maximum number of labels that get different colours. If there are more, all points get the same colour."""
DRAWINGS_PER_ROW = 10
FRAME = 0.75
"""Grey level of the frame around a drawing."""
REPRESENTATIONS = {
    "means": "posterior means, standardised",
    "raw_means": "posterior means, not standardised",
    "random_encoder": "encoder before training",
    "bag_of_words": "counts of words",
    "majority": "largest class",
}
"""Legend text by value of the column `features` of the probe."""
DRAWING_LABELS = {"swapped": "with the z of the next image", "sample": "from the prior"}


def draw_study(kind: str, findings: Findings, path: Path, *, title: str = "") -> bool:
    """Draw the findings of a study.

    Args:
        kind: Kind of the study.
        findings: Findings with the tables of that kind.
        path: File to write; see `save_figure`.
        title: Title of the figure; "" for none.

    Returns:
        True if a figure was written; False if this kind of study has no figure or the findings have no tables.

    Raises:
        ValueError: matplotlib cannot write files with the extension of `path`.
        OSError: The file cannot be written.
    """
    plot = STUDY_PLOTS.get(kind)
    if plot is None or not findings.tables:
        return False

    def draw() -> Figure:
        figure = Figure((WIDTH, HEIGHT), layout="constrained")
        plot(figure.subplots(), findings.tables)
        add_title(figure, title, fontsize=7.0)
        return figure

    save_figure(draw, path)
    return True


def _plot_probe(axes: Axes, tables: dict[str, Table]) -> None:
    """Plot accuracy against the number of labels: mean and std over draws, with one line per representation."""
    table = tables["accuracy"]
    features, labels = np.array(table["features"]), np.array(table["labels"])
    accuracy = np.array(table["accuracy"])
    for number, name in enumerate(dict.fromkeys(table["features"])):
        selected = features == name
        if name == "majority":
            accuracy_of_majority = accuracy[selected][0]
            axes.axhline(accuracy_of_majority, color="0.5", linewidth=0.7, linestyle=":", label=REPRESENTATIONS[name])
            continue
        sizes = np.unique(labels[selected])
        groups = [accuracy[selected & (labels == size)] for size in sizes]
        axes.errorbar(
            sizes,
            [group.mean() for group in groups],
            yerr=[group.std(ddof=1) if len(group) > 1 else 0.0 for group in groups],
            label=REPRESENTATIONS.get(name, name),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=3,
            linewidth=0.8,
            capsize=1.5,
        )
    axes.set_xscale("log")
    ticks = np.unique(labels[features != "majority"])
    axes.set_xticks(ticks, [f"{size:g}" for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labelled examples")
    axes.set_ylabel("test accuracy")
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)


def _plot_tsne(axes: Axes, tables: dict[str, Table]) -> None:
    """Plot the t-SNE map with one colour per label. The axes have no ticks, because they have no meaning."""
    _scatter(axes, tables["map"])
    axes.set_xticks([])
    axes.set_yticks([])


def _plot_latent_plane(axes: Axes, tables: dict[str, Table]) -> None:
    """Plot posterior means with one colour per label."""
    _scatter(axes, tables["means"])
    axes.set_xlabel("mean of the dimension that varies most")
    axes.set_ylabel("mean of the dimension that varies second most")


def _scatter(axes: Axes, table: Table) -> None:
    points = np.array([table["x"], table["y"]])
    label_of_point = np.array(["" if label is None else str(label) for label in table["label"]])
    labels = sorted(set(label_of_point))
    if len(labels) > MAX_LEGEND_LABELS:
        labels, label_of_point = [""], np.full(len(label_of_point), "")
    for number, label in enumerate(labels):
        x, y = points[:, label_of_point == label]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.scatter(x, y, s=4, color=colour, marker=marker, linewidths=0, alpha=0.7, label=label or None)
    axes.set_aspect("equal", adjustable="datalim")
    if labels != [""]:
        axes.figure.legend(loc="outside lower center", ncols=6, frameon=False, markerscale=2)


def _plot_drawings(axes: Axes, tables: dict[str, Table]) -> None:
    """Plot one row of original images, one row per other kind of drawing, and one row per interpolation."""
    table = tables["drawings"]
    kinds, example = np.array(table["what"]), np.array(table["example"])
    images = np.array(table["pixels"]).reshape(len(kinds), -1, table["width"][0])
    rows = [
        (kind, images[kinds == kind][:DRAWINGS_PER_ROW]) for kind in ("image", "reconstruction", "swapped", "sample")
    ]
    interpolated = kinds == "interpolation"
    rows += [("interpolation", images[interpolated & (example == path)]) for path in np.unique(example[interpolated])]
    cell = np.array(images.shape[1:]) + 3
    height, width = cell * (len(rows), max(len(row) for _, row in rows))
    canvas = np.ones((height, width))
    for line, (_, row) in enumerate(rows):
        for column, image in enumerate(row):
            top, left = cell * (line, column)
            canvas[top : top + image.shape[0] + 2, left : left + image.shape[1] + 2] = FRAME
            canvas[top + 1 : top + image.shape[0] + 1, left + 1 : left + image.shape[1] + 1] = 1 - image
    axes.imshow(canvas, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    row_kinds = [kind for kind, _ in rows]
    labels = ["" if kind in row_kinds[:line] else DRAWING_LABELS.get(kind, kind) for line, kind in enumerate(row_kinds)]
    axes.set_yticks((np.arange(len(rows)) + 0.5) * cell[0], labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure = axes.get_figure(root=True)
    assert figure is not None, "the axes must belong to a figure"
    figure.set_size_inches(WIDTH, WIDTH * (0.08 + 0.75 * height / width))


STUDY_PLOTS: dict[str, Callable[[Axes, dict[str, Table]], None]] = {
    "drawings": _plot_drawings,
    "latent_plane": _plot_latent_plane,
    "probe": _plot_probe,
    "tsne": _plot_tsne,
}
"""Plot function by kind of study."""
