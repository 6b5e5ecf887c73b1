from __future__ import annotations

import datetime
from typing import Any

import pytest
import yaml
from helpers import IMAGE_STRATEGIES
from worlds import FINGERPRINT, spec_of, sweep

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.strategies import CATALOGUE
from sweeps.search.plan import Plan
from sweeps.spec.arm_syntax import parse_sets
from sweeps.spec.sweep import LIBRARY, load_spec, parse_spec

SHIPPED = sorted(p.name for p in LIBRARY.iterdir() if p.name.endswith(".yaml"))


def incompatibility(text: str, **overrides: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text, "the_file.yaml", overrides)
    return caught.value


def issues(**changes: Any) -> list[ValidationIssue]:
    error = incompatibility(yaml.safe_dump(sweep(**changes), sort_keys=False))
    assert str(error).startswith("the_file.yaml: ")
    assert all(isinstance(m, ValidationIssue) and str(m) in str(error) for m in error.issues)
    return list(error.issues)


def the_mistake(**changes: Any) -> ValidationIssue:
    (issue,) = issues(**changes)
    return issue


class TestLawful:
    def test_as_written(self):
        spec = spec_of()
        assert spec.name == "tiny"
        assert [arm.name for arm in spec.arms] == ["vae", "beta"]
        assert spec.objectives == {"nll_iw": "min", "au": "max"}
        assert spec.search.run_seeds == (0, 1)
        assert [spec.configurations(arm) for arm in spec.arms] == [1, 3]

    def test_defaults(self):
        spec = spec_of(trial=None, search=None)
        assert spec.search.sampler == "tpe"
        assert spec.search.configurations == 8
        assert spec.search.run_seeds == (0, 1, 2)
        assert spec.resources.concurrent == "auto"

    def test_seeds_by_name(self):
        assert spec_of(search={"seeds": [7, 3]}).search.run_seeds == (7, 3)

    def test_a_trial_has_the_sweeps_defaults_the_arms_stack_and_the_runs_seed(self):
        spec = spec_of()
        config = spec.trial_config(spec.arms[1], {"beta_vae.beta": 0.25}, seed=5)
        assert config.model.hidden == 8
        assert config.training.epochs == 2
        assert [s.model_dump() for s in config.strategies] == [{"kind": "beta_vae", "beta": 0.25}]
        assert config.seed == 5

    def test_overrides_replace_and_make_keys(self):
        text = yaml.safe_dump(sweep(trial=None), sort_keys=False)
        changes = {"search.configurations": 2, "trial.training.epochs": 7, "objectives": {"kl": "max"}}
        spec = parse_spec(text, overrides=changes)
        assert spec.search.configurations == 2
        assert spec.search.run_seeds == (0, 1)
        assert spec.trial_config(spec.arms[0], {}, 0).training.epochs == 7
        assert list(spec.objectives) == ["kl"]
        assert parse_spec(spec.source) == spec, "the stored file holds the overrides"

    def test_the_hash_follows_the_text(self):
        assert spec_of().hash == spec_of().hash != spec_of(name="other").hash

    def test_anchors_and_merges(self):
        text = "name: x\narms:\n  vae: []\n  a: [&b {kind: kl_linear_epoch, warm_up: 3}]\n  c: [{<<: *b, w_start: 0}]\n"
        stacks = [arm.stack for arm in parse_spec(text).arms]
        assert stacks[2] == ({"kind": "kl_linear_epoch", "warm_up": 3, "w_start": 0},)

    def test_a_relative_data_path_is_meant_from_here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        spec = spec_of(trial={"data": {"kind": "text", "path": "corpus"}})
        assert spec.trial["data"]["path"] == str(tmp_path / "corpus")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        spec = spec_of(trial={"data": {"kind": "text", "path": "~/corpus"}})
        assert spec.trial["data"]["path"] == str(tmp_path / "home" / "corpus")

    @pytest.mark.parametrize("name", ["a", "A-1_b+c.d", "0", "x" * 100])
    def test_names(self, name):
        assert spec_of(name=name).name == name

    @pytest.mark.parametrize("kind", [kind for kind in CATALOGUE if kind not in IMAGE_STRATEGIES])
    @pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
    def test_every_strategy_by_its_bare_name(self, kind, sampler):
        spec = spec_of(arms={"one": [kind]}, search={"sampler": sampler, "configurations": 3})
        assert spec.configurations(spec.arms[0]) == min(3, spec.arms[0].size() or 3)


class TestShipped:
    @pytest.mark.parametrize("file", SHIPPED)
    def test_parses_and_plans(self, file):
        name = file.removesuffix(".yaml")
        own_data = "--set trial.data.path=" in LIBRARY.joinpath(file).read_text()
        spec = load_spec(name, {"trial.data.path": "corpus"} if own_data else None)
        if own_data:
            with pytest.raises(ConfigError, match=r"trial\.data\.path must be given"):
                load_spec(name)
        assert file == f"{spec.name}.yaml"
        plan = Plan(spec, FINGERPRINT, [])
        assert plan.missing == sum(arm.runs for arm in plan.arms()) > 0
        for arm, _ in plan.order():
            spec.trial_config(arm, arm.probe(), seed=spec.search.run_seeds[0])

    def test_there_are_some(self):
        assert "quickstart.yaml" in SHIPPED

    def test_a_file_of_that_name_goes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "quickstart").write_text(yaml.safe_dump(sweep()))
        assert load_spec("quickstart").name == "tiny"


class TestSearch:
    """Mistakes in the search and its budget."""

    @pytest.mark.parametrize("seeds", [0, -1, [], [1, 1], [-1], "three", 1.5, None, [2**53]])
    def test_seeds(self, seeds):
        found = the_mistake(search={"seeds": seeds})
        assert found.where.startswith("search.seeds")
        assert found.hint

    @pytest.mark.parametrize("count", [0, -3, "many", 2.5])
    def test_configurations(self, count):
        found = the_mistake(search={"configurations": count})
        assert (found.where, found.value) == ("search.configurations", count)

    def test_sampler(self):
        found = the_mistake(search={"sampler": "hyperband"})
        assert (found.where, found.value) == ("search.sampler", "hyperband")
        assert "'tpe', 'random', 'grid', 'nsga2' or 'gp'" in found.message

    def test_an_unknown_key_with_a_hint(self):
        found = the_mistake(search={"configuration": 3})
        assert (found.where, found.value) == ("search.configuration", 3)
        assert "Did you mean configurations?" in found.hint

    def test_configurations_with_grid(self):
        found = the_mistake(arms={"vae": []}, search={"sampler": "grid", "configurations": 3})
        assert (found.where, found.value) == ("search.configurations", 3)
        assert "left out for grid" in found.message

    def test_a_continuous_range_with_grid(self):
        arms = {"beta": ["beta_vae"], "both": ["aggressive", {"kind": "kl_linear_epoch", "warm_up": 3}]}
        found = the_mistake(arms=arms, search={"sampler": "grid"})
        assert found.where == "arms.beta: beta_vae.beta"
        assert "choices" in found.hint

    def test_a_whole_number_range_with_grid_is_enumerated(self):
        arms = {"x": [{"kind": "aggressive", "budget": 3, "max_inner": {"low": 2, "high": 5}}]}
        spec = spec_of(arms=arms, search={"sampler": "grid"})
        assert spec.configurations(spec.arms[0]) == 4


class TestObjectives:
    def test_a_column_that_does_not_exist_with_a_near_miss(self):
        found = the_mistake(objectives={"nll_iv": "min"})
        assert (found.where, found.value) == ("objectives.nll_iv", "nll_iv")
        assert "Did you mean nll_iw" in found.hint

    def test_a_column_like_no_other(self):
        assert "For example" in the_mistake(objectives={"zzzzzzzz": "min"}).hint

    @pytest.mark.parametrize("column", ["status", "mean_variance", "traceback"])
    def test_a_column_that_is_no_number(self, column):
        assert the_mistake(objectives={column: "min"}).where == f"objectives.{column}"

    def test_a_sense_that_is_none(self):
        found = the_mistake(objectives={"nll_iw": "down"})
        assert (found.where, found.value) == ("objectives.nll_iw", "down")
        assert "'min' or 'max'" in found.message

    @pytest.mark.parametrize("objectives", [{}, [], "nll_iw", 3])
    def test_objectives_are_a_mapping_with_something_in_it(self, objectives):
        assert the_mistake(objectives=objectives).where == "objectives"


class TestName:
    @pytest.mark.parametrize("name", ["../x", "", "x" * 300, "a\nb", "a\n", "a/b", ".hidden", "-x", "é", "a b", "a\0b"])
    def test_a_name_that_is_no_folder(self, name):
        found = the_mistake(name=name)
        assert (found.where, found.value) == ("name", name)
        assert "letter or digit" in found.message
        assert found.hint

    @pytest.mark.parametrize("name", [3, None, ["x"], {}])
    def test_a_name_that_is_no_text(self, name):
        values = sweep() | {"name": name}
        (found,) = incompatibility(yaml.safe_dump(values)).issues
        assert found.where == "name"

    def test_no_name(self):
        assert the_mistake(name=None).where == "name"


class TestTrial:
    def test_strategies_stand_in_arms(self):
        found = the_mistake(trial={"strategies": ["beta_vae"]})
        assert found.where == "trial.strategies"
        assert "arms" in found.hint

    def test_seeds_stand_in_search(self):
        found = the_mistake(trial={"seed": 3})
        assert (found.where, found.value) == ("trial.seed", 3)
        assert "search.seeds" in found.hint

    def test_an_unknown_key(self):
        found = the_mistake(trial={"training": {"epoch": 3}})
        assert (found.where, found.value) == ("trial.training.epoch", 3)
        assert "Did you mean epochs?" in found.hint

    def test_a_wrong_type(self):
        found = the_mistake(trial={"model": {"hidden": "large"}})
        assert (found.where, found.value, found.message) == ("trial.model.hidden", "large", "be an integer")
        assert found.hint

    @pytest.mark.parametrize("trial", [[], "x", 3, None])
    def test_a_trial_is_a_mapping(self, trial):
        values = sweep() | {"trial": trial}
        (found,) = incompatibility(yaml.safe_dump(values)).issues
        assert (found.where, found.value) == ("trial", trial)


class TestArms:
    def test_two_strategies_on_one_slot(self):
        found = the_mistake(
            arms={"both": [{"kind": "beta_vae", "beta": 0.5}, {"kind": "kl_linear_epoch", "warm_up": 3}]}
        )
        assert found.where == "arms.both"
        assert "beta_vae" in f"{found.message}{found.hint}"
        assert "kl_linear_epoch" in f"{found.message}{found.hint}"

    def test_the_same_strategy_twice(self):
        item = {"kind": "kl_linear_epoch", "warm_up": 3}
        found = the_mistake(arms={"two": [item, item]})
        assert found.where == "arms.two"
        assert "kl_linear_epoch is there twice" in found.message

    def test_an_unlawful_end_of_a_range(self):
        found = the_mistake(arms={"beta": [{"kind": "beta_vae", "beta": {"low": -1, "high": 0.5}}]})
        assert (found.where, found.value) == ("arms.beta[0].beta", -1)
        assert "greater than or equal to 0" in found.message

    def test_an_unlawful_upper_end(self):
        arms = {"x": [{"kind": "kl_linear_epoch", "warm_up": 3, "w_start": {"low": 0.5, "high": 2}}]}
        assert 2 in [m.value for m in issues(arms=arms)]

    def test_an_unlawful_choice(self):
        found = the_mistake(arms={"x": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 0, 2]}}]})
        assert (found.where, found.value) == ("arms.x[0].multiplier", 0)

    def test_an_unlawful_fixed_value(self):
        found = the_mistake(arms={"x": [{"kind": "encoder_lr", "multiplier": 0}]})
        assert (found.where, found.value) == ("arms.x[0].multiplier", 0)

    def test_an_unknown_field(self):
        found = the_mistake(arms={"x": [{"kind": "beta_vae", "betta": 0.5, "beta": 0.5}]})
        assert (found.where, found.value) == ("arms.x[0].betta", 0.5)
        assert "Did you mean beta?" in found.hint

    def test_an_unknown_strategy(self):
        found = the_mistake(arms={"x": ["agressive"]})
        assert (found.where, found.value) == ("arms.x[0].kind", "agressive")
        assert found.hint == "Did you mean aggressive?"

    @pytest.mark.parametrize("again", [["beta_vae"], [{"kind": "beta_vae"}]])
    def test_two_arms_that_are_the_same(self, again):
        found = the_mistake(arms={"one": ["beta_vae"], "two": again})
        assert found.where == "arms.two"
        assert "arms.one" in found.message

    def test_the_same_stack_over_other_ranges_is_another_arm(self):
        arms = {"a": ["beta_vae"], "b": [{"kind": "beta_vae", "beta": {"low": 1, "high": 2}}]}
        assert len(spec_of(arms=arms).arms) == 2

    def test_arms_that_are_written_in_two_ways_are_the_same(self):
        """They share their runs, so that one of them would never be complete."""
        arms = {"a": [{"kind": "kl_linear_epoch", "warm_up": 2}]}
        arms |= {"b": [{"kind": "kl_linear_epoch", "warm_up": 2.0, "w_start": 0.1, "w_end": 1}]}
        found = the_mistake(arms=arms)
        assert found.where == "arms.b"
        assert "arms.a is the same" in found.message

    @pytest.mark.parametrize("choices", [[0.5, "0.5"], [1, "1.0"], [True, 1.0]])
    def test_choices_that_are_written_in_two_ways_are_the_same(self, choices):
        assert issues(arms={"b": [{"kind": "beta_vae", "beta": {"choices": choices}}]})

    def test_values_that_are_lawful_one_by_one_and_not_together(self):
        item = {"kind": "kl_linear_epoch", "warm_up": {"low": 1, "high": 3}}
        item |= {"w_start": {"choices": [0, 1]}, "w_end": {"choices": [1, 0.5]}}
        [found] = issues(arms={"b": [item]})
        assert found.where == "arms.b"
        assert "w_start <= w_end must hold" in found.hint
        assert "kl_linear_epoch.w_start = 1, kl_linear_epoch.w_end = 0.5" in found.hint

    @pytest.mark.parametrize("value", [datetime.date(2020, 1, 1), b"x", {1, 2}])
    def test_a_value_that_json_does_not_know(self, value):
        assert issues(arms={"b": [{"kind": "beta_vae", "beta": value}]})

    @pytest.mark.parametrize("name", [1, "", "a\nb", " a", "n" * 101, None])
    def test_a_name_that_is_no_line_of_text(self, name):
        assert any(m.where == "arms" and "one line of at most 100" in m.message for m in issues(arms={name: []}))

    def test_names_as_papers_write_them(self):
        names = ["Ours + anneal", "β-VAE (0.4)", "[/x]", "BN-VAE(0.0, 0.7)"]
        arms = {name: [{"kind": "beta_vae", "beta": number}] for number, name in enumerate(names, start=1)}
        assert [arm.name for arm in spec_of(arms=arms).arms] == names

    @pytest.mark.parametrize("arms", [{}, [], "vae", None])
    def test_arms_are_a_mapping_with_something_in_it(self, arms):
        values = sweep() | {"arms": arms}
        assert {m.where for m in incompatibility(yaml.safe_dump(values)).issues} == {"arms"}


class TestObjectivesOfData:
    @pytest.mark.parametrize(
        ("column", "kinds"),
        [("ppl", ["images"]), ("bits_per_dim", ["synthetic", "text"]), ("accuracy", ["synthetic", "text", "images"])],
    )
    def test_what_a_kind_of_data_does_not_have_is_no_objective_of_it(self, column, kinds):
        """No run would ever have a value, and no front a member."""
        for kind in kinds:
            found = [
                m for m in issues(objectives={column: "max"}, trial={"data": {"kind": kind}}) if "objectives" in m.where
            ]
            assert [(m.where, m.message) for m in found] == [
                (f"objectives.{column}", f"be a column that {kind} data have")
            ]

    def test_what_it_has_is_one(self):
        assert spec_of(objectives={"ppl": "min", "au": "max"}).objectives == {"ppl": "min", "au": "max"}


class TestYaml:
    def test_numbers_as_people_write_them(self):
        item = "{kind: beta_vae, beta: {low: 1e-3, high: 1E0}}"
        text = yaml.safe_dump(sweep(arms={"b": ["PLACE"]})).replace("PLACE", item)
        tunable = parse_spec(text).arms[0].dimensions[0].tunable
        assert (tunable.low, tunable.high) == (0.001, 1.0)
        assert parse_sets(["x=1e-3", "y=-2E+5", "z=1e", "v=e3"]) == {"x": 0.001, "y": -200000.0, "z": "1e", "v": "e3"}

    def test_what_nests_too_deeply(self):
        with pytest.raises(ConfigError, match="must be YAML, but nests too deeply"):
            parse_spec("[" * 3000)

    @pytest.mark.parametrize("search", [{"seeds": 10**18}, {"configurations": 10**18}])
    def test_more_than_anybody_can_run(self, search):
        assert issues(search=search)

    def test_a_range_longer_than_any_list(self):
        arms = {"b": [{"kind": "scale_vae", "des_std": 1.0, "f_epo": {"low": 1, "high": 10**29}}]}
        assert spec_of(arms=arms).arms[0].size() == 10**29


class TestFile:
    def test_a_key_of_a_trial_is_shown_its_way(self):
        """As `--set training.epochs=2` is for who knows `lagvae trial`."""
        found = the_mistake(training={"epochs": 2})
        assert (found.where, found.hint) == ("training", "Did you mean trial.training?")

    @pytest.mark.parametrize("key", ["trail", "objective", "stop"])
    def test_an_unknown_key(self, key):
        found = the_mistake(**{key: {}})
        assert found.where == key
        assert "Known here: name, trial, arms" in found.hint

    @pytest.mark.parametrize(
        "wish", [{"cpus": 0}, {"gpus": -1}, {"concurrent": 0}, {"concurrent": "all"}, {"cpus": "x"}]
    )
    def test_resources(self, wish):
        ((key, value),) = wish.items()
        found = the_mistake(resources=wish)
        assert (found.where, found.value) == (f"resources.{key}", value)

    def test_stopping(self):
        assert the_mistake(stopping="asha").where == "stopping"

    @pytest.mark.parametrize(
        "text",
        [
            "name: [",
            "a: b: c",
            "\t- x",
            "name: x\nname: y\narms: {vae: []}",
            "name: x\narms: {vae: [], vae: [beta_vae]}",
            "name: x\narms: {vae: []}\n? [1, 2]\n: 3",
            "name: x\narms: {vae: []}\ntrial: 2020-13-45",
            "a: &a [*a]",
            "name: !!python/object:os.system x",
            "\x00",
        ],
    )
    def test_not_yaml(self, text):
        error = incompatibility(text)
        assert str(error).startswith("the_file.yaml: must be YAML, but ")

    def test_a_key_that_stands_twice_is_named_with_its_line(self):
        message = str(incompatibility("name: x\narms:\n  vae: []\n  vae: [beta_vae]\n"))
        assert "'vae' stands twice" in message
        assert "line 4" in message

    @pytest.mark.parametrize("text", ["", "3", "[]", "just words", "null"])
    def test_not_a_mapping(self, text):
        (found,) = incompatibility(text).issues
        assert found.where == "the file"
        assert "mapping" in found.message

    def test_missing(self, tmp_path):
        path = str(tmp_path / "none.yaml")
        with pytest.raises(ConfigError) as caught:
            load_spec(path)
        (found,) = caught.value.issues
        assert (found.value, found.message) == (path, "exist")
        assert "quickstart" in found.hint

    @pytest.mark.parametrize("where", ["x" * 300, "a\0b", "", "../library/quickstart", "quickstart/x"])
    def test_a_path_that_cannot_be(self, where):
        with pytest.raises(ConfigError) as caught:
            load_spec(where)
        (found,) = caught.value.issues
        assert found.where == "the file"
        assert found.value == (where or ".")
        assert found.hint

    def test_a_folder(self, tmp_path):
        with pytest.raises(ConfigError, match="must be readable"):
            load_spec(str(tmp_path))

    def test_not_utf8(self, tmp_path):
        path = tmp_path / "latin.yaml"
        path.write_bytes(b"name: caf\xe9\n")
        with pytest.raises(ConfigError, match=r"must be UTF-8 \(byte 9 is not\)"):
            load_spec(str(path))


def test_all_mistakes_at_once_each_with_key_value_law_and_remedy():
    found = issues(
        name="../x",
        trial={"training": {"epochs": 0}, "seed": 1},
        arms={"a": [{"kind": "beta_vae", "beta": {"low": 2, "high": 1}}], "b": ["nonsense"], "c": 3},
        objectives={"nll": "min", "kl": "up"},
        search={"seeds": 0, "sampler": "best"},
        resources={"cpus": 0},
        extra=1,
    )
    keys = {m.where for m in found}
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
    assert all(m.message and m.hint for m in found), [m for m in found if not m.hint]


def test_lawful_ends_of_a_mistaken_file_are_not_complained_of():
    """A mistake in the trial's defaults must not come back once for each arm."""
    found = issues(trial={"training": {"epochs": 0}}, arms={"a": ["beta_vae"], "b": ["aggressive"], "c": []})
    assert [m.where for m in found] == ["trial.training.epochs"]


def test_mistakes_of_arms_are_told_beside_those_of_the_trial():
    wrong = [{"kind": "beta_vae", "beta": -1}]
    found = issues(trial={"training": {"epochs": 0}}, arms={"a": wrong, "b": ["aggressive", *wrong]})
    assert [m.where for m in found] == ["trial.training.epochs", "arms.a[0].beta", "arms.b[1].beta"]


def test_warnings_name_their_arms_and_come_once():
    both = [{"kind": "aggressive", "budget": 10}, {"kind": "encoder_lr", "multiplier": {"choices": [1, 2]}}]
    spec = spec_of(arms={"vae": [], "one": both, "two": [*both, "kl_linear_epoch"]})
    (warning,) = spec.warnings()
    assert warning.startswith("one, two: W1")


def test_an_arm_that_leaves_an_objective_null_is_warned_of():
    arms = {"vae": [], "lm": ["lstm_lm"], "flow": ["iaf_posterior"]}
    assert spec_of(arms=arms, objectives={"nll_iw": "min"}).warnings() == []
    (warning,) = spec_of(arms=arms, objectives={"nll_iw": "min", "au": "max"}).warnings()
    assert warning.startswith("lm: lstm_lm does not measure au,")
    assert len(spec_of(arms=arms, objectives={"mi": "max", "au": "max"}).warnings()) == 2


def test_an_unknown_objective_is_told_beside_mistakes_of_structure():
    with pytest.raises(ConfigError) as caught:
        spec_of(objectives={"nll": "min"}, search={"seeds": 0}, trail={})
    assert {m.where for m in caught.value.issues} == {"objectives.nll", "search.seeds", "trail"}
