"""A sweep whose table cannot be written for some time, as when a network fails or a disk is full."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml
from processes import Ended, lagvae
from worlds import TINY_TRIAL, sweep

from sweeps.storage.table import ResultsFolder

RUNS = 6

IMPATIENT = "from sweeps.execution import driver\ndriver.PATIENCE_SECONDS = 1.0\n"


def write_sweep(here: Path) -> ResultsFolder:
    trial = TINY_TRIAL | {"training": {"epochs": 40}}
    search = {"sampler": "random", "configurations": 1, "seeds": RUNS, "seed": 0}
    values = sweep(trial=trial, arms={"vae": []}, search=search, resources={"cpus": 1, "concurrent": 1})
    (here / "tiny.yaml").write_text(yaml.safe_dump(values))
    return ResultsFolder(str(here / "results"), "tiny")


def finished(runs: Path) -> dict[str, bytes]:
    """Return the files of the finished rows, by run id."""
    ids = [row["run_id"] for row in ResultsFolder(str(runs.parents[1]), "tiny").runs() if row["status"] == "finished"]
    return {name: (runs / f"{name}.parquet").read_bytes() for name in ids}


def link(path: Path, target: Path) -> None:
    """Make `path` a link to its neighbour `target`. A link that exists is replaced, so that `path` always exists."""
    new = path.with_name("new")
    new.symlink_to(target.name)
    new.replace(path)


def run_with_failing_store(here: Path, seconds: float, before: str = "") -> tuple[Ended, dict[str, bytes]]:
    """Run the sweep and make its folder of rows inaccessible once a run has finished.

    The folder is a link. It leads to a file instead for `seconds`, or until the command has ended. No moment is without
    a link, because the command would use it to create the folder again.

    Returns:
        How the command ended, and the files of the rows that had finished when the folder disappeared.
    """
    runs, final, over = here / "results" / "tiny" / "runs", dict[str, bytes](), threading.Event()
    rows, outage = runs.with_name("rows"), runs.with_name("outage")
    rows.mkdir(parents=True)
    outage.touch()
    link(runs, rows)

    def replace_folder() -> None:
        while not (files := finished(runs)):
            if over.wait(0.05):
                return
        final.update(files)
        link(runs, outage)
        over.wait(seconds)
        link(runs, rows)

    breaking = threading.Thread(target=replace_folder)
    breaking.start()
    try:
        return lagvae("run", "tiny.yaml", cwd=here, before=before), final
    finally:
        over.set()
        breaking.join()


@pytest.mark.slow
def test_a_short_failure_of_the_store_has_no_effect(tmp_path):
    folder = write_sweep(tmp_path)
    ended, final = run_with_failing_store(tmp_path, 4.0)
    assert ended.returncode == 0, ended.stderr
    assert [(row["status"], row["attempt"]) for row in folder.runs()] == [("finished", 1)] * RUNS
    assert final
    assert final.items() <= finished(tmp_path / "results" / "tiny" / "runs").items()


@pytest.mark.slow
def test_a_lasting_failure_of_the_store_ends_the_sweep_which_can_be_resumed(tmp_path):
    folder = write_sweep(tmp_path)
    ended, final = run_with_failing_store(tmp_path, 600.0, IMPATIENT)
    assert ended.returncode == 1, ended.stderr
    assert "Cannot access results" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert 0 < len(final) <= len(folder.runs()) < RUNS
    again = lagvae("run", "tiny.yaml", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [row["status"] for row in folder.runs()] == ["finished"] * RUNS
    assert final.items() <= finished(tmp_path / "results" / "tiny" / "runs").items()
