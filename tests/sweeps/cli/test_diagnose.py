"""`lagvae diagnose` on a kept model: causes as a table and as JSON, and a sweep that can be run."""

import json

import pytest
import yaml
from commands import check_rejected
from helpers import TINY_DATA

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import DataError
from lagvae_core.studies.diagnosis import CAUSES, Diagnosis
from lagvae_core.training.checkpoint import MemoryCheckpoint
from sweeps.analysis.remedies import ARMS, next_sweep
from sweeps.cli.evaluate import _applicable
from sweeps.spec.sweep import parse_spec
from sweeps.studies.targets import EvaluationTarget

TRIAL = {
    "data": TINY_DATA,
    "model": {"latent_dim": 1, "hidden": 8, "embedding": 8},
    "training": {"epochs": 2, "batch_size": 16},
    "evaluation": {"iw_samples": 5},
}


@pytest.fixture
def model(call, tmp_path):
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TRIAL))
    assert call("trial", "trial.yaml", "--arm", "beta_vae:beta=10", "--keep", "model.pt").returncode == 0
    return "model.pt"


def test_it_names_the_cause_and_writes_a_sweep_that_can_be_planned(call, model, tmp_path):
    ended = call("diagnose", "--model", model, "--json", "--out", "next.yaml", "--examples", "16")
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    (run,) = answer["runs"]
    assert [cause["cause"] for cause in run["causes"]] == [answer["main"]] == ["kl_weight_above_1"]
    assert run["causes"][0] == {"cause": "kl_weight_above_1", "value": 10.0, "threshold": 1.0} | {
        "means": CAUSES["kl_weight_above_1"]
    }
    assert (tmp_path / "next.yaml").read_text() == answer["next"]
    spec = parse_spec(answer["next"])
    assert [arm.name for arm in spec.arms] == ["vae", *(name for name in ARMS["kl_weight_above_1"] if name != "vae")]
    assert call("plan", "next.yaml").returncode == 0
    shown = call("diagnose", "--model", model, "--examples", "16").stdout
    assert "kl_weight_above_1" in shown
    assert shown.endswith(answer["next"])


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["RUN_ID: "]),
        (["--model", "model.pt", "--out", "no/folder/next.yaml"], ["--out: ", "no/folder/next.yaml"]),
        (["--sweep", "none"], ["none"]),
    ],
)
def test_invalid_arguments_are_rejected(call, model, arguments, fragments):
    check_rejected(call("diagnose", *arguments), *fragments)


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("data", [{}, {"kind": "linear_gaussian"}, {"kind": "images", "path": "no.npz"}], ids=str)
def test_every_cause_with_arms_has_a_valid_sweep_of_arms_that_apply(cause, data):
    config = parse_trial({"data": data})
    text = next_sweep(cause, config)
    if cause not in ARMS:
        assert text is None
        return
    spec = parse_spec(text)
    assert spec.arms[0].name == "vae"
    assert {arm.name for arm in spec.arms} <= {"vae", *ARMS[cause]}
    assert yaml.safe_load(text)["trial"]["data"]["kind"] == config.data.kind


def test_the_arms_of_a_sweep_without_z_are_left_out(capsys):
    vae, lm = (
        EvaluationTarget(parse_trial(TRIAL | {"strategies": arm}), MemoryCheckpoint(), "") for arm in ([], ["lstm_lm"])
    )
    assert _applicable([vae, lm], [Diagnosis()], whole_sweep=True) == [vae]
    assert "1 run left out" in capsys.readouterr().err
    for targets, whole_sweep in (([vae, lm], False), ([lm], True)):
        with pytest.raises(DataError):
            _applicable(targets, [Diagnosis()], whole_sweep=whole_sweep)
