"""Parsing of arms, and the spaces that they span."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lagvae_core.errors import ValidationIssue
from lagvae_core.settings import tunables
from lagvae_core.strategies import CATALOGUE
from sweeps.spec.arms import parse_arm
from sweeps.spec.space import Arm
from sweeps.storage.schema import tunable_columns


def arm_of(*items: Any) -> Arm:
    issues: list[ValidationIssue] = []
    arm = parse_arm("x", list(items), issues)
    assert not issues
    assert arm is not None
    return arm


def points_of(arm: Arm) -> list[dict[str, Any]]:
    size = arm.size()
    assert size is not None
    return [arm.point(number) for number in range(size)]


def issues_of(items: Any) -> list[ValidationIssue]:
    """Return the issues of an invalid arm `x`."""
    issues: list[ValidationIssue] = []
    assert parse_arm("x", items, issues) is None
    assert issues
    assert all(issue.message and issue.hint for issue in issues)
    return issues


class TestParsing:
    def test_the_plain_vae_is_an_empty_stack_with_one_point(self):
        arm = arm_of()
        assert arm == Arm("x", (), ())
        assert points_of(arm) == [{}]
        assert arm.strategies({}) == []

    def test_a_bare_kind_is_searched_over_the_range_of_the_strategy(self):
        (dimension,) = arm_of("beta_vae").dimensions
        assert dimension.name == "beta_vae.beta"
        assert dimension.distribution() == FloatDistribution(0.1, 1.0)

    @pytest.mark.parametrize("kind", CATALOGUE)
    def test_a_bare_kind_searches_every_tunable_field(self, kind):
        declared = {f"{kind}.{field}": tunable for field, _, tunable in tunables(CATALOGUE[kind])}
        assert {d.name: d.tunable for d in arm_of(kind).dimensions} == declared
        assert arm_of({"kind": kind}) == arm_of(kind)

    def test_a_fixed_value_is_not_searched(self):
        arm = arm_of({"kind": "beta_vae", "beta": 0.3})
        assert arm.dimensions == ()
        assert arm.strategies({}) == [{"kind": "beta_vae", "beta": 0.3}]

    def test_low_and_high_replace_the_range_of_the_strategy(self):
        (dimension,) = arm_of({"kind": "beta_vae", "beta": {"low": 0.2, "high": 0.4}}).dimensions
        assert dimension.distribution() == FloatDistribution(0.2, 0.4)

    def test_logarithmic_scale(self):
        (dimension,) = arm_of({"kind": "beta_vae", "beta": {"low": 0.01, "high": 1, "log": True}}).dimensions
        assert dimension.distribution() == FloatDistribution(0.01, 1.0, log=True)

    def test_choices_keep_order_and_types(self):
        (dimension,) = arm_of({"kind": "aggressive", "budget": {"choices": [70, 10, "converge"]}}).dimensions
        assert dimension.distribution() == CategoricalDistribution([70, 10, "converge"])

    def test_an_integer_field_is_searched_over_integers(self):
        arm = arm_of({"kind": "aggressive", "budget": 10, "max_inner": {"low": 2, "high": 5}})
        assert arm.dimensions[0].distribution() == IntDistribution(2, 5)
        assert points_of(arm) == [{"aggressive.max_inner": n} for n in (2, 3, 4, 5)]

    def test_a_field_of_words_or_integers_is_searched_over_integers(self):
        (dimension,) = arm_of({"kind": "aggressive", "budget": {"low": 10, "high": 70}}).dimensions
        assert dimension.distribution() == IntDistribution(10, 70)

    def test_a_field_without_a_declared_range_can_be_searched(self):
        names = {d.name for d in arm_of({"kind": "kl_linear_epoch", "w_start": {"choices": [0, 0.1]}}).dimensions}
        assert names == {"kl_linear_epoch.w_start", "kl_linear_epoch.warm_up"}

    def test_all_strategies_of_a_stack_are_searched(self):
        arm = arm_of("aggressive", "kl_linear_epoch")
        assert [d.name for d in arm.dimensions] == ["aggressive.budget", "kl_linear_epoch.warm_up"]
        filled = arm.strategies({"aggressive.budget": 30, "kl_linear_epoch.warm_up": 4.5})
        assert filled == [{"kind": "aggressive", "budget": 30}, {"kind": "kl_linear_epoch", "warm_up": 4.5}]

    def test_filling_in_parameters_does_not_change_the_arm(self):
        arm = arm_of("beta_vae")
        arm.strategies({"beta_vae.beta": 0.5})
        assert arm == arm_of("beta_vae")


class TestFiniteSpaces:
    def test_points_are_all_combinations_in_a_fixed_order(self):
        arm = arm_of(
            {"kind": "encoder_lr", "multiplier": {"choices": [4, 2]}},
            {"kind": "beta_vae", "beta": {"choices": [0.5, 0.25]}},
        )
        points = [tuple(point.values()) for point in points_of(arm)]
        assert points == [(4, 0.5), (4, 0.25), (2, 0.5), (2, 0.25)]

    def test_a_continuous_space_has_no_size(self):
        assert arm_of("encoder_lr", "beta_vae").size() is None

    def test_a_large_space_is_not_enumerated(self):
        span = {"low": 2, "high": 10**12}
        arm = arm_of({"kind": "aggressive", "budget": 10, "max_inner": span, "check": span})
        size = arm.size()
        assert size == (10**12 - 1) ** 2
        assert arm.point(size - 1) == {"aggressive.max_inner": 10**12, "aggressive.check": 10**12}


class TestContains:
    def test_range(self):
        (dimension,) = arm_of("beta_vae").dimensions
        assert [dimension.contains(v) for v in (0.1, 0.5, 1, 1.01, 0.09, "0.5", None, True)] == [
            *(True, True, True),
            *(False, False, False, False, False),
        ]

    def test_choices(self):
        (dimension,) = arm_of("aggressive").dimensions
        assert [dimension.contains(v) for v in (10, "converge", 11, "10", None)] == [True, True, False, False, False]

    def test_an_integer_range_contains_no_fraction(self):
        (dimension,) = arm_of({"kind": "aggressive", "budget": 10, "max_inner": {"low": 2, "high": 5}}).dimensions
        assert [dimension.contains(v) for v in (2, 5, 2.5)] == [True, True, False]


class TestIssues:
    @pytest.mark.parametrize("items", [None, "beta_vae", 3, {"kind": "beta_vae"}])
    def test_an_arm_is_a_list(self, items):
        (issue,) = issues_of(items)
        assert (issue.where, issue.value) == ("arms.x", items)

    @pytest.mark.parametrize("item", [3, None, {}, {"beta": 1}, ["beta_vae"]])
    def test_an_item_has_a_kind(self, item):
        (issue,) = issues_of([item])
        assert (issue.where, issue.value) == ("arms.x[0]", item)
        assert all(kind in issue.hint for kind in CATALOGUE)

    @pytest.mark.parametrize("kind", ["beta", None, ["beta_vae"], {}])
    def test_an_unknown_strategy(self, kind):
        (issue,) = issues_of(["aggressive", {"kind": kind}])
        assert (issue.where, issue.value) == ("arms.x[1].kind", kind)

    def test_a_range_of_an_unknown_field(self):
        (issue,) = issues_of([{"kind": "beta_vae", "gamma": {"low": 0, "high": 1}}])
        assert issue.where == "arms.x[0].gamma"
        assert "beta" in issue.hint

    @pytest.mark.parametrize(
        ("value", "part"),
        [
            ({"low": 1, "high": 0.5}, "low < high"),
            ({"low": 1, "high": 1}, "low < high"),
            ({"low": float("nan"), "high": 1}, "low < high"),
            ({"low": 0, "high": 1, "log": True}, "low > 0"),
            ({"low": -1, "high": 1, "log": True}, "low > 0"),
            ({"low": "0", "high": 1}, "numbers"),
            ({"low": True, "high": 2}, "numbers"),
            ({"low": 0.1, "high": 1, "log": "yes"}, "true or false"),
            ({"low": 0.1}, "{low:, high:}"),
            ({}, "{low:, high:}"),
            ({"low": 0.1, "high": 1, "stride": 0.1}, "{low:, high:}"),
            ({"choices": [1], "low": 1}, "{low:, high:}"),
        ],
    )
    def test_an_invalid_range(self, value, part):
        (issue,) = issues_of([{"kind": "beta_vae", "beta": value}])
        assert (issue.where, repr(issue.value)) == ("arms.x[0].beta", repr(value))
        assert part in issue.message

    @pytest.mark.parametrize("choices", [[], 1, None, [1, 1], [1, 1.0], [[1]], [None], "ab"])
    def test_invalid_choices(self, choices):
        (issue,) = issues_of([{"kind": "beta_vae", "beta": {"choices": choices}}])
        assert (issue.where, issue.value) == ("arms.x[0].beta.choices", choices)

    @pytest.mark.parametrize("value", [{"low": 2.5, "high": 9}, {"low": 2, "high": 9.5}])
    def test_an_integer_range_with_fractions_as_ends(self, value):
        (issue,) = issues_of([{"kind": "aggressive", "max_inner": value}])
        assert (issue.where, issue.value) == ("arms.x[0].max_inner", value)

    def test_all_issues_of_all_items_are_reported(self):
        issues = issues_of([{"kind": "beta_vae", "beta": {"low": 2, "high": 1}}, "nonsense", 7])
        assert [issue.where for issue in issues] == ["arms.x[0].beta", "arms.x[1].kind", "arms.x[2]"]


def test_columns_are_the_tunable_fields_of_the_catalogue():
    columns = dict(tunable_columns())
    assert list(columns) == [f"{kind}.{field}" for kind, s in CATALOGUE.items() for field, _, _ in tunables(s)]
    assert columns["aggressive.budget"] == "str", "an integer or the word converge"
    assert columns["encoder_lr.multiplier"] == "float", "its choices are integers, but the field takes any number"
    assert columns["beta_vae.beta"] == "float"
