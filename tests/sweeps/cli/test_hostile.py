"""A results folder that someone else wrote: its texts, identifiers and links reach no terminal and no other file."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import files_below
from worlds import TINY_TRIAL, play, spec_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.studies import STUDIES
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import evaluation_schema

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e</text><script>alert(1)</script>$\\frac{$\r\b\x00"
"""Escape sequences, a change of direction, HTML and mathematics."""

ARM = "<script>$\\frac{</script>"
"""A name that an arm may have."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

VERBS = (
    "results list",
    "results show tiny",
    "results show tiny --json",
    "results show tiny --markdown --columns nll_iw,probe_accuracy",
    "results show tiny --png shown.svg",
    "results pareto tiny --png front.svg",
    "results pareto tiny --json",
    "results curves tiny --png curves.svg",
    "results curves tiny --json",
    "results rank tiny",
    "results rank tiny --json",
    f"results compare tiny vae {ARM} --column nll_iw",
    f"results compare tiny vae {ARM} --column probe_accuracy --json",
    "results compare tiny --paper he2019 --dataset yahoo",
    "results compare tiny --paper he2019 --dataset yahoo --markdown",
    "results export tiny --csv runs.csv",
    "results export tiny --parquet runs.parquet",
    "results export tiny --latex front.tex --rows arms --objectives nll_iw:min",
    "results diff RUN_ID tiny/RUN_ID",
    "results diff RUN_ID OTHER_ID",
    "results diff RUN_ID OTHER_ID --json",
    "results archive tiny --unreadable",
    "results compact tiny",
    "results merge results/tiny tiny",
    "replay tiny",
    "replay tiny --json",
    "plan tiny.yaml",
    "evaluate --sweep tiny --what probe:labels=[9],draws=1",
    "evaluate RUN_ID --what probe:labels=[9],draws=1",
    "evaluate ../../../x --what probe",
    "trial --from RUN_ID",
    "trial --from ../../../x",
)


@pytest.fixture
def printed_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print warnings as outside of a test."""

    def show(message: Any) -> None:
        sys.stderr.write(warnings.formatwarning(message.message, message.category, message.filename, message.lineno))

    monkeypatch.setattr(warnings, "_showwarnmsg_impl", show)
    warnings.simplefilter("always")


def spec() -> Any:
    return spec_of(arms={"vae": [], ARM: ["beta_vae"]})


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """Rows whose identifiers are valid and whose other texts are hostile."""
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec().source.encode())
    (tmp_path / "tiny.yaml").write_text(spec().source)
    texts = [f.name for f in runs_schema() if f.type == pa.string()]
    kept = ("sweep", "arm", "run_id", "config_id", "status", "parameters", "config", "warnings", "history", "plugins")
    kept += ("data_fingerprint",)
    hostile = {name: HOSTILE for name in texts if name not in kept}
    for number, row in enumerate(play(spec())[0]):
        config = parse_trial(TINY_TRIAL | {"seed": row["seed"]}).model_dump_json()
        changes = hostile | {"config": config, "warnings": json.dumps([HOSTILE])}
        if number % 3 == 2:
            changes |= {"status": "failed", "parameters": json.dumps({f"a.{HOSTILE}": HOSTILE})}
        if number % 3 == 1:
            changes |= {"config": json.dumps({HOSTILE: HOSTILE})}
        folder.write_run(row | changes)
        folder.write_curve(row, [{"epoch": 1, "step": 4, "valid_kl": 1.0}])
        if number < 2:
            schema = evaluation_schema(STUDIES["probe"])
            evaluation = dict.fromkeys(schema.names, None) | {f.name: HOSTILE for f in schema if f.type == pa.string()}
            evaluation |= {name: row[name] for name in ("sweep", "arm", "run_id", "config_id", "seed")}
            table = pa.Table.from_pylist([evaluation | {"settings": f"{number}{HOSTILE}"}], schema=schema)
            folder.write_table(f"evaluations/probe/{row['run_id']}.parquet", table)
    return folder


def check(call: Any, tmp_path: Path, command: str, run_id: str) -> None:
    """Check that a command ends without a traceback and prints no control character, also in its figures."""
    ended = call(*command.replace("RUN_ID", run_id).split())
    assert ended.returncode in (0, 1, 2), command
    assert "Traceback" not in ended.stderr, command
    for text in (ended.stdout, ended.stderr, *(file.read_text() for file in tmp_path.glob("*.svg"))):
        assert not CONTROL.search(text), (command, CONTROL.search(text), text)
    for text in (file.read_text() for file in tmp_path.glob("*.svg")):
        assert "<script" not in text
    if "--markdown" in command:
        assert "<script" not in ended.stdout


def test_texts_of_rows_control_no_terminal(call, folder, tmp_path, printed_warnings):
    run_id, other_id, *_ = (row["run_id"] for row in folder.runs())
    for command in VERBS:
        check(call, tmp_path, command.replace("OTHER_ID", other_id), run_id)


def test_identifiers_and_links_choose_no_file(call, folder, tmp_path, printed_warnings):
    outside = tmp_path / "outside"
    outside.mkdir()
    rows = folder.runs()
    for number, (column, value) in enumerate(
        (("run_id", "../../../outside/x"), ("arm", HOSTILE), ("sweep", "../../outside"), ("status", HOSTILE))
    ):
        table = pa.Table.from_pylist([rows[number] | {column: value}], schema=runs_schema())
        folder.write_table(f"runs/{rows[number]['run_id']}.parquet", table)
    here = Path(folder.results) / "tiny"
    (here / "runs" / f"{HOSTILE.replace('/', '').replace(chr(0), '')}.parquet").write_bytes(b"damaged")
    (here / "runs" / "link.parquet").symlink_to(outside / "x.parquet")
    shutil.rmtree(here / "evaluations")
    for part in ("models", "evaluations", "archive"):
        (here / part).symlink_to(outside)
    (tmp_path / "results" / HOSTILE.replace("/", "").replace("\x00", "") / "runs").mkdir(parents=True)
    for command in VERBS:
        check(call, tmp_path, command, rows[-1]["run_id"])
    assert files_below(outside) == {}


@pytest.mark.parametrize("content", [HOSTILE.encode(), b"\xff\xfe", f"name: '{HOSTILE[:-1]}'".encode(), b"name: ../x"])
def test_a_sweep_file(call, folder, tmp_path, content, printed_warnings):
    folder.write("spec.yaml", content)
    for verb in ("show tiny", "pareto tiny", "curves tiny", "archive tiny --orphans"):
        check(call, tmp_path, f"results {verb}", "")
