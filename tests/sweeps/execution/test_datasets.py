"""Planning a sweep without generating its data, and with rows whose data had another fingerprint in version 0.1.0."""

from __future__ import annotations

import pytest
from worlds import FINGERPRINT, play, row_of, spec_of

from lagvae_core.data import synthetic
from lagvae_core.data.text import source as text_source
from lagvae_core.data.text.tokens import _fingerprint
from lagvae_core.errors import DataError
from sweeps.execution.datasets import load_data, make_plan
from sweeps.search.plan import Plan
from sweeps.storage.table import ResultsFolder


@pytest.fixture
def folder(tmp_path):
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    return folder


def store(folder, rows):
    for row in rows:
        folder.write_run(row)


def content_fingerprint(data):
    """Return the fingerprint that version 0.1.0 gave to generated data."""
    return _fingerprint((data.train, data.valid, data.test), data.vocabulary)


def rows_with(spec, fingerprint):
    """Return the rows of a finished sweep, stored with `fingerprint`."""
    plan = Plan(spec, fingerprint, [])
    runs = [run for arm, index in plan.order() for run in plan.runs(arm, plan.configuration(arm, index, arm.probe()))]
    return [row_of(run, data_fingerprint=fingerprint) for run in runs if run.configuration == 0]


def test_a_plan_does_not_generate_the_data(folder, monkeypatch):
    spec = spec_of()
    rows, _ = play(spec)
    store(folder, [row | {"data_fingerprint": spec.defaults.data.fingerprint()} for row in rows])
    monkeypatch.setattr(synthetic, "_generate", None)
    plan = make_plan(spec, folder)
    assert plan.fingerprint == spec.defaults.data.fingerprint()
    assert len(plan.others) == len(rows), "their ids are those of other data"


def test_a_plan_of_text_does_not_read_words_again(folder, tmp_path, monkeypatch):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a b c\n" * 9)
    spec = spec_of(trial={"data": {"kind": "text", "path": str(tmp_path)}})
    fingerprint = load_data(spec).fingerprint
    monkeypatch.setattr(text_source, "read_corpus", None)
    assert make_plan(spec, folder).fingerprint == fingerprint


def test_data_larger_than_the_memory_are_refused_under_their_key_of_the_sweep_file(folder, monkeypatch):
    spec = spec_of()
    monkeypatch.setattr(synthetic, "memory_bytes", lambda: 1000)
    for call in (lambda: load_data(spec), lambda: make_plan(spec, folder)):
        with pytest.raises(DataError) as caught:
            call()
        assert [issue.where for issue in caught.value.issues] == ["trial.data"]


class TestFormerFingerprint:
    def test_rows_with_the_same_fields_are_kept(self, folder):
        spec = spec_of()
        former = content_fingerprint(load_data(spec))
        rows = rows_with(spec, former)
        store(folder, rows)
        for data in (None, load_data(spec)):
            plan = make_plan(spec, folder, data)
            assert plan.fingerprint == former
            assert set(plan.rows) == {row["run_id"] for row in rows}
            assert plan.others == []

    def test_rows_with_other_fields_are_not(self, folder):
        spec = spec_of()
        store(folder, rows_with(spec, content_fingerprint(load_data(spec))))
        data = {**spec.trial["data"], "seed": 7}
        plan = make_plan(spec_of(trial={**spec.trial, "data": data}), folder)
        assert plan.rows == {}
        assert not plan.spec.defaults.data.is_former_fingerprint(plan.fingerprint)

    def test_rows_with_another_content_are_not_once_the_data_are_loaded(self, folder):
        spec = spec_of()
        store(folder, rows_with(spec, FINGERPRINT))
        assert make_plan(spec, folder, load_data(spec)).rows == {}

    def test_the_fingerprint_under_which_more_rows_match_is_kept(self, folder):
        spec = spec_of()
        former, current = (rows_with(spec, f) for f in (FINGERPRINT, spec.defaults.data.fingerprint()))
        store(folder, [*former[:1], *current])
        assert make_plan(spec, folder).fingerprint == spec.defaults.data.fingerprint()
        store(folder, former)
        assert make_plan(spec, folder).fingerprint == spec.defaults.data.fingerprint()


def test_likelihoods_that_do_not_fit_the_data_are_refused_for_all_arms_at_once():
    arms = {
        "vae": [],
        "counts": {"strategies": [], "trial": {"model": {"likelihood": "poisson"}}},
        "some": {"strategies": [], "space": {"model.likelihood": {"choices": ["gaussian", "bernoulli"]}}},
    }
    spec = spec_of(trial={"data": {"kind": "linear_gaussian"}}, arms=arms, search={"configurations": 2})
    with pytest.raises(DataError) as caught:
        load_data(spec)
    found = [(issue.where, issue.value) for issue in caught.value.issues]
    assert found == [("arms.counts: model.likelihood", "poisson"), ("arms.some: model.likelihood", "bernoulli")]
