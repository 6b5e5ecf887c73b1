"""`lagvae results diff`: what differs between two stored runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import check_rejected, files_below
from worlds import TINY_TRIAL, Row, play, spec_of

from lagvae_core.config.trial import parse_trial
from sweeps.analysis.diff import TIMES, diff_runs
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder


def config(*strategies: Any, seed: int = 0, **training: Any) -> str:
    trial = TINY_TRIAL | {"strategies": list(strategies), "seed": seed}
    return parse_trial(trial | {"training": TINY_TRIAL["training"] | training}).model_dump_json()


def row(**values: Any) -> Row:
    identity = {"sweep": "tiny", "arm": "vae", "run_id": f"{'a' * 12}-0", "config_id": "a" * 12, "seed": 0}
    measured = {"status": "finished", "nll_iw": 40.0, "au": 2, "mean_variance": [0.5, 1.0], "threads": 1}
    return {**dict.fromkeys(runs_schema().names), **identity, **measured, "config": config(), **values}


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    spec = spec_of()
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec.source.encode())
    for stored in play(spec)[0]:
        folder.write_run(stored)
    return folder


class TestDiffRuns:
    def test_equal_runs(self):
        diff = diff_runs(row(), row())
        assert diff.only_times
        assert not diff.times

    def test_two_attempts_differ_in_times_only(self):
        first = row(**dict.fromkeys(TIMES))
        diff = diff_runs(first, row(seconds=3.0, attempt=2, history="[]", peak_memory_bytes=5))
        assert diff.only_times
        assert set(diff.times) == {"seconds", "attempt", "history", "peak_memory_bytes"}

    def test_fields_of_the_configuration_have_dotted_keys(self):
        changed = config({"kind": "beta_vae", "beta": 0.5}, seed=1, epochs=5)
        diff = diff_runs(row(), row(config=changed, **{"beta_vae.beta": 0.5}))
        values = {name: (d.first, d.second) for name, d in diff.configuration.items()}
        assert values["training.epochs"] == (2, 5)
        assert values["beta_vae.beta"] == (None, 0.5)
        assert values["strategies"] == ([], ["beta_vae"])
        assert all(name in ("training.epochs", "strategies") or name.startswith("beta_vae.") for name in values)
        assert not diff.metrics

    def test_each_column_is_in_its_section(self):
        plugins = json.dumps({"my.py": "0" * 64})
        changes = {"torch_version": "9", "threads": 2, "git_commit": "f" * 40, "data_fingerprint": "1" * 64}
        diff = diff_runs(row(), row(plugins=plugins, encoder_steps=3, seed=1, **changes))
        sections = {name: list(section) for name, section in diff.sections.items() if section}
        assert sections == {
            "run": ["seed"],
            "data": ["data_fingerprint"],
            "plugins": ["my.py"],
            "code": ["git_commit"],
            "environment": ["torch_version", "threads"],
            "metrics": ["encoder_steps"],
        }

    def test_every_column_is_compared(self):
        """A row of other values differs in each column, except for those that others determine."""
        other = dict.fromkeys(runs_schema().names, "other")
        diff = diff_runs(row(plugins=None), row() | other | {"config": config(epochs=3), "plugins": None})
        compared = {name for section in (*diff.sections.values(), diff.times) for name in section}
        left_out = set(runs_schema().names) - compared
        searched = {name for name in left_out if "." in name}
        assert left_out - searched == {
            "sweep",
            *("run_id", "configuration", "traceback", "warnings", "parameters", "config", "spec_hash", "plugins"),
        }

    def test_differences_of_metrics(self):
        diff = diff_runs(row(kl=0.0), row(nll_iw=39.0, kl=1.0, au=None, mean_variance=[0.25, 1.125]))
        numbers = {name: (d.absolute, d.relative) for name, d in diff.metrics.items()}
        assert numbers == {
            "nll_iw": (-1.0, -0.025),
            "kl": (1.0, None),
            "au": (None, None),
            "mean_variance": (-0.25, None),
        }

    def test_only_the_machine_explains_different_metrics_of_the_same_run(self):
        assert diff_runs(row(), row(nll_iw=1.0, host="b")).only_measured
        assert not diff_runs(row(), row(nll_iw=1.0, seed=1)).only_measured

    @pytest.mark.parametrize("stored", ["{}", '{"strategies": 3}', '{"strategies": [1, {"kind": [1]}]}', None])
    def test_a_configuration_that_lagvae_did_not_write(self, stored):
        assert not diff_runs(row(config=stored), row(config=stored)).configuration
        assert diff_runs(row(config=stored), row()).configuration


class TestCommand:
    def test_json(self, call, folder):
        first, second = (r["run_id"] for r in folder.runs() if r["arm"] == "vae")
        diff = json.loads(call("results", "diff", first, second, "--json").stdout)
        assert [run["run_id"] for run in diff["runs"]] == [first, second]
        assert diff["run"] == {"seed": [0, 1]}
        assert diff["metrics"]["nll_iw"]["difference"] == 1.0
        assert not diff["only_times"]
        assert set(diff["times"]) == {"started_at", "ended_at"}

    def test_text(self, call, folder):
        first, second = (r["run_id"] for r in folder.runs() if r["arm"] == "vae")
        lines = call("results", "diff", first, second).stdout.splitlines()
        assert lines[:2] == [f"A: tiny/{first} (vae), finished", f"B: tiny/{second} (vae), finished"]
        assert [line.split() for line in lines if line.startswith(("seed", "nll_iw"))] == [
            ["seed", "0", "1"],
            [
                "nll_iw",
                *(f"{r['nll_iw']:.6g}" for r in folder.runs() if r["arm"] == "vae"),
                "+1",
                lines[-1].split()[-1],
            ],
        ]

    def test_a_run_that_several_sweeps_have(self, call, folder, tmp_path):
        copy = ResultsFolder(folder.results, "copy")
        (stored, *_) = folder.runs()
        copy.prepare()
        copy.write_run(stored | {"seconds": 4.0})
        run_id = stored["run_id"]
        check_rejected(call("results", "diff", run_id, f"copy/{run_id}"), "RUN", f"tiny/{run_id}", f"copy/{run_id}")
        ended = call("results", "diff", f"tiny/{run_id}", f"copy/{run_id}", "--json")
        diff = json.loads(ended.stdout)
        assert diff["only_times"]
        assert list(diff["times"]) == ["seconds"]
        text = call("results", "diff", f"tiny/{run_id}", f"copy/{run_id}").stdout
        assert text.splitlines()[-1] == "nothing differs but times"

    def test_a_run_and_itself(self, call, folder):
        run_id = folder.runs()[0]["run_id"]
        assert call("results", "diff", run_id, run_id).stdout.splitlines()[-1] == "nothing differs"

    @pytest.mark.parametrize("name", ["x", "../tiny", f"{'0' * 12}-0", f"other/{'0' * 12}-0", "tiny/"])
    def test_unknown_runs(self, call, folder, tmp_path, name):
        before = files_below(tmp_path)
        check_rejected(call("results", "diff", folder.runs()[0]["run_id"], name), name.rpartition("/")[0])
        assert files_below(tmp_path) == before
