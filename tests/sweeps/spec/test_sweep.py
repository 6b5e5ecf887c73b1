"""Sweep files: what they mean, and the issues of invalid ones."""

from __future__ import annotations

import datetime
import typing
from typing import Any, ClassVar

import pytest
import yaml
from helpers import IMAGE_STRATEGIES, VECTOR_STRATEGIES, rejects
from worlds import FINGERPRINT, TINY_TRIAL, spec_of, sweep

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.kl_linear_epoch import KlLinearEpoch
from sweeps.catalogue.arms import resolved_sweep
from sweeps.search.plan import Plan
from sweeps.spec.arm_syntax import parse_duration, parse_sets
from sweeps.spec.arms import MAX_ARMS
from sweeps.spec.sections import MAX_CONFIGURATIONS
from sweeps.spec.sweep import LIBRARY, load_spec, parse_spec
from sweeps.spec.trackers import TrackersSpec
from sweeps.spec.yaml import MAX_CHARACTERS, MAX_NODES, edit_yaml, load_yaml, set_dotted
from sweeps.storage.schema import objective_columns

SHIPPED = sorted(p.name for p in LIBRARY.iterdir() if p.name.endswith(".yaml"))


def error_of(text: str) -> ConfigError:
    """Return the error of an invalid sweep file."""
    with pytest.raises(ConfigError) as caught:
        parse_spec(text, "the_file.yaml")
    return caught.value


def issues_of(**changes: Any) -> list[ValidationIssue]:
    """Return the issues of an invalid sweep file, `sweep(**changes)`."""
    error = error_of(yaml.safe_dump(sweep(**changes), sort_keys=False))
    assert error.source == "the_file.yaml"
    assert str(error).startswith("the_file.yaml: ")
    assert all(str(issue) in str(error) for issue in error.issues)
    return list(error.issues)


def issue_of(**changes: Any) -> ValidationIssue:
    """Return the only issue of an invalid sweep file, `sweep(**changes)`."""
    (issue,) = issues_of(**changes)
    return issue


class TestValid:
    def test_the_values_of_the_file(self):
        spec = spec_of()
        assert spec.name == "tiny"
        assert [arm.name for arm in spec.arms] == ["vae", "beta"]
        assert spec.objectives == {"nll_iw": "min", "au": "max"}
        assert spec.search.run_seeds == (0, 1)
        assert [spec.configurations(arm) for arm in spec.arms] == [1, 3]

    def test_racing_seeds(self):
        search = spec_of(search={"seeds": {"up_to": 4}}).search
        assert (search.run_seeds, search.start_seeds) == ((0, 1, 2, 3), 1)
        assert spec_of(search={"seeds": [7, 3]}).search.start_seeds == 2

    def test_stopping(self):
        assert spec_of().stopping is None
        stopping = spec_of(stopping={"rule": "halving", "grace": 0}).stopping
        assert (stopping.rule, stopping.confidence, stopping.scope, stopping.grace) == ("halving", 0.9, "arm", 0)

    def test_defaults(self):
        spec = spec_of(trial=None, search=None)
        assert spec.search.sampler == "tpe"
        assert spec.search.configurations == 8
        assert spec.search.run_seeds == (0, 1, 2)
        assert spec.resources.concurrent == "auto"

    def test_a_list_of_seeds(self):
        assert spec_of(search={"seeds": [7, 3]}).search.run_seeds == (7, 3)

    def test_a_trial_has_the_defaults_of_the_sweep_the_stack_of_the_arm_and_the_seed_of_the_run(self):
        spec = spec_of()
        config = spec.trial_config(spec.arms[1], {"beta_vae.beta": 0.25}, seed=5)
        assert config.model.hidden == 8
        assert config.training.epochs == 2
        assert [s.model_dump() for s in config.strategies] == [{"kind": "beta_vae", "beta": 0.25}]
        assert config.seed == 5

    def test_overrides_replace_and_add_keys(self):
        text = yaml.safe_dump(sweep(trial=None), sort_keys=False)
        changes = {"search.configurations": 2, "trial.training.epochs": 7, "objectives": {"kl": "max"}}
        spec = parse_spec(text, overrides=changes)
        assert spec.search.configurations == 2
        assert spec.search.run_seeds == (0, 1)
        assert spec.trial_config(spec.arms[0], {}, 0).training.epochs == 7
        assert list(spec.objectives) == ["kl"]
        assert parse_spec(spec.source) == spec, "the stored file contains the overrides"

    def test_overrides_keep_comments_and_order(self):
        text = "# Purpose.\nname: x  # short\narms:\n  # The baseline.\n  vae: []\nsearch: {seed: 0, seeds: 2}\n"
        spec = parse_spec(text, overrides={"search.seeds": 4, "trial.data.kind": "synthetic", "keep": "models"})
        added = "trial:\n  data:\n    kind: synthetic\nkeep: models\n"
        assert spec.source == text.replace("seeds: 2", "seeds: 4") + added

    def test_without_overrides_the_source_is_the_text(self):
        text = "arms: {vae: [] }   # a comment\nname:    x\n"
        assert parse_spec(text).source == text

    @pytest.mark.parametrize(
        "change",
        [
            {"name": "other"},
            {"trial": {**TINY_TRIAL, "training": {"epochs": 3}}},
            {"arms": {"vae": [], "beta": [{"kind": "beta_vae", "beta": 0.5}]}},
            {"arms": {"beta": ["beta_vae"], "vae": []}},
            {"objectives": {"au": "max", "nll_iw": "min"}},
            {"search": {"sampler": "random", "configurations": 3, "seeds": 3, "seed": 0}},
            {"resources": {"cpus": 2}},
            {"keep": "models"},
            {"stopping": {"rule": "front"}},
        ],
    )
    def test_the_hash_depends_on_every_section(self, change):
        assert spec_of().hash == spec_of().hash != spec_of(**change).hash

    def test_trackers_change_neither_the_hash_nor_an_id(self):
        tracked = spec_of(trackers={"mlflow": {"uri": "http://127.0.0.1:5000"}, "tensorboard": None})
        ids = [[s.trial_config(arm, arm.probe(), seed=0).config_id("") for arm in s.arms] for s in (tracked, spec_of())]
        assert (tracked.hash, ids[0]) == (spec_of().hash, ids[1])

    def test_the_hash_does_not_depend_on_comments_layout_and_defaults(self):
        flow = "{name: x, arms: {vae: []}, search: {seeds: 2}}"
        block = "# Comment.\narms:\n  vae: []\nname: 'x'\nsearch:\n  seeds: 2\ntrial: {training: {momentum: 0}}\n"
        assert parse_spec(flow).hash == parse_spec(block).hash

    def test_anchors_and_merges(self):
        text = "name: x\narms:\n  vae: []\n  a: [&b {kind: kl_linear_epoch, warm_up: 3}]\n  c: [{<<: *b, w_start: 0}]\n"
        stacks = [arm.stack for arm in parse_spec(text).arms]
        assert stacks[2] == ({"kind": "kl_linear_epoch", "warm_up": 3, "w_start": 0},)

    def test_a_relative_data_path_is_relative_to_the_working_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        spec = spec_of(trial={"data": {"kind": "text", "path": "corpus"}})
        assert spec.trial["data"]["path"] == str(tmp_path / "corpus")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        spec = spec_of(trial={"data": {"kind": "text", "path": "~/corpus"}})
        assert spec.trial["data"]["path"] == str(tmp_path / "home" / "corpus")

    def test_the_name_of_a_bundled_set_is_no_path(self):
        spec = spec_of(trial={"data": {"kind": "vectors", "path": "sklearn:digits"}})
        assert spec.trial["data"]["path"] == "sklearn:digits"

    @pytest.mark.parametrize("name", ["a", "A-1_b+c.d", "0", "x" * 100])
    def test_valid_names(self, name):
        assert spec_of(name=name).name == name

    @pytest.mark.parametrize("kind", [kind for kind in CATALOGUE if kind not in IMAGE_STRATEGIES | VECTOR_STRATEGIES])
    @pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
    def test_every_strategy_by_its_bare_kind(self, kind, sampler):
        spec = spec_of(arms={"one": [kind]}, search={"sampler": sampler, "configurations": 3})
        assert spec.configurations(spec.arms[0]) == min(3, spec.arms[0].size() or 3)


class TestShipped:
    @pytest.mark.parametrize("file", SHIPPED)
    def test_is_valid_and_has_runs(self, file):
        name = file.removesuffix(".yaml")
        own_data = "--set trial.data.path=" in LIBRARY.joinpath(file).read_text()
        spec = load_spec(name, {"trial.data.path": "corpus"} if own_data else None)
        if own_data:
            with rejects("trial.data.path"):
                load_spec(name)
        assert file == f"{spec.name}.yaml"
        plan = Plan(spec, FINGERPRINT, [])
        assert plan.missing == sum(arm.runs for arm in plan.arms()) > 0
        for arm, _ in plan.order():
            spec.trial_config(arm, arm.probe(), seed=spec.search.run_seeds[0])
        assert not any(" W7: " in warning for warning in spec.warnings), "a KL schedule is longer than the training"

    def test_the_quickstart_is_among_them(self):
        assert "quickstart.yaml" in SHIPPED

    def test_a_local_file_of_that_name_has_priority(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "quickstart").write_text(yaml.safe_dump(sweep()))
        assert load_spec("quickstart").name == "tiny"


class TestSearch:
    """Issues of the search and its budget."""

    @pytest.mark.parametrize("seeds", [0, -1, [], [1, 1], [-1], "three", 1.5, None, [2**53]])
    def test_invalid_seeds(self, seeds):
        issue = issue_of(search={"seeds": seeds})
        assert issue.where.startswith("search.seeds")
        assert issue.hint

    @pytest.mark.parametrize(
        ("seeds", "where"),
        [
            ({}, "search.seeds.up_to"),
            ({"start": 0, "up_to": 3}, "search.seeds.start"),
            ({"start": 4, "up_to": 3}, "search.seeds.start"),
            ({"up_to": 10**5}, "search.seeds.up_to"),
            ({"up_to": 3, "step": 1}, "search.seeds.step"),
        ],
    )
    def test_invalid_racing_seeds(self, seeds, where):
        issue = issue_of(search={"seeds": seeds})
        assert issue.where == where
        assert issue.hint

    def test_racing_seeds_are_checked_even_if_other_keys_are_invalid(self):
        issues = issues_of(search={"seeds": {"start": 5, "up_to": 1}, "sampler": "best"}, resources={"cpus": 0})
        assert {issue.where for issue in issues} == {"search.seeds.start", "search.sampler", "resources.cpus"}

    @pytest.mark.parametrize(
        ("changes", "where"),
        [
            ({"search": {"seeds": [1, 1]}}, "search.seeds"),
            ({"search": {"sampler": "grid", "configurations": 3}, "arms": {"vae": []}}, "search.configurations"),
            ({"search": {"budget": {"gpu_hours": 1}}}, "search.budget.gpu_hours"),
            ({"stopping": {}, "objectives": {"nll_iw": "min", "seconds": "min"}}, "objectives.seconds"),
        ],
    )
    def test_valid_sections_are_checked_although_another_key_is_invalid(self, changes, where):
        assert {issue.where for issue in issues_of(**changes, keep="everything")} == {where, "keep"}

    @pytest.mark.parametrize("count", [0, -3, "many", 2.5])
    def test_an_invalid_number_of_configurations(self, count):
        issue = issue_of(search={"configurations": count})
        assert (issue.where, issue.value) == ("search.configurations", count)

    def test_an_unknown_sampler(self):
        issue = issue_of(search={"sampler": "hyperband"})
        assert (issue.where, issue.value) == ("search.sampler", "hyperband")
        assert all(sampler in issue.message for sampler in ("tpe", "random", "grid", "nsga2", "gp"))

    def test_an_unknown_key_with_a_hint(self):
        issue = issue_of(search={"configuration": 3})
        assert issue.where == "search.configuration"
        assert "configurations" in issue.hint

    def test_configurations_with_grid(self):
        issue = issue_of(arms={"vae": []}, search={"sampler": "grid", "configurations": 3})
        assert (issue.where, issue.value) == ("search.configurations", 3)
        assert issue.hint

    def test_a_continuous_range_with_grid(self):
        arms = {"beta": ["beta_vae"], "both": ["aggressive", {"kind": "kl_linear_epoch", "warm_up": 3}]}
        issue = issue_of(arms=arms, search={"sampler": "grid"})
        assert issue.where == "arms.beta: beta_vae.beta"
        assert "choices" in issue.hint

    def test_a_grid_that_is_too_large(self):
        item = {"kind": "scale_vae", "des_std": 1.0, "f_epo": {"low": 1, "high": MAX_CONFIGURATIONS + 1}}
        issue = issue_of(arms={"x": [item]}, search={"sampler": "grid"})
        assert (issue.where, issue.value) == ("arms.x", MAX_CONFIGURATIONS + 1)

    def test_an_integer_range_with_grid_is_enumerated(self):
        arms = {"x": [{"kind": "aggressive", "budget": 3, "max_inner": {"low": 2, "high": 5}}]}
        spec = spec_of(arms=arms, search={"sampler": "grid"})
        assert spec.configurations(spec.arms[0]) == 4


class TestObjectives:
    def test_an_unknown_column_like_a_known_one(self):
        issue = issue_of(objectives={"nll_iv": "min"})
        assert (issue.where, issue.value) == ("objectives.nll_iv", "nll_iv")
        assert "nll_iw" in issue.hint

    def test_an_unknown_column_like_no_known_one(self):
        assert objective_columns()[0] in issue_of(objectives={"zzzzzzzz": "min"}).hint

    @pytest.mark.parametrize("column", ["status", "mean_variance", "traceback"])
    def test_a_column_without_numbers(self, column):
        assert issue_of(objectives={column: "min"}).where == f"objectives.{column}"

    def test_an_unknown_direction(self):
        issue = issue_of(objectives={"nll_iw": "down"})
        assert (issue.where, issue.value) == ("objectives.nll_iw", "down")
        assert "'min' or 'max'" in issue.message

    @pytest.mark.parametrize("objectives", [{}, [], "nll_iw", 3])
    def test_objectives_are_a_mapping_that_is_not_empty(self, objectives):
        assert issue_of(objectives=objectives).where == "objectives"


class TestName:
    @pytest.mark.parametrize("name", ["../x", "", "x" * 300, "a\nb", "a\n", "a/b", ".hidden", "-x", "é", "a b", "a\0b"])
    def test_a_name_that_is_no_folder_name(self, name):
        issue = issue_of(name=name)
        assert (issue.where, issue.value) == ("name", name)
        assert issue.hint

    @pytest.mark.parametrize("name", [3, None, ["x"], {}])
    def test_a_name_that_is_not_text(self, name):
        values = sweep() | {"name": name}
        (issue,) = error_of(yaml.safe_dump(values)).issues
        assert issue.where == "name"

    def test_no_name(self):
        assert issue_of(name=None).where == "name"


class TestTrial:
    def test_strategies_belong_to_arms(self):
        issue = issue_of(trial={"strategies": ["beta_vae"]})
        assert issue.where == "trial.strategies"
        assert "arms" in issue.hint

    def test_seeds_belong_to_search(self):
        issue = issue_of(trial={"seed": 3})
        assert (issue.where, issue.value) == ("trial.seed", 3)
        assert "search.seeds" in issue.hint

    def test_an_unknown_key(self):
        issue = issue_of(trial={"training": {"epoch": 3}})
        assert issue.where == "trial.training.epoch"
        assert "epochs" in issue.hint

    def test_a_wrong_type(self):
        issue = issue_of(trial={"model": {"hidden": "large"}})
        assert (issue.where, issue.value, issue.message) == ("trial.model.hidden", "large", "must be an integer")
        assert issue.hint

    @pytest.mark.parametrize("trial", [[], "x", 3, None])
    def test_a_trial_is_a_mapping(self, trial):
        values = sweep() | {"trial": trial}
        (issue,) = error_of(yaml.safe_dump(values)).issues
        assert (issue.where, issue.value) == ("trial", trial)


class TestArms:
    def test_two_strategies_on_one_slot(self):
        issue = issue_of(arms={"both": [{"kind": "beta_vae", "beta": 0.5}, {"kind": "kl_linear_epoch", "warm_up": 3}]})
        assert (issue.where, issue.code) == ("arms.both", "E02")
        assert issue.value == "beta_vae+kl_linear_epoch"

    def test_the_same_strategy_twice(self):
        item = {"kind": "kl_linear_epoch", "warm_up": 3}
        issue = issue_of(arms={"two": [item, item]})
        assert (issue.where, issue.code) == ("arms.two", "E-SLOT")
        assert issue.value == "kl_linear_epoch+kl_linear_epoch"

    def test_an_invalid_lower_end_of_a_range(self):
        issue = issue_of(arms={"beta": [{"kind": "beta_vae", "beta": {"low": -1, "high": 0.5}}]})
        assert (issue.where, issue.value) == ("arms.beta[0].beta", -1)

    def test_an_invalid_upper_end_of_a_range(self):
        arms = {"x": [{"kind": "kl_linear_epoch", "warm_up": 3, "w_start": {"low": 0.5, "high": 2}}]}
        assert 2 in [issue.value for issue in issues_of(arms=arms)]

    def test_an_invalid_choice(self):
        issue = issue_of(arms={"x": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 0, 2]}}]})
        assert (issue.where, issue.value) == ("arms.x[0].multiplier", 0)

    def test_an_invalid_fixed_value(self):
        issue = issue_of(arms={"x": [{"kind": "encoder_lr", "multiplier": 0}]})
        assert (issue.where, issue.value) == ("arms.x[0].multiplier", 0)

    def test_an_unknown_field(self):
        issue = issue_of(arms={"x": [{"kind": "beta_vae", "betta": 0.5, "beta": 0.5}]})
        assert issue.where == "arms.x[0].betta"
        assert "beta" in issue.hint

    def test_an_unknown_strategy(self):
        issue = issue_of(arms={"x": ["agressive"]})
        assert (issue.where, issue.value) == ("arms.x[0].kind", "agressive")
        assert issue.hint == "Did you mean aggressive?"

    @pytest.mark.parametrize("again", [["beta_vae"], [{"kind": "beta_vae"}]])
    def test_two_identical_arms(self, again):
        issue = issue_of(arms={"one": ["beta_vae"], "two": again})
        assert issue.where == "arms.two"
        assert "arms.one" in issue.message

    def test_the_same_stack_over_different_ranges_is_a_different_arm(self):
        arms = {"a": ["beta_vae"], "b": [{"kind": "beta_vae", "beta": {"low": 1, "high": 2}}]}
        assert len(spec_of(arms=arms).arms) == 2

    def test_identical_arms_that_are_written_differently(self):
        """They would share their runs, so one of them would never be complete."""
        arms = {"a": [{"kind": "kl_linear_epoch", "warm_up": 2}]}
        arms |= {"b": [{"kind": "kl_linear_epoch", "warm_up": 2.0, "w_start": 0.1, "w_end": 1}]}
        issue = issue_of(arms=arms)
        assert issue.where == "arms.b"
        assert "arms.a" in issue.message

    @pytest.mark.parametrize("choices", [[0.5, "0.5"], [1, "1.0"], [True, 1.0]])
    def test_identical_choices_that_are_written_differently(self, choices):
        assert issues_of(arms={"b": [{"kind": "beta_vae", "beta": {"choices": choices}}]})

    def test_values_that_are_valid_one_by_one_but_not_together(self):
        item = {"kind": "kl_linear_epoch", "warm_up": {"low": 1, "high": 3}}
        item |= {"w_start": {"choices": [0, 1]}, "w_end": {"choices": [1, 0.5]}}
        [issue] = issues_of(arms={"b": [item]})
        assert issue.where == "arms.b"
        assert "kl_linear_epoch.w_start=1, kl_linear_epoch.w_end=0.5" in issue.hint

    @pytest.mark.parametrize("value", [datetime.date(2020, 1, 1), b"x", {1, 2}])
    def test_a_value_without_json_form(self, value):
        assert issues_of(arms={"b": [{"kind": "beta_vae", "beta": value}]})

    @pytest.mark.parametrize("name", ["", "a\nb", " a", "n" * 101])
    def test_a_name_that_is_not_one_line_of_text(self, name):
        assert [(issue.where, issue.value) for issue in issues_of(arms={name: []})][-1] == ("arms", name)

    def test_names_that_yaml_reads_as_other_values(self):
        names = ["no", "off", "y", "1", "1.0", "010", "null", "~", "2020-01-01", "0x10", "1e3", ".inf", "true", "="]
        lines = [f"  {name}: [{{kind: beta_vae, beta: 0.{number + 10}}}]" for number, name in enumerate(names)]
        spec = parse_spec("\n".join(["name: x", "arms:", *lines]))
        assert [arm.name for arm in spec.arms] == names
        edited = parse_spec(spec.source, overrides={"search.seeds": 1, "keep": "models"})
        assert [arm.name for arm in edited.arms] == names
        assert [arm.name for arm in parse_spec(edited.source).arms] == names

    @pytest.mark.parametrize("names", [("no", "'no'"), ("1", '"1"'), ("~", "~")])
    def test_a_duplicate_name_is_one_issue(self, names):
        (issue,) = error_of(f"name: x\narms: {{{names[0]}: [], {names[1]}: [beta_vae]}}").issues
        assert issue.where == "the file"
        assert f"duplicate key {names[0]!r}" in issue.message

    def test_a_field_with_its_default_is_neither_searched_nor_written(self):
        arms = {"a": [{"kind": "kl_linear_epoch", "warm_up": "default", "w_start": 0.2}], "b": ["kl_linear_epoch"]}
        spec = spec_of(arms=arms)
        assert [len(arm.dimensions) for arm in spec.arms] == [0, 1]
        (strategy,) = spec.trial_config(spec.arms[0], {}, 0).strategies
        assert strategy == KlLinearEpoch(w_start=0.2)

    def test_the_default_of_an_unknown_field(self):
        issue = issue_of(arms={"a": [{"kind": "beta_vae", "betta": "default", "beta": 1}]})
        assert issue.where == "arms.a[0].betta"

    def test_the_default_is_no_choice(self):
        issue = issue_of(arms={"a": [{"kind": "beta_vae", "beta": {"choices": ["default", 1]}}]})
        assert issue.where == "arms.a[0].beta.choices"

    def test_a_choice_called_default_is_the_default_of_its_field(self):
        """Otherwise the word would stand for two values."""
        for strategy in CATALOGUE.values():
            for name, field in strategy.model_fields.items():
                if "default" in typing.get_args(field.annotation):
                    assert field.default == "default", f"{strategy.name()}.{name}"
        spec_of(arms={"a": [{"kind": "scale_vae", "start": {"choices": ["default", "model"]}}]})

    def test_too_many_arms(self):
        issue = issue_of(arms={f"arm {number}": [] for number in range(MAX_ARMS + 1)})
        assert issue.where == "arms"
        assert f"{MAX_ARMS + 1:,}" in issue.message

    def test_too_many_strategies(self):
        issue = issue_of(arms={"all": ["beta_vae"] * 2000})
        assert issue.where == "arms.all"
        assert "2,000" in issue.message

    def test_names_as_in_papers(self):
        names = ["Ours + anneal", "β-VAE (0.4)", "[/x]", "BN-VAE(0.0, 0.7)"]
        arms = {name: [{"kind": "beta_vae", "beta": number}] for number, name in enumerate(names, start=1)}
        assert [arm.name for arm in spec_of(arms=arms).arms] == names

    @pytest.mark.parametrize("arms", [{}, [], "vae", None])
    def test_arms_are_a_mapping_that_is_not_empty(self, arms):
        values = sweep() | {"arms": arms}
        assert {issue.where for issue in error_of(yaml.safe_dump(values)).issues} == {"arms"}


class TestObjectivesOfData:
    @pytest.mark.parametrize(
        ("column", "kinds"),
        [("ppl", ["images"]), ("bits_per_dim", ["synthetic", "text"]), ("accuracy", ["synthetic", "text", "images"])],
    )
    def test_a_column_that_the_kind_of_data_lacks(self, column, kinds):
        """No run would have a value, and no front a member."""
        for kind in kinds:
            issues = issues_of(objectives={column: "max"}, trial={"data": {"kind": kind}})
            issues = [issue for issue in issues if "objectives" in issue.where]
            assert [(issue.where, issue.value) for issue in issues] == [(f"objectives.{column}", column)]
            assert kind in issues[0].message

    def test_a_column_that_the_kind_of_data_has(self):
        assert spec_of(objectives={"ppl": "min", "au": "max"}).objectives == {"ppl": "min", "au": "max"}


class TestYaml:
    def test_numbers_in_scientific_notation(self):
        item = "{kind: beta_vae, beta: {low: 1e-3, high: 1E0}}"
        text = yaml.safe_dump(sweep(arms={"b": ["PLACE"]})).replace("PLACE", item)
        tunable = parse_spec(text).arms[0].dimensions[0].tunable
        assert (tunable.low, tunable.high) == (0.001, 1.0)
        assert parse_sets(["x=1e-3", "y=-2E+5", "z=1e", "v=e3"]) == {"x": 0.001, "y": -200000.0, "z": "1e", "v": "e3"}

    def test_values_of_yaml_1_1(self):
        """Later versions of YAML read them as text, or as other numbers; existing sweep files rely on these values."""
        text = "{a: no, b: off, c: 010, d: 1:30, e: 1_000, g: 0x10, h: 1., i: ~}"
        expected = {"a": False, "b": False, "c": 8, "d": 90, "e": 1000, "g": 16, "h": 1.0, "i": None}
        assert load_yaml(text) == expected

    @pytest.mark.parametrize("text", ["2020-01-02", "2020-13-45", "2001-12-14t21:59:43.10-05:00"])
    def test_a_date_is_text(self, text):
        assert load_yaml(text) == text

    @pytest.mark.parametrize(
        "value",
        [
            *("!!bool abc", '!!int ""', "!!int 1x", "!!float .", "!!map x", "!!seq x", "!!str [1]", "1" * 5000),
            *("!!timestamp x", "!!set {a}", "!!binary x", "!!omap [a: 1]", "!local x", "!!python/tuple [1]"),
            "!!merge x",
        ],
    )
    def test_a_value_that_its_tag_does_not_allow(self, value):
        (issue,) = error_of(f"name: x\narms: {{a: []}}\ntrial: {value}").issues
        assert issue.where == "the file"
        assert "line 3" in issue.message

    @pytest.mark.parametrize("nest", ["[", "{a: ", "- ", "? "])
    def test_nested_too_deeply(self, nest):
        with rejects("the file") as issues:
            parse_spec(nest * 3000)
        assert "deep" in issues[0].message

    BOMBS: ClassVar = {
        "lists": ("[x]", lambda alias: f"[{', '.join([alias] * 10)}]"),
        "mappings": ("{k: v}", lambda alias: f"{{{', '.join(f'k{i}: {alias}' for i in range(10))}}}"),
        "merges": ("{k: v}", lambda alias: f"{{<<: [{', '.join([alias] * 10)}]}}"),
        "keys": ("[x]", lambda alias: f"{{? [{', '.join([alias] * 10)}] : v}}"),
        "chain": ("[x]", lambda alias: f"[{alias}]"),
        "chain of merges": ("{k: v}", lambda alias: f"{{<<: {alias}, {alias[1:]}: v}}"),
    }

    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
    @pytest.mark.parametrize("place", ["arms:", "trial: {}\narms: {}\nx:", "search:\n  space:"])
    def test_aliases_whose_content_is_too_large(self, bomb, place):
        innermost, around = bomb
        lines = [f"    a0: &a0 {innermost}", *(f"    a{i}: &a{i} {around(f'*a{i - 1}')}" for i in range(1, 60))]
        (issue,) = error_of("\n".join(["name: x", place, *lines])).issues
        assert issue.where == "the file"
        assert "aliases" in issue.message or "deep" in issue.message

    def test_an_alias_counts_as_its_content(self):
        item = "{kind: beta_vae, beta: 0.5}"
        text = f"a: &a [{', '.join([item] * 100)}]\n" + "".join(f"b{i}: *a\n" for i in range(7))
        assert len(load_yaml(text)) == 8
        with pytest.raises(ValueError, match=f"{MAX_NODES:,}"):
            load_yaml(text + "".join(f"c{i}: *a\n" for i in range(4)))

    @pytest.mark.parametrize("text", ["# " + "x" * MAX_CHARACTERS, "x: " + "y" * MAX_CHARACTERS, "\n" * MAX_CHARACTERS])
    def test_a_text_that_is_too_long(self, text, tmp_path):
        text = f"{text}\nname: x\narms: {{a: []}}\n"
        with rejects("the file"):
            parse_spec(text)
        path = tmp_path / "long.yaml"
        path.write_text(text)
        with rejects("the file"):
            load_spec(str(path))
        path.write_text(text * 5)
        with rejects("the file") as issues:
            load_spec(str(path))
        assert issues[0].value == str(path)

    def test_overrides_that_make_the_text_too_long(self):
        with rejects("the file"):
            parse_spec(yaml.safe_dump(sweep()), overrides={"name": "x" * MAX_CHARACTERS})

    def test_text_that_looks_like_a_number_stays_text_when_the_file_is_rewritten(self):
        text = "name: x\narms: {a: &a [], b: *a}\ntrial: &t {data: {path: '1e3'}}\nu: *t\n"
        edited = load_yaml(edit_yaml(text, {"trial.data.kind": "2020-01-01"}))
        assert edited["trial"]["data"] == {"path": "1e3", "kind": "2020-01-01"}

    @pytest.mark.parametrize("search", [{"seeds": 10**18}, {"configurations": 10**18}])
    def test_budgets_that_are_too_large(self, search):
        assert issues_of(search=search)

    def test_a_range_that_is_longer_than_any_list(self):
        arms = {"b": [{"kind": "scale_vae", "des_std": 1.0, "f_epo": {"low": 1, "high": 10**29}}]}
        assert spec_of(arms=arms).arms[0].size() == 10**29


class TestEditYaml:
    TEXT = """\
name: x  # a comment
arms:
  vae: []
  a: [&item {kind: kl_linear_epoch, warm_up: 3}]
  b: [{<<: *item, w_start: 0}]
trial: &trial {data: {kind: text, labels: "no"}, training: {learning_rate: 1e-3, epochs: 010}}
search: {seeds: 2}
"""

    @pytest.mark.parametrize(
        "overrides",
        [
            {"search.seeds": [1, 2]},
            {"search.sampler": "no"},
            {"trial.data.path": "1e-3"},
            {"trial.data.path": "a: b # c"},
            {"trial.training.epochs": 3, "trial.training.momentum": 0.5, "trial.new.inner": {"x": ["yes", 1, None]}},
            {"name": "y", "keep": "models"},
            {"name.inner": 1},
            {"arms": {"off": [], "1": ["beta_vae"]}},
            {"trial.training.learning_rate": 1e-20},
        ],
    )
    def test_the_edited_text_has_the_edited_values(self, overrides):
        expected = load_yaml(self.TEXT)
        for key, value in overrides.items():
            set_dotted(expected, key, value)
        edited = edit_yaml(self.TEXT, overrides)
        assert repr(load_yaml(edited)) == repr(expected)
        assert "# a comment" in edited

    @pytest.mark.parametrize("text", ["a: &x {b: 1}\nc: *x\n", "a: &x {b: 1}\nc: {<<: *x}\n"])
    @pytest.mark.parametrize("key", ["a.b", "c.b"])
    def test_values_that_cannot_be_edited_in_place(self, text, key):
        """An edit in place would change an alias too; the text is then written from its values."""
        expected = load_yaml(text)
        set_dotted(expected, key, 2)
        assert load_yaml(edit_yaml(text, {key: 2})) == expected


class TestFile:
    def test_a_key_of_trials_at_the_top_level(self):
        """`lagvae trial --set training.epochs=2` is valid, so users try the same key in a sweep."""
        issue = issue_of(training={"epochs": 2})
        assert (issue.where, issue.hint) == ("training", "Did you mean trial.training?")

    @pytest.mark.parametrize("key", ["trail", "objective", "stop"])
    def test_an_unknown_key(self, key):
        issue = issue_of(**{key: {}})
        assert issue.where == key
        assert "name, plugins, trial, arms" in issue.hint

    @pytest.mark.parametrize(
        ("key", "value"), [("cpus", 0), ("gpus", -1), ("concurrent", 0), ("concurrent", "all"), ("cpus", "x")]
    )
    def test_resources(self, key, value):
        issue = issue_of(resources={key: value})
        assert (issue.where, issue.value) == (f"resources.{key}", value)

    @pytest.mark.parametrize("value", ["asha", 3, ["front"]])
    def test_stopping(self, value):
        assert issue_of(stopping=value).where == "stopping"

    @pytest.mark.parametrize(
        ("key", "value"), [("rule", "asha"), ("confidence", 1), ("confidence", 0.4), ("scope", "sweep"), ("grace", -1)]
    )
    def test_a_key_of_stopping(self, key, value):
        issue = issue_of(stopping={key: value})
        assert (issue.where, issue.value) == (f"stopping.{key}", value)

    def test_an_unknown_key_of_stopping(self):
        issue = issue_of(stopping={"rule": "front", "eta": 3})
        assert issue.where == "stopping.eta"
        assert "confidence" in issue.hint

    def test_runs_can_be_stopped_only_by_objectives_that_are_validated(self):
        objectives = {"nll_iw": "min", "seconds": "min"}
        issue = issue_of(stopping={}, objectives=objectives)
        assert (issue.where, issue.value) == ("objectives.seconds", "seconds")
        assert all(column in issue.hint for column in ("nll_iw", "nll_elbo", "au", "mi", "kl"))
        assert spec_of(stopping="none", objectives=objectives).stopping is None

    @pytest.mark.parametrize(
        "text",
        [
            "name: [",
            "a: b: c",
            "\t- x",
            "name: x\nname: y\narms: {vae: []}",
            "name: x\narms: {vae: [], vae: [beta_vae]}",
            "name: x\narms: {vae: []}\n? [1, 2]\n: 3",
            "a: &a [*a]",
            "name: !!python/object:os.system x",
            "\x00",
        ],
    )
    def test_not_yaml(self, text):
        (issue,) = error_of(text).issues
        assert issue.where == "the file"
        assert "YAML" in issue.message

    def test_a_duplicate_key_is_named_with_its_line(self):
        message = str(error_of("name: x\narms:\n  vae: []\n  vae: [beta_vae]\n"))
        assert message == (
            "the_file.yaml: the file: must be valid YAML (duplicate key 'vae' in \"<unicode string>\", line 4, "
            "column 3: vae: [beta_vae] ^)."
        )

    @pytest.mark.parametrize("text", ["", "3", "[]", "just words", "null"])
    def test_not_a_mapping(self, text):
        (issue,) = error_of(text).issues
        assert (issue.where, issue.value) == ("the file", yaml.safe_load(text))

    def test_missing(self, tmp_path):
        path = str(tmp_path / "none.yaml")
        with rejects("the file") as issues:
            load_spec(path)
        assert (issues[0].value, issues[0].message) == (path, "must exist")
        assert "quickstart" in issues[0].hint

    @pytest.mark.parametrize("where", ["x" * 300, "x" * 5000, "a\0b", "", "../library/quickstart", "quickstart/x"])
    def test_an_impossible_path(self, where):
        with rejects("the file") as issues:
            load_spec(where)
        assert issues[0].value == (where or ".")
        assert issues[0].hint

    def test_a_folder(self, tmp_path):
        with rejects("the file") as issues:
            load_spec(str(tmp_path))
        assert issues[0].value == str(tmp_path)

    def test_not_utf8(self, tmp_path):
        path = tmp_path / "latin.yaml"
        path.write_bytes(b"name: caf\xe9\n")
        with rejects("the file") as issues:
            load_spec(str(path))
        assert "byte 9" in issues[0].message


def test_all_issues_are_reported_at_once_each_with_message_and_hint():
    issues = issues_of(
        name="../x",
        trial={"training": {"epochs": 0}, "seed": 1},
        arms={"a": [{"kind": "beta_vae", "beta": {"low": 2, "high": 1}}], "b": ["nonsense"], "c": 3},
        objectives={"nll": "min", "kl": "up"},
        search={"seeds": 0, "sampler": "best"},
        resources={"cpus": 0},
        extra=1,
    )
    keys = {issue.where for issue in issues}
    assert {
        "name",
        "trial.training.epochs",
        "trial.seed",
        "arms.a[0].beta",
        "arms.b[0].kind",
        "arms.c",
        "objectives.kl",
        "search.seeds",
        "search.sampler",
        "resources.cpus",
        "extra",
    } <= keys
    assert all(issue.message and issue.hint for issue in issues), [issue for issue in issues if not issue.hint]


def test_an_issue_of_the_trial_defaults_is_not_repeated_for_each_arm():
    issues = issues_of(trial={"training": {"epochs": 0}}, arms={"a": ["beta_vae"], "b": ["aggressive"], "c": []})
    assert [issue.where for issue in issues] == ["trial.training.epochs"]


def test_issues_of_arms_are_reported_with_those_of_the_trial_defaults():
    wrong = [{"kind": "beta_vae", "beta": -1}]
    issues = issues_of(trial={"training": {"epochs": 0}}, arms={"a": wrong, "b": ["aggressive", *wrong]})
    assert [issue.where for issue in issues] == ["trial.training.epochs", "arms.a[0].beta", "arms.b[1].beta"]


def test_each_warning_occurs_once_and_names_its_arms():
    both = [{"kind": "aggressive", "budget": 10}, {"kind": "encoder_lr", "multiplier": {"choices": [1, 2]}}]
    spec = spec_of(arms={"vae": [], "one": both, "two": [*both, {"kind": "kl_linear_epoch", "warm_up": 1}]})
    (warning,) = spec.warnings
    assert warning.startswith("one, two: W1")


def test_an_arm_that_does_not_measure_an_objective_has_a_warning():
    arms = {"vae": [], "lm": ["lstm_lm"], "flow": ["iaf_posterior"]}
    assert spec_of(arms=arms, objectives={"nll_iw": "min"}).warnings == ()
    (warning,) = spec_of(arms=arms, objectives={"nll_iw": "min", "au": "max"}).warnings
    assert warning.startswith("lm: lstm_lm does not measure au,")
    assert len(spec_of(arms=arms, objectives={"mi": "max", "au": "max"}).warnings) == 2


def test_an_unknown_objective_is_reported_with_issues_of_the_structure():
    issues = issues_of(objectives={"nll": "min"}, search={"seeds": 0}, trail={})
    assert {issue.where for issue in issues} == {"objectives.nll", "search.seeds", "trail"}


class TestBudget:
    def spec(self, budget, **changes):
        return spec_of(search=sweep()["search"] | {"budget": budget}, **changes)

    def test_any_subset_of_its_keys_may_be_given(self):
        budget = self.spec({"hours": 0.5, "gradient_evaluations": 1e6}).search.budget
        assert budget.model_dump(exclude_none=True) == {"hours": 0.5, "gradient_evaluations": 1e6}
        assert self.spec({"gpu_hours": 40}, resources={"gpus": "auto"}).search.budget.gpu_hours == 40

    @pytest.mark.parametrize(
        ("budget", "where"),
        [
            ({}, ["search.budget"]),
            ({"hours": None}, ["search.budget"]),
            ({"hours": 0, "gradient_evaluations": -1}, ["search.budget.hours", "search.budget.gradient_evaluations"]),
            ({"hours": ".inf"}, ["search.budget.hours"]),
            ({"days": 2}, ["search.budget.days"]),
            ("12h", ["search.budget"]),
            ({"gpu_hours": 40}, ["search.budget.gpu_hours"]),
        ],
    )
    def test_invalid_budgets_are_refused(self, budget, where):
        with pytest.raises(ConfigError) as caught:
            self.spec(budget)
        assert [issue.where for issue in caught.value.issues] == where

    @pytest.mark.parametrize("budget", ["2h", "", 2, True, [2], {}, {"hours": None}])
    def test_a_budget_that_is_no_mapping_of_limits_is_shown_how_to_write_it(self, budget):
        (issue,) = issues_of(search={"budget": budget})
        assert (issue.where, issue.value) == ("search.budget", budget)
        assert "{hours: 2}" in issue.hint

    def test_the_resolved_sweep_has_the_same_budget_and_the_same_ids(self):
        plain, limited = spec_of(), self.spec({"hours": 12})
        resolved = parse_spec(yaml.safe_dump(resolved_sweep(limited)))
        assert resolved.search == limited.search
        assert "budget" not in resolved_sweep(plain)["search"]
        assert limited.hash not in (plain.hash, self.spec({"hours": 13}).hash)
        ids = [
            s.trial_config(arm, arm.probe(), seed=0).config_id("") for s in (plain, limited, resolved) for arm in s.arms
        ]
        assert len(set(ids)) == len(plain.arms)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("2h", 7200), ("90m", 5400), ("30s", 30), ("1h30m", 5400), ("1.5h", 5400), ("1h 2m 3s", 3723), (" 1s ", 1)],
    )
    def test_units_are_added(self, text, seconds):
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize(
        "text",
        ["", "0s", "0.5s", "2", "2d", "-2h", "30m1h", "1h1h", "2 h", "1e3s", "inf", "nan", "\u0662h", "9" * 10**5],
    )
    def test_other_texts_are_refused(self, text):
        with pytest.raises(ConfigError) as caught:
            parse_duration(text)
        assert [issue.where for issue in caught.value.issues] == ["--for"]


class TestTrackers:
    def test_a_list_of_names_means_their_defaults(self):
        assert spec_of(trackers=["wandb", "tensorboard"]).trackers == TrackersSpec(wandb={}, tensorboard={})
        assert spec_of(trackers={"wandb": None, "tensorboard": {}}).trackers.used.keys() == {"wandb", "tensorboard"}
        assert spec_of(trackers=[]).trackers == spec_of().trackers == TrackersSpec()

    @pytest.mark.parametrize(
        ("trackers", "where", "fragment"),
        [
            (["mlfow"], "trackers.mlfow", "Did you mean mlflow?"),
            ({"wandb": {"api_key": "secret"}}, "trackers.wandb.api_key", "unknown key"),
            ({"wandb": {"mode": "never"}}, "trackers.wandb.mode", "'online' or 'offline'"),
            ("mlflow", "trackers", "[tensorboard, mlflow]"),
            ([1], "trackers", "must be a list of tensorboard, mlflow, wandb"),
            ({"tensorboard": {"folder": ""}}, "trackers.tensorboard.folder", "at least 1 character"),
        ],
    )
    def test_mistakes(self, trackers, where, fragment):
        issue = issue_of(trackers=trackers)
        assert issue.where == where
        assert fragment in str(issue)

    def test_a_password_is_refused_and_not_repeated(self):
        issue = issue_of(trackers={"mlflow": {"uri": "postgresql://me:secret@host/db"}})
        assert issue.where == "trackers.mlflow.uri"
        assert "secret" not in str(issue)

    def test_the_resolved_sweep_has_the_same_trackers(self):
        spec = spec_of(trackers={"mlflow": {"experiment": "x"}, "tensorboard": {}})
        assert parse_spec(yaml.safe_dump(resolved_sweep(spec))).trackers == spec.trackers
        assert "trackers" not in resolved_sweep(spec_of())
