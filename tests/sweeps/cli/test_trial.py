"""`lagvae trial`: how a file, a stored run, `--arm` and `--set` combine, and the quick default of measurement."""

from __future__ import annotations

import json

import pytest
import yaml
from worlds import TINY_TRIAL

from lagvae_core import TrialRecord
from lagvae_core.config.trial import parse_trial
from lagvae_core.settings import EvaluationConfig
from sweeps.cli.trial import QUICK_IW_SAMPLES, report_equality

DEFAULT = EvaluationConfig().iw_samples


@pytest.fixture
def open_file(tmp_path) -> str:
    """A configuration that leaves `evaluation.iw_samples` open."""
    values = TINY_TRIAL | {"training": {"epochs": 1}, "evaluation": {"limit": 2}, "strategies": ["mae"]}
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(values))
    return "open.yaml"


@pytest.mark.parametrize(
    ("arguments", "samples"),
    [
        ([], QUICK_IW_SAMPLES),
        (["--full"], DEFAULT),
        (["--set", "evaluation.iw_samples=3"], 3),
        (["--full", "--set", "evaluation.iw_samples=3"], 3),
        (["--set", "evaluation={limit: 2}"], QUICK_IW_SAMPLES),
    ],
)
def test_a_trial_is_quick_unless_the_user_says_otherwise(call, open_file, arguments, samples):
    ended = call("trial", open_file, "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    assert (record["metrics"]["iw_k"], record["config"]["evaluation"]["iw_samples"]) == (samples, samples)
    said = "evaluation.iw_samples = " in ended.stderr
    assert said == (samples == QUICK_IW_SAMPLES)


def test_what_the_message_offers_is_accepted(call, open_file):
    message = call("trial", open_file).stderr.splitlines()[0]
    assert "--full" in message
    assert f"{DEFAULT}" in message
    assert call("trial", open_file, "--set", f"evaluation.iw_samples={DEFAULT}", "--json").returncode == 0


def test_an_invalid_measurement_is_reported_as_such(call, open_file):
    ended = call("trial", open_file, "--set", "evaluation=3")
    assert ended.returncode == 2
    assert "evaluation: " in ended.stderr
    assert "iw_samples" not in ended.stderr


def test_arm_replaces_the_strategies_of_the_file_and_set_comes_last(call, open_file):
    ended = call("trial", open_file, "--arm", "beta_vae", "--set", "training.epochs=2", "--json")
    config = json.loads(ended.stdout)["config"]
    assert [strategy["kind"] for strategy in config["strategies"]] == ["beta_vae"]
    assert config["training"]["epochs"] == 2


def test_the_training_split_can_be_measured(call, open_file):
    values = ["data.limit=10", "evaluation={split: train, iw_samples: 2}"]
    ended = call("trial", open_file, *(part for value in values for part in ("--set", value)), "--json")
    assert json.loads(ended.stdout)["metrics"]["n"] == 10


@pytest.mark.parametrize(
    ("changes", "name", "size"),
    [
        ({"nll_iw": 1.01}, "nll_iw", "0.01"),
        ({"nll_iw": 1.00001, "kl_by_dimension": [0.5, 1.0]}, "kl_by_dimension", "0.5"),
        ({"au": None}, "au", "inf"),
        ({}, None, None),
    ],
)
def test_a_repeated_run_that_differs_names_its_largest_difference(capsys, changes, name, size):
    config = parse_trial(TINY_TRIAL)
    stored = {"run_id": "a-0", "nll_iw": 1.0, "kl_by_dimension": [0.5, 2.0], "au": 0, "mi": None}
    metrics = {**stored, "mi": 3.0} | changes
    del metrics["run_id"]
    report_equality(TrialRecord(config, "a-0", "a", "0", "finished", "", metrics), stored)
    (line,) = capsys.readouterr().err.splitlines()
    if name is None:
        assert "bit for bit" in line
    else:
        first, _, largest = line.partition(";")
        assert all(changed in first for changed in changes)
        assert f"{size}, in {name}" in largest
