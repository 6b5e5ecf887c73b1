"""Training curves: means over seeds, and their figure."""

import math

import pytest
from figures import png_size

from sweeps.analysis.curves import curves_of
from sweeps.plots.curves import _draw, curves_figure
from sweeps.plots.style import DPI, PAGE_WIDTH


def row(run, epoch, value, arm="vae", config="a" * 12):
    return {"arm": arm, "config_id": config, "run_id": run, "epoch": epoch, "step": 250 * epoch, "valid_kl": value}


ROWS = [row("r1", 1, 1.0), row("r1", 2, 2.0), row("r2", 1, 3.0), row("r3", 1, None, "beta", "b" * 12)]


def test_a_point_is_the_mean_over_the_runs_that_trained_the_epoch():
    vae, beta = curves_of(ROWS, ["valid_kl"])
    assert (vae.name, vae.runs, beta.name, beta.runs) == ("vae", 2, "beta", 1)
    first, second = vae.points
    assert (first.epoch, first.step, first.runs, second.runs) == (1, 250.0, 2, 1)
    statistic = first.columns["valid_kl"]
    assert (statistic.mean, statistic.n) == (2.0, 2)
    assert statistic.se == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert (second.columns["valid_kl"].mean, second.columns["valid_kl"].se) == (2.0, None)
    assert beta.points[0].columns["valid_kl"] is None


def test_curves_of_one_arm_have_different_names():
    curves = curves_of([row("r1", 1, 1.0), row("r2", 1, 1.0, config="b" * 12)], ["valid_kl"])
    assert [curve.name for curve in curves] == ["vae aaaaaa", "vae bbbbbb"]


def test_runs_that_have_not_ended_are_counted_by_status():
    vae, beta = curves_of(ROWS, ["valid_kl"], {"r1": "running", "r2": "interrupted", "r3": "failed"})
    assert (vae.unfinished, vae.label) == ({"interrupted": 1, "running": 1}, "vae (1 interrupted, 1 running)")
    assert (beta.unfinished, beta.label) == ({}, "beta")


@pytest.mark.parametrize("x", ["epoch", "step"])
def test_the_figure_is_written_in_both_formats(tmp_path, x):
    curves_figure(curves_of(ROWS, ["valid_kl"]), ["valid_kl"], tmp_path / "curves.pdf", x=x, title="tiny $x$")
    assert png_size(tmp_path / "curves.png")[0] == int(PAGE_WIDTH * DPI)
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_the_panel_of_an_unmeasured_column_is_labelled(tmp_path):
    unmeasured = curves_of([row("r1", 1, None), row("r1", 2, None)], ["valid_kl"])
    for name, curves in (("empty", unmeasured), ("full", curves_of(ROWS, ["valid_kl"]))):
        curves_figure(curves, ["valid_kl"], tmp_path / f"{name}.svg")
    assert "not measured" in (tmp_path / "empty.svg").read_text()
    assert "not measured" not in (tmp_path / "full.svg").read_text()


@pytest.mark.parametrize(
    ("column", "values", "least"),
    [
        ("valid_kl", (0.0, 2e-9), 0.1),
        ("valid_nll_elbo", (14.4329951, 14.4329953), 0.1),
        ("valid_au", (3, 3), 1.0),
        ("learning_rate", (1e-3, 5e-4), 0.0),
    ],
)
def test_no_axis_magnifies_noise(column, values, least):
    rows = [row("r1", epoch, None) | {column: value} for epoch, value in enumerate(values, 1)]
    figure = _draw(curves_of(rows, [column]), [column], "epoch", "")
    low, high = figure.axes[0].get_ylim()
    assert low <= min(values) <= max(values) <= high
    assert high - low >= least
    assert high - low < 2 * max(least, max(values) - min(values))


def test_a_figure_without_curves_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="needs at least one run"):
        curves_figure([], ["valid_kl"], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
