"""`lagvae trial --watch posterior_means --out FOLDER`, and `lagvae results curves`."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import check_rejected
from helpers import TINY_DATA, InterruptionError, rejects, run, tiny
from worlds import sweep

from lagvae_core.training.checkpoint import FileCheckpoint
from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.cli.curves import print_curves
from sweeps.cli.trial_watch import SNAPSHOT_SCHEMA, TRAJECTORY_SCHEMA, PosteriorMeanWriter, parse_watch
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder

TRIAL = {
    "data": TINY_DATA,
    "model": {"latent_dim": 1, "hidden": 8, "embedding": 8},
    "training": {"epochs": 2, "batch_size": 16},
    "evaluation": {"iw_samples": 5},
}
WATCH = "posterior_means:examples=5,every=2,updates=3"


@pytest.fixture
def trial_file(tmp_path):
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TRIAL))
    return "trial.yaml"


def test_steps_are_printed_with_their_loss_and_gradients(call, trial_file):
    ended = call("trial", trial_file, "--watch", "steps:every=3")
    plain = call("trial", trial_file, "--json")
    assert ended.returncode == 0
    lines = [line for line in ended.stderr.splitlines() if ": loss " in line]
    steps = json.loads(plain.stdout)["cost"]["decoder_steps"]
    assert [re.search(r"step (\d+)", line)[1] for line in lines] == [str(n) for n in range(3, steps + 1, 3)]
    for line in lines:
        loss, rec, kl = (float(re.search(rf"{name} (-?[\d.]+)", line)[1]) for name in ("loss", "rec", "kl"))
        assert loss == pytest.approx(rec + kl, abs=2e-4)
        assert "encoder" in line.partition("gradients")[2]


class TestWatch:
    def test_it_writes_tables_and_figures(self, call, trial_file, tmp_path):
        ended = call("trial", trial_file, "--watch", WATCH, "--out", "means", "--json")
        assert ended.returncode == 0
        folder = tmp_path / "means"
        names = ("posterior_means.parquet", "posterior_means.png")
        trajectories = ("posterior_means_way.parquet", "posterior_means_way.png")
        assert sorted(path.name for path in folder.iterdir()) == sorted([*names, *trajectories])
        snapshots = pq.read_table(folder / names[0])
        assert snapshots.schema.equals(SNAPSHOT_SCHEMA)
        assert snapshots["step"].to_pylist() == [step for step in (0, 2, 4, 8) for _ in range(5)]
        assert snapshots["epoch"].to_pylist() == [epoch for epoch in (0, 1, 1, 2) for _ in range(5)]
        assert set(snapshots["run_id"].to_pylist()) == {json.loads(ended.stdout)["run_id"]}
        trajectory = pq.read_table(folder / trajectories[0])
        assert trajectory.schema.equals(TRAJECTORY_SCHEMA)
        assert trajectory["step"].to_pylist() == [0, 1, 2, 3]
        assert "figure: means/posterior_means.png" in ended.stderr

    @pytest.mark.parametrize(
        ("arguments", "fragments"),
        [
            (["--watch", "posterior_means"], ["--out: ", "--watch"]),
            (["--out", "means"], ["--watch: ", "--out"]),
            (["--watch", "loss", "--out", "means"], ["--watch: ", "posterior_means", "'loss'"]),
            (["--watch", "steps", "--out", "means"], ["--out: ", "steps"]),
            (["--watch", "steps:every=0"], ["--watch: ", "every: ", "0"]),
            (["--watch", "posterior_means:every=0", "--out", "means"], ["--watch: ", "every: ", "0"]),
            (["--watch", "posterior_means:evry=1", "--out", "means"], ["--watch: ", "evry: ", "Did you mean every?"]),
        ],
    )
    def test_invalid_options_are_rejected_before_anything_is_written(
        self, call, trial_file, tmp_path, arguments, fragments
    ):
        check_rejected(call("trial", trial_file, *arguments), *fragments)
        assert [path.name for path in tmp_path.iterdir()] == [trial_file]

    def test_the_folder_of_another_run_is_rejected_and_not_changed(self, tmp_path):
        config = tiny(model={"latent_dim": 1})
        run(config, callback=PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "one"))
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with rejects("--out") as issues:
            PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "two")
        assert issues[0].value == str(tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_file_of_another_format_is_rejected(self, tmp_path):
        file = tmp_path / "posterior_means.parquet"
        pq.write_table(pa.table({"x": [1]}), file)
        with rejects("--out") as issues:
            PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "one")
        assert issues[0].value == str(tmp_path)
        assert file.name in issues[0].message
        file.write_bytes(b"PAR1")
        with rejects("--out") as issues:
            PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "one")
        assert issues[0].value == str(tmp_path)

    def test_an_interrupted_run_has_the_tables_of_an_uninterrupted_one(self, tmp_path):
        config = tiny({"kind": "aggressive", "budget": 2}, model={"latent_dim": 1})
        run_id = config.run_id(run(config).data_fingerprint)
        run(config, callback=PosteriorMeanWriter(parse_watch(WATCH), tmp_path / "whole", run_id))
        seen = set()

        def fail_once(progress):
            if progress.phase == "train" and progress.done % 3 == 0 and progress not in seen:
                seen.add(progress)
                raise InterruptionError

        while True:
            folder = PosteriorMeanWriter(parse_watch(WATCH), tmp_path / "parts", run_id)
            store = FileCheckpoint(tmp_path / "checkpoint")
            try:
                run(config, callback=folder, checkpoint=store, checkpoint_seconds=0.0, progress=fail_once)
                break
            except InterruptionError:
                continue
        assert len(seen) == 2
        for name in ("posterior_means.parquet", "posterior_means_way.parquet"):
            whole, parts = (pq.read_table(tmp_path / part / name) for part in ("whole", "parts"))
            assert parts.equals(whole)
            assert len(whole) > 3

    def test_two_latent_dimensions_have_a_trajectory_figure_each(self, call, trial_file, tmp_path):
        watch = "posterior_means:examples=2,every=100,updates=1,panels=[0,8]"
        ended = call("trial", trial_file, "--set", "model.latent_dim=2", "--watch", watch, "--out", "means")
        assert ended.returncode == 0
        figures = sorted(path.name for path in (tmp_path / "means").glob("*.png"))
        assert figures == ["posterior_means.png", "posterior_means_way_0.png", "posterior_means_way_1.png"]


IDS = {"vae": "a" * 12, "beta": "b" * 12}
"""Ids of the configurations of two arms."""


class TestCurves:
    @pytest.fixture
    def stored(self, tmp_path):
        folder = ResultsFolder(str(tmp_path / "results"), "tiny")
        folder.prepare()
        folder.write("spec.yaml", yaml.safe_dump(sweep(), sort_keys=False).encode())
        for arm, seed in (("beta", 0), ("vae", 0), ("vae", 1)):
            config_id = IDS[arm]
            run = {"sweep": "tiny", "arm": arm, "run_id": f"{config_id}-{seed}", "config_id": config_id, "seed": seed}
            empty = dict.fromkeys(column.name for column in CURVE_COLUMNS)
            rows = [empty | {"epoch": e, "step": 4 * e, "valid_kl": e + seed, "valid_mi": 0.5} for e in (1, 2)]
            folder.write_curve(run, rows)

    def test_one_line_per_epoch_in_the_order_of_the_arms(self, call, stored):
        ended = call("results", "curves", "tiny")
        assert ended.returncode == 0
        lines = [line.split() for line in ended.stdout.splitlines()]
        assert lines[0] == ["arm", "epoch", "step", "runs", "valid_kl", "valid_mi", "valid_kl_agg", "config_id"]
        assert lines[1] == ["vae", "1", "4", "2", "1.500", "±", "0.500", "0.500", "±", "0.000", IDS["vae"]]
        assert [line[0] for line in lines[1:]] == ["vae", "vae", "beta", "beta"]

    def test_json_and_figure(self, call, stored, tmp_path):
        options = ["--json", "--columns", "valid_kl", "--x", "step", "--png", "c.png"]
        ended = call("results", "curves", "tiny", *options)
        assert ended.returncode == 0
        assert len(json.loads(ended.stdout)) == 6
        assert (tmp_path / "c.png").stat().st_size > 5_000

    def test_unfinished_curves_are_labelled(self, call, stored, tmp_path):
        folder = ResultsFolder(str(tmp_path / "results"), "tiny")
        for seed, status in ((0, "finished"), (1, "running")):
            config_id = IDS["vae"]
            run = {"sweep": "tiny", "arm": "vae", "run_id": f"{config_id}-{seed}", "config_id": config_id, "seed": seed}
            folder.write_run({**dict.fromkeys(runs_schema().names), **run, "attempt": 1, "status": status})
        heading, *lines = call("results", "curves", "tiny").stdout.splitlines()
        assert "unfinished" in heading
        marks = {line.split()[0]: "1 running" in line for line in lines if line.startswith(("vae", "beta"))}
        assert marks == {"vae": True, "beta": False}
        rows = json.loads(call("results", "curves", "tiny", "--json").stdout)
        assert {(row["run_id"][-1], row["status"]) for row in rows if row["arm"] == "vae"} == {
            ("0", "finished"),
            ("1", "running"),
        }

    def test_selected_arms(self, call, stored):
        rows = json.loads(call("results", "curves", "tiny", "--json", "--arms", "beta").stdout)
        assert {row["arm"] for row in rows} == {"beta"}

    def test_all_invalid_options_are_reported_at_once(self, stored, tmp_path):
        folder = ResultsFolder(str(tmp_path / "results"), "tiny")
        with rejects("--columns", "--x", "--arms") as issues:
            print_curves(folder, ["nll_iw", "valid_kl"], ["vae", "lagging"], as_json=False, x="time", png=None)
        assert [issue.value for issue in issues] == ["nll_iw", "time", "lagging"]


def test_the_curves_of_a_trial_contain_the_aggregate_kl():
    for epoch in run(tiny()).curve:
        assert epoch["valid_kl_agg"] == epoch["valid_kl"] - epoch["valid_mi"]
