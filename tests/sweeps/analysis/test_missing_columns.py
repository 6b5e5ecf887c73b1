"""Why a column has no value in any finished run."""

import json

import pytest

from sweeps.analysis.missing_columns import missing_columns
from sweeps.analysis.statistics import Statistic, Summary

SYNTHETIC, IMAGES = {"kind": "synthetic"}, {"kind": "images"}


def row(*stack, data=SYNTHETIC, status="finished"):
    config = {"data": data, "strategies": [{"kind": kind} for kind in stack]}
    return {"status": status, "config": json.dumps(config), "lagvae_version": "0.0.9"}


def reasons(column, *rows, value=None):
    summary = Summary("a", "a", {}, {"finished": len(rows)}, {column: value, "nll_iw": Statistic(1.0, None, 1)})
    return missing_columns("mine", rows, [summary])


@pytest.mark.parametrize(
    ("column", "rows", "fragment"),
    [
        ("probe_accuracy", [row()], "`lagvae evaluate --sweep mine --what probe`"),
        ("bits_per_dim", [row(), row()], "synthetic data"),
        ("ppl", [row(data=IMAGES)], "images data"),
        ("normalised_share", [row(), row("aggressive")], "only with bn_vae or du_vae"),
        ("kl", [row("lstm_lm")], "with lstm_lm"),
        ("mi", [row("iaf_posterior"), row("lstm_lm")], "with iaf_posterior or lstm_lm"),
        ("mi", [row("iaf_posterior"), row()], "0.0.9"),
        ("kl_weight_final", [row()], "0.0.9"),
        ("kl", [{"status": "finished", "config": '{"data": 3}', "lagvae_version": None}], "unknown version"),
    ],
)
def test_the_reason_follows_from_the_column_and_the_configurations(column, rows, fragment):
    (text,) = reasons(column, *rows)
    assert text.startswith(f"{column} has no value: ")
    assert fragment in text


def test_measured_columns_and_sweeps_without_runs_need_no_reason():
    assert reasons("kl", row(), value=Statistic(0.0, None, 1)) == []
    assert missing_columns("mine", [], []) == []


def test_before_a_run_has_finished_one_sentence_covers_all_columns():
    assert len(reasons("kl", row(status="running"), row(status="failed"))) == 1
