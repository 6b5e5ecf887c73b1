"""`lagvae replay` on stored curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import check_rejected, files_below
from worlds import play, spec_of

from sweeps.storage.table import ResultsFolder

GRID = {
    "arms": {"beta": [{"kind": "beta_vae", "beta": {"choices": [1.0, 0.5]}}], "vae": []},
    "trial": {"training": {"epochs": 4}},
    "search": {"sampler": "grid", "seeds": 4, "seed": 0},
}


def write_results(results: Path, seconds: float = 3600.0, **changes: object) -> ResultsFolder:
    """Write a sweep whose second value of beta is clearly worse, and whose runs take `seconds`."""
    spec = spec_of(**GRID | changes)
    folder = ResultsFolder(str(results), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec.source.encode())

    def answer(run):
        worse = 50.0 * run.configuration
        return {
            "nll_iw": 90.0 + worse + run.seed,
            "au": 1,
            "encoder_steps": 40,
            "decoder_steps": 40,
            "seconds": seconds,
        }

    for row in play(spec, answer=answer)[0]:
        folder.write_run(row)
        epochs = [
            {
                "epoch": n,
                "step": 10 * n,
                "encoder_steps": 10 * n,
                "decoder_steps": 10 * n,
                "skipped_batches": 0,
                "seconds": 0.01 * n,
                "valid_nll_elbo": row["nll_iw"],
                "valid_au": 1,
            }
            for n in range(1, 5)
        ]
        folder.write_curve(row, epochs)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return write_results(tmp_path / "results")


class TestReplay:
    def test_json(self, call, folder):
        found = json.loads(call("replay", "tiny", "--stopping", "halving", "--scope", "all", "--json").stdout)
        assert found["stopping"] == {"rule": "halving", "confidence": 0.9, "scope": "all", "grace": "auto"}
        assert (found["runs"], found["stopped"], found["stopped_before"]) == (12, len(found["stops"]), 0)
        assert found["gradient_evaluations"] == 12 * 80
        assert found["hours"] == 12
        saved = sum(stop["gradient_evaluations_saved"] for stop in found["stops"])
        assert found["gradient_evaluations_saved"] == saved
        assert found["gradient_evaluations_saved_share"] == saved / 960
        assert [arm["arm"] for arm in found["arms"]] == ["beta", "vae"]
        assert found["hypervolume_share"] == 1

    def test_text(self, call, folder):
        ended = call("replay", "tiny")
        found = json.loads(call("replay", "tiny", "--json").stdout)
        assert found["stopped"] > 0
        assert f"{found['stopped']} of 12 runs" in ended.stdout
        assert f"{found['gradient_evaluations_saved']:,} of 960 gradient evaluations" in ended.stdout

    @pytest.mark.parametrize(("seconds", "total"), [(3600.0, "12 h 00 min"), (0.05, "0.6 s")])
    def test_times_of_small_sweeps_are_not_rounded_to_nothing(self, call, tmp_path, seconds, total):
        write_results(tmp_path / "results", seconds)
        lines = call("replay", "tiny", "--grace", "0").stdout.splitlines()
        (saved,) = (line for line in lines if line.startswith("saved: "))
        assert f" of {total} (" in saved
        assert ", 0 s of" not in saved

    def test_the_defaults_are_those_of_the_sweep_file(self, call, tmp_path):
        write_results(tmp_path / "results", stopping={"rule": "halving", "grace": 2})
        found = json.loads(call("replay", "tiny", "--scope", "all", "--json").stdout)
        assert found["stopping"] == {"rule": "halving", "confidence": 0.9, "scope": "all", "grace": 2}

    def test_nothing_is_written(self, call, folder):
        before = files_below(folder.local_path)
        call("replay", "tiny")
        assert files_below(folder.local_path) == before

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--stopping", "asha"), ("--confidence", "1"), ("--scope", "sweep"), ("--grace", "-1")],
    )
    def test_invalid_options(self, call, folder, option, value):
        check_rejected(call("replay", "tiny", option, value), f"{option}: ")

    def test_objectives_that_are_not_validated(self, call, tmp_path):
        write_results(tmp_path / "results", objectives={"nll_iw": "min", "seconds": "min"})
        check_rejected(call("replay", "tiny"), "objectives.seconds: ", "valid_nll_elbo")

    def test_without_curves(self, call, folder):
        for name in folder.files("curves"):
            folder.remove(name)
        assert call("replay", "tiny").stdout == "no ended run has a stored curve\n"
        assert json.loads(call("replay", "tiny", "--json").stdout)["runs"] == 0

    def test_an_unknown_sweep(self, call, folder):
        check_rejected(call("replay", "tni"), "SWEEP: ", "tiny")
