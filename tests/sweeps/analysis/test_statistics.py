"""Statistics over the seeds of a configuration."""

import math

import numpy as np
import pytest
from scipy import stats

from sweeps.analysis.statistics import Interval, Statistic, Summary, summarise
from sweeps.plots.arms import arms_figure


def row(arm="vae", config="a", status="finished", nll=1.0, mi=0.5, train=10.0, parameters="{}", device="cpu", cpu=None):
    done = status == "finished"
    return {
        "arm": arm,
        "config_id": config,
        "status": status,
        "nll_iw": nll if done else None,
        "mi": mi if done else None,
        "seconds_train": train,
        "cpu_seconds_train": train if cpu is None else cpu,
        "device": device,
        "parameters": parameters,
    }


def test_mean_and_standard_error():
    statistic = Statistic.of([1.0, 2.0, 6.0])
    assert (statistic.mean, statistic.n) == (3.0, 3)
    assert statistic.se == pytest.approx(math.sqrt(7.0 / 3.0))
    assert statistic.text(1) == "3.0 ± 1.5"
    assert Statistic(-0.001, 0.002, 2).text() == "0.00 ± 0.00"


def test_one_value_has_no_standard_error_and_no_value_no_statistic():
    assert Statistic.of([2.0]) == Statistic(2.0, None, 1)
    assert Statistic.of([2.0]).text() == "2.00"
    assert Statistic.of([]) is None
    assert Statistic.of([None]) is None
    assert Statistic.of([None, 2, float("nan")]) == Statistic(2.0, None, 1)


def test_only_finished_runs_count_but_all_statuses_are_listed():
    rows = [row(nll=1.0), row(nll=3.0), row(status="diverged"), row(status="running")]
    (summary,) = summarise(rows, ["nll_iw"])
    assert summary.columns["nll_iw"].mean == 2.0
    assert summary.columns["nll_iw"].n == 2
    assert summary.ends == {"finished": 2, "diverged": 1, "running": 1}
    assert summary.runs == 4


def test_runs_that_did_not_measure_a_column_are_left_out_of_it():
    (summary,) = summarise([row(mi=None), row(mi=0.25)], ["nll_iw", "mi"])
    assert summary.columns["nll_iw"].n == 2
    assert summary.columns["mi"] == Statistic(0.25, None, 1)
    (summary,) = summarise([row(mi=None)], ["mi"])
    assert summary.columns["mi"] is None


def test_configurations_of_an_arm_are_summarised_separately():
    rows = [row(config="a"), row(config="b", parameters='{"beta_vae.beta": 0.5}'), row(config="a")]
    summaries = summarise(rows, ["mi"])
    assert [(s.config_id, s.runs) for s in summaries] == [("a", 2), ("b", 1)]
    assert summaries[1].parameters == {"beta_vae.beta": 0.5}


def test_time_is_relative_to_the_baseline():
    rows = [row(train=10.0), row(train=30.0), row(arm="slow", config="b", train=100.0)]
    vae, slow = summarise(rows, ["mi"], baseline="vae")
    assert vae.columns["time"].mean == 1.0
    assert slow.columns["time"] == Statistic(5.0, None, 1)


def test_time_is_processor_time_if_all_runs_trained_on_a_cpu():
    on_cpu = [row(train=10.0, cpu=10.0), row(arm="slow", config="b", train=90.0, cpu=30.0)]
    assert summarise(on_cpu, ["mi"], baseline="vae")[1].columns["time"].mean == 3.0
    mixed = [*on_cpu, row(arm="gpu", config="c", device="cuda:0", train=5.0, cpu=1.0)]
    assert [s.columns["time"].mean for s in summarise(mixed, ["mi"], baseline="vae")] == [1.0, 9.0, 0.5]


def test_without_a_finished_baseline_there_is_no_time():
    vae, slow = summarise([row(status="failed"), row(arm="slow", config="b")], ["mi"], baseline="vae")
    assert vae.columns["time"] is None
    assert slow.columns["time"] is None


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_the_figure_of_the_arms_is_reproducible(tmp_path, suffix):
    summaries = [
        Summary("vae", "a", {}, {"finished": 3}, {"nll_iw": Statistic(39.0, 0.1, 3), "mi": None}),
        Summary(
            "one", "b", {"x.y": 2}, {"finished": 1}, {"nll_iw": Statistic(38.0, None, 1), "mi": Statistic(1, 0, 2)}
        ),
        Summary("one", "c", {"x.y": 3.5}, {"diverged": 1}, {"nll_iw": None, "mi": None}),
        *(
            Summary(f"n{i}", "d", {}, {"finished": 1}, {"nll_iw": Statistic(v, 0.1, 2), "mi": None})
            for i, v in enumerate((38.5, 38.7, 900.0))
        ),
    ]
    path = tmp_path / f"arms{suffix}"
    arms_figure(summaries, ["nll_iw", "mi"], path, title="a sweep")
    again = tmp_path / f"again{suffix}"
    arms_figure(summaries, ["nll_iw", "mi"], again, title="a sweep")
    assert path.read_bytes() == again.read_bytes()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_without_configurations_or_with_an_unknown_extension_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="at least one configuration"):
        arms_figure([], ["mi"], tmp_path / "x.png")
    summary = Summary("vae", "a", {}, {}, {"mi": None})
    with pytest.raises(ValueError, match="extension"):
        arms_figure([summary], ["mi"], tmp_path / "x.docx")


class TestInterval:
    @pytest.mark.parametrize("n", [2, 3, 12])
    @pytest.mark.parametrize("confidence", [0.8, 0.95])
    def test_it_is_that_of_student(self, n, confidence):
        values = np.random.default_rng(n).normal(size=n)
        statistic = Statistic.of(values)
        expected = stats.t.interval(confidence, n - 1, loc=values.mean(), scale=stats.sem(values))
        assert statistic.interval(confidence) == pytest.approx(expected)

    def test_one_value_has_none_and_equal_values_one_without_width(self):
        assert Statistic.of([2.0]).interval() is None
        assert Statistic.of([2.0, 2.0, 2.0]).interval() == (2.0, 2.0)

    def test_missing_values_do_not_count(self):
        assert Statistic.of([1.0, None, 2.0, float("nan")]).interval() == Statistic.of([1.0, 2.0]).interval()

    def test_text(self):
        assert Interval(-0.001, 1.25).text() == "[0.00, 1.25]"
