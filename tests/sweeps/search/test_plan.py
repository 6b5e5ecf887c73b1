"""Which runs are missing, given the stored rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.metadata import version
from typing import ClassVar

import pytest
from worlds import FINGERPRINT, TINY_TRIAL, play, run_ids, spec_of

from lagvae_core.config.trial import TrialConfig
from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.search.plan import Plan
from sweeps.spec.space import Arm
from sweeps.spec.sweep import SweepSpec
from sweeps.spec.validation import MAX_PROBES

ARMS = {"vae": [], "beta": ["beta_vae"], "lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2, 4]}}]}


def changed_trial(**sections):
    return {name: {**values, **sections.get(name, {})} for name, values in TINY_TRIAL.items()}


def search(**changes):
    return {"sampler": "random", "configurations": 3, "seeds": 2, "seed": 0} | changes


class TestIdentity:
    def test_the_config_id_does_not_contain_the_seed(self):
        spec = spec_of()
        arm = spec.arms[1]
        configs = [spec.trial_config(arm, {"beta_vae.beta": 0.5}, seed) for seed in (0, 1)]
        assert len({c.config_id(FINGERPRINT) for c in configs}) == 1
        assert len({c.run_id(FINGERPRINT) for c in configs}) == 2

    def test_the_config_id_contains_the_content_of_the_data_but_not_their_path(self):
        ids = set()
        for path in ("here", "there"):
            spec = spec_of(trial={"data": {"kind": "text", "path": path}})
            ids.add(Plan(spec, FINGERPRINT, []).configuration(spec.arms[0], 0, {}).config_id)
        assert len(ids) == 1
        assert Plan(spec, "1" * 64, []).configuration(spec.arms[0], 0, {}).config_id not in ids

    def test_the_config_id_contains_every_other_value(self):
        changes = [
            {},
            {"training": {"epochs": 3}},
            {"model": {"latent_dim": 3}},
            {"evaluation": {"iw_samples": 11}},
            {"data": {"seed": 1}},
        ]
        specs = [spec_of(trial=changed_trial(**change)) for change in changes]
        ids = {Plan(spec, FINGERPRINT, []).configuration(spec.arms[0], 0, {}).config_id for spec in specs}
        assert len(ids) == len(changes)

    def test_a_written_out_default_does_not_change_the_config_id(self):
        plain = spec_of()
        filled = plain.trial_config(plain.arms[0], {}, 0).model_dump(mode="json", exclude={"seed", "strategies"})
        spec = spec_of(trial=filled)
        ids = {Plan(s, FINGERPRINT, []).configuration(s.arms[0], 0, {}).config_id for s in (plain, spec)}
        assert len(ids) == 1


class TestFresh:
    def test_everything_is_missing(self):
        plan = Plan(spec_of(arms=ARMS), FINGERPRINT, [])
        assert [(a.arm, a.configurations, a.runs, a.ended, a.resumed, a.missing) for a in plan.arms()] == [
            ("vae", 1, 2, 0, 0, 2),
            ("beta", 3, 6, 0, 0, 6),
            ("lr", 3, 6, 0, 0, 6),
        ]
        assert plan.missing == 14

    def test_arms_take_turns(self):
        order = [(arm.name, index) for arm, index in Plan(spec_of(arms=ARMS), FINGERPRINT, []).order()]
        assert order == [("vae", 0), ("beta", 0), ("lr", 0), ("beta", 1), ("lr", 1), ("beta", 2), ("lr", 2)]

    def test_runs_follow_the_order_of_the_seeds(self):
        spec = spec_of(search=search(seeds=[5, 2]))
        plan = Plan(spec, FINGERPRINT, [])
        runs = plan.runs(spec.arms[0], plan.configuration(spec.arms[0], 0, {}))
        assert [(run.seed, run.config.seed, run.attempt) for run in runs] == [(5, 5, 1), (2, 2, 1)]
        assert [run.run_id for run in runs] == [run.config.run_id(FINGERPRINT) for run in runs]


class TestStoredRows:
    def test_a_complete_table_leaves_nothing_missing(self):
        rows, _ = play(spec_of(arms=ARMS))
        plan = Plan(spec_of(arms=ARMS), FINGERPRINT, rows)
        assert plan.missing == 0
        assert plan.others == []
        assert run_ids(plan.rows.values()) == run_ids(rows)

    @pytest.mark.parametrize("status", ["running", "interrupted"])
    def test_an_interrupted_run_is_resumed_as_the_next_attempt(self, status):
        spec = spec_of(arms={"vae": []})
        rows, _ = play(spec)
        rows[0] |= {"status": status, "attempt": 2}
        plan = Plan(spec, FINGERPRINT, rows)
        (arm,) = plan.arms()
        assert (arm.ended, arm.resumed, arm.missing) == (1, 1, 1)
        (run,) = plan.runs(spec.arms[0], plan.configurations["vae", 0])
        assert (run.run_id, run.attempt, run.stored) == (rows[0]["run_id"], 3, rows[0])

    @pytest.mark.parametrize("status", ["finished", "stopped_early", "diverged", "out_of_memory", "failed"])
    def test_a_run_that_ended_never_runs_again(self, status):
        second_attempt = {"status": status, "history": json.dumps([{"status": "out_of_memory"}])}
        rows = [row | second_attempt for row in play(spec_of())[0]]
        assert Plan(spec_of(), FINGERPRINT, rows).missing == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"trial": changed_trial(training={"epochs": 3})},
            {"arms": {"other": [], "another": ["beta_vae"]}},
            {"arms": {"vae": ["encoder_lr"], "beta": [{"kind": "beta_vae", "beta": 0.5}]}},
            {"arms": {"vae": ["encoder_lr"], "beta": [{"kind": "beta_vae", "beta": {"low": 2, "high": 3}}]}},
        ],
    )
    def test_an_edited_sweep_ignores_the_rows(self, change):
        rows, _ = play(spec_of())
        plan = Plan(spec_of(**change), FINGERPRINT, rows)
        assert plan.rows == {}
        assert run_ids(plan.others) == run_ids(rows)
        assert plan.missing == sum(arm.runs for arm in plan.arms())

    def test_different_data_ignore_the_rows(self):
        rows, _ = play(spec_of())
        assert len(Plan(spec_of(), "1" * 64, rows).others) == len(rows)

    def test_a_wider_range_keeps_the_rows(self):
        rows, _ = play(spec_of())
        wider = {"vae": [], "beta": [{"kind": "beta_vae", "beta": {"low": 0, "high": 2}}]}
        assert Plan(spec_of(arms=wider), FINGERPRINT, rows).missing == 0

    def test_a_narrower_range_keeps_the_rows_in_it(self):
        rows, _ = play(spec_of(arms=ARMS, search=search(seeds=1)))
        fewer = ARMS | {"lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 4]}}]}
        plan = Plan(spec_of(arms=fewer, search=search(seeds=1)), FINGERPRINT, rows)
        assert all(row["arm"] == "lr" for row in plan.others)
        assert plan.others

    def test_a_smaller_budget_keeps_the_first_configurations(self):
        rows, _ = play(spec_of())
        plan = Plan(spec_of(search=search(configurations=1)), FINGERPRINT, rows)
        assert plan.missing == 0
        assert {row["configuration"] for row in plan.rows.values()} == {0}
        assert {row["configuration"] for row in plan.others} == {1, 2}

    def test_a_row_with_null_columns_is_ignored(self):
        rows, _ = play(spec_of())
        blank = dict.fromkeys(rows[0])
        plan = Plan(spec_of(), FINGERPRINT, [*rows, blank | {"arm": "beta", "run_id": "x-0"}])
        assert [row["run_id"] for row in plan.others] == ["x-0"]

    def test_a_row_whose_parameters_are_no_longer_valid_is_ignored_with_its_reason(self, monkeypatch):
        rows, _ = play(spec_of())
        (bad, *_) = [row for row in rows if row["arm"] == "beta"]
        beta = json.loads(bad["parameters"])["beta_vae.beta"]
        valid = SweepSpec.trial_config

        def refuse(spec, arm, parameters, seed):
            if parameters.get("beta_vae.beta") == beta:
                raise ConfigError([ValidationIssue("strategies[0].beta", "must be allowed", value=beta)])
            return valid(spec, arm, parameters, seed)

        monkeypatch.setattr(SweepSpec, "trial_config", refuse)
        plan = Plan(spec_of(), FINGERPRINT, rows)
        refused = {row["run_id"] for row in rows if row["config_id"] == bad["config_id"]}
        assert set(plan.refused) == refused == {row["run_id"] for row in plan.others}
        assert "must be allowed" in plan.refused[bad["run_id"]]


class TestManyConfigurations:
    """A configuration that this version of lagvae has trained is recognised by its id, without another validation."""

    SPACE: ClassVar = {"training.learning_rate": {"low": 1e-3, "high": 1, "log": True}}

    OPTIMISERS: ClassVar = {
        "training.optimiser": {"choices": ["sgd", "adam"]},
        "training.momentum": {"low": 0, "high": 0.9, "step": 0.1, "when": {"training.optimiser": "sgd"}},
    }

    def spec(self, **changes):
        return spec_of(**{"arms": ARMS, "space": self.SPACE, "search": search(configurations=8)} | changes)

    def rows(self, spec=None):
        rows, _ = play(spec or self.spec())
        return [row | {"lagvae_version": version("lagvae")} for row in rows]

    @pytest.mark.parametrize(("changes", "validated"), [({}, 1), (OPTIMISERS, 2)])
    def test_one_of_each_set_of_fields_is_validated(self, changes, validated, monkeypatch):
        spec, counts, valid = self.spec(space=self.SPACE | changes), Counter(), SweepSpec.trial_config
        rows = self.rows(spec)

        def count(spec, arm, parameters, seed):
            counts[arm.name] += 1
            return valid(spec, arm, parameters, seed)

        monkeypatch.setattr(SweepSpec, "trial_config", count)
        plan = Plan(self.spec(space=self.SPACE | changes), FINGERPRINT, rows)
        assert plan.earlier_runs == 0
        assert counts == dict.fromkeys(ARMS, validated)
        assert {one.config_id for one in plan.configurations.values()} == {row["config_id"] for row in rows}

    def test_parameters_that_do_not_fit_the_id_are_not_recognised(self):
        rows = self.rows()
        parameters = json.loads(rows[0]["parameters"])
        parameters["training.learning_rate"] = 0.5
        rows[0]["parameters"] = json.dumps(parameters)
        assert Plan(self.spec(), FINGERPRINT, rows).others == rows[:1]

    @pytest.mark.parametrize(
        ("pattern", "written", "recognised"),
        [
            ("", "", 32),
            (r"\{(.*?), (.*)\}", r"{\2, \1}", 32),  # in another order
            (r'(latent_dim": \d)', r"\1.0", 32),
            (r'(warm_up": 1)0(?:\.0)?', r"\1e1", 32),
            (r'(latent_dim": )(\d)', r'\1"\2"', 0),
            (r'(latent_dim": )\d', r"\1true", 0),
            (r'(latent_dim": )\d', r"\1null", 0),
            (r'(learning_rate": )([^,}]+)', r"\1 \2", 32),
            (r'(learning_rate": )[^,}]+', r"\g<1>0.5", 0),
            (r'(learning_rate": )[^,}]+', r"\g<1>2", 0),
            (r'(learning_rate": )[^,}]+', r"\g<1>1e999", 0),
            (r'(learning_rate": )[^,}]+', r"\g<1>NaN", 0),
            (r"sgd", r"s\\u0067d", 32),
            (r'("training.optimiser": "sgd")', r"\1, \1", 32),
            (r", [^,]*momentum[^,}]*", "", 20),
            (r"sgd", "adam", 20),
            (r"\}", ', "model.hidden": 3}', 0),
            (r"^", "?", 0),
            (r"^.*$", "", 0),
        ],
    )
    def test_they_are_recognised_as_if_each_were_validated(self, pattern, written, recognised):
        space = self.SPACE | self.OPTIMISERS | {"model.latent_dim": {"low": 1, "high": 4}}
        arms = {"vae": [], "warm": [{"kind": "kl_linear_epoch", "warm_up": {"choices": [1, 10]}}]}
        spec = self.spec(arms=arms, space=space)
        rows = self.rows(spec)
        rows = [row | {"parameters": re.sub(pattern, written, row["parameters"])} for row in rows]
        masks = [
            Plan(spec, FINGERPRINT, [row | {"lagvae_version": trained_by} for row in rows]).is_current_N.tolist()
            for trained_by in ("0", version("lagvae"))
        ]
        assert masks[0] == masks[1]
        assert sum(masks[0]) == recognised

    def test_rows_of_another_sweep_file_are_not_recognised(self):
        rows = self.rows()
        other = self.spec(trial=changed_trial(training={"epochs": 3}))
        assert Plan(other, FINGERPRINT, rows).earlier_runs == len(rows)


class TestExtension:
    def test_more_configurations_add_only_their_runs(self):
        small, _ = play(spec_of(arms=ARMS, search=search(configurations=2)))
        large = spec_of(arms=ARMS, search=search(configurations=3))
        assert Plan(large, FINGERPRINT, small).missing == 4
        assert run_ids(play(large, small)[0]) == run_ids(play(large)[0])

    def test_more_seeds_add_only_their_runs(self):
        few, _ = play(spec_of(arms=ARMS, search=search(seeds=1)))
        many = spec_of(arms=ARMS, search=search(seeds=3))
        assert Plan(many, FINGERPRINT, few).missing == 14
        rows = play(many, few)[0]
        assert run_ids(rows) == run_ids(play(many)[0])
        assert [row for row in rows if row["seed"] == 0] == few

    def test_a_new_arm_adds_only_its_runs(self):
        rows, _ = play(spec_of())
        assert Plan(spec_of(arms=ARMS), FINGERPRINT, rows).missing == 6

    def test_fewer_seeds_add_nothing(self):
        rows, _ = play(spec_of())
        plan = Plan(spec_of(search=search(seeds=1)), FINGERPRINT, rows)
        assert [(arm.ended, arm.missing) for arm in plan.arms()] == [(1, 0), (3, 0)]

    def test_rows_of_removed_seeds_are_ignored(self):
        rows, _ = play(spec_of())
        plan = Plan(spec_of(search=search(seeds=[1])), FINGERPRINT, rows)
        assert {row["seed"] for row in plan.rows.values()} == {1}
        assert {row["seed"] for row in plan.others} == {0}
        assert [(arm.ended, arm.missing) for arm in plan.arms()] == [(1, 0), (3, 0)]


class TestMeanSeconds:
    def test_only_finished_runs_count(self):
        def answer(run):
            if run.arm == "vae":
                return {"status": "diverged", "seconds": 99.0}
            return {"seconds": 1.0 + run.seed}

        spec = spec_of()
        plan = Plan(spec, FINGERPRINT, play(spec, answer=answer)[0])
        assert [arm.mean_seconds for arm in plan.arms()] == [None, 1.5]


class TestSharedPoints:
    """A point that two arms share runs in one of them and is not missing in the other."""

    ARMS: ClassVar = {
        "searched": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2, 4]}}],
        "fixed": [{"kind": "encoder_lr", "multiplier": 2}],
    }

    @pytest.mark.parametrize("sampler", ["random", "grid"])
    def test_the_fixed_arm_has_priority(self, sampler):
        budget = {} if sampler == "grid" else {"configurations": 3}
        spec = spec_of(arms=self.ARMS, search={"sampler": sampler, "seeds": 2} | budget)
        ids: list[str] = []
        rows, _ = play(spec, answer=lambda run: ids.append(run.run_id) or {})
        assert len(ids) == len(set(ids)) == 6
        plan = Plan(spec, FINGERPRINT, rows)
        assert [(arm.arm, arm.configurations) for arm in plan.arms()] == [("searched", 2), ("fixed", 1)]
        assert Plan(spec, FINGERPRINT, []).missing == 6
        assert plan.missing == 0

    @pytest.mark.parametrize("choices", [[1, 2, 4], ["1", "2", "4"], [1.0, 2.0, 4.0], ["1e0", "2e0", "4e0"]])
    def test_a_choice_that_is_written_differently_is_the_same_point(self, choices):
        arms = self.ARMS | {"searched": [{"kind": "encoder_lr", "multiplier": {"choices": choices}}]}
        spec = spec_of(arms=arms, search={"sampler": "grid", "seeds": 2})
        assert [arm.configurations for arm in Plan(spec, FINGERPRINT, []).arms()] == [2, 1]

    def test_large_spaces_are_not_enumerated(self, monkeypatch):
        item = {"kind": "scale_vae", "des_std": 1.0}
        arms = {
            "searched": [item | {"f_epo": {"low": 1, "high": 10**6}}],
            "inside": [item | {"f_epo": 7}],
            "outside": [item | {"f_epo": 10**6 + 1}],
            "other": [item | {"f_epo": 8, "min_f_batch": 9}],
        }
        plan = Plan(spec_of(arms=arms, search={"sampler": "grid", "seeds": 1}), FINGERPRINT, [])
        monkeypatch.setattr(Arm, "point", None)
        assert [arm.configurations for arm in plan.arms()] == [10**6 - 1, 1, 1, 1]

    @pytest.mark.parametrize("sampler", ["random", "grid"])
    def test_two_searched_arms_share_a_point(self, sampler):
        arms = self.ARMS | {"fixed": [{"kind": "encoder_lr", "multiplier": {"choices": [4, 8]}}]}
        budget = {} if sampler == "grid" else {"configurations": 9}
        spec = spec_of(arms=arms, search={"sampler": sampler, "seeds": 1} | budget)
        ids: list[str] = []
        rows, _ = play(spec, answer=lambda run: ids.append(run.run_id) or {})
        assert len(ids) == len(set(ids)) == 4
        assert Plan(spec, FINGERPRINT, rows).missing == 0


class TestParsing:
    """Configurations are validated once."""

    @pytest.fixture
    def count_parsed(self, monkeypatch):
        """Return the number of TrialConfigs that were validated since the last call."""
        parsed = []
        validate = TrialConfig.model_validate

        def counted(values):
            parsed.append(values)
            return validate(values)

        monkeypatch.setattr(TrialConfig, "model_validate", counted)

        def count():
            number = len(parsed)
            parsed.clear()
            return number

        return count

    def test_a_sweep_validates_its_probes_and_then_each_configuration_once(self, count_parsed):
        """Version 0.1.0 validated 13 for the spec and its warnings, 26 for the runs, and 33 to resume the sweep."""
        spec = spec_of(arms=ARMS)
        probes = sum(len(arm.probes(MAX_PROBES)) for arm in spec.arms)
        assert spec.warnings == ()
        assert count_parsed() == 1 + probes == 7
        rows, _ = play(spec)
        assert len(rows) == 14
        configurations = len({row["config_id"] for row in rows})
        assert count_parsed() == configurations == 7
        play(spec, rows)
        assert count_parsed() == configurations

    def test_a_run_has_the_configuration_that_its_seed_alone_gives(self):
        spec = spec_of(arms=ARMS)
        plan = Plan(spec, FINGERPRINT, [])
        for arm in spec.arms:
            parameters = arm.probe()
            for run in plan.runs(arm, plan.configuration(arm, 0, parameters)):
                expected = spec.trial_config(arm, parameters, run.seed)
                assert run.config == expected
                assert run.config.model_dump_json() == expected.model_dump_json()

    def test_numbers_of_different_types_are_different_points(self):
        arms = {"lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2]}}]}
        spec = spec_of(arms=arms)
        plan = Plan(spec, FINGERPRINT, [])
        for value in (1, 1.0, 2):
            configuration = plan.configuration(spec.arms[0], 0, {"encoder_lr.multiplier": value})
            assert configuration.parameters == {"encoder_lr.multiplier": value}
            assert configuration.config == spec.trial_config(spec.arms[0], {"encoder_lr.multiplier": value}, 0)
