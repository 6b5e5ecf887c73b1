"""`lagvae results report`: the file it writes, and what it rejects."""

from __future__ import annotations

import pytest
from commands import check_rejected
from stored_sweeps import store


def test_it_writes_one_file(call, tmp_path):
    store(tmp_path / "results")
    ended = call("results", "report", "tiny")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "tiny.html").read_text().startswith("<!DOCTYPE html>")
    assert call("results", "report", "tiny", "--out", "a.html", "--objectives", "nll_elbo:min").returncode == 0
    assert "nll_elbo (min)" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["other"], ["SWEEP: "]),
        (["tiny", "--out", "no/a.html"], ["--out: "]),
        (["tiny", "--objectives", "nil:min"], ["--objectives: "]),
        (["empty"], ["SWEEP: "]),
    ],
)
def test_invalid_arguments_are_rejected(call, tmp_path, arguments, fragments):
    store(tmp_path / "results")
    empty = store(tmp_path / "results", name="empty")
    for file in empty.files("runs"):
        empty.remove(file)
    check_rejected(call("results", "report", *arguments), *fragments)
    assert not list(tmp_path.glob("*.html"))
