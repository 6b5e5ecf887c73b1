"""A model without z has no kl, mi and au: they are null in the table, and it is on no front of these columns."""

import json

import pytest
from helpers import run, tiny
from optuna.trial import TrialState
from worlds import play, spec_of

from sweeps.analysis.front import front_of
from sweeps.cli.front import print_front
from sweeps.cli.runs import print_runs
from sweeps.cli.sweep_progress import SweepProgress
from sweeps.cli.trial import TrialProgress
from sweeps.storage.table import ResultsFolder

BOTH = {"nll_iw": "min", "au": "max"}
WITHOUT_Z = {"nll_iw": 99.0, "au": None, "kl": None, "mi": None}


def spec(**changes):
    return spec_of(arms={"vae": [], "lm": ["lstm_lm"], "beta": ["beta_vae"]}, **changes)


def answer(run):
    return WITHOUT_Z if run.arm == "lm" else {"nll_iw": 100.0 + run.seed, "au": 1, "kl": 2.0, "mi": 1.0}


@pytest.fixture
def rows():
    return play(spec(), answer=answer)[0]


@pytest.fixture
def folder(rows, tmp_path):
    folder = ResultsFolder(str(tmp_path), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec().source.encode())
    for row in rows:
        folder.write_run(row)
    return folder


def test_the_sweep_runs_to_its_end(rows):
    assert {row["arm"] for row in rows} == {"vae", "lm", "beta"}
    assert {row["status"] for row in rows} == {"finished"}


def test_the_optuna_study_records_a_failure_without_values():
    _, scheduler = play(spec(), answer=answer)
    (trial,) = scheduler._studies["lm"].study.trials
    assert trial.state is TrialState.FAIL
    assert {t.state for t in scheduler._studies["beta"].study.trials} == {TrialState.COMPLETE}


def test_it_is_only_on_fronts_of_measured_objectives(rows):
    assert {row.arm for row in front_of(rows, BOTH)} == {"vae", "beta"}
    best = front_of(rows, {"nll_iw": "min"})[0]
    assert (best.arm, best.member, best.mean["nll_iw"]) == ("lm", True, 99.0)


def test_the_printed_front_lists_the_arms_that_are_not_compared(folder, capsys):
    print_front(folder, None, as_json=False)
    assert "arms without a value for every objective are not compared: lm\n" in capsys.readouterr().out
    print_front(folder, {"nll_iw": "min"}, as_json=False)
    shown = capsys.readouterr().out
    assert "not compared" not in shown
    assert "lm" in shown
    print_runs(folder, "table", None)
    assert "99.00" in capsys.readouterr().out


def test_rows_and_curves_keep_their_nulls(tmp_path):
    record = run(tiny("lstm_lm")).to_json()
    folder = ResultsFolder(str(tmp_path), "tiny")
    folder.prepare()
    (one, *_) = [r for r in play(spec(), ends=0, concurrent=9)[0] if r["arm"] == "lm"]
    row = one | record["metrics"] | record["cost"] | {"status": "finished"}
    folder.write_run(row)
    folder.write_curve(row, record["curve"])
    (stored,) = folder.runs()
    assert (stored["kl"], stored["au"], stored["mean_variance"], stored["valid_au"]) == (None,) * 4
    assert stored["nll_iw"] == record["metrics"]["nll_iw"]
    curve = folder.curves()
    assert [epoch["valid_au"] for epoch in curve] == [None, None]
    assert [epoch["valid_loss"] for epoch in curve] == [epoch["valid_loss"] for epoch in record["curve"]]


def test_the_best_configuration_has_the_measured_objectives_only(rows):
    progress = SweepProgress(objectives=BOTH, rows=[row | {"seconds": 1.0} for row in rows])
    assert {arm: progress.best(arm) for arm in ("vae", "lm", "beta")} == {
        "vae": {"nll_iw": 100.5, "au": 1.0},
        "lm": {"nll_iw": 99.0},
        "beta": {"nll_iw": 100.5, "au": 1.0},
    }


def test_the_line_of_an_epoch_has_dashes_for_unmeasured_columns():
    records = {kind: run(tiny(*stack)) for kind, stack in (("vae", ()), ("lm", ("lstm_lm",)))}
    lines = {}
    for kind, record in records.items():
        progress = TrialProgress(record.config)
        progress.print = lambda text, kind=kind: lines.setdefault(kind, text)
        progress.on_epoch(record.curve[0])
    assert "  kl - " not in lines["vae"]
    assert "  kl -  mi -  au -  lr 1  " in lines["lm"]
    json.dumps(records["lm"].to_json(), allow_nan=False)
