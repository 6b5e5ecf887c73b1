"""`lagvae results rate`: the arms of a stored sweep at equal information."""

from __future__ import annotations

import json
from pathlib import Path

import pypdf
import pytest
from commands import check_rejected
from worlds import TINY_TRIAL, play, spec_of

from sweeps.analysis.rate_distortion import rate_distortion
from sweeps.interface import read_results
from sweeps.papers.points import published_points
from sweeps.plots.rate_distortion import rate_distortion_plot
from sweeps.storage.table import ResultsFolder


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """The results of a sweep whose runs have given values of mi and nll_iw."""
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    for number, row in enumerate(play(spec_of())[0]):
        beta = row["arm"] == "beta"
        folder.write_run(row | {"mi": 2.0 if beta else 0.0, "nll_iw": 41.0 if beta else 40.0 + number % 2})
    folder.write("spec.yaml", spec_of().source.encode())
    return folder


def test_it_compares_the_arms_at_each_rate(call, folder, tmp_path):
    ended = call("results", "rate", "tiny", "--at", "2,0,1", "--png", "rate.png", "--json")
    assert ended.returncode == 0, ended.stderr
    curves = {curve["arm"]: curve for curve in json.loads(ended.stdout)}
    assert [level["rate"] for level in curves["beta"]["levels"]] == [0.0, 1.0, 2.0]
    assert [level["rate"] for level in curves["vae"]["levels"]] == [0.0]
    assert {level["distortion"]["value"] for level in curves["beta"]["levels"]} == {41.0}
    assert curves["vae"]["price"] is None
    price = curves["beta"]["price"]
    expected = (41.0 - curves["vae"]["levels"][0]["distortion"]["value"]) / 2
    assert price["rate"] == 2.0
    assert price["distortion"]["value"] == pytest.approx(expected)
    assert (tmp_path / "rate.png").stat().st_size > 5_000
    assert call("results", "rate", "tiny", "--png", "rate.pdf", "--width", "5").returncode == 0
    assert float(pypdf.PdfReader(tmp_path / "rate.pdf").pages[0].mediabox.width) == 5 * 72
    shown = call("results", "rate", "tiny").stdout.splitlines()
    assert {line.split()[0] for line in shown} >= {"vae", "beta"}
    frame = read_results(f"{folder.results}/tiny").rate_distortion()
    assert set(frame["arm"]) == {"vae", "beta"}
    assert (frame["low"] <= frame["value"]).all()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["tiny", "--rate", "au"], ["--rate: ", "'au'"]),
        (["tiny", "--rate", "au", "--distortion", "mi", "--at", "1,x"], ["--rate: ", "--distortion: ", "--at: "]),
        (["tiny", "--distortion", "rec"], ["SWEEP: "]),
        (["other"], ["SWEEP: "]),
        (["tiny", "--png", "no/rate.png"], ["no/rate.png"]),
        (["tiny", "--width", "5"], ["--width: "]),
    ],
)
def test_invalid_arguments_are_rejected(call, folder, arguments, fragments):
    for row in folder.runs():
        folder.write_run(row | {"rec": None})
    check_rejected(call("results", "rate", *arguments), *fragments)


class TestPublishedPoints:
    """Results of papers on the data of the sweep: the test set of Yahoo has 10,000 texts of 79.9 words."""

    @pytest.fixture
    def stored(self, tmp_path):
        def stored(path: str = "/corpora/yahoo", n: int = 10_000) -> ResultsFolder:
            spec = spec_of(trial=TINY_TRIAL | {"data": {"kind": "text", "path": path}})
            folder = ResultsFolder(str(tmp_path / "results"), "tiny")
            folder.write("spec.yaml", spec.source.encode())
            for row in play(spec, answer=lambda run: {"config": run.config.model_dump_json()})[0]:
                measured = {"n": n, "tokens": round(79.9 * n), "kl": 3.0, "mi": 2.0, "nll_iw": 330.0}
                folder.write_run(row | measured)
            return folder

        return stored

    def test_they_are_added_where_the_data_are_the_same(self, call, stored):
        stored()
        ended = call("results", "rate", "tiny", "--rate", "kl", "--json")
        assert ended.returncode == 0, ended.stderr
        objects = json.loads(ended.stdout)
        points = [one["published"] for one in objects if one["arm"] is None]
        assert len(objects) == len(points) + 2
        ours = {"paper": "he2019", "table": "Table 1", "model": "Ours + anneal", "rate": 5.7, "distortion": 326.7}
        (found,) = [point for point in points if point.items() >= ours.items()]
        assert {difference["key"] for difference in found["differences"]} >= {"model.hidden", "training.epochs"}
        assert {point["paper"] for point in points} == {"he2019", "song2024"}
        shown = call("results", "rate", "tiny", "--rate", "kl").stdout
        assert "Ours + anneal" in shown
        assert "`lagvae results compare tiny --paper he2019` lists" in shown

    def test_mi_within_batches_is_no_point_of_mi(self, call, stored):
        stored()
        points = [one["published"] for one in json.loads(call("results", "rate", "tiny", "--json").stdout)[2:]]
        assert {point["paper"] for point in points} == {"song2024"}
        assert not any(point["model"].startswith(("SA-VAE", "Agg-VAE", "MAE")) for point in points)

    def test_other_examples_are_no_basis(self, call, stored):
        stored(n=100)
        assert len(json.loads(call("results", "rate", "tiny", "--rate", "kl", "--json").stdout)) == 2
        shown = call("results", "rate", "tiny", "--rate", "kl").stdout
        assert "he2019 has results on yahoo, but of other examples" in shown
        assert "test_examples: 100 stored, 10000" in shown
        assert "Ours + anneal" not in shown

    def test_other_data_have_no_points(self, call, stored):
        stored("/corpora/mine")
        assert len(json.loads(call("results", "rate", "tiny", "--rate", "kl", "--json").stdout)) == 2
        assert "he2019" not in call("results", "rate", "tiny", "--rate", "kl").stdout

    def test_the_figure_has_a_hollow_mark_with_a_number_for_each(self, stored):
        rows = stored().run_table()
        published = published_points(rows, "kl", "nll_iw")
        curves = rate_distortion(rows, rate="kl", distortion="nll_iw")
        figure = rate_distortion_plot(curves, rate="kl", distortion="nll_iw", published=published)
        (axes,) = figure.axes
        points = [point for of_paper in published for point in of_paper.points]
        hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
        assert len(hollow) == len(points) > 10
        assert hollow[0].get_label() == f"1 he2019: {points[0].model}"
        numbers = ", ".join(text.get_text() for text in axes.texts[:-1]).split(", ")
        drawn = [line for line in hollow if "far above" not in line.get_label()]
        assert len(numbers) == len(drawn)
        assert all(line.get_xydata().size for line in drawn)
