"""Situations that users were in, and what must happen in them. Each builds its own small input.

Here are those that no test of a single module covers. An entry names the command, its exit code, and a part of the
structure of its result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from commands import invoke
from processes import Ended, lagvae
from worlds import play, spec_of

from sweeps.storage.table import ResultsFolder

SMALL = ("model.hidden=8", "model.embedding=4", "evaluation.iw_samples=5")
WIDE = ("model.tag_embedding=4", "model.latent_dim=32", "training.epochs=100")
BRIEF = ("model.latent_dim=2", "training.epochs=1")


@dataclass(frozen=True)
class Situation:
    """A situation and what must happen in it.

    Args:
        write: Writes the input into an empty folder.
        command: The command, without `lagvae`; it runs in that folder.
        expected: Parts of the result by name, compared with what `result` returns.
        result: Returns these parts of the result of the command.
        sets: Values of `--set`.
        code: Exit code of the command.
        environment: Environment variables. If there are any, the command runs in a process of its own.
    """

    write: Callable[[Path], object]
    command: str
    expected: Mapping[str, Any]
    result: Callable[[Ended, Path], Mapping[str, Any]]
    sets: tuple[str, ...] = ()
    code: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


def write_shared_task(here: Path) -> None:
    """Write the files of a shared task with two examples each."""
    (here / "words").mkdir()
    for name in ("turkish-train-low", "turkish-dev", "turkish-uncovered-test"):
        (here / "words" / name).write_text("araba\tarabalar\tN;NOM;PL\nev\tevler\tN;NOM;PL\n")


def write_unknown_words(here: Path) -> None:
    """Write sentences of which every fifth word of valid and test does not occur in train."""
    (here / "corpus").mkdir()
    (here / "corpus" / "train.txt").write_text("a b c d e\nb c d e a\nf a b c d\n" * 4)
    for split in ("valid", "test"):
        (here / "corpus" / f"{split}.txt").write_text(f"a b c d {split}\n" * 4)


def write_results(here: Path) -> None:
    """Write the results of a sweep, without training."""
    folder = ResultsFolder(str(here / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec_of().source.encode())
    for row in play(spec_of())[0]:
        folder.write_run(row)


def of_trial(ended: Ended, here: Path) -> dict[str, Any]:
    """Return parts of the result of `lagvae trial --json`, and the codes of the warnings that it printed."""
    record = json.loads(ended.stdout)
    printed = [line.split()[1].rstrip(":") for line in ended.stderr.splitlines() if line.startswith("warning, ")]
    stored = [text.partition(":")[0] for text in record["warnings"]]
    return {"status": record["status"], "n": record["metrics"]["n"], "printed": printed, "stored": stored}


def of_figure(ended: Ended, here: Path) -> dict[str, Any]:
    """Return whether the figure is a PNG file, and whether stdout is JSON."""
    front = json.loads(ended.stdout)
    return {"front": bool(front), "png": (here / "front.png").read_bytes()[1:4], "stderr": ended.stderr}


TRIAL = "trial --json --threads 1"

SITUATIONS: dict[str, Situation] = {
    "a shared task with two examples per split, whose information is estimated above its bound": Situation(
        write_shared_task,
        TRIAL,
        {"status": "finished", "n": 2, "printed": [], "stored": []},
        of_trial,
        (*SMALL, *WIDE, "seed=7", "data.kind=reinflection", "data.language=turkish", "data.path=words"),
    ),
    "many unknown words, although every word of train is known": Situation(
        write_unknown_words,
        TRIAL,
        {"status": "finished", "n": 4, "printed": ["W11"], "stored": ["W11"]},
        of_trial,
        (*SMALL, *BRIEF, "data.kind=text", "data.path=corpus"),
    ),
    "many unknown words, and rare words of train are unknown as well": Situation(
        write_unknown_words,
        TRIAL,
        {"status": "finished", "n": 4, "printed": [], "stored": []},
        of_trial,
        (*SMALL, *BRIEF, "data.kind=text", "data.path=corpus", "data.min_freq=5"),
    ),
    "a notebook whose backend of matplotlib is not installed where lagvae is": Situation(
        write_results,
        "results pareto tiny --json --png front.png",
        {"front": True, "png": b"PNG", "stderr": "figure: front.png\n"},
        of_figure,
        environment={"MPLBACKEND": "module://a_package_of_the_notebook.backend"},
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name, tmp_path):
    situation = SITUATIONS[name]
    situation.write(tmp_path)
    arguments = [*situation.command.split(), *(part for value in situation.sets for part in ("--set", value))]
    if situation.environment:
        before = f"import os\nos.environ.update({dict(situation.environment)!r})\n"
        ended = lagvae(*arguments, cwd=tmp_path, before=before)
    else:
        ended = invoke(*arguments, folder=tmp_path)
    assert ended.returncode == situation.code, ended.stderr
    assert situation.result(ended, tmp_path) == situation.expected
