"""The questions of docs/results.md: pandas and SQL give the same answer about a table of trained runs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from worlds import play, spec_of

from lagvae_core import train
from lagvae_core.config.trial import parse_trial
from sweeps.search.plan import Run
from sweeps.storage.table import ResultsFolder

PAGE = (Path(__file__).parents[3] / "docs/results.md").read_text("utf-8")
SECTION = PAGE[PAGE.index("## Five questions") :]
SECTION = SECTION[: SECTION.index("\n## ", 1)]

TRIAL = {
    "data": {"kind": "linear_gaussian", "examples": 200, "heldout": 50, "features": 4, "eigenvalues": [4, 1]},
    "model": {"kind": "mlp", "layers": 0, "latent_dim": 2, "likelihood": "gaussian", "sigma_mode": "fixed"},
    "training": {"optimiser": "adam", "learning_rate": 0.05, "batch_size": 20, "epochs": 6},
    "evaluation": {"iw_samples": 5},
}
ARMS = {
    "vae": [],
    "free_bits": [{"kind": "free_bits", "floor": {"choices": [0.5, 2.0]}}],
    "broken": [{"kind": "encoder_lr", "multiplier": 1e30}],
}
SPACE = {"model.sigma": {"choices": [0.5, 1.0, 3.0]}}
SEARCH = {"sampler": "random", "configurations": 3, "seeds": 2, "seed": 0, "paired": True}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the runs of a paired sweep, and store their rows and curves as `results/mine`."""
    here = tmp_path_factory.mktemp("questions")
    folder = ResultsFolder(str(here / "results"), "mine")
    curves = {}

    def trained(run: Run) -> dict[str, Any]:
        record = train(parse_trial(run.config.model_dump(mode="json"))).to_json()
        curves[run.run_id] = record["curve"]
        values = record["metrics"] | record["cost"] | dict(run.parameters)
        return values | {"status": record["status"], "stop_reason": record["stop_reason"], "threads": 1, "gpus": 0.5}

    rows, _ = play(spec_of(name="mine", trial=TRIAL, arms=ARMS, space=SPACE, search=SEARCH), answer=trained)
    for row in rows:
        folder.write_run(row)
        if curves[row["run_id"]]:
            folder.write_curve(row, curves[row["run_id"]])
    return here


def blocks(text: str) -> list[str]:
    found = re.findall(r"(?:^ {4}.*\n|^\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


SETUP, *QUESTIONS = SECTION.split("\n### ")


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.partition("\n")[0])
def test_both_answers_are_equal(question, results, monkeypatch):
    monkeypatch.chdir(results)
    (setup,), (code, query) = blocks(SETUP), blocks(question)
    names: dict[str, Any] = {}
    exec(f"{setup}\n{code}", names)
    from_sql = duckdb.sql(query).df()
    assert len(from_sql) > 0
    pd.testing.assert_frame_equal(names["answer"], from_sql, check_dtype=False, check_index_type=False)


def test_there_are_five():
    assert len(QUESTIONS) == 5
