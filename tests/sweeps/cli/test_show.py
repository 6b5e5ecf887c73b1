"""`lagvae show`: shipped sweeps as they are, and files with all their values, which have the same meaning."""

from __future__ import annotations

import pytest
import yaml
from commands import check_rejected, invoke
from worlds import FINGERPRINT, TINY_TRIAL, sweep

from lagvae_core.config.trial import parse_trial
from sweeps.search.plan import Plan
from sweeps.spec.sweep import LIBRARY, load_spec, parse_spec
from sweeps.spec.yaml import load_yaml

SHIPPED = sorted(p.name.removesuffix(".yaml") for p in LIBRARY.iterdir() if p.name.endswith(".yaml"))


def show(folder, *arguments):
    ended = invoke("show", *arguments, folder=folder)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def config_ids(spec):
    plan = Plan(spec, FINGERPRINT, [])
    return {arm.name: plan.configuration(arm, 0, arm.probe()).config_id for arm in spec.arms}


def test_a_shipped_sweep_is_printed_as_it_is(tmp_path):
    for name in SHIPPED:
        assert show(tmp_path, name) == LIBRARY.joinpath(f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", ["quickstart", "all_strategies", "he2019_omniglot", "reinflection_turkish"])
def test_a_shipped_sweep_with_all_values_means_the_same(name, tmp_path):
    path = {} if load_yaml(show(tmp_path, name))["trial"]["data"]["kind"] == "synthetic" else {"trial.data.path": "x"}
    sets = [part for key, value in path.items() for part in ("--set", f"{key}={value}")]
    spec, resolved = load_spec(name, path), show(tmp_path, name, "--resolved", *sets)
    again = parse_spec(resolved)
    assert config_ids(again) == config_ids(spec)
    assert [arm.dimensions for arm in again.arms] == [arm.dimensions for arm in spec.arms]
    assert (again.search, again.resources, again.objectives) == (spec.search, spec.resources, spec.objectives)


def test_a_file_of_a_sweep(tmp_path):
    text = f"# A comment.\n{yaml.safe_dump(sweep(arms={'no': [], 'beta': ['beta_vae']}, stopping={'grace': 2}))}"
    (tmp_path / "s.yaml").write_text(text)
    assert show(tmp_path, "s.yaml") == text
    assert load_yaml(show(tmp_path, "s.yaml", "--set", "search.seeds=9"))["search"]["seeds"] == 9
    resolved = load_yaml(show(tmp_path, "s.yaml", "--resolved"))
    assert resolved["trial"]["training"]["momentum"] == 0
    assert resolved["arms"]["no"] == []
    assert resolved["stopping"] == {"rule": "front", "confidence": 0.9, "scope": "arm", "grace": 2}
    assert set(resolved["arms"]["beta"][0]["beta"]) == {"low", "high", "log"}


def test_a_file_of_a_trial(tmp_path):
    values = TINY_TRIAL | {"strategies": ["beta_vae"], "seed": 3}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(values))
    resolved = show(tmp_path, "t.yaml", "--resolved", "--set", "training.epochs=7")
    expected = parse_trial({**values, "training": {"epochs": 7}})
    assert parse_trial(load_yaml(resolved)) == expected


@pytest.mark.parametrize(
    ("text", "options", "where"),
    [
        ("name: [", [], "the file"),
        ("name: x\narms: 3\n", ["--resolved"], "arms"),
        ("training: {epochs: 0}\n", ["--resolved"], "training.epochs"),
        ("a: '\x1b[31m'\n", [], "the file"),
    ],
)
def test_a_file_that_is_not_valid(tmp_path, text, options, where):
    (tmp_path / "f.yaml").write_text(text)
    check_rejected(invoke("show", "f.yaml", *options, folder=tmp_path), f"{where}: ")


def test_a_file_that_does_not_exist(tmp_path):
    check_rejected(invoke("show", "nothing", folder=tmp_path), "the file: ", "quickstart")
