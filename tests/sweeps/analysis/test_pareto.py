"""Fronts, hypervolumes and replicates against definitions and examples computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sweeps.analysis import pareto
from sweeps.analysis.pareto import (
    Direction,
    contenders,
    front,
    front_probability,
    hypervolume,
    replicates,
    resample_means,
    rivals,
)

NAN, INF = np.nan, np.inf
MIN2: tuple[Direction, Direction] = ("min", "min")
NLL_AU: tuple[Direction, Direction] = ("min", "max")
STAIRCASE = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]
"""Three steps. With the reference (4, 4) they cover 3 + 2 + 1 unit squares."""


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

    def test_mixed_directions(self):
        nll_au = [[330.0, 0.0], [329.0, 5.0], [331.0, 8.0], [332.0, 8.0]]
        assert front(nll_au, NLL_AU).tolist() == [False, True, True, False]

    def test_equal_points_are_members_together_or_not_at_all(self):
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
    def test_points_that_are_not_finite_are_no_members_and_dominate_nothing(self, hole):
        assert front([[1.0, 1.0], hole], NLL_AU).tolist() == [True, False]

    def test_no_finite_point(self):
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
            copy_MD = points_MD.copy()
            np.testing.assert_array_equal(front(points_MD, directions), front_by_definition(points_MD, directions))
            np.testing.assert_array_equal(points_MD, copy_MD)

    @pytest.mark.parametrize("directions", [("min",), ("min", "min", "min"), ("min", "least"), "min"])
    def test_directions_must_match_the_columns(self, directions):
        with pytest.raises(ValueError, match="for each of 2 columns"):
            front(STAIRCASE, directions)

    def test_points_must_be_a_matrix(self):
        with pytest.raises(ValueError, match=r"shape \(2,\)"):
            front([1.0, 2.0], MIN2)


class TestHypervolume:
    def test_staircase(self):
        assert hypervolume(STAIRCASE, MIN2, [4, 4]) == 6.0

    def test_maximised_columns(self):
        assert hypervolume(STAIRCASE, ("max", "max"), [0, 0]) == 6.0

    def test_mixed_directions(self):
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
    def test_the_reference_must_be_finite(self, reference):
        with pytest.raises(ValueError, match="2 finite numbers"):
            hypervolume(STAIRCASE, MIN2, reference)


class TestReplicates:
    def test_example_computed_by_hand(self):
        replicated = replicates([[1, 10], [4, 0], [2, 10], [6, 0], [3, 40]], ["a", "b", "a", "b", "a"])
        assert replicated.groups == ("a", "b")
        assert replicated.n_M.tolist() == [3, 2]
        np.testing.assert_allclose(replicated.mean_MD, [[2, 20], [5, 0]])
        np.testing.assert_allclose(replicated.se_MD, [[1 / np.sqrt(3), 10], [1, 0]])

    def test_one_seed_has_a_mean_but_no_standard_error(self):
        replicated = replicates([[1.0, 2.0]], ["a"])
        assert replicated.mean_MD.tolist() == [[1.0, 2.0]]
        assert np.isnan(replicated.se_MD).all()

    def test_rows_that_are_not_finite_are_left_out(self):
        values = [[NAN, 1.0], [1.0, 2.0], [-INF, 9.0], [3.0, 4.0], [5.0, INF]]
        replicated = replicates(values, ["lost", "b", "b", "a", "a"])
        assert replicated.groups == ("b", "a")
        assert replicated.n_M.tolist() == [1, 1]
        assert replicated.mean_MD.tolist() == [[1.0, 2.0], [3.0, 4.0]]

    def test_no_rows(self):
        replicated = replicates(np.empty((0, 2)), [])
        assert replicated.groups == ()
        assert replicated.mean_MD.shape == replicated.se_MD.shape == (0, 2)
        assert replicated.n_M.shape == (0,)

    def test_every_row_needs_a_group(self):
        with pytest.raises(ValueError, match="1 entries for 2 rows"):
            replicates([[1.0], [2.0]], ["a"])


class TestFrontProbability:
    def test_clearly_separated_configurations(self):
        good, bad = [[300.0, 9.0], [301.0, 8.0]], [[330.0, 1.0], [331.0, 0.0], [329.0, 1.0]]
        assert front_probability([bad, good], NLL_AU).tolist() == [0.0, 1.0]

    def test_configurations_with_equal_seeds(self):
        """Each mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4, so it is at most the other mean with 11/16."""
        share_M = front_probability([[[0.0], [1.0]]] * 2, ["min"], draws=20_000)
        np.testing.assert_allclose(share_M, 11 / 16, atol=0.015)

    def test_rows_are_resampled_whole(self):
        """No point of the line nll = au dominates another, unless the columns are resampled separately."""
        line = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
        assert front_probability([line, line], NLL_AU).tolist() == [1.0, 1.0]

    def test_single_seeds_are_used_unchanged(self):
        assert front_probability([[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 0.0]]], NLL_AU).tolist() == [
            1.0,
            1.0,
            0.0,
        ]

    def test_a_configuration_without_finite_rows_is_never_on_the_front(self):
        nothing = np.empty((0, 2))
        assert front_probability([[[NAN, 1.0]], nothing, [[1.0, 1.0]]], NLL_AU).tolist() == [0.0, 0.0, 1.0]

    def test_no_configurations(self):
        assert front_probability([], NLL_AU).shape == (0,)

    def test_the_seed_determines_the_draws(self):
        values = list(np.random.default_rng(2).normal(size=(4, 3, 2)))
        first, again, other = (front_probability(values, MIN2, 200, seed) for seed in (0, 0, 1))
        assert first.tolist() == again.tolist() != other.tolist()

    def test_at_least_one_draw_is_needed(self):
        with pytest.raises(ValueError, match="draws"):
            front_probability([], MIN2, draws=0)

    def test_shared_noise_does_not_blur_the_difference_of_configurations_with_the_same_seeds(self):
        noise = np.array([[0.0], [5.0], [-4.0]])
        values, seeds = [noise, noise + 0.1], [[0, 1, 2], [0, 1, 2]]
        assert front_probability(values, ["min"], seeds=seeds).tolist() == [1.0, 0.0]
        assert front_probability(values, ["min"])[1] > 0.3
        shuffled = [noise, noise[::-1] + 0.1]
        assert front_probability(shuffled, ["min"], seeds=[[0, 1, 2], [2, 1, 0]]).tolist() == [1.0, 0.0]

    def test_differences_below_the_decimals_are_ties(self):
        values = [[[1.0], [1.0]], [[1.0004], [1.0004]]]
        assert front_probability(values, ["min"], decimals=3).tolist() == [1.0, 1.0]
        assert front_probability(values, ["min"]).tolist() == [1.0, 0.0]

    def test_it_agrees_with_the_definition(self):
        rng = np.random.default_rng(3)
        values = [rng.normal(size=(n, 2)) for n in (1, 2, 3, 3, 5)]
        means = resample_means(values, 2, draws=300, seed=7)
        expected = np.mean([front_by_definition(mean_MD, MIN2) for mean_MD in means], axis=0)
        np.testing.assert_array_equal(front_probability(values, MIN2, 300, 7), expected)


class TestResampleMeans:
    @pytest.mark.parametrize("n", [2, 3, 8])
    def test_the_spread_is_the_standard_error(self, n):
        rows = np.random.default_rng(n).normal(size=(n, 1))
        mean_RMD = resample_means([rows], 1, draws=20_000)
        assert mean_RMD.std() == pytest.approx(rows.std(ddof=1) / np.sqrt(n), rel=0.03)
        assert mean_RMD.mean() == pytest.approx(rows.mean(), abs=0.03)

    def test_missing_rows_are_left_out_with_their_seeds(self):
        values = [[[1.0], [NAN], [3.0]], [[1.0], [3.0]], [[NAN]]]
        mean_RMD = resample_means(values, 1, 50, seeds=[[0, 1, 2], [0, 2], [0]])
        np.testing.assert_array_equal(mean_RMD[:, 0], mean_RMD[:, 1])
        assert np.isnan(mean_RMD[:, 2]).all()

    def test_all_rows_need_the_same_columns(self):
        with pytest.raises(ValueError, match="values"):
            resample_means([[[1.0]]], 2)


@pytest.mark.parametrize("at_once", [7, 200_000])
@pytest.mark.parametrize("directions", [("min",), ("min", "max"), ("max", "min", "min")])
def test_a_configuration_has_a_rival_if_and_only_if_another_one_beats_it(directions, at_once, monkeypatch):
    monkeypatch.setattr(pareto, "COMPARED_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    for errors in (0.0, 2.0):
        mean_MD = rng.normal(size=(90, len(directions))).round(1)
        se_MD = np.where(rng.random(mean_MD.shape) < 0.2, NAN, rng.gamma(1.0, 0.1, mean_MD.shape))
        score_MD = mean_MD * [1 if direction == "max" else -1 for direction in directions]
        gain_MMD = score_MD[None] - score_MD[:, None]
        error_MMD = errors * np.hypot(np.nan_to_num(se_MD)[None], np.nan_to_num(se_MD)[:, None])
        better_MM = (gain_MMD > error_MMD).any(2) & ~(-gain_MMD > error_MMD).any(2)
        by_definition, member_M = better_MM.any(1), front(mean_MD, directions)
        rival_M = rivals(mean_MD, se_MD, directions, errors)
        assert (rival_M >= 0).tolist() == by_definition.tolist()
        for m in np.flatnonzero(by_definition):
            assert better_MM[m, rival_M[m]]
            assert member_M[rival_M[m]] or not better_MM[m, member_M].any()
        assert 0 < by_definition.sum() < 90


@pytest.mark.parametrize("decimals", [None, 1])
def test_only_contenders_are_on_the_front_of_a_draw(decimals):
    rng = np.random.default_rng(1)
    values = [rng.normal(3 * rng.normal(size=2), 0.3, size=(rng.integers(0, 4), 2)) for _ in range(40)]
    seeds = [list(range(len(rows_ND))) for rows_ND in values]
    contender_M = contenders(values, NLL_AU, decimals)
    mean_RMD = resample_means(values, 2, 200, seeds=seeds)
    mean_RMD = mean_RMD if decimals is None else mean_RMD.round(decimals)
    share_M = np.mean([front(mean_MD, NLL_AU) for mean_MD in mean_RMD], axis=0)
    assert 0 < contender_M.sum() < 35
    assert (share_M[~contender_M] == 0).all()
    assert front_probability(values, NLL_AU, 200, seeds=seeds, decimals=decimals).tolist() == share_M.tolist()
    wanted_RWD = resample_means(values, 2, 200, seeds=seeds, wanted_M=contender_M)
    every_RMD = resample_means(values, 2, 200, seeds=seeds)
    np.testing.assert_array_equal(wanted_RWD, every_RMD[:, contender_M])
