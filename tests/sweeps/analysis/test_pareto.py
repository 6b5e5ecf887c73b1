from __future__ import annotations

import numpy as np
import pytest

from sweeps.analysis.pareto import Direction, front, front_probability, hypervolume, replicates

NAN, INF = np.nan, np.inf
MIN2: tuple[Direction, Direction] = ("min", "min")
NLL_AU: tuple[Direction, Direction] = ("min", "max")
STAIRCASE = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]
"""Three steps; against (4, 4) they cover 3 + 2 + 1 unit squares."""


def front_by_definition(points_MD: np.ndarray, directions: tuple[Direction, ...]) -> np.ndarray:
    cost_MD = points_MD * [1 if direction == "min" else -1 for direction in directions]
    finite_M = np.isfinite(cost_MD).all(axis=1)
    member_M = finite_M.copy()
    for a, cost in enumerate(cost_MD):
        for b, rival in enumerate(cost_MD):
            if finite_M[a] and finite_M[b] and all(rival <= cost) and any(rival < cost):
                member_M[a] = False
    return member_M


class TestFront:
    def test_staircase_with_a_dominated_point(self):
        assert front([*STAIRCASE, [3.0, 3.0]], MIN2).tolist() == [True, True, True, False]

    def test_mixed_senses(self):
        nll_au = [[330.0, 0.0], [329.0, 5.0], [331.0, 8.0], [332.0, 8.0]]
        assert front(nll_au, NLL_AU).tolist() == [False, True, True, False]

    def test_equal_points_share_their_fate(self):
        assert front([[1, 2], [1, 2], [2, 1], [2, 2], [2, 2]], MIN2).tolist() == [
            True,
            True,
            True,
            False,
            False,
        ]

    def test_a_tie_in_one_column_is_decided_by_the_other(self):
        assert front([[1, 2], [1, 3], [2, 2]], MIN2).tolist() == [True, False, False]

    @pytest.mark.parametrize("hole", [[NAN, 9.0], [-INF, 9.0], [INF, 0.0], [0.0, INF], [NAN, NAN]])
    def test_rows_that_are_not_finite_neither_join_nor_dominate(self, hole):
        assert front([[1.0, 1.0], hole], NLL_AU).tolist() == [True, False]

    def test_nothing_finite(self):
        assert front([[NAN, 1.0], [INF, 1.0]], MIN2).tolist() == [False, False]

    def test_single_point_and_no_point(self):
        assert front([[5.0, 5.0]], MIN2).tolist() == [True]
        assert front(np.empty((0, 2)), MIN2).shape == (0,)

    @pytest.mark.parametrize("directions", [("min",), ("max", "min"), ("min", "max", "max"), ("max",) * 4])
    def test_agrees_with_the_definition(self, directions):
        rng = np.random.default_rng(0)
        for _ in range(200):
            points_MD = rng.integers(-3, 4, size=(rng.integers(1, 30), len(directions))).astype(float)
            points_MD[rng.random(points_MD.shape) < 0.03] = rng.choice([NAN, INF, -INF])
            given_MD = points_MD.copy()
            np.testing.assert_array_equal(front(points_MD, directions), front_by_definition(points_MD, directions))
            np.testing.assert_array_equal(points_MD, given_MD)

    @pytest.mark.parametrize("directions", [("min",), ("min", "min", "min"), ("min", "least"), "min"])
    def test_refuses_senses_that_do_not_fit(self, directions):
        with pytest.raises(ValueError, match="for each of 2 columns"):
            front(STAIRCASE, directions)

    def test_refuses_what_is_no_matrix(self):
        with pytest.raises(ValueError, match=r"shape \(2,\)"):
            front([1.0, 2.0], MIN2)


class TestHypervolume:
    def test_staircase(self):
        assert hypervolume(STAIRCASE, MIN2, [4, 4]) == 6.0

    def test_maximised(self):
        assert hypervolume(STAIRCASE, ("max", "max"), [0, 0]) == 6.0

    def test_mixed_senses(self):
        mirrored = [[x, -y] for x, y in STAIRCASE]
        assert hypervolume(mirrored, NLL_AU, [4, -4]) == 6.0

    def test_three_columns(self):
        assert hypervolume([[1, 1, 1], [0, 0, 2]], ("min",) * 3, [2, 2, 3]) == 2 + 4 - 1

    @pytest.mark.parametrize("extra", [[3, 3], [2, 2], [NAN, 0], [-INF, 0], [0, 4], [4, 0], [-9, 5]])
    def test_points_that_add_nothing(self, extra):
        assert hypervolume([*STAIRCASE, extra], MIN2, [4, 4]) == 6.0

    def test_single_point_and_no_point(self):
        assert hypervolume([[1, 2]], MIN2, [4, 4]) == 6.0
        assert hypervolume([[4, 4]], MIN2, [4, 4]) == 0.0
        assert hypervolume(np.empty((0, 2)), MIN2, [4, 4]) == 0.0

    def test_agrees_with_counted_cells(self):
        rng = np.random.default_rng(1)
        cells = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 1, 2)
        for _ in range(50):
            points_MD = rng.integers(0, 10, size=(6, 2))
            covered = (points_MD <= cells).all(axis=-1).any(axis=-1).sum()
            assert hypervolume(points_MD, MIN2, [8, 8]) == covered

    @pytest.mark.parametrize("reference", [[4.0], [4.0, NAN], [4.0, INF], 4.0])
    def test_refuses_a_reference_that_bounds_nothing(self, reference):
        with pytest.raises(ValueError, match="2 finite numbers"):
            hypervolume(STAIRCASE, MIN2, reference)


class TestReplicates:
    def test_by_hand(self):
        found = replicates([[1, 10], [4, 0], [2, 10], [6, 0], [3, 40]], ["a", "b", "a", "b", "a"])
        assert found.groups == ("a", "b")
        assert found.n_M.tolist() == [3, 2]
        np.testing.assert_allclose(found.mean_MD, [[2, 20], [5, 0]])
        np.testing.assert_allclose(found.se_MD, [[1 / np.sqrt(3), 10], [1, 0]])

    def test_one_seed_has_a_mean_but_no_standard_error(self):
        found = replicates([[1.0, 2.0]], ["a"])
        assert found.mean_MD.tolist() == [[1.0, 2.0]]
        assert np.isnan(found.se_MD).all()

    def test_a_row_that_is_not_finite_is_no_replicate(self):
        values = [[NAN, 1.0], [1.0, 2.0], [-INF, 9.0], [3.0, 4.0], [5.0, INF]]
        found = replicates(values, ["lost", "b", "b", "a", "a"])
        assert found.groups == ("b", "a")
        assert found.n_M.tolist() == [1, 1]
        assert found.mean_MD.tolist() == [[1.0, 2.0], [3.0, 4.0]]

    def test_no_rows(self):
        found = replicates(np.empty((0, 2)), [])
        assert found.groups == ()
        assert found.mean_MD.shape == found.se_MD.shape == (0, 2)
        assert found.n_M.shape == (0,)

    def test_refuses_another_number_of_groups(self):
        with pytest.raises(ValueError, match="2 rows, 1 groups"):
            replicates([[1.0], [2.0]], ["a"])


class TestFrontProbability:
    def test_clearly_separated(self):
        good, bad = [[300.0, 9.0], [301.0, 8.0]], [[330.0, 1.0], [331.0, 0.0], [329.0, 1.0]]
        assert front_probability([bad, good], NLL_AU).tolist() == [0.0, 1.0]

    def test_tied_by_equal_seeds(self):
        """Each mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4: not above the other's with chance 11/16."""
        share_M = front_probability([[[0.0], [1.0]]] * 2, ["min"], draws=20_000)
        np.testing.assert_allclose(share_M, 11 / 16, atol=0.015)

    def test_rows_are_resampled_whole(self):
        """On the line nll = au nothing dominates, unless the columns were drawn apart."""
        line = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
        assert front_probability([line, line], NLL_AU).tolist() == [1.0, 1.0]

    def test_single_seeds_are_kept(self):
        assert front_probability([[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 0.0]]], NLL_AU).tolist() == [
            1.0,
            1.0,
            0.0,
        ]

    def test_without_a_finite_row_never(self):
        nothing = np.empty((0, 2))
        assert front_probability([[[NAN, 1.0]], nothing, [[1.0, 1.0]]], NLL_AU).tolist() == [0.0, 0.0, 1.0]

    def test_no_configurations(self):
        assert front_probability([], NLL_AU).shape == (0,)

    def test_the_seed_decides(self):
        values = list(np.random.default_rng(2).normal(size=(4, 3, 2)))
        first, again, other = (front_probability(values, MIN2, 200, seed) for seed in (0, 0, 1))
        assert first.tolist() == again.tolist() != other.tolist()

    def test_refuses_no_draws(self):
        with pytest.raises(ValueError, match="at least 1, but is 0"):
            front_probability([], MIN2, draws=0)
