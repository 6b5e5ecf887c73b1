"""Arms that are mappings, and fields of the trial that are searched."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from worlds import TINY_TRIAL, play, spec_of, sweep

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.catalogue.arms import resolved_sweep
from sweeps.spec.space import Arm
from sweeps.spec.sweep import SweepSpec, parse_spec
from sweeps.spec.validation import Problems
from sweeps.storage.schema import runs_schema, trial_columns

RATE = {"low": 1e-3, "high": 1.0, "log": True}
SPACE = {
    "training.learning_rate": RATE,
    "training.optimiser": {"choices": ["sgd", "adam"]},
    "training.momentum": {"low": 0.0, "high": 0.9, "step": 0.3, "when": {"training.optimiser": "sgd"}},
}


def arm_of(spec: SweepSpec, name: str) -> Arm:
    return next(arm for arm in spec.arms if arm.name == name)


def names(spec: SweepSpec, arm: str) -> list[str]:
    return [dimension.name for dimension in arm_of(spec, arm).dimensions]


def issues_of(**changes: Any) -> list[ValidationIssue]:
    with pytest.raises(ConfigError) as caught:
        parse_spec(yaml.safe_dump(sweep(**changes), sort_keys=False))
    return list(caught.value.issues)


class TestSharedSpace:
    def test_every_arm_searches_it(self):
        spec = spec_of(space=SPACE)
        assert names(spec, "vae") == list(SPACE)
        assert names(spec, "beta") == ["beta_vae.beta", *SPACE]

    def test_the_values_reach_the_trial(self):
        spec = spec_of(space=SPACE)
        point = {"training.learning_rate": 0.01, "training.optimiser": "sgd", "training.momentum": 0.3}
        config = spec.trial_config(arm_of(spec, "vae"), point, seed=3)
        assert (config.training.learning_rate, config.training.optimiser, config.training.momentum) == (
            0.01,
            "sgd",
            0.3,
        )
        assert config.training.epochs == TINY_TRIAL["training"]["epochs"]
        assert config.seed == 3

    def test_a_value_or_range_of_the_arm_takes_precedence(self):
        arms = {
            "fixed": {"strategies": [], "trial": {"training": {"optimiser": "adam"}}},
            "own": {"strategies": [], "space": {"training.learning_rate": {"choices": [0.1, 0.2]}}},
            "vae": [],
        }
        spec = spec_of(arms=arms, space=SPACE)
        assert names(spec, "fixed") == ["training.learning_rate"], "Adam has no momentum"
        own = {dimension.name: dimension for dimension in arm_of(spec, "own").dimensions}
        assert own["training.learning_rate"].tunable.choices == (0.1, 0.2)
        assert {name: dimension.shared for name, dimension in own.items()} == {
            "training.learning_rate": False,
            "training.optimiser": True,
            "training.momentum": True,
        }

    def test_a_field_of_a_strategy_holds_for_the_arms_that_have_it(self):
        spec = spec_of(space={"beta_vae.beta": {"choices": [0.2, 0.3]}})
        assert names(spec, "vae") == []
        assert arm_of(spec, "beta").dimensions[0].tunable.choices == (0.2, 0.3)

    @pytest.mark.parametrize(
        ("name", "range_", "distribution"),
        [
            ("training.learning_rate", RATE, FloatDistribution(1e-3, 1.0, log=True)),
            ("training.momentum", {"low": 0, "high": 0.9, "step": 0.3}, FloatDistribution(0, 0.9, step=0.3)),
            ("model.latent_dim", {"low": 2, "high": 8, "step": 2}, IntDistribution(2, 8, step=2)),
            ("model.hidden", {"low": 4, "high": 64, "log": True}, IntDistribution(4, 64, log=True)),
            ("training.reload_best_on_decay", {"choices": [True, False]}, CategoricalDistribution([True, False])),
            ("data.partition", {"choices": ["fixed_random", "resplit_random"]}, None),
        ],
    )
    def test_kinds_of_fields(self, name, range_, distribution):
        (dimension,) = arm_of(spec_of(arms={"vae": []}, space={name: range_}), "vae").dimensions
        assert distribution is None or dimension.distribution() == distribution

    def test_every_column_of_the_trial_is_a_field_that_can_be_searched(self):
        for name, _, _ in trial_columns():
            assert name in runs_schema().names
            section, _, field = name.partition(".")
            assert section in ("training", "model", "data")
            assert field != "path"


class TestConditions:
    spec = spec_of(arms={"vae": []}, space={name: SPACE[name] for name in list(SPACE)[1:]})
    arm = arm_of(spec, "vae")

    def test_points_are_distinct_configurations(self):
        points = [self.arm.point(number) for number in range(self.arm.size() or 0)]
        assert points == [
            *({"training.optimiser": "sgd", "training.momentum": value} for value in (0.0, 0.3, 0.6, 0.9)),
            {"training.optimiser": "adam"},
        ]
        assert all(self.arm.accepts(point) for point in points)

    def test_a_value_whose_condition_does_not_hold_is_not_part_of_a_point(self):
        assert not self.arm.accepts({"training.optimiser": "adam", "training.momentum": 0.3})
        assert not self.arm.accepts({"training.optimiser": "sgd"})

    def test_both_bounds_are_validated(self):
        values = [point.get("training.momentum") for point in self.arm.probes(100)]
        assert values == [0.0, 0.9, None]
        assert {point.get("training.momentum") for point in self.arm.probes(1)} == {0.0, 0.9, None}

    @pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "grid"])
    @pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
    def test_a_search_finds_every_point_once(self, sampler):
        budget = {} if sampler == "grid" else {"configurations": 20}
        space = {name: SPACE[name] for name in list(SPACE)[1:]}
        rows, scheduler = play(
            spec_of(arms={"vae": []}, space=space, search={"sampler": sampler, "seeds": 1, **budget})
        )
        assert scheduler.exhausted
        assert len({row["parameters"] for row in rows}) == len({row["config_id"] for row in rows}) == 5

    @pytest.mark.parametrize(
        ("when", "where"),
        [
            ("sgd", "space.training.momentum.when"),
            ({}, "space.training.momentum.when"),
            ({"training.learning_rate": 0.1}, "space.training.momentum.when"),
            ({"training.optimiser": "sdg"}, "space.training.momentum.when"),
            ({"training.optimiser": None}, "space.training.momentum.when.training.optimiser"),
            ({"optimiser": "sgd"}, "space.training.momentum.when"),
            ({"training.optimizer": "sgd"}, "space.training.momentum.when"),
        ],
    )
    def test_an_invalid_condition(self, when, where):
        space = {**SPACE, "training.momentum": {"low": 0.0, "high": 0.9, "when": when}}
        assert where in [issue.where for issue in issues_of(space=space)]


class TestMapping:
    def test_a_field_without_a_value_is_searched_only_on_request(self):
        arms = {
            "default": {"strategies": ["beta_vae"]},
            "named": {"strategies": [{"kind": "beta_vae", "beta": "search"}]},
            "all": {"strategies": ["beta_vae"], "search": True},
            "space": {"strategies": ["kl_linear_epoch"], "space": {"kl_linear_epoch.warm_up": "search"}},
        }
        spec = spec_of(arms={k: v for k, v in arms.items() if k != "all"})
        assert {arm.name: [d.name for d in arm.dimensions] for arm in spec.arms} == {
            "default": [],
            "named": ["beta_vae.beta"],
            "space": ["kl_linear_epoch.warm_up"],
        }
        assert names(spec_of(arms={"all": arms["all"]}), "all") == ["beta_vae.beta"]

    def test_configurations_and_seeds_of_an_arm(self):
        arms = {"vae": [], "more": {"strategies": ["beta_vae"], "search": True, "configurations": 5, "seeds": [7]}}
        rows, _ = play(spec_of(arms=arms))
        assert [row["seed"] for row in rows if row["arm"] == "more"] == [7] * 5
        assert [row["seed"] for row in rows if row["arm"] == "vae"] == [0, 1]

    def test_another_model(self):
        spec = spec_of(arms={"vae": [], "other": {"strategies": [], "trial": {"model": {"latent_dim": 4}}}})
        dimensions = [spec.trial_config(arm, {}, 0).model.latent_dim for arm in spec.arms]
        assert dimensions == [2, 4]
        assert spec.trial_config(spec.arms[1], {}, 0).model.hidden == TINY_TRIAL["model"]["hidden"]

    @pytest.mark.parametrize(
        ("arm", "where"),
        [
            ({"strategies": [], "trial": {"seed": 1}}, "arms.a.trial.seed"),
            ({"strategies": [], "trial": {"evaluation": {"iw_samples": 5}}}, "arms.a.trial.evaluation"),
            ({"strategies": [], "trial": {"data": {"examples": 5}}}, "arms.a.trial.data.examples"),
            ({"strategies": [], "trial": {"training": {"epoch": 5}}}, "arms.a.trial.training.epoch"),
            ({"strategies": [], "trial": {"training": 5}}, "arms.a.trial.training"),
            ({"strategies": [], "trial": {"traning": {}}}, "arms.a.trial.traning"),
            ({"strategies": [], "stategies": []}, "arms.a.stategies"),
            ({"strategies": [], "seeds": 0}, "arms.a.seeds"),
            ({"strategies": [], "seeds": [1, 1]}, "arms.a.seeds"),
            ({"strategies": [], "configurations": 0}, "arms.a.configurations"),
            ({"strategies": [], "search": "yes please"}, "arms.a.search"),
            ({"strategies": "beta_vae"}, "arms.a.strategies"),
            ({"strategies": ["beta"]}, "arms.a.strategies[0].kind"),
            ({"strategies": [], "space": {"beta_vae.beta": "search"}}, "arms.a.space.beta_vae.beta"),
            ({"strategies": [], "space": {"training.epoch": RATE}}, "arms.a.space.training.epoch"),
            ({"strategies": [], "space": {"data.examples": {"choices": [5]}}}, "arms.a.space.data.examples"),
            ({"strategies": [], "space": {"model.kind": {"choices": ["lstm"]}}}, "arms.a.space.model.kind"),
            ({"strategies": [], "space": {"training.momentum": "search"}}, "arms.a.space.training.momentum"),
            ({"strategies": [], "space": {"training.momentum": 0.5}}, "arms.a.space.training.momentum"),
            ({"strategies": [], "space": {"training.momentum": {"low": 0, "high": 2}}}, "arms.a: training.momentum"),
            ({"strategies": ["beta_vae"], "points": [{"beta_vae.beta": 0.5}]}, "arms.a.points[0].beta_vae.beta"),
            (
                {"strategies": ["beta_vae"], "search": True, "points": [{"beta_vae.beta": 5}]},
                "arms.a.points[0].beta_vae.beta",
            ),
            (
                {"strategies": [{"kind": "beta_vae", "beta": 0.5}], "space": {"beta_vae.beta": "search"}},
                "arms.a.space.beta_vae.beta",
            ),
        ],
    )
    def test_an_invalid_mapping(self, arm, where):
        issues = issues_of(arms={"a": arm})
        assert [issue.where for issue in issues] == [where]

    def test_a_name_without_its_section(self):
        (issue,) = issues_of(space={"learning_rate": RATE})
        assert "training.learning_rate" in issue.hint
        (issue,) = issues_of(arms={"a": {"strategies": [], "trial": {"model.hidden": 12}}})
        assert (issue.where, "model: {hidden" in issue.hint) == ("arms.a.trial.model.hidden", True)

    def test_all_issues_at_once(self):
        arm = {"strategies": ["beta"], "trial": {"seed": 1}, "space": {}}
        space = {"training.epoch": RATE, "evaluation.iw_samples": RATE, "free_bit.floor": RATE}
        places = {issue.where for issue in issues_of(arms={"a": arm}, space=space)}
        assert places == {"arms.a.strategies[0].kind", "arms.a.trial.seed", *(f"space.{name}" for name in space)}

    @pytest.mark.parametrize(
        ("step", "part"), [(0.3, "divides"), (0, "positive"), ("a", "positive"), (True, "positive"), (1e-9, "steps")]
    )
    def test_an_invalid_step(self, step, part):
        (issue,) = issues_of(arms={"a": []}, space={"training.momentum": {"low": 0.0, "high": 0.5, "step": step}})
        assert issue.where == "space.training.momentum"
        assert part in issue.message


class TestIssuesOfSharedFields:
    """A problem in the space of the sweep is one issue, whatever the number of arms."""

    ARMS: ClassVar[dict[str, Any]] = {"vae": [], "beta": ["beta_vae"], "anneal": ["kl_linear_epoch"]}

    @pytest.mark.parametrize(
        ("space", "where"),
        [
            ({"training.optimiser": {"choices": ["sgd", "sgdd"]}}, "space.training.optimiser"),
            (
                {"model.hidden": {"choices": [4, 8]}, "training.optimiser": {"choices": ["sgd", "sgdd"]}},
                "space.training.optimiser",
            ),
            ({"training.epochs": {"choices": [1, "1"]}}, "space.training.epochs"),
            (
                {**SPACE, "training.momentum": {"low": 0.0, "high": 0.9, "when": {"training.optimiser": "sdg"}}},
                "space.training.momentum.when",
            ),
        ],
    )
    def test_of_all_arms(self, space, where):
        (issue,) = issues_of(arms=self.ARMS, space=space)
        assert issue.where == where
        assert not any(name in str(issue) for name in ("arms.", "beta_vae", "kl_linear_epoch"))

    def test_of_a_grid(self):
        arms = {"vae": [], "encoder_lr": [{"kind": "encoder_lr", "multiplier": 2}]}
        (issue,) = issues_of(arms=arms, space={"training.learning_rate": RATE}, search={"sampler": "grid"})
        assert issue.where == "space.training.learning_rate"

    def test_of_a_field_of_a_strategy(self):
        space = {"beta_vae.beta": {"low": -1.0, "high": 1.0}}
        arms = {"vae": [], "a": {"strategies": ["beta_vae"]}, "b": {"strategies": ["beta_vae", "encoder_lr"]}}
        (issue,) = issues_of(arms=arms, space=space)
        assert issue.where == "space.beta_vae.beta"
        assert "arms." not in str(issue)

    def test_of_the_own_choices_of_an_arm(self):
        own = {"strategies": [], "space": {"training.optimiser": {"choices": ["adam"]}}}
        (issue,) = issues_of(arms={"vae": [], "own": own}, space=SPACE)
        assert issue.where == "arms.own: training.momentum.when"

    @pytest.mark.parametrize("concerned", [["vae", "beta"], ["vae", "beta", "anneal"]])
    def test_arms_are_named_if_it_concerns_only_some_of_them(self, concerned):
        spec = spec_of(arms=self.ARMS, space={"training.learning_rate": RATE})
        problems = Problems(reported=())
        for name in concerned:
            arm = arm_of(spec, name)
            problems.add(ValidationIssue("training.learning_rate", "must be less than 1"), arm, arm.probe())
        (issue,) = problems.issues(spec.arms)
        assert issue.where == "space.training.learning_rate"
        named = [name for name in self.ARMS if f"arms.{name}" in issue.hint]
        assert named == (concerned if len(concerned) < len(spec.arms) else [])


class TestUseOfSpace:
    def test_a_field_that_no_arm_searches(self):
        (issue,) = issues_of(arms={"vae": []}, space={"beta_vae.beta": {"choices": [0.2, 0.3]}})
        assert issue.where == "space.beta_vae.beta"

    @pytest.mark.parametrize(
        ("changes", "where"),
        [
            ({"search": {"paired": True}}, "search.paired"),
            (
                {"search": {"paired": True, "sampler": "grid"}, "space": {"model.hidden": {"choices": [4, 8]}}},
                "search.paired",
            ),
            (
                {
                    "search": {"paired": True},
                    "space": {"model.hidden": {"choices": [4, 8]}},
                    "arms": {"vae": [], "a": {"strategies": ["beta_vae"], "points": [{"model.hidden": 4}]}},
                },
                "arms.a.points[0].model.hidden",
            ),
            (
                {"search": {"sampler": "grid"}, "arms": {"a": {"strategies": [], "configurations": 3}}},
                "arms.a.configurations",
            ),
        ],
    )
    def test_keys_that_contradict_each_other(self, changes, where):
        changes["arms"] = changes.get("arms", {"vae": []})
        assert [issue.where for issue in issues_of(**changes)] == [where]

    @pytest.mark.parametrize(
        ("space", "where"),
        [
            ({"nonsense": [1, 2]}, "space.nonsense"),
            ({"training.learning_rate": {"low": "a"}}, "space.training.learning_rate"),
            ([1], "space"),
        ],
    )
    def test_paired_arms_whose_shared_fields_are_all_invalid(self, space, where):
        issues = issues_of(search={"paired": True}, arms={"vae": []}, space=space)
        assert [issue.where for issue in issues] == [where]


class TestFirstPoints:
    def test_the_defaults_come_first_in_the_new_form_and_not_in_an_arm_that_is_a_list(self):
        mapping = {"strategies": ["beta_vae"], "search": True}
        listed, mapped = (spec_of(arms={"beta": arm}) for arm in (["beta_vae"], mapping))
        assert listed.points(listed.arms[0]) == ()
        assert mapped.points(mapped.arms[0]) == ({"beta_vae.beta": 0.4},)
        rows, _ = play(mapped)
        assert json.loads(rows[0]["parameters"]) == {"beta_vae.beta": 0.4}

    def test_listed_points_come_first_and_the_sampler_completes_them(self):
        points = [{"beta_vae.beta": 0.3}, {"training.learning_rate": 0.5}]
        arm = {"strategies": ["beta_vae"], "search": True, "space": {"training.learning_rate": RATE}, "points": points}
        rows, _ = play(spec_of(arms={"a": arm}, search={"sampler": "random", "configurations": 4, "seeds": 1}))
        drawn = [json.loads(row["parameters"]) for row in rows]
        assert drawn[0]["beta_vae.beta"] == 0.3
        assert drawn[1]["training.learning_rate"] == 0.5
        assert len({str(point) for point in drawn}) == 4

    def test_a_default_outside_the_range_is_left_to_the_sampler(self):
        spec = spec_of(arms={"a": {"strategies": [{"kind": "beta_vae", "beta": {"low": 0.5, "high": 0.9}}]}})
        assert spec.points(spec.arms[0]) == ()


class TestPairing:
    arms: ClassVar[dict[str, Any]] = {
        "vae": [],
        "beta": {"strategies": ["beta_vae"], "search": True},
        "adam": {"strategies": [], "trial": {"training": {"optimiser": "adam", "clip_norm": 1.0}}},
    }

    def rows(self, ends: int | None = None, stored: Any = ()) -> list[dict[str, Any]]:
        search = {"sampler": "tpe", "configurations": 6, "seeds": 1, "paired": True}
        return play(spec_of(arms=self.arms, space=SPACE, search=search), rows=stored, ends=ends)[0]

    def test_configuration_i_of_all_arms_has_the_same_recipe(self):
        recipes: dict[int, dict[str, Any]] = {}
        for row in self.rows():
            point = {k: v for k, v in json.loads(row["parameters"]).items() if k in SPACE}
            recipes.setdefault(row["configuration"], {})[row["arm"]] = point
        assert len(recipes) == 6
        for recipe in recipes.values():
            assert recipe["vae"] == recipe["beta"]
            assert recipe["adam"] == {"training.learning_rate": recipe["vae"]["training.learning_rate"]}
        assert len({str(recipe["vae"]) for recipe in recipes.values()}) == 6

    def test_the_first_recipe_is_the_default(self):
        first = json.loads(self.rows(ends=1)[0]["parameters"])
        assert first == {"training.learning_rate": 1.0, "training.optimiser": "sgd", "training.momentum": 0.0}

    def test_an_interruption_does_not_change_the_recipes(self):
        whole = {row["run_id"] for row in self.rows() if row["arm"] != "beta"}
        resumed = self.rows(stored=[row for row in self.rows(ends=7) if row["status"] == "finished"])
        assert {row["run_id"] for row in resumed if row["arm"] != "beta"} == whole

    def test_after_an_edit_of_a_range_the_arms_follow_the_stored_configurations(self):
        stored = [row for row in self.rows(ends=4) if row["arm"] == "vae" and row["status"] == "finished"]
        assert [row["configuration"] for row in stored] == [0, 1]
        space = SPACE | {"training.learning_rate": RATE | {"low": 1e-4}}
        search = {"sampler": "tpe", "configurations": 3, "seeds": 1, "paired": True}
        rows = play(spec_of(arms=self.arms, space=space, search=search), rows=stored)[0]
        rates = {
            (row["arm"], row["configuration"]): json.loads(row["parameters"])["training.learning_rate"] for row in rows
        }
        for index in range(3):
            assert rates["vae", index] == rates["beta", index] == rates["adam", index]


class TestFilesOfBefore:
    def test_the_configurations_are_those_of_version_0_1(self):
        arms = {
            "vae": [],
            "beta": ["beta_vae"],
            "lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2, 4, 8]}}],
            "both": [{"kind": "aggressive", "budget": {"choices": [10, "converge"]}}, "kl_linear_epoch"],
        }
        rows, _ = play(spec_of(arms=arms, search={"sampler": "random", "configurations": 3, "seeds": 1, "seed": 0}))
        assert [row["config_id"] for row in rows] == [
            *("9e4dda8c5b67", "276ef0148e0e", "f5eec95968d0", "50405437a228", "8d52a0afa422"),
            *("78643389f496", "a78379ba4bec", "b9caba683906", "3a007a1ed85c", "77c8049a27f7"),
        ]


@pytest.mark.parametrize("paired", [False, True])
def test_a_resolved_file_has_the_same_configurations(paired):
    arms = {
        "vae": [],
        "beta": ["beta_vae"],
        "mapping": {
            "strategies": [{"kind": "kl_linear_epoch", "warm_up": "search"}],
            "trial": {"model": {"latent_dim": 4}},
            "space": {"training.clip_norm": {"low": 1.0, "high": 5.0, "step": 0.5}},
            "configurations": 2,
            "seeds": [5],
        },
    }
    search = {"sampler": "random", "configurations": 4, "seeds": 1, "paired": paired}
    spec = spec_of(arms=arms, space=SPACE, search=search)
    again = parse_spec(yaml.safe_dump(resolved_sweep(spec), sort_keys=False))
    ids = [[row["run_id"] for row in play(one)[0]] for one in (spec, again)]
    assert ids[0] == ids[1]
