"""`lagvae cluster`: what it prints where, and that wrong input writes nothing."""

from __future__ import annotations

import sys

import pytest

from cluster.render import TARGETS, render
from sweeps.cli import app as cli


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`lagvae cluster ARGUMENTS` in a folder of its own, where importing Ray is an error: code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lagvae", "cluster", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return call


SLURM = ("--set", "spec=quickstart", "--set", "results=/shared")


def test_a_launch_file_goes_to_stdout_and_nothing_else(call):
    text = render("slurm", {"spec": "quickstart", "results": "/shared", "nodes": 4, "modules": ["a/1", "b"]})
    assert call("render", "slurm", *SLURM, "--set", "nodes=4", "--set", "modules=[a/1, b]") == (0, text, "")


def test_or_into_a_file_whole(call, tmp_path):
    assert call("render", "dockerfile", "--out", "Dockerfile") == (0, "", "")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"Dockerfile": render("dockerfile", {})}


@pytest.mark.parametrize("target", TARGETS)
def test_the_fields_of_a_target_are_listed_with_law_default_and_meaning(call, target):
    code, out, err = call("render", target, "--fields")
    assert (code, err) == (0, "")
    for name, field in TARGETS[target].settings.model_fields.items():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert line.rstrip().endswith(str(field.description))
        assert ("needed" in line) == field.is_required()


def test_without_values_a_target_that_needs_some_lists_them(call):
    assert call("render", "slurm") == call("render", "slurm", "--fields")
    assert call("render", "dockerfile") == (0, render("dockerfile", {}), "")


def test_all_mistakes_are_told_at_once_and_nothing_is_written(call, tmp_path):
    sets = ("spec=$(x)", "gpu=3", "max_workers=0", "name=a_b")
    code, out, err = call("render", "kuberay", *(part for item in sets for part in ("--set", item)), "--out", "file")
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])
    assert "lagvae cluster render kuberay: 5 mistakes." in err
    assert "image must be given, but is missing. It is: image of every node" in err
    assert "spec must be made of letters, digits and" in err
    assert "but is '$(x)'" in err
    assert "gpu must be a known key, but is 3." in err
    assert "max_workers must be greater than or equal to 1, but is 0." in err
    assert "name must be a DNS label" in err
    assert "Traceback" not in err


def test_a_target_and_a_place_that_cannot_be_are_refused(call, tmp_path):
    code, out, err = call("render", "nomad")
    assert (code, out) == (2, "")
    assert "TARGET must be one of kuberay, slurm, ray-up, ray-up-aws, dockerfile, but is 'nomad'." in err
    code, _, err = call("render", "dockerfile", "--out", "no/such/folder/file")
    assert code == 2
    assert "--out must be a file that can be written (No such file or directory), but is" in err
    assert list(tmp_path.iterdir()) == []
