"""`lagvae results export`: the table of runs as CSV and Parquet, and LaTeX tables of configurations."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import check_rejected, files_below
from worlds import play, spec_of

from sweeps.analysis.front import clear_best
from sweeps.analysis.statistics import Statistic
from sweeps.cli.latex import LatexRow, escape, format_statistic, latex_table
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder

GRID = {
    "arms": {"be_ta": [{"kind": "beta_vae", "beta": {"choices": [1.0, 0.5]}}], "vae": []},
    "search": {"sampler": "grid", "seeds": 3, "seed": 0},
}


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """The results of three configurations: the second of `be_ta` is worse, and `vae` has more active units."""
    spec = spec_of(**GRID)
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec.source.encode())

    def answer(run: Any) -> dict[str, Any]:
        nll = 90.0 + 10 * run.configuration + run.seed / 8 + (run.arm == "vae")
        return {"nll_iw": nll, "au": 1 + (run.arm == "vae"), "mi": 0.1, "mean_variance": [0.5, 1.5]}

    for row in play(spec, answer=answer)[0]:
        folder.write_run(row)
    return folder


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of the body of a LaTeX table, without the comments."""
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [[cell.strip() for cell in line.partition(" \\\\")[0].split(" & ")] for line in body.splitlines()[:-1]]


class TestRuns:
    def test_csv_has_every_run_and_column(self, call, folder, tmp_path):
        assert call("results", "export", "tiny", "--csv", "runs.csv").returncode == 0
        with open(tmp_path / "runs.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == [*runs_schema().names, "version"]
        stored = folder.runs()
        assert [row["run_id"] for row in rows] == [row["run_id"] for row in stored]
        assert [float(row["nll_iw"]) for row in rows] == [row["nll_iw"] for row in stored]
        assert {row["kl"] for row in rows} == {""}
        assert json.loads(rows[0]["mean_variance"]) == [0.5, 1.5]
        assert rows[0]["started_at"] == stored[0]["started_at"].isoformat()

    def test_parquet_keeps_the_types(self, call, folder, tmp_path):
        assert call("results", "export", "tiny", "--parquet", "runs.parquet").returncode == 0
        table = pq.read_table(tmp_path / "runs.parquet")
        assert [table.schema.field(f.name).type for f in runs_schema()] == runs_schema().types
        names = runs_schema().names
        assert table.select(names).to_pylist() == [{name: row[name] for name in names} for row in folder.runs()]

    def test_selected_columns_follow_those_that_identify_a_run(self, call, folder, tmp_path):
        call("results", "export", "tiny", "--csv", "runs.csv", "--columns", "mi,probe_accuracy")
        header = (tmp_path / "runs.csv").read_text().splitlines()[0].split(",")
        assert header[-3:] == ["mi", "probe_accuracy", "version"]
        assert {"arm", "run_id", "seed", "status"} <= set(header)
        assert "config" not in header

    def test_runs_of_an_earlier_version_are_marked(self, call, folder, tmp_path):
        folder.write("spec.yaml", spec_of(**GRID | {"arms": {"vae": []}}).source.encode())
        ended = call("results", "export", "tiny", "--csv", "runs.csv")
        with open(tmp_path / "runs.csv", newline="") as file:
            versions = {(row["arm"], row["version"]) for row in csv.DictReader(file)}
        assert versions == {("be_ta", "earlier"), ("vae", "current")}
        assert "6 runs of an earlier version" in ended.stdout


class TestLatex:
    def test_the_front(self, call, folder, tmp_path):
        assert call("results", "export", "tiny", "--latex", "t.tex", "--columns", "nll_iw,au,kl").returncode == 0
        text = (tmp_path / "t.tex").read_text()
        assert table_rows(text) == [
            ["be\\_ta", "3", "$\\mathbf{90.125 \\pm 0.072}$", "$1 \\pm 0$", "--"],
            ["vae", "3", "$91.125 \\pm 0.072$", "$\\mathbf{2 \\pm 0}$", "--"],
        ]
        assert "nll\\_iw $\\downarrow$ & au $\\uparrow$" in text

    def test_the_best_configuration_of_each_arm(self, call, folder, tmp_path):
        """By au, the first of two equal configurations of `be_ta` stands for its arm."""
        call("results", "export", "tiny", "--latex", "t.tex", "--rows", "arms", "--objectives", "au:max")
        assert [row[0] for row in table_rows((tmp_path / "t.tex").read_text())] == ["vae", "be\\_ta"]

    def test_a_small_table(self):
        rows = [
            LatexRow("a_b", "0" * 12, {"beta_vae.beta": 0.5}, 3, {"nll_iw": Statistic(41.731, 0.118, 3)}),
            LatexRow("a_b", "1" * 12, {"beta_vae.beta": 1.0}, 1, {"nll_iw": Statistic(43.2, None, 1)}),
        ]
        text = latex_table(rows, {"nll_iw": "min"}, command="lagvae x", caption="Front of s_1", label="s_1")
        golden = r"""
% lagvae x
% Requires \usepackage{booktabs}. The comment of each row is its config_id and its searched fields.
\begin{table}
  \centering
  \caption{CAPTION}
  \label{tab:s_1}
  \begin{tabular}{llrr}
    \toprule
    arm & parameters & $n$ & nll\_iw $\downarrow$ \\
    \midrule
    a\_b & beta=0.5 & 3 & $41.73 \pm 0.12$ \\ % 000000000000 beta=0.5
    a\_b & beta=1 & 1 & $43.20$ \\ % 111111111111 beta=1
    \bottomrule
  \end{tabular}
\end{table}
"""
        assert "{Front of s\\_1: " in text
        assert re.sub(r"caption\{.*\}", r"caption{CAPTION}", text) == golden.lstrip("\n")

    @pytest.mark.parametrize(
        ("mean", "se", "text"),
        [
            (41.731, 0.118, r"41.73 \pm 0.12"),
            (70.53, 8.95, r"70.5 \pm 8.9"),
            (70.53, 0.0996, r"70.53 \pm 0.10"),
            (1234.5, 125.0, r"1230 \pm 120"),
            (16.0, 0.0, r"16 \pm 0"),
            (-0.0000004, 0.0000012, r"0.000 \pm 0.000"),
            (41.422, None, "41.42"),
        ],
    )
    def test_numbers_are_rounded_to_their_error(self, mean, se, text):
        assert format_statistic(Statistic(mean, se, 3)) == text

    def test_names_are_escaped(self):
        assert escape('a_b\\x{y}$1%\n# ~^&<>|"') == (
            r"a\_b\textbackslash{}x\{y\}\$1\% \# \textasciitilde{}\textasciicircum{}\&\textless{}\textgreater{}"
            r"\textbar{}\textquotedbl{}"
        )

    def test_a_comment_stays_on_its_line(self):
        row = LatexRow("a", "0" * 12, {"x.y": "1\n\\input{secret}\r2\u2028"}, 1, {})
        text = latex_table([row], {}, command="c\n\\input{secret}", caption="", label="s")
        lines = [line for line in text.splitlines() if "secret" in line]
        assert len(lines) == 2
        assert all("\\input" not in line.partition("%")[0] for line in lines)


class TestClearBest:
    def test_it_exceeds_the_error_of_every_difference(self):
        close, far = Statistic(1.0, 0.1, 3), Statistic(2.0, 0.1, 3)
        assert clear_best([far, close, None], "min") == 1
        assert clear_best([far, close], "max") == 0
        assert clear_best([close, Statistic(1.2, 0.1, 3)], "min") is None
        assert clear_best([close, far, Statistic(3.0, 5.0, 3)], "min") is None

    def test_an_unknown_error_of_the_best_or_second_best_decides_nothing(self):
        single, best, worse = Statistic(0.0, None, 1), Statistic(3.0, 0.1, 3), Statistic(2.0, 0.1, 3)
        assert clear_best([single, best], "max") is None
        assert clear_best([single, best], "min") is None
        assert clear_best([single, best, worse], "max") == 1

    def test_equal_means_and_single_rows_have_no_best(self):
        assert clear_best([], "min") is None
        assert clear_best([Statistic(1.0, 0.0, 3)], "min") is None
        assert clear_best([Statistic(1.0, 0.0, 3), Statistic(1.0 + 1e-9, 0.0, 3)], "min") is None


class TestRejected:
    @pytest.mark.parametrize(
        ("options", "fragments"),
        [
            ("", ("--csv or --parquet or --latex", "none")),
            ("--csv a --latex b", ("exactly one", "--csv, --latex")),
            ("--csv nowhere/a", ("--csv", "existing folder", "nowhere/a")),
            ("--csv results", ("--csv", "not a folder")),
            ("--csv a --rows arms --objectives kl:min", ("--rows", "--objectives", "--latex")),
            ("--csv a --columns nll", ("--columns", "nll", "Did you mean")),
            ("--latex a --columns arm --rows all", ("--columns", "--rows", "'all'")),
            ("--latex a --objectives nll_iw", ("--objectives", "COLUMN:min")),
            ("--latex a --objectives rmse:min", ("SWEEP", "--objectives")),
        ],
    )
    def test_bad_input_writes_nothing(self, call, folder, tmp_path, options, fragments):
        before = files_below(tmp_path)
        check_rejected(call("results", "export", "tiny", *options.split()), *fragments)
        assert files_below(tmp_path) == before

    def test_a_file_that_cannot_be_written(self, call, folder, tmp_path):
        check_rejected(call("results", "export", "tiny", "--csv", "/proc/x"), "--csv", "/proc/x")
