"""`lagvae cluster`: output streams, and invalid input that writes nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from commands import check_rejected, invoke
from processes import Ended

from cluster.render import TARGETS, render


@pytest.fixture
def call(tmp_path):
    """Run `lagvae cluster ARGUMENTS` in `tmp_path`, where importing Ray is an error."""
    return lambda *arguments: invoke("cluster", *arguments, folder=tmp_path)


SLURM = ("--set", "spec=quickstart", "--set", "results=/shared")


def test_stdout_contains_the_launch_file_only(call):
    text = render("slurm", {"spec": "quickstart", "results": "/shared", "nodes": 4, "modules": ["a/1", "b"]})
    assert call("render", "slurm", *SLURM, "--set", "nodes=4", "--set", "modules=[a/1, b]") == Ended(0, text, "")


def test_a_launch_file_can_be_written_to_a_file(call, tmp_path):
    assert call("render", "dockerfile", "--out", "Dockerfile") == Ended(0, "", "")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"Dockerfile": render("dockerfile", {})}


@pytest.mark.parametrize("target", TARGETS)
def test_fields_are_listed_with_default_and_meaning(call, target):
    ended = call("render", target, "--fields")
    assert (ended.returncode, ended.stderr) == (0, "")
    for name, field in TARGETS[target].config.model_fields.items():
        (line,) = [line.rstrip() for line in ended.stdout.splitlines() if line.split()[:1] == [name]]
        assert line.endswith(str(field.description))
        assert ("required" in line.removesuffix(str(field.description))) == field.is_required()


def test_without_values_the_fields_of_a_target_with_required_ones_are_listed(call):
    assert call("render", "slurm") == call("render", "slurm", "--fields")
    assert call("render", "dockerfile") == Ended(0, render("dockerfile", {}), "")


def test_all_problems_are_reported_at_once_and_nothing_is_written(call, tmp_path):
    sets = ("spec=$(x)", "gpu=3", "max_workers=0", "name=a_b")
    ended = call("render", "kuberay", *(part for item in sets for part in ("--set", item)), "--out", "file")
    keys = ("image: ", "spec: ", "gpu: ", "max_workers: ", "name: ")
    check_rejected(ended, "lagvae cluster render kuberay: 5 problems.", *keys, "'$(x)'", "'a_b'")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_and_a_missing_folder_are_rejected(call, tmp_path):
    check_rejected(call("render", "nomad"), "TARGET: ", *TARGETS, "'nomad'")
    check_rejected(call("render", "dockerfile", "--out", "no/such/folder/file"), "--out: ", "no/such/folder/file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["logs", "status", "list"])
def test_texts_of_a_cluster_control_no_terminal(tmp_path, monkeypatch, verb):
    hostile = "\x1b]0;owned\x07\x1b[2J\r\x9b"
    job = SimpleNamespace(submission_id="s", status="FAILED", message=f"Lost.\n{hostile}", started_at=None)
    attempt = SimpleNamespace(sweep="mine", job=job, number=1, results=f"/{hostile}")
    output = SimpleNamespace(log=lambda submission_id: f"\x1b[31mred\x1b[0m {hostile}\n")
    monkeypatch.setattr("sweeps.cli.jobs._last_attempt", lambda *arguments: (output, attempt))
    monkeypatch.setattr("sweeps.execution.attempts.count_rows", lambda attempt: {"finished": 1})
    monkeypatch.setattr("sweeps.execution.attempts.attempts", lambda cluster: [attempt])
    monkeypatch.setattr("cluster.jobs.Cluster.open", lambda *arguments, **options: output)
    names = [] if verb == "list" else ["mine"]
    ended = invoke(verb, *names, "--address", "http://127.0.0.1:1", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "\\x1b]0;owned\\x07\\x1b[2J\\r\\x9b" in ended.stdout
    assert ended.stdout.count("\x1b") == 2 * (verb == "logs")
