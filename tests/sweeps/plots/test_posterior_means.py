"""Pictures of the posterior mean space."""

import numpy as np
import pytest
from figures import png_size

from sweeps.plots.posterior_means import WIDTH, Place, Scatter, chosen_steps, scatter_figure, trajectory_figure
from sweeps.plots.style import DPI

DRAWS = np.random.default_rng(0).normal(size=(2, 50))


class TestChosenSteps:
    @pytest.mark.parametrize(
        ("steps", "wanted", "chosen"),
        [
            ([0, 200, 400, 1000, 5000, 10_000], (), [0, 200, 1000, 10_000]),
            ([0, 200], (), [0, 200]),
            ([0], (), [0]),
            ([250, 500], (), [250, 500]),
            ([0, 200, 400], (390, 1, 10_000), [0, 400]),
        ],
    )
    def test_are_stored_ones(self, steps, wanted, chosen):
        assert chosen_steps(steps, wanted) == chosen


class TestScatter:
    def test_panels_share_one_scale(self, tmp_path):
        rows = [[Scatter(DRAWS[0], 0 * DRAWS[1], f"update {step}", "KL 0.00") for step in range(4)]]
        scatter_figure(rows, tmp_path / "means.svg", title="vae")
        width, height = png_size(tmp_path / "means.png")
        assert width == int(WIDTH * DPI)
        assert 0.25 * width < height < 0.45 * width
        assert (tmp_path / "means.svg").read_bytes().startswith(b"<?xml")

    def test_a_row_may_be_shorter(self, tmp_path):
        panel = Scatter(DRAWS[0], DRAWS[1], "")
        scatter_figure([[panel] * 5, [panel]], tmp_path / "means.png")
        assert png_size(tmp_path / "means.png")[0] == int(WIDTH * DPI)

    @pytest.mark.parametrize("rows", [[], [[]]])
    def test_nothing_is_refused(self, tmp_path, rows):
        with pytest.raises(ValueError, match="at least one snapshot"):
            scatter_figure(rows, tmp_path / "means.png")


class TestWay:
    def test_a_way(self, tmp_path):
        trajectory_figure(
            [Place(step // 3, DRAWS[0, step], DRAWS[1, step]) for step in range(30)], tmp_path / "way.png"
        )
        assert png_size(tmp_path / "way.png")[0] == int(3.35 * DPI)

    def test_one_place_at_the_origin(self, tmp_path):
        trajectory_figure([Place(0, 0.0, 0.0)], tmp_path / "way.png")

    def test_nothing_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="at least one step"):
            trajectory_figure([], tmp_path / "way.png")
