"""`lagvae trial --watch posterior_means --out FOLDER`, and `lagvae results curves`."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import TINY_DATA, InterruptionError, run, tiny
from worlds import sweep

from lagvae_core.errors import ConfigError
from lagvae_core.training.checkpoint import FileCheckpoint
from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.cli import app as cli
from sweeps.cli.watch import SNAPSHOT_SCHEMA, TRAJECTORY_SCHEMA, PosteriorMeanWriter, parse_watch
from sweeps.storage.table import ResultsFolder

TRIAL = {
    "data": TINY_DATA,
    "model": {"latent_dim": 1, "hidden": 8, "embedding": 8},
    "training": {"epochs": 2, "batch_size": 16},
    "evaluation": {"iw_samples": 5},
}
WATCH = "posterior_means:examples=5,every=2,updates=3"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`lagvae ARGUMENTS` in a folder of its own: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TRIAL))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lagvae", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return (caught.value.code or 0, *capsys.readouterr())

    return call


class TestWatch:
    def test_tables_and_pictures(self, call, tmp_path):
        code, out, err = call("trial", "trial.yaml", "--watch", WATCH, "--out", "means", "--json")
        assert code == 0
        folder = tmp_path / "means"
        names = ("posterior_means.parquet", "posterior_means.png")
        ways = ("posterior_means_way.parquet", "posterior_means_way.png")
        assert sorted(path.name for path in folder.iterdir()) == sorted([*names, *ways])
        snapshots = pq.read_table(folder / names[0])
        assert snapshots.schema.equals(SNAPSHOT_SCHEMA)
        assert snapshots["step"].to_pylist() == [step for step in (0, 2, 4, 8) for _ in range(5)]
        assert snapshots["epoch"].to_pylist() == [epoch for epoch in (0, 1, 1, 2) for _ in range(5)]
        assert set(snapshots["run_id"].to_pylist()) == {json.loads(out)["run_id"]}
        trajectory = pq.read_table(folder / ways[0])
        assert trajectory.schema.equals(TRAJECTORY_SCHEMA)
        assert trajectory["step"].to_pylist() == [0, 1, 2, 3]
        assert "drawn: means/posterior_means.png" in err

    def test_what_cannot_be_meant_is_refused_before_anything_is_written(self, call, tmp_path):
        for arguments, message in (
            (["--watch", "posterior_means"], "--out must be given with --watch"),
            (["--out", "means"], "--watch must be given with --out"),
            (["--watch", "loss", "--out", "means"], "--watch must be posterior_means, the one thing"),
            (["--watch", "posterior_means:every=0", "--out", "means"], "every must be greater than or equal to 1"),
            (["--watch", "posterior_means:evry=1", "--out", "means"], "Did you mean every?"),
        ):
            code, out, err = call("trial", "trial.yaml", *arguments)
            assert (code, out) == (2, "")
            assert message in err
        assert [path.name for path in tmp_path.iterdir()] == ["trial.yaml"]

    def test_the_folder_of_another_run_is_refused_and_left_alone(self, tmp_path):
        config = tiny(model={"latent_dim": 1})
        run(config, callback=PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "one"))
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ConfigError, match="must be that of run two, and it holds"):
            PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "two")
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_file_of_another_kind_is_refused(self, tmp_path):
        pq.write_table(pa.table({"x": [1]}), tmp_path / "posterior_means.parquet")
        with pytest.raises(ConfigError, match="must be free of files of that name"):
            PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "one")
        (tmp_path / "posterior_means.parquet").write_bytes(b"PAR1")
        with pytest.raises(ConfigError, match="must be free of files of that name"):
            PosteriorMeanWriter(parse_watch(WATCH), tmp_path, "one")

    def test_an_interrupted_run_ends_with_the_tables_of_a_whole_one(self, tmp_path):
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

    def test_two_latents_have_a_row_of_panels_each(self, call, tmp_path):
        watch = "posterior_means:examples=2,every=100,updates=1,panels=[0,8]"
        code, *_ = call("trial", "trial.yaml", "--set", "model.latent_dim=2", "--watch", watch, "--out", "means")
        assert code == 0
        pictures = sorted(path.name for path in (tmp_path / "means").glob("*.png"))
        assert pictures == ["posterior_means.png", "posterior_means_way_0.png", "posterior_means_way_1.png"]


class TestCurves:
    @pytest.fixture
    def stored(self, tmp_path):
        folder = ResultsFolder(str(tmp_path / "results"), "tiny")
        folder.prepare()
        folder.write("spec.yaml", yaml.safe_dump(sweep(), sort_keys=False).encode())
        for arm, seed in (("beta", 0), ("vae", 0), ("vae", 1)):
            run = {"sweep": "tiny", "arm": arm, "run_id": f"{arm}-{seed}", "config_id": arm, "seed": seed}
            empty = dict.fromkeys(column.name for column in CURVE_COLUMNS)
            rows = [empty | {"epoch": e, "step": 4 * e, "valid_kl": e + seed, "valid_mi": 0.5} for e in (1, 2)]
            folder.write_curve(run, rows)

    def test_a_line_an_epoch_in_the_order_of_the_arms(self, call, stored):
        code, out, _ = call("results", "curves", "tiny")
        assert code == 0
        lines = [line.split() for line in out.splitlines()]
        assert lines[0] == ["arm", "epoch", "step", "runs", "valid_kl", "valid_mi", "valid_kl_agg", "config_id"]
        assert lines[1] == ["vae", "1", "4", "2", "1.500", "±", "0.500", "0.500", "±", "0.000", "vae"]
        assert [line[0] for line in lines[1:]] == ["vae", "vae", "beta", "beta"]

    def test_json_and_picture(self, call, stored, tmp_path):
        code, out, _ = call(
            "results", "curves", "tiny", "--json", "--columns", "valid_kl", "--x", "step", "--png", "c.png"
        )
        assert code == 0
        assert len(json.loads(out)) == 6
        assert (tmp_path / "c.png").stat().st_size > 5_000

    def test_some_arms_alone(self, call, stored):
        _, out, _ = call("results", "curves", "tiny", "--json", "--arms", "beta")
        assert {row["arm"] for row in json.loads(out)} == {"beta"}

    def test_what_is_unknown_is_refused_together(self, call, stored):
        arguments = ("--columns", "nll_iw,valid_kl", "--x", "time", "--arms", "vae,lagging")
        code, out, err = call("results", "curves", "tiny", *arguments)
        assert (code, out) == (2, "")
        assert "3 mistakes" in err
        assert "--arms must be arms of tiny that have trained, but is 'lagging'" in err
        assert "--columns must be columns of the curves, but is 'nll_iw'" in err
        assert "--x must be epoch or step, but is 'time'" in err


def test_the_curves_of_a_trial_hold_the_aggregate_kl():
    for epoch in run(tiny()).curve:
        assert epoch["valid_kl_agg"] == epoch["valid_kl"] - epoch["valid_mi"]
