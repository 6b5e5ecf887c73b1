"""The collapse of the linear VAE as the decoder variance crosses the eigenvalues of the data.

    python benchmarks/linear_collapse.py --png collapse.png

Trains the runs of the shipped sweep `linear_collapse` one after the other in this process, prints a row for each arm
and decoder variance (means over seeds), and draws active units and KL over the variance, next to their closed forms:
the number of eigenvalues lambda above the variance s, and the sum of ln(lambda / s) / 2 over them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from lagvae_core import train
from sweeps.plots.style import COLOURS, WIDTH, save_figure
from sweeps.spec.sweep import load_spec

LABELS = {"ppca": "probabilistic PCA", "vae": "trained linear VAE"}


def measure(points: int, epochs: int | None) -> tuple[np.ndarray, dict[tuple[str, float], dict[str, float]]]:
    """Return the eigenvalues, and the mean metrics by arm and decoder variance."""
    spec = load_spec("linear_collapse")
    data: Any = spec.defaults.data
    dataset = data.load()
    metrics = defaultdict(list)
    for arm in spec.arms:
        for number in range(min(points, spec.configurations(arm))):
            for seed in spec.seeds(arm):
                config = spec.trial_config(arm, arm.point(number), seed)
                if epochs is not None:
                    config = config.model_copy(
                        update={"training": config.training.model_copy(update={"epochs": epochs})}
                    )
                record = train(config, dataset=dataset)
                metrics[arm.name, config.model.sigma**2].append(record.metrics)
    means = {
        key: {name: float(np.mean([run[name] for run in runs])) for name in ("au", "kl", "nll_iw")}
        for key, runs in metrics.items()
    }
    return np.array(data.eigenvalues), means


def draw(eigenvalues: np.ndarray, means: dict[tuple[str, float], dict[str, float]]) -> Figure:
    """Return the figure."""
    figure = Figure((WIDTH, 2.4), layout="constrained")
    grid = np.geomspace(0.12, 8, 800)
    exact = {
        "au": [(eigenvalues > s).sum() for s in grid],
        "kl": [0.5 * np.log(np.maximum(eigenvalues / s, 1)).sum() for s in grid],
    }
    for axes, (column, curve) in zip(figure.subplots(1, 2), exact.items(), strict=True):
        for eigenvalue in eigenvalues:
            axes.axvline(eigenvalue, color="0.8", linewidth=0.7, zorder=0)
        axes.plot(grid, curve, color="0.3", linewidth=0.8, label="closed form")
        for arm, colour, marker, size in (("vae", COLOURS[1], "o", 5.0), ("ppca", COLOURS[0], ".", 4.0)):
            values = [(s, mean[column]) for (name, s), mean in means.items() if name == arm]
            axes.plot(
                *zip(*values, strict=True),
                marker,
                linestyle="",
                color=colour,
                markersize=size,
                fillstyle="none",
                label=LABELS[arm],
            )
        axes.set(
            xscale="log", xlabel="variance of the decoder", ylabel={"au": "active units", "kl": "KL [nats]"}[column]
        )
        axes.xaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 4]))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=6.5)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, help="figure to write: .png, .pdf or .svg")
    parser.add_argument("--points", type=int, default=10**6, help="number of decoder variances")
    parser.add_argument("--epochs", type=int, help="number of epochs instead of those of the sweep")
    chosen = parser.parse_args()
    eigenvalues, means = measure(chosen.points, chosen.epochs)
    print(f"{'arm':6}{'variance':>10}{'au':>8}{'kl':>8}{'closed':>8}{'nll_iw':>9}")
    for (arm, s), mean in means.items():
        closed = 0.5 * np.log(np.maximum(eigenvalues / s, 1)).sum()
        print(f"{arm:6}{s:10.3f}{mean['au']:8.2f}{mean['kl']:8.3f}{closed:8.3f}{mean['nll_iw']:9.3f}")
    if chosen.png is not None:
        save_figure(lambda: draw(eigenvalues, means), chosen.png)


if __name__ == "__main__":
    main()
