"""Figures of the posterior mean space."""

import numpy as np
import pytest
from figures import png_size

from sweeps.plots.posterior_means import (
    ScatterPanel,
    TrajectoryPoint,
    scatter_figure,
    select_steps,
    trajectory_figure,
)
from sweeps.plots.style import DPI, PAGE_WIDTH, WIDTH

DRAWS = np.random.default_rng(0).normal(size=(2, 50))


class TestSelectedSteps:
    @pytest.mark.parametrize(
        ("steps", "requested", "selected"),
        [
            ([0, 200, 400, 1000, 5000, 10_000], (), [0, 200, 1000, 10_000]),
            ([0, 200], (), [0, 200]),
            ([0], (), [0]),
            ([250, 500], (), [250, 500]),
            ([0, 200, 400], (390, 1, 10_000), [0, 400]),
        ],
    )
    def test_they_are_stored_steps(self, steps, requested, selected):
        assert select_steps(steps, requested) == selected


class TestScatter:
    def test_panels_share_one_scale(self, tmp_path):
        rows = [[ScatterPanel(DRAWS[0], 0 * DRAWS[1], f"update {step}", "KL 0.00") for step in range(4)]]
        scatter_figure(rows, tmp_path / "means.svg", title="vae")
        width, height = png_size(tmp_path / "means.png")
        assert width == int(PAGE_WIDTH * DPI)
        assert 0.25 * width < height < 0.45 * width
        assert (tmp_path / "means.svg").read_bytes().startswith(b"<?xml")

    def test_rows_can_have_different_lengths(self, tmp_path):
        panel = ScatterPanel(DRAWS[0], DRAWS[1], "")
        scatter_figure([[panel] * 5, [panel]], tmp_path / "means.png")
        assert png_size(tmp_path / "means.png")[0] == int(PAGE_WIDTH * DPI)

    @pytest.mark.parametrize("rows", [[], [[]]])
    def test_an_empty_figure_is_rejected(self, tmp_path, rows):
        with pytest.raises(ValueError, match="at least one snapshot"):
            scatter_figure(rows, tmp_path / "means.png")


class TestTrajectory:
    def test_a_png_has_the_width_of_one_column(self, tmp_path):
        points = [TrajectoryPoint(step // 3, DRAWS[0, step], DRAWS[1, step]) for step in range(30)]
        trajectory_figure(points, tmp_path / "trajectory.png")
        assert png_size(tmp_path / "trajectory.png")[0] == int(WIDTH * DPI)

    def test_a_single_point_at_the_origin(self, tmp_path):
        trajectory_figure([TrajectoryPoint(0, 0.0, 0.0)], tmp_path / "trajectory.png")
        assert (tmp_path / "trajectory.png").exists()

    def test_an_empty_trajectory_is_rejected(self, tmp_path):
        with pytest.raises(ValueError, match="at least one step"):
            trajectory_figure([], tmp_path / "trajectory.png")
