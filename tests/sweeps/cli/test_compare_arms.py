"""`lagvae results rank` and `lagvae results compare SWEEP ARM ARM`: the numbers, and what is refused."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from commands import check_rejected, files_below
from helpers import rejects
from worlds import play, spec_of

from sweeps import read_results
from sweeps.analysis.arm_comparison import compare_stored_arms
from sweeps.storage.table import ResultsFolder

ARMS = {"vae": [], "beta": [{"kind": "beta_vae", "beta": 0.5}], "lm": ["lstm_lm"]}
BETTER = {"vae": 0.0, "beta": 0.25, "lm": 1.0}


def answer(run):
    """Seeds matter more than arms. `lm` has no latent variable, so it has no MI."""
    nll = 40.0 + 3.0 * math.sin(run.seed) - BETTER[run.arm] * (1 + 0.1 * run.seed)
    mi = {"vae": 0.001 * run.seed, "beta": 1.0 + 0.01 * run.seed, "lm": None}[run.arm]
    return {"nll_iw": nll, "valid_nll_elbo": nll + 1.0, "mi": mi}


def store(root, seeds=6, answer=answer, arms=ARMS):
    """The folder of a finished sweep with one configuration per arm."""
    search = {"sampler": "random", "configurations": 1, "seeds": seeds, "seed": 0}
    spec = spec_of(arms=arms, search=search, objectives={"nll_iw": "min", "mi": "max"})
    folder = ResultsFolder(str(root / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec.source.encode())
    for row in play(spec, answer=answer)[0]:
        folder.write_run(row)
    return folder


@pytest.fixture
def stored(tmp_path):
    return store(tmp_path)


class TestRank:
    def test_json(self, stored, call):
        shown = json.loads(call("results", "rank", "tiny", "--json").stdout)
        assert [(arm["rank"], arm["arm"]) for arm in shown["arms"]] == [(1, "beta"), (2, "vae")]
        assert shown["arms"][0]["hypervolume_low"] <= shown["arms"][0]["hypervolume"]
        assert set(shown["reference"]) == {"nll_iw", "mi"}
        assert [(row["arm"], row["probability"]) for row in shown["front"]] == [("beta", 1.0)]
        assert shown["unranked"] == ["lm"]

    def test_the_table_has_the_same_numbers(self, stored, call):
        shown = json.loads(call("results", "rank", "tiny", "--json").stdout)
        lines = call("results", "rank", "tiny").stdout.splitlines()
        (first,) = (line for line in lines if line.split()[:2] == ["1", "beta"])
        assert f"{shown['arms'][0]['hypervolume']:.3f}" in first.split()
        (member,) = (line for line in lines if line.split()[:3] == ["beta", "on", "1.00"])
        assert shown["front"][0]["config_id"] in member.split()

    def test_other_objectives(self, stored, call):
        shown = json.loads(call("results", "rank", "tiny", "--objectives", "nll_iw:min", "--json").stdout)
        assert [arm["arm"] for arm in shown["arms"]] == ["lm", "beta", "vae"]

    def test_one_seed_is_labelled(self, tmp_path, call):
        store(tmp_path, seeds=1)
        shown = json.loads(call("results", "rank", "tiny", "--json").stdout)
        assert [arm["hypervolume_low"] for arm in shown["arms"]] == [None, None]
        assert [arm["single_seed"] for arm in shown["arms"]] == [1, 1]
        assert [row["probability"] for row in shown["front"]] == [None]
        assert call("results", "rank", "tiny").stdout.count("one seed") >= 2

    @pytest.mark.parametrize(
        ("options", "where"),
        [
            (["--objectives", "nll:min"], "--objectives: "),
            (["--objectives", "nll_iw"], "--objectives: "),
            (["--objectives", "accuracy:max"], "SWEEP: "),
        ],
    )
    def test_refusals(self, stored, tmp_path, call, options, where):
        before = files_below(tmp_path)
        check_rejected(call("results", "rank", "tiny", *options), where)
        assert files_below(tmp_path) == before

    def test_one_arm_or_no_finished_run_is_refused(self, tmp_path, call):
        store(tmp_path, arms={"vae": []})
        check_rejected(call("results", "rank", "tiny"), "SWEEP: ", "pareto")
        shutil.rmtree(tmp_path / "results")
        store(tmp_path, answer=lambda run: {"status": "diverged"})
        check_rejected(call("results", "rank", "tiny"), "SWEEP: ")
        check_rejected(call("results", "compare", "tiny", "vae", "beta"), "ARMS: ", "6 diverged")
        check_rejected(call("results", "rank", "other"), "SWEEP: ")


class TestCompare:
    def test_json(self, stored, call):
        shown = json.loads(call("results", "compare", "tiny", "vae", "beta", "--json").stdout)
        assert shown | {"arms": []} == {
            "baseline": "vae",
            "column": "nll_iw",
            "select": {"valid_nll_elbo": "min"},
            "split": "test",
            "selected_on_split": False,
            "arms": [],
        }
        (row,) = shown["arms"]
        assert row["difference"] == pytest.approx(-0.25 * 1.25)
        assert row["difference_low"] < row["difference"] < row["difference_high"] < 0
        assert (row["verdict"], row["matched"], row["n"]) == ("better", "seed", 6)
        assert row["p"] == row["p_holm"] == pytest.approx(1 / 32)

    def test_several_arms_need_more_seeds(self, stored, call):
        ended = call("results", "compare", "tiny", "vae", "beta", "lm")
        assert ended.returncode == 0
        assert [row["n_required"] for row in self.arms(call, "vae", "beta", "lm")] == [7, 7]
        assert {row["verdict"] for row in self.arms(call, "vae", "beta", "lm")} == {"too few"}
        assert " 7 common seeds" in ended.stdout

    def test_the_table_has_the_same_numbers(self, stored, call):
        (row,) = self.arms(call, "vae", "beta")
        lines = call("results", "compare", "tiny", "vae", "beta").stdout.splitlines()
        (line,) = (line for line in lines if line.startswith("beta "))
        assert line.split()[1] == f"{row['difference']:+.3f}"
        assert {"better", f"{row['p']:.3f}"} <= set(line.split())
        assert any(row["config_id"] in line for line in lines)

    def test_a_tiny_difference_is_printed_with_the_digits_that_it_needs(self, tmp_path, call):
        store(tmp_path, answer=lambda run: {"nll_iw": 40.0 + run.seed + (2e-6 if run.arm == "beta" else 0), "mi": 0.0})
        lines = call("results", "compare", "tiny", "vae", "beta").stdout.splitlines()
        (line,) = (line for line in lines if line.startswith("beta "))
        assert line.split()[1] == "+0.000002"

    def test_another_column(self, stored, call):
        (row,) = self.arms(call, "vae", "beta", "--column", "mi")
        assert (row["difference"], row["verdict"]) == (pytest.approx(1.0 + 0.009 * 2.5), "better")

    @pytest.mark.parametrize(
        ("arguments", "where"),
        [
            ([], "ARMS: "),
            (["vae"], "ARMS: "),
            (["vae", "vae"], "ARMS: "),
            (["vae", "bta"], "Did you mean beta?"),
            (["vae", "beta", "--paper", "he2019"], "ARMS: "),
            (["vae", "beta", "--markdown"], "--markdown: "),
            (["vae", "beta", "--dataset", "yahoo"], "--dataset: "),
            (["--paper", "he2019", "--column", "mi"], "--column: "),
            (["vae", "beta", "--column", "nll"], "--column: "),
            (["vae", "beta", "--select", "nll_iw:min"], "--select: "),
            (["vae", "beta", "--select", "valid_mi"], "--select: "),
            (["vae", "lm", "--column", "mi"], "ARMS: "),
        ],
    )
    def test_refusals(self, stored, tmp_path, call, arguments, where):
        before = files_below(tmp_path)
        check_rejected(call("results", "compare", "tiny", *arguments), where)
        assert files_below(tmp_path) == before

    def test_every_problem_is_reported_at_once(self, stored):
        with rejects("ARMS", "--column", "--select"):
            compare_stored_arms(stored, ["vae", "x"], "nll", {"nll_iw": "min"})

    def arms(self, call, *arguments):
        return json.loads(call("results", "compare", "tiny", *arguments, "--json").stdout)["arms"]


class TestFromPython:
    def test_the_numbers_are_those_of_the_commands(self, stored, call, tmp_path):
        results = read_results(tmp_path / "results" / "tiny")
        ranked = json.loads(call("results", "rank", "tiny", "--json").stdout)
        assert results.rank().to_dict("records") == ranked["arms"]
        assert results.rank().attrs["reference"] == ranked["reference"]
        assert results.front()["probability"].tolist() == [1.0]
        shown = json.loads(call("results", "compare", "tiny", "vae", "beta", "--json").stdout)
        table = results.compare("vae", "beta")
        assert table.to_dict("records") == shown.pop("arms")
        assert table.attrs == shown

    def test_missing_values_are_nan_in_numeric_columns(self, tmp_path):
        store(tmp_path, seeds=1)
        results = read_results(tmp_path / "results" / "tiny")
        assert results.compare("vae", "beta", "lm")[["p", "p_holm", "difference_low"]].isna().all(axis=None)
        assert results.rank()["hypervolume_low"].dtype == "float64"
        assert results.front()["probability"].isna().all()

    def test_refusals(self, stored, tmp_path):
        results = read_results(tmp_path / "results" / "tiny")
        with rejects("objectives"):
            results.rank({"nll": "min"})
        with rejects("objectives.mi"):
            results.front({"mi": "most"})
        with rejects("ARMS"):
            results.compare("vae", "bta")
