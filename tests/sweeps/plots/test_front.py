"""The figure of a Pareto front."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from figures import png_size

from sweeps.plots.front import FrontPoint, _draw, front_figure, outliers, staircase
from sweeps.plots.style import DPI, WIDTH, axis_label

POINTS = [
    FrontPoint("vae", "a0", (0.0, 330.1), (0.0, 0.2), 3, standing="off"),
    FrontPoint("anneal", "b0", (0.0, 330.2), (None, None), 1, standing="off"),
    FrontPoint("lagging", "c0", (1.0, 328.0), (0.3, 0.2), 3, standing="on", label="30"),
    FrontPoint("scale $x$", "d0", (2.0, 328.5), (float("nan"), 0.1), 2, standing="on"),
]


FILLS = {"on": "full", "in doubt": "left", "tied": "left", "off": "none"}


class TestStaircase:
    @pytest.mark.parametrize(
        ("directions", "xs", "ys", "vertices"),
        [
            (("max", "min"), [2, 0, 1], [5, 1, 2], [[0, 1], [0, 2], [1, 2], [1, 5], [2, 5]]),
            (("min", "min"), [0, 2, 1], [5, 1, 2], [[2, 1], [2, 2], [1, 2], [1, 5], [0, 5]]),
            (("max", "max"), [0, 2, 1], [5, 1, 2], [[0, 5], [0, 2], [1, 2], [1, 1], [2, 1]]),
            (("min", "max"), [2, 0, 1], [5, 1, 2], [[2, 5], [2, 2], [1, 2], [1, 1], [0, 1]]),
        ],
    )
    def test_it_turns_at_the_worse_of_both_coordinates(self, directions, xs, ys, vertices):
        assert staircase(xs, ys, directions).tolist() == vertices

    def test_it_extends_to_the_worst_corner(self):
        edge = staircase([0, 1], [1, 2], ("max", "min"), worst=(-1, 9))
        assert edge.tolist() == [[-1, 1], [0, 1], [0, 2], [1, 2], [1, 9]]
        edge = staircase([0, 1], [2, 1], ("min", "min"), worst=(8, 9))
        assert edge.tolist() == [[8, 1], [1, 1], [1, 2], [0, 2], [0, 9]]

    def test_dominated_equal_and_non_finite_points_add_no_vertex(self):
        edge = staircase([0, 1, 1, 0, np.nan], [1, 2, 2, 3, 0], ("max", "min"))
        assert edge.tolist() == [[0, 1], [0, 2], [1, 2]]

    @pytest.mark.parametrize("worst", [None, (0.0, 9.0)])
    def test_without_points_it_is_empty(self, worst):
        assert staircase([], [], ("max", "min"), worst).shape == (0, 2)

    def test_a_single_point(self):
        assert staircase([1], [2], ("max", "min")).tolist() == [[1, 2]]


def axes_of(points, x="au", directions=("max", "min")):
    return _draw(points, (x, "nll_iw"), directions, "").axes[0]


def drawn(axes) -> list[tuple[float, float]]:
    """Return the points that are drawn with error bars, in their order."""
    return [tuple(float(v[0]) for v in bars.lines[0].get_data()) for bars in axes.containers]


class TestReferences:
    def test_a_reference_is_a_line_across_the_plot_and_in_the_legend(self):
        figure = _draw(POINTS, ("au", "nll_iw"), ("max", "min"), "", {"ppca (line)": 325.0, "lm (line)": 329.0})
        axes = figure.axes[0]
        lines = [line for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        assert [line.get_ydata()[0] for line in lines] == [325.0, 329.0]
        assert lines[0].get_linestyle() != "-"
        low, high = axes.get_ylim()
        assert low <= 325.0 < 330.3 <= high
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels[-2:] == ["ppca (line)", "lm (line)"]
        assert len(axes_of(POINTS).lines) == len(axes.lines) - 2


class TestAxes:
    @pytest.mark.parametrize("x", ["au", "mi"])
    @pytest.mark.parametrize(("direction", "sign"), [("max", -1), ("min", 1)])
    def test_points_that_coincide_are_shifted_to_the_worse_side(self, x, direction, sign):
        member = FrontPoint("a", "a", (0.0, 3.0), (0.0, 0.1), 2, "on")
        points = [replace(member, arm=arm, standing=s) for arm, s in (("b", "off"), ("a", "on"), ("c", "tied"))]
        axes = axes_of([*points, replace(member, arm="d", mean=(0.0, 3.09), standing="off")], x, (direction, "min"))
        xs = [sign * x for x, _ in drawn(axes)]
        assert xs[1] == xs[3] == 0.0
        assert 0.0 < xs[0] < xs[2]
        assert [y for _, y in drawn(axes)] == [3.0, 3.0, 3.0, 3.09]
        low, high = axes.get_xlim()
        assert low < min(x for x, _ in drawn(axes))
        assert high > max(x for x, _ in drawn(axes))

    @pytest.mark.parametrize("largest", [0.0, 1.0, 3.0, 32.0])
    def test_counts_have_whole_ticks_and_none_below_0(self, largest):
        points = [FrontPoint(str(i), str(i), (0.0, 3.0), (0.0, 0.1), 2, "on") for i in range(8)]
        ticks = axes_of([*points, replace(points[0], mean=(largest, 3.0))]).get_xticks()
        assert ticks.min() == 0.0
        assert (ticks == ticks.round()).all()

    def test_no_axis_magnifies_noise(self):
        points = [FrontPoint(str(i), str(i), (1e-6 * i, 3.0 + 1e-6 * i), (0.0, 0.0), 2, "on") for i in range(3)]
        axes = axes_of(points, "mi")
        assert all(high - low >= 0.1 for low, high in (axes.get_xlim(), axes.get_ylim()))
        assert axes.get_xticks().min() == 0.0

    def test_one_remedy_among_collapsed_models_is_not_cut_off(self):
        collapsed = [FrontPoint(str(i), str(i), (0.0, 330.0 + 0.01 * i), (0.0, 0.01), 2, "off") for i in range(9)]
        points = [replace(collapsed[0], standing="on"), *collapsed[1:]]
        remedies = [FrontPoint("r", s, (x, y), (0.1, 0.1), 2, s) for s, x, y in (("on", 6, 333), ("off", 5, 336))]
        axes = axes_of([*points, *remedies, FrontPoint("far", "far", (1.0, 900.0), (0.1, 0.1), 2, "off")], "mi")
        assert {y for _, y in drawn(axes)} >= {333.0, 336.0}
        assert 900.0 not in {y for _, y in drawn(axes)}
        assert axes.get_ylim()[1] < 400.0

    def test_the_markers_of_the_legend_are_those_of_the_points(self):
        points = [FrontPoint(s, s, (float(i), 3.0 + i), (0.1, 0.1), 2, s) for i, s in enumerate(FILLS)]
        figure = _draw(points, ("mi", "nll_iw"), ("max", "min"), "")
        handles = figure.legends[0].legend_handles
        for bars, handle, fill in zip(figure.axes[0].containers, handles, FILLS.values(), strict=False):
            for name in ("fillstyle", "color", "marker", "markersize", "alpha", "markeredgecolor", "markerfacecolor"):
                value = getattr(bars.lines[0], f"get_{name}")()
                assert value == getattr(handle, f"get_{name}")()
            assert handle.get_fillstyle() == fill

    @pytest.mark.parametrize(
        ("column", "label"),
        [
            ("valid_mi_batch", "I(x; z) within batches [nats]"),
            ("kl_agg", "kl_agg [nats]"),
            ("mi", "mutual information [nats]"),
        ],
    )
    def test_labels_have_units(self, column, label):
        assert axis_label(column) == label


class TestFrontFigure:
    def test_a_png_has_the_width_of_one_column(self, tmp_path):
        front_figure(POINTS, tmp_path / "front.png", title="quickstart")
        width, height = png_size(tmp_path / "front.png")
        assert width == int(WIDTH * DPI)
        assert 400 < height < 1000
        assert (tmp_path / "front.png").stat().st_size > 5_000
        assert [path.name for path in tmp_path.iterdir()] == ["front.png"]

    @pytest.mark.parametrize(
        ("name", "signature"), [("front.pdf", b"%PDF"), ("front.svg", b"<?xml"), ("a.b.SVG", b"<?xml")]
    )
    def test_other_formats_are_written_in_addition_to_a_png(self, tmp_path, name, signature):
        front_figure(POINTS, str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(signature)
        assert png_size((tmp_path / name).with_suffix(".png"))[0] == int(WIDTH * DPI)

    def test_a_path_without_an_extension_gives_a_png(self, tmp_path):
        front_figure(POINTS, tmp_path / "front")
        assert [path.name for path in tmp_path.iterdir()] == ["front.png"]

    @pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
    def test_equal_points_give_equal_bytes(self, tmp_path, suffix):
        files = [tmp_path / f"{name}{suffix}" for name in ("first", "second")]
        for file in files:
            front_figure(POINTS, file)
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_the_text_of_the_figure(self, tmp_path):
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            front_figure(POINTS, tmp_path / "front.svg", y="kl", title="quickstart")
        text = (tmp_path / "front.svg").read_text(encoding="utf-8")
        words = ["active units", "KL [nats]", "better ↘", "quickstart", "scale $x$", "of 1 to 3 seeds", "front"]
        assert [word for word in words if word not in text] == []

    @pytest.mark.parametrize("count", [1, 60])
    def test_few_and_many_arms(self, tmp_path, count):
        points = [replace(POINTS[0], arm=f"arm {i}", mean=(float(i % 3), 330.0 + i)) for i in range(count)]
        front_figure(points, tmp_path / "front.png", directions=("min", "max"))
        assert png_size(tmp_path / "front.png")[0] == int(WIDTH * DPI)

    def test_the_global_state_of_matplotlib_does_not_change(self, tmp_path):
        before = dict(matplotlib.rcParams)
        front_figure(POINTS, tmp_path / "front.png")
        assert dict(matplotlib.rcParams) == before

    def test_pyplot_is_not_imported(self, tmp_path):
        script = (
            "import sys\n"
            "from sweeps.plots.front import FrontPoint, front_figure\n"
            "front_figure([FrontPoint('vae', 'a', (0.0, 1.0), (None, None), 1, 'on')], sys.argv[1])\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n"
        )
        root = Path(__file__).parents[3]
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "front.pdf")], check=True, cwd=root)

    def test_an_empty_front_is_rejected(self, tmp_path):
        with pytest.raises(ValueError, match="at least one configuration"):
            front_figure([], tmp_path / "front.png")
        assert list(tmp_path.iterdir()) == []

    def test_a_mean_that_is_not_finite_is_rejected(self, tmp_path):
        with pytest.raises(ValueError, match=r"mean of a0 .*finite"):
            front_figure([replace(POINTS[0], mean=(0.0, float("nan")))], tmp_path / "front.png")

    def test_an_unknown_extension_is_rejected(self, tmp_path):
        with pytest.raises(ValueError, match=r"one of .*pdf.*svg"):
            front_figure(POINTS, tmp_path / "front.docx")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("direction", ["min", "max"])
def test_only_values_far_on_the_worse_side_are_outliers(direction: str) -> None:
    sign = 1.0 if direction == "min" else -1.0
    ys = [sign * y for y in (24.0, 24.2, 24.4, 24.6, 24.8, 51.0, -90.0)]
    assert outliers(ys, direction).tolist() == [False] * 5 + [True, False]


def test_equal_values_and_a_single_value_are_not_outliers() -> None:
    assert not outliers([3.0, 3.0, 3.0, 3.0], "min").any()
    assert not outliers([-7.0], "max").any()


def test_an_outlier_does_not_change_the_y_axis() -> None:
    points = [
        FrontPoint("a", str(y), (1.0, y), (None, None), 1, standing="on" if y == 24.0 else "off")
        for y in (24.0, 24.5, 25.0, 25.5)
    ]
    far = FrontPoint("b", "far", (1.0, 500.0), (None, None), 1, standing="off")
    drawn = [_draw(some, ("au", "nll_iw"), ("max", "min"), "").axes[0].get_ylim() for some in (points, [*points, far])]
    assert drawn[0] == drawn[1]
    assert drawn[1][1] < 30.0
