"""Folders of the user's that have the name of a package of lagvae."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import sweeps
from lagvae_core.packages import ROOT, find_foreign, use_own_package

COMMAND = "from lagvae_core.packages import main; main()"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with packages of the user's that are called sweeps and cluster."""
    for name in ("sweeps", "cluster"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is the package of the user')\n")
    return tmp_path


@pytest.mark.parametrize("arguments", [["--version"], ["cluster", "render", "dockerfile"]])
def test_the_command_runs_its_own_packages(folder, arguments):
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", COMMAND, *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout != ""


def test_each_package_may_be_in_a_folder_of_its_own(tmp_path):
    """Ray installs the packages of a submitted job like this."""
    packages = ("lagvae_core", "cluster", "sweeps")
    for package in packages:
        shutil.copytree(ROOT / package, tmp_path / package / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(tmp_path / package) for package in packages)}
    command = [sys.executable, "-c", "import cluster, sweeps; print(cluster.__file__, sweeps.__file__)"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == [str(tmp_path / name / name / "__init__.py") for name in ("cluster", "sweeps")]


def test_a_foreign_package_is_found_and_hidden_from_child_processes(folder, monkeypatch):
    assert find_foreign("sweeps") is None
    assert find_foreign("sweeps", ROOT) is None
    assert find_foreign("sweeps", folder) == str(folder / "sweeps")
    (folder / "cluster" / "__init__.py").unlink()
    assert find_foreign("cluster", folder) is None
    (folder / "other").mkdir()
    (folder / "other" / "cluster.py").write_text("")
    assert find_foreign("cluster", folder / "other") == str(folder / "other" / "cluster.py")
    monkeypatch.delitem(sys.modules, "sweeps")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", "other")
    use_own_package("sweeps")
    assert sys.modules["sweeps"].__file__ == sweeps.__file__
    assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}other"


def test_a_checkout_of_lagvae_is_not_foreign(tmp_path):
    """An installed lagvae may run in its checkout, as the README says."""
    for package in ("lagvae_core", "sweeps"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert find_foreign("sweeps", tmp_path) is None
    shutil.rmtree(tmp_path / "lagvae_core")
    assert find_foreign("sweeps", tmp_path) == str(tmp_path / "sweeps")


def test_a_foreign_package_that_is_already_imported_is_named(monkeypatch):
    module = types.ModuleType("cluster")
    module.__file__ = "/home/me/cluster.py"
    monkeypatch.setitem(sys.modules, "cluster", module)
    with pytest.raises(ImportError, match=r"package called cluster, but /home/me/cluster\.py"):
        use_own_package("cluster")
