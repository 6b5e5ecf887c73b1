"""What the report says: the answer, the comparison of sweeps, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import TINY_DATA
from stored_sweeps import measured, store
from worlds import TINY_TRIAL

from lagvae_core.errors import ConfigError
from sweeps.interface import read_results
from sweeps.report import report_of
from sweeps.report.answer import answer
from sweeps.report.arm_styles import arm_styles
from sweeps.report.content import MOST_CURVES, read_content
from sweeps.report.figures import front_figure, rate_figure
from sweeps.report.joint import join

SEARCH = {"sampler": "random", "configurations": 2, "seeds": 8, "seed": 0}


def sentences(folder, start: str) -> list[str]:
    """Return the sentences of the answer that start with `start`."""
    return [sentence for sentence in answer(read_content(folder)) if sentence.startswith(start)]


class TestAnswer:
    def test_the_best_arm_and_the_difference_from_the_plain_vae(self, tmp_path):
        folder = store(tmp_path, search=SEARCH)
        (best,) = sentences(folder, "The lowest mean nll_iw")
        assert "is 40.00 ± 0.00 by vae (8 seeds). The best configuration of every other arm is worse" in best
        (worse,) = sentences(folder, "Significantly worse")
        assert "beta +" in worse
        (collapsed,) = sentences(folder, "Collapsed")
        assert "vae" in collapsed
        assert "beta" not in collapsed

    def test_no_difference_is_claimed_where_there_is_none(self, tmp_path):
        folder = store(tmp_path, lambda run: measured(run) | {"nll_iw": 40.0 + run.seed % 3}, search=SEARCH)
        (best,) = sentences(folder, "The lowest mean nll_iw")
        assert "not clearly better than" in best
        assert not sentences(folder, "Significantly")
        assert sentences(folder, "No significant difference")

    def test_one_seed_supports_no_statement(self, tmp_path):
        folder = store(tmp_path, search=SEARCH | {"seeds": 1})
        (best,) = sentences(folder, "The lowest mean nll_iw")
        assert "not clearly better than" in best
        (difference,) = sentences(folder, "Differences from vae in nll_iw")
        assert "needs 6 seeds" in difference
        assert any("have one finished seed" in sentence for sentence in answer(read_content(folder)))

    def test_each_configuration_that_is_best_at_a_rate_is_named_once(self, tmp_path):
        def measure(run):
            best = run.arm == "beta" and run.configuration == 0
            return measured(run) | {"mi": 2.0 if best else 1.0, "nll_iw": 41.0 if best else 40.0 + run.configuration}

        (text,) = sentences(store(tmp_path, measure), "Lowest mean nll_iw for a required mutual information")
        assert text.endswith("≥ 1: 40.00 [40.00, 40.00] by vae; ≥ 2: 41.00 [41.00, 41.00] by beta.")

    def test_an_arm_without_z_is_named_as_such(self, tmp_path):
        def measure(run):
            return measured(run) | ({"nll_iw": 39.0, "mi": None} if run.arm == "lm" else {})

        folder = store(tmp_path, measure, arms={"vae": [], "lm": ["lstm_lm"]})
        (best,) = sentences(folder, "The lowest mean nll_iw")
        assert "by lm, which has no latent variable" in best
        assert read_content(folder).unplaced == ["lm"]

    def test_a_race_bounds_the_number_of_missing_runs(self, tmp_path):
        search = SEARCH | {"seeds": {"start": 2, "up_to": 3}}
        folder = store(tmp_path, search=search)
        folder.remove(folder.files("runs")[0])
        (missing,) = sentences(folder, "The sweep is not complete")
        assert "at most" in missing

    def test_runs_without_a_result(self, tmp_path):
        failed = {"status": "failed", "stop_reason": "out of luck"}
        folder = store(tmp_path, lambda run: measured(run) if run.seed else failed)
        assert any("4 failed" in sentence for sentence in answer(read_content(folder)))

    def test_without_a_finished_run(self, tmp_path):
        folder = store(tmp_path, lambda _: {"status": "failed", "stop_reason": "out of luck"})
        assert len(answer(read_content(folder))) == 1
        assert "out of luck" in report_of([folder])


class TestContent:
    def test_any_number_of_objectives(self, tmp_path):
        folder = store(tmp_path)
        for objectives in ({"nll_iw": "min"}, {"kl": "max"}, {"nll_iw": "min", "mi": "max", "seconds": "min"}):
            page = report_of([folder], objectives)
            assert [f'id="s0-front-{name}"' in page for name in ("mi", "seconds")] == [
                "mi" in objectives,
                "seconds" in objectives,
            ]

    def test_curves_of_few_configurations_are_drawn(self, tmp_path):
        # All configurations are on the front.
        search = SEARCH | {"configurations": 30, "seeds": 1}
        content = read_content(store(tmp_path, lambda run: measured(run) | {"nll_iw": 40.0, "mi": 1.0}, search=search))
        assert sum(row.member for row in content.configurations) == 31
        assert len(content.curves) == MOST_CURVES
        assert {curve.arm for curve in content.curves} == {"vae", "beta"}

    def test_arms_without_z_are_lines(self, tmp_path):
        def measure(run):
            return measured(run) | ({"nll_iw": 39.0, "mi": None} if run.arm == "lm" else {})

        content = read_content(store(tmp_path, measure, arms={"vae": [], "lm": ["lstm_lm"]}))
        for figure in (
            front_figure(content, arm_styles(content.arms), "mi", "nll_iw"),
            rate_figure(content, arm_styles(content.arms)),
        ):
            (line,) = (trace for trace in figure.data if trace.meta == "lm")
            assert list(line.y) == [39.0, 39.0]

    def test_costs(self, tmp_path):
        content = read_content(store(tmp_path))
        runs = len(content.rows)
        assert sum(cost.runs for cost in content.costs) == runs
        assert sum(cost.cost.seconds for cost in content.costs) == 10.0 * runs

    def test_endings_are_counted_by_kind(self, tmp_path):
        def measure(run):
            failure = {"status": "failed", "stop_reason": f"line {run.configuration}", "error_class": "OSError"}
            return failure if run.arm == "beta" else measured(run)

        (ending,) = read_content(store(tmp_path, measure)).endings
        assert (ending.arm, ending.status, ending.reason, ending.runs) == ("beta", "failed", "OSError", 6)

    @pytest.mark.slow
    def test_a_thousand_runs_would_take_less_than_3_mb(self, tmp_path):
        space = {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
        sizes = {}
        for configurations in (2, 22):
            search = SEARCH | {"configurations": configurations, "seeds": 3}
            folder = store(tmp_path / str(configurations), search=search, space=space)
            sizes[2 * configurations * 3] = len(report_of([folder]).encode())
        (few, many), (small, large) = sizes, sizes.values()
        assert large + (1000 - many) * (large - small) / (many - few) < 3 * 2**20


class TestJoint:
    def test_runs_of_both_sweeps(self, tmp_path):
        contents = [read_content(store(tmp_path, name=name)) for name in ("a", "b")]
        joint = join(contents)
        assert joint.content is not None
        assert len(joint.content.configurations) == sum(len(content.configurations) for content in contents)
        assert joint.differences == {}

    def test_different_data_are_not_compared(self, tmp_path):
        trial = TINY_TRIAL | {"data": TINY_DATA | {"length": 6}}
        first, second = read_content(store(tmp_path, name="a")), read_content(store(tmp_path, name="b", trial=trial))
        other = replace(second, provenance=replace(second.provenance, fingerprint="1" * 64))
        joint = join([first, other])
        assert joint.content is None
        assert len(joint.reasons) == 1
        assert joint.differences["trial.data.length"] == ["5", "6"]

    def test_other_measurements_are_not_compared(self, tmp_path):
        trial = TINY_TRIAL | {"evaluation": {"iw_samples": 20}}
        joint = join([read_content(store(tmp_path, name="a")), read_content(store(tmp_path, name="b", trial=trial))])
        assert joint.content is None
        assert len(joint.reasons) == 1
        assert joint.differences["trial.evaluation.iw_samples"] == ["10", "20"]


def test_from_python(tmp_path):
    folder = store(tmp_path)
    results = read_results(Path(folder.results) / folder.sweep)
    assert results.report(tmp_path / "page.html").stat().st_size > 2**20
    with pytest.raises(ConfigError):
        results.report(tmp_path / "other.html", {"nil": "min"})
