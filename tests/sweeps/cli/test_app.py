"""The `lagvae` command: output streams, exit codes, and rejected input that changes nothing."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import check_rejected, files_below
from helpers import tiny_image_file
from processes import lagvae
from worlds import TINY_TRIAL, play, sweep

from cluster.processes import RayLost
from lagvae_core import TrialConfig, train
from lagvae_core.config.trial import parse_trial
from lagvae_core.data.text.tokens import _fingerprint
from lagvae_core.errors import ConfigError, Interrupted, LagvaeError, StoreError, ValidationIssue
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES
from sweeps.execution.resources import NodeCapacity
from sweeps.spec.arm_syntax import parse_arm_text
from sweeps.spec.sweep import parse_spec
from sweeps.storage.table import ResultsFolder

MODULES_WITH_ERRORS = (
    "cluster.access",
    "cluster.connection",
    "cluster.job_package",
    "cluster.jobs",
    "cluster.processes",
    "sweeps.storage.lease",
)
"""The modules that define a subclass of LagvaeError, besides `lagvae_core.errors`."""


@pytest.fixture
def sweep_file(tmp_path) -> str:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(), sort_keys=False))
    return "tiny.yaml"


@pytest.fixture
def trial_file(tmp_path) -> str:
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TINY_TRIAL))
    return "trial.yaml"


@pytest.fixture
def stored(tiny_sweep) -> list[str]:
    """The arguments `SWEEP --results DIR` of a finished sweep."""
    return ["tiny", "--results", str(tiny_sweep.here / "results")]


def set_options(values: dict[str, Any]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def store_record(record: dict[str, Any]) -> None:
    """Store the record of a trial as a run of the sweep `s` in `results`."""
    folder = ResultsFolder("results", "s")
    folder.prepare()
    folder.write_run(
        {
            **{name: record[name] for name in ("run_id", "config_id", "data_fingerprint", "status")},
            "sweep": "s",
            "arm": "vae",
            "configuration": 0,
            "seed": 0,
            "attempt": 1,
            "device": "cpu",
            "threads": 1,
            "config": json.dumps(record["config"]),
            "nll_iw": record["metrics"]["nll_iw"],
        }
    )


def write_corpus(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir()
    for name in ("train", "valid", "test"):
        content = files.get(name, "a b c\nb c d\nc d a\n" * 6)
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


class TestTrial:
    def test_json_goes_to_stdout_and_progress_to_stderr(self, call, trial_file):
        ended = call("trial", trial_file, "--json", "--arm", "beta_vae:beta=0.5")
        assert ended.returncode == 0, ended.stderr
        (line,) = ended.stdout.splitlines()
        record = json.loads(line)
        assert record["status"] == "finished"
        assert record["config"]["strategies"] == [{"kind": "beta_vae", "beta": 0.5}]
        assert record["metrics"]["iw_k"] == 10
        assert [epoch["epoch"] for epoch in record["curve"]] == [1, 2]
        assert "epoch   2/2" in ended.stderr
        assert "data: 64/32/32" in ended.stderr

    def test_without_json_it_prints_a_table(self, call, trial_file):
        ended = call("trial", trial_file)
        assert ended.returncode == 0
        assert "nll_iw" in ended.stdout
        assert "epoch" in ended.stderr

    def test_unmeasured_columns_are_dashes(self, call, trial_file):
        ended = call("trial", trial_file, "--arm", "iaf_posterior")
        assert ended.returncode == 0
        assert "  mi -  au " in ended.stderr

    def test_a_repeated_trial_has_equal_metrics(self, call, trial_file):
        first, second = (json.loads(call("trial", trial_file, "--json").stdout) for _ in range(2))
        assert first["metrics"] == second["metrics"]

    def test_set_overrides_the_file(self, call, trial_file):
        ended = call("trial", trial_file, "--json", "--set", "training.epochs=1", "--set", "seed=3")
        record = json.loads(ended.stdout)
        assert len(record["curve"]) == 1
        assert record["config"]["seed"] == 3

    def test_images_need_only_kind_and_path(self, call):
        values = {"data.kind": "images", "data.path": tiny_image_file(), "data.limit": 20}
        values |= {"model.size": "reduced", "training.epochs": 1, "evaluation.iw_samples": 2}
        ended = call("trial", *set_options(values), "--json")
        assert ended.returncode == 0, ended.stderr
        record = json.loads(ended.stdout)
        assert record["config"]["model"]["kind"] == "resnet_pixelcnn"
        assert record["config"]["training"]["optimiser"] == "adam"
        assert record["metrics"]["bits_per_dim"] > 0
        assert record["metrics"]["ppl"] is None
        assert "data: 20/32/32 train/valid/test examples of 6 x 6 pixels, mean grey 0.2" in ended.stderr

    def test_a_damaged_image_file_is_rejected(self, call, tmp_path):
        (tmp_path / "images.npz").write_bytes(b"")
        check_rejected(call("trial", *set_options({"data.kind": "images", "data.path": "images.npz"})), "images.npz")

    def test_a_diverged_trial_exits_with_1_and_prints_valid_json(self, call, trial_file):
        ended = call("trial", trial_file, "--json", "--arm", "encoder_lr:multiplier=1.0e30")
        assert ended.returncode == 1
        record = json.loads(ended.stdout, parse_constant=pytest.fail)
        assert record["status"] == "diverged"
        assert record["metrics"] == {}

    def test_labels_and_dropped_lines_of_texts_are_reported(self, call, tmp_path):
        train = "pos\ta b c\nneg\tb c\n\npos\ta b c d e f g\n" * 5
        write_corpus(tmp_path / "corpus", train=train, valid="pos\ta b\nneg\tc x\n" * 3, test="neg\ta\npos\tb\n" * 3)
        values = {"data.kind": "text", "data.path": "corpus", "data.max_length": 6, "training.epochs": 1}
        values |= {"model.hidden": 8, "model.embedding": 8, "model.latent_dim": 2, "evaluation.iw_samples": 5}
        ended = call("trial", "--json", *set_options(values))
        assert ended.returncode == 0, ended.stderr
        assert "data: 10/6/6 train/valid/test" in ended.stderr
        assert "5 empty lines dropped" in ended.stderr
        assert "5 long lines dropped" in ended.stderr
        assert "labels neg pos" in ended.stderr
        report = json.loads(ended.stdout)["data"]
        assert report["train_dropped_empty"] == report["train_dropped_long"] == 5

    def test_a_killed_trial_resumes_from_its_checkpoint(self, call, tmp_path, trial_file):
        kill_after_first_epoch = """
import os, signal
from lagvae_core.training import trial as trainable
trainable.train.__kwdefaults__["checkpoint_seconds"] = 0.0
from sweeps.cli.trial import TrialProgress
def on_epoch(self, record):
    if record.epoch == 1:
        os.kill(0, signal.SIGKILL)
TrialProgress.on_epoch = on_epoch
"""
        checkpoint = ["--checkpoint", "kept/state.pt"]
        killed = lagvae("trial", trial_file, *checkpoint, cwd=tmp_path, before=kill_after_first_epoch)
        assert killed.returncode == -signal.SIGKILL
        assert (tmp_path / "kept/state.pt").exists()
        resumed = call("trial", trial_file, "--json", *checkpoint)
        assert resumed.returncode == 0, resumed.stderr
        assert "epoch   1/2" not in resumed.stderr, "the first epoch was trained again"
        assert "epoch   2/2" in resumed.stderr
        uninterrupted = call("trial", trial_file, "--json")
        for part in ("metrics", "config", "run_id"):
            assert json.loads(resumed.stdout)[part] == json.loads(uninterrupted.stdout)[part]


def test_python_m_sweeps_is_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweeps", "strategies", "aggressive"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("sweeps", run_name="__main__")
    assert not caught.value.code
    assert CATALOGUE["aggressive"].paper in capsys.readouterr().out


class TestFrom:
    @pytest.mark.parametrize("arm", ["vae", "anneal", "encoder_lr"])
    def test_a_run_of_a_sweep_is_repeated_bit_for_bit(self, call, tiny_sweep, arm):
        row = next(r for r in tiny_sweep.folder.runs() if r["arm"] == arm and r["configuration"] == 1 - (arm == "vae"))
        ended = call("trial", "--from", row["run_id"], "--results", str(tiny_sweep.here / "results"), "--json")
        assert ended.returncode == 0, ended.stderr
        assert "bit for bit" in ended.stderr
        record = json.loads(ended.stdout)
        assert record["run_id"] == row["run_id"]
        for name, value in record["metrics"].items():
            assert row[name] == value, name
        assert record["metrics"].keys() >= {"nll_iw", "kl", "mi", "au"}

    def test_a_diverged_run_diverges_again(self, call, tiny_sweep):
        row = next(r for r in tiny_sweep.folder.runs() if r["status"] == "diverged")
        ended = call("trial", "--from", row["run_id"], "--results", str(tiny_sweep.here / "results"), "--json")
        assert ended.returncode == 1
        assert json.loads(ended.stdout)["stop_reason"] == row["stop_reason"]

    def test_results_can_be_a_uri(self, call, tiny_sweep):
        row = tiny_sweep.folder.runs()[0]
        uri = (tiny_sweep.here / "results").as_uri()
        ended = call("trial", "--from", row["run_id"], "--results", uri, "--json")
        assert ended.returncode == 0, ended.stderr

    def test_a_run_on_generated_data_of_version_0_1_0(self, call, tmp_path):
        """Its data had the fingerprint of their content, so that its ids differ from those of the same trial today."""
        config = TrialConfig.model_validate(TINY_TRIAL)
        data = config.data.load()
        content = _fingerprint((data.train, data.valid, data.test), data.vocabulary)
        record = train(config, dataset=data.under(content))
        assert record.data_fingerprint == content
        store_record(record.to_json())
        ended = call("trial", "--from", record.run_id)
        assert ended.returncode == 0, ended.stderr
        assert f"run {record.run_id}:" in ended.stderr

    def test_changed_data_are_rejected(self, call, tmp_path):
        path = write_corpus(tmp_path / "corpus")
        sets = {"data": {"kind": "text", "path": str(path)}, "model": TINY_TRIAL["model"]}
        (tmp_path / "text.yaml").write_text(yaml.safe_dump(TINY_TRIAL | sets))
        record = json.loads(call("trial", "text.yaml", "--json").stdout)
        store_record(record)
        (path / "train.txt").write_text("x y z\n" * 9)
        check_rejected(call("trial", "--from", record["run_id"]), "data: ", record["run_id"])


class TestInvalidTrial:
    @pytest.mark.parametrize(
        ("arguments", "fragments"),
        [
            (["--set", "training.epoch=3"], ["training.epoch: ", "Did you mean epochs?"]),
            (["--set", "model.hidden=big"], ["model.hidden: ", "'big'"]),
            (["--set", "training.learning_rate=-1"], ["training.learning_rate: ", "-1"]),
            (["--set", "training.epochs=.nan"], ["training.epochs: ", "nan"]),
            (["--set", "training.epochs"], ["--set: ", "KEY=VALUE"]),
            (["--set", "training..epochs=3"], ["--set: ", "KEY=VALUE"]),
            (["--set", "training.epochs=["], ["--set training.epochs: ", "'['"]),
            (["--set", "training.epochs=!!int x"], ["--set training.epochs: "]),
            (["--set", "seed=-1"], ["seed: ", "-1"]),
            (["--set", "strategies=[beta_vae, beta_vae]"], ["strategies: ", "[E-SLOT]"]),
            (["--arm", "beta_vae+kl_linear_epoch"], ["strategies: ", "[E02]", "'beta_vae+kl_linear_epoch'"]),
            (["--arm", "nonsense"], ["nonsense", "aggressive"]),
            (["--arm", "beta"], ["strategies[0].kind: ", "'beta'. Did you mean beta_vae? Known kinds: "]),
            (["--arm", "beta_vae:beta"], ["--arm: ", "'beta_vae:beta'"]),
            (["--arm", "beta_vae:beta=["], ["--arm: ", "["]),
            (["--arm", "beta_vae:beta=-1"], ["strategies[0].beta: ", "-1"]),
            (["--device", "cuda:x"], ["'cuda:x'"]),
            (["--checkpoint", "file/state.pt"], ["--checkpoint: ", "'file/state.pt'"]),
            (["--checkpoint", "empty"], ["--checkpoint: ", "'empty'"]),
            (["--keep", "empty"], ["--keep: "]),
            (["--keep", "same.pt", "--checkpoint", "./same.pt"], ["--keep: ", "--checkpoint"]),
            (["--threads", "100000"], ["--threads: ", "100000"]),
            (["--from", "abc-0"], ["--from: ", "'abc-0'", "CONFIG_ID-SEED"]),
            (["--set", "data.kind=text"], ["data.path: "]),
            (["--set", "data={kind: text, path: none}"], ["data.path: ", "'none'"]),
            (["--set", "data={kind: text, path: empty}"], ["data.path: ", "train.txt"]),
            (["--set", "data={kind: text, path: latin}"], ["latin", "train.txt, line 2", "UTF-8"]),
            (["--set", "data={kind: text, path: blank}"], ["blank", "valid.txt"]),
            (["--set", "data={kind: speech}"], ["data.kind: ", "'speech'"]),
        ],
    )
    def test_it_is_rejected_and_changes_nothing(self, call, tmp_path, arguments, fragments):
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        write_corpus(tmp_path / "latin", train=b"a b\ncaf\xe9\n")
        write_corpus(tmp_path / "blank", valid="\n \n")
        before = files_below(tmp_path)
        check_rejected(call("trial", *arguments), *fragments)
        assert files_below(tmp_path) == before

    def test_the_whole_message(self, call):
        ended = call("trial", "--set", "training.momentum=2", "--set", "training.epoch=3")
        head, momentum, epoch = ended.stderr.splitlines()
        assert head == "lagvae: 2 problems."
        assert momentum == "  training.momentum: must be less than 1, got 2. (Momentum of SGD; default 0.0.)"
        assert epoch.startswith("  training.epoch: unknown key. Did you mean epochs?")

    def test_all_problems_are_reported_at_once(self, call):
        arguments = ["--set", "training.epochs=0", "--set", "model.hiden=3", "--arm", "beta_vae:beta=-1"]
        arguments += ["--threads", "100000", "--keep", "."]
        keys = ("training.epochs: ", "model.hiden: ", "strategies[0].beta: ", "--threads: ", "--keep: ")
        check_rejected(call("trial", *arguments), "5 problems", *keys)

    @pytest.mark.parametrize("option", ["--keep", "--checkpoint"])
    def test_a_file_about_which_the_system_tells_nothing(self, call, trial_file, option):
        """Too long a name fails as a file does in a folder that may not be entered, but also for root."""
        check_rejected(call("trial", trial_file, option, "x" * 300), f"{option}: ", "File name too long")

    def test_a_file_and_from_exclude_each_other(self, call, trial_file, tiny_sweep):
        run_id = tiny_sweep.folder.runs()[0]["run_id"]
        stored = ["--from", run_id, "--results", str(tiny_sweep.here / "results")]
        check_rejected(call("trial", trial_file, *stored), "CONFIG.yaml: ", "--from")

    def test_a_checkpoint_of_a_different_trial(self, call, trial_file):
        assert call("trial", trial_file, "--checkpoint", "state.pt").returncode == 0
        ended = call("trial", trial_file, "--checkpoint", "state.pt", "--set", "seed=1")
        check_rejected(ended, "checkpoint")

    def test_a_damaged_checkpoint(self, call, trial_file, tmp_path):
        (tmp_path / "state.pt").write_bytes(b"rubbish")
        check_rejected(call("trial", trial_file, "--checkpoint", "state.pt"), "damaged")
        assert (tmp_path / "state.pt").read_bytes() == b"rubbish"


class TestInvalidSweep:
    CHANGES: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"searhc": {}}, ["searhc: ", "Did you mean search?"]),
        ({"search": {"seeds": 0}}, ["search.seeds: ", "0"]),
        ({"search": {"seeds": "two"}}, ["search.seeds: ", "'two'"]),
        ({"name": "../x"}, ["name: ", "'../x'"]),
        ({"objectives": {"nll_iv": "min"}}, ["objectives.nll_iv: ", "nll_iw"]),
        ({"arms": {"a": [{"kind": "beta_vae", "beta": {"low": 1, "high": 0}}]}}, ["arms.a[0].beta: "]),
        ({"arms": {"a": ["nonsense"]}}, ["arms.a[0].kind: ", "aggressive", "'nonsense'"]),
        ({"arms": {"a": ["beta_vae", "kl_linear_epoch"]}}, ["arms.a: ", "[E02]", "'beta_vae+kl_linear_epoch'"]),
        ({"trial": {"data": {"kind": "text", "path": "none"}}}, ["tiny: ", "trial.data.path: ", "none"]),
        ({"trial": {"data": {"kind": "text", "path": "latin"}}}, ["tiny: ", "latin", "UTF-8"]),
        ({"resources": {"cpus": 4096}}, ["resources.cpus: ", "4096"]),
    )

    @pytest.mark.parametrize(("change", "fragments"), CHANGES)
    def test_run_rejects_it_and_changes_nothing(self, call, tmp_path, change, fragments):
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(sweep(**change), sort_keys=False))
        write_corpus(tmp_path / "latin", train=b"caf\xe9\n")
        before = files_below(tmp_path)
        check_rejected(call("run", "wrong.yaml"), *fragments)
        assert files_below(tmp_path) == before

    def test_a_package_called_sweeps_in_the_current_folder(self, call, tmp_path, sweep_file):
        (tmp_path / "sweeps").mkdir()
        (tmp_path / "sweeps" / "__init__.py").write_text("")
        before = files_below(tmp_path)
        check_rejected(call("run", sweep_file), f"{tmp_path / 'sweeps'}: ")
        assert files_below(tmp_path) == before

    @pytest.mark.parametrize("verb", ["run", "plan"])
    def test_a_file_that_does_not_exist(self, call, tmp_path, verb):
        check_rejected(call(verb, "nonsense"), "nonsense", "quickstart")
        assert files_below(tmp_path) == {}

    @pytest.mark.parametrize("verb", ["run", "retry"])
    def test_a_time_that_is_none(self, call, tmp_path, sweep_file, verb):
        before = files_below(tmp_path)
        check_rejected(call(verb, sweep_file, "--for", "2 days"), "--for: ", "'2 days'")
        assert files_below(tmp_path) == before

    @pytest.mark.parametrize("verb", ["run", "retry", "plan"])
    @pytest.mark.parametrize("name", ["nonsense", "../x"])
    def test_first_points_from_a_sweep_that_is_not_stored(self, call, tmp_path, sweep_file, verb, name):
        before = files_below(tmp_path)
        check_rejected(call(verb, sweep_file, "--points-from", name), "--points-from: ", repr(name))
        assert files_below(tmp_path) == before

    def test_a_results_folder_that_cannot_be_created(self, call, tmp_path, sweep_file):
        before = files_below(tmp_path)
        ended = call("run", sweep_file, "--results", f"{sweep_file}/results")
        check_rejected(ended, "--results: ", "tiny.yaml/results")
        assert files_below(tmp_path) == before

    def test_a_sweep_that_is_not_stored(self, call, tmp_path):
        for verb in ("show", "pareto"):
            check_rejected(call("results", verb, "nonsense"), "SWEEP: ", "'nonsense'", "--results")
            check_rejected(call("results", verb, "../x"), "SWEEP: ", "'../x'")
        assert files_below(tmp_path) == {}

    def test_results_below_a_regular_file(self, call, sweep_file):
        results = ["--results", f"{sweep_file}/results"]
        check_rejected(call("results", "show", "tiny", *results), "SWEEP: ", f"{sweep_file}/results")
        check_rejected(call("trial", "--from", "abc-0", *results), "--from: ")
        assert call("plan", sweep_file, *results).returncode == 0

    @pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999999", ":1"])
    def test_an_address_without_a_cluster(self, call, tmp_path, sweep_file, address):
        before = files_below(tmp_path)
        check_rejected(call("run", sweep_file, "--address", address), address, "`ray start --head`")
        assert files_below(tmp_path) == before

    def test_a_misspelt_sweep_is_answered_with_the_stored_ones(self, call, stored):
        check_rejected(call("results", "show", "tinny", *stored[1:]), "'tinny'", "Did you mean tiny?", "are tiny.")

    @pytest.mark.parametrize("objectives", ["nonsense:min", "nll_iw", "nll_iw:down", "", "status:min", "au:max,au:min"])
    def test_invalid_objectives(self, call, stored, objectives):
        check_rejected(call("results", "pareto", *stored, "--objectives", objectives), "--objectives: ")

    @pytest.mark.parametrize(("verb", "name"), [("strategies", "agressive"), ("studies", "prob")])
    def test_an_unknown_name_is_answered_with_a_similar_one(self, call, verb, name):
        check_rejected(call(verb, name), "NAME: ", f"'{name}'. Did you mean ", f"? Known {verb}: ")


class TestExitCodes:
    """The exit codes that README.md states."""

    def test_lost_results_or_a_lost_ray_exit_with_1_and_an_interruption_with_130(self):
        for module in MODULES_WITH_ERRORS:
            importlib.import_module(module)

        def subclasses(error: type[LagvaeError]) -> set[type[LagvaeError]]:
            return {error}.union(*map(subclasses, error.__subclasses__()))

        every = subclasses(LagvaeError)
        assert len(every) >= 10
        assert {error: error.exit_code for error in every if error.exit_code != 2} == {
            StoreError: 1,
            RayLost: 1,
            Interrupted: 130,
        }

    @pytest.mark.parametrize(
        ("error", "code"),
        [(StoreError("the store is away"), 1), (ConfigError([ValidationIssue("NAME", "unknown")]), 2)],
        ids=["store", "config"],
    )
    def test_an_error_ends_with_its_message_and_exit_code(self, call, monkeypatch, error, code):
        def fail(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("sweeps.cli.catalogue.print_strategies", fail)
        ended = call("strategies")
        assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", f"lagvae: {error}\n")

    @pytest.mark.parametrize(
        "arguments",
        [
            "results show tiny",
            "results show tiny --png x.png",
            "results pareto tiny",
            "results pareto tiny --png x.png",
            "results curves tiny",
            "results compare tiny --paper he2019",
            "replay tiny",
            "plan tiny.yaml",
            "run tiny.yaml",
            "retry tiny.yaml",
            "trial --from abc-0",
            "evaluate --sweep tiny --what tsne",
            "dashboard tiny",
            "watch tiny --once",
        ],
    )
    def test_lost_results_exit_with_1_in_every_verb(self, call, monkeypatch, sweep_file, tmp_path, arguments):
        folder = ResultsFolder("results", "tiny")
        folder.prepare()
        folder.write("spec.yaml", (tmp_path / sweep_file).read_bytes())

        def fail(*arguments: object, **options: object) -> None:
            raise StoreError("the store is away")

        monkeypatch.setattr(ResultsFolder, "read_table", fail)
        ended = call(*arguments.split())
        assert ended.returncode == 1, ended
        assert ended.stderr.splitlines()[-1] == "lagvae: the store is away"
        assert ended.stdout == ""

    @pytest.mark.parametrize("arguments", ["", "nonsense", "trial --nonsense", "run", "results compare tiny"])
    def test_a_wrong_command_line_exits_with_2(self, call, arguments):
        assert call(*arguments.split()).returncode == 2

    @pytest.mark.parametrize("arguments", ["--help", "trial --help", "results --help", "results show --help"])
    def test_help_exits_with_0(self, call, arguments):
        ended = call(*arguments.split())
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith("Usage: ")

    def test_an_interrupt_exits_with_130(self, call, monkeypatch):
        def interrupt(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("sweeps.cli.catalogue.print_strategies", interrupt)
        assert call("strategies").returncode == 130


class TestPlan:
    def test_it_writes_nothing(self, call, tmp_path, sweep_file):
        before = files_below(tmp_path)
        ended = call("plan", sweep_file)
        assert ended.returncode == 0, ended.stderr
        assert "8 of 8 runs to do" in ended.stdout
        assert files_below(tmp_path) == before

    def test_with_racing_over_seeds_the_number_of_runs_is_an_upper_bound(self, call, sweep_file):
        ended = call("plan", sweep_file, "--set", "search.seeds={start: 1, up_to: 5}")
        assert "at most 20 of 20 runs to do" in ended.stdout, ended

    def test_json(self, call, sweep_file):
        shown = json.loads(call("plan", sweep_file, "--json").stdout)
        assert (shown["sweep"], shown["runs"], shown["missing"], shown["core_seconds"]) == ("tiny", 8, 8, None)
        assert [(arm["arm"], arm["configurations"], arm["missing"]) for arm in shown["arms"]] == [
            ("vae", 1, 2),
            ("beta", 3, 6),
        ]

    @pytest.mark.parametrize(
        "data",
        [
            {"kind": "text", "path": "x" * 5000},
            {"kind": "reinflection", "language": "turkish", "path": "x" * 5000},
            {"kind": "reinflection", "language": "x" * 5000, "path": "."},
        ],
    )
    def test_a_path_that_is_too_long(self, call, sweep_file, data):
        values = TINY_TRIAL | {"data": data, "model": {}}
        ended = call("plan", sweep_file, "--set", f"trial={json.dumps(values)}")
        check_rejected(ended, "trial.data.path: ")

    def test_it_shows_what_is_fixed_and_what_is_searched(self, call, tmp_path):
        searched = {"kind": "kl_linear_epoch", "w_start": {"low": 0, "high": 0.5}, "w_end": {"choices": [0.5, 1]}}
        fixed = {"kind": "kl_linear_epoch", "warm_up": "default"}
        arms = {"vae": [], "searched": [searched], "fixed": [fixed, {"kind": "encoder_lr", "multiplier": 3}]}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(sweep(arms=arms)))
        stacks = {arm["arm"]: arm for arm in json.loads(call("plan", "s.yaml", "--json").stdout)["arms"]}
        assert (stacks["vae"]["strategies"], stacks["vae"]["points"]) == ([], 1)
        (strategy,) = stacks["searched"]["strategies"]
        assert strategy["searched"]["w_start"] == {"low": 0, "high": 0.5, "log": False, "own": False}
        assert strategy["searched"]["w_end"] == {"choices": [0.5, 1], "own": False}
        assert strategy["searched"]["warm_up"]["own"]
        assert set(strategy["fixed"]).isdisjoint(strategy["searched"])
        schedule, rate = stacks["fixed"]["strategies"]
        assert schedule["searched"] == rate["searched"] == {}
        assert (schedule["fixed"]["warm_up"], rate["fixed"]) == (10, {"multiplier": 3})
        shown = call("plan", "s.yaml").stdout
        for text in (
            "plain VAE",
            "warm_up 1 to 20*",
            "w_start 0 to 0.5",
            "w_end {0.5, 1}",
            "multiplier=3",
            "warm_up=10",
        ):
            assert text in shown

    @pytest.mark.parametrize(("verb", "key"), [("plan", "trial.training.epochs"), ("trial", "training.epochs")])
    def test_the_example_of_its_help_works(self, call, verb, key, sweep_file, trial_file):
        example = re.search(r"Override a dotted key: (\S+)\.", call(verb, "--help").stdout)[1]
        assert example.partition("=")[0] == key
        ended = call(verb, sweep_file if verb == "plan" else trial_file, "--set", example)
        assert ended.returncode == 0, ended.stderr

    def test_of_a_finished_sweep(self, call, tiny_sweep):
        before = tiny_sweep.files
        arguments = [str(tiny_sweep.here / "tiny.yaml"), "--results", str(tiny_sweep.here / "results"), "--json"]
        finished = json.loads(call("plan", *arguments).stdout)
        assert (finished["runs"], finished["missing"], finished["core_seconds"]) == (14, 0, 0)
        extended = json.loads(call("plan", *arguments, "--set", "search.seeds=3").stdout)
        assert extended["missing"] == 7
        assert extended["core_seconds"] > 0
        assert tiny_sweep.files == before

    def test_columns_without_values_are_left_out(self, call, tiny_sweep, sweep_file):
        of_new = call("plan", sweep_file).stdout.splitlines()[0].split("  ")
        assert [heading.strip() for heading in of_new if heading] == ["arm", "configs", "runs", "stored", "to run"]
        arguments = [str(tiny_sweep.here / "tiny.yaml"), "--results", str(tiny_sweep.here / "results")]
        of_stored = call("plan", *arguments, "--set", "search.budget.gradient_evaluations=1e6").stdout
        assert {"time per run", "updates per run"} <= {part.strip() for part in of_stored.splitlines()[0].split("  ")}

    def test_costs_are_means_over_the_finished_runs_of_an_arm(self, call, tiny_sweep):
        shown = json.loads(call("plan", "tiny.yaml", "--json", folder=tiny_sweep.here).stdout)
        for arm in shown["arms"]:
            rows = [r for r in tiny_sweep.folder.runs() if r["arm"] == arm["arm"] and r["status"] == "finished"]
            assert arm["cost"]["seconds"] == pytest.approx(sum(row["seconds"] for row in rows) / len(rows))
            steps = sum(row["encoder_steps"] + row["decoder_steps"] for row in rows)
            assert arm["cost"]["gradient_evaluations"] == pytest.approx(steps / len(rows))
            assert not arm["cost"]["estimated"]

    def test_of_an_edited_sweep_file(self, call, tiny_sweep):
        plain = json.loads(call("plan", "tiny.yaml", "--json", folder=tiny_sweep.here).stdout)
        assert not plain["edited"]
        assert {(arm["new"], arm["orphaned"]) for arm in plain["arms"]} == {(0, 0)}
        arms = "arms={vae: [], anneal: [{kind: kl_linear_epoch, warm_up: {low: 3, high: 4}}], beta: [beta_vae]}"
        arguments = ("plan", "tiny.yaml", "--set", arms)
        shown = json.loads(call(*arguments, "--json", folder=tiny_sweep.here).stdout)
        assert shown["edited"]
        counts = {arm["arm"]: (arm["kept"], arm["new"], arm["orphaned"]) for arm in shown["arms"]}
        anneal = [row for row in tiny_sweep.folder.runs() if row["arm"] == "anneal"]
        assert counts == {"vae": (2, 0, 0), "anneal": (0, 6, len(anneal)), "beta": (0, 6, 0)}
        assert shown["removed_arms"] == {"encoder_lr": 6}
        head, *lines = call(*arguments, folder=tiny_sweep.here).stdout.splitlines()
        assert {"kept", "new", "orphaned"} <= set(head.split())
        assert any(line.startswith("encoder_lr (removed)") for line in lines)

    def test_the_budget_and_what_is_left_of_it(self, call, tiny_sweep):
        rows = tiny_sweep.folder.runs()
        used = sum((row["encoder_steps"] or 0) + (row["decoder_steps"] or 0) for row in rows)
        budget = f"search.budget={{hours: 1, gradient_evaluations: {used + 5}}}"
        shown = json.loads(call("plan", "tiny.yaml", "--set", budget, "--json", folder=tiny_sweep.here).stdout)
        hours, updates = shown["budget"]
        assert updates == {"name": "gradient_evaluations", "limit": used + 5, "used": used, "left": 5, "needed": 0}
        assert hours["used"] == pytest.approx(sum(row["seconds"] or 0 for row in rows) / 3600)

    def test_a_budget_that_is_used_up_says_how_much_more_is_needed_and_no_time_in_all(self, call, tiny_sweep):
        rows = tiny_sweep.folder.runs()
        used = sum((row["encoder_steps"] or 0) + (row["decoder_steps"] or 0) for row in rows)
        arguments = ("plan", "tiny.yaml", "--set", "search.seeds=3")
        budget = ("--set", f"search.budget={{gradient_evaluations: {used - 1}}}")
        shown = json.loads(call(*arguments, *budget, "--json", folder=tiny_sweep.here).stdout)
        (updates,) = shown["budget"]
        expected = sum(arm["missing"] * arm["cost"]["gradient_evaluations"] for arm in shown["arms"])
        assert updates["left"] == 0
        assert updates["needed"] == pytest.approx(expected)
        assert expected > 0
        text = call(*arguments, *budget, folder=tiny_sweep.here).stdout
        assert f"search.budget.gradient_evaluations={used + expected:.0f}" in text
        assert "in all" not in text
        unlimited = call(*arguments, folder=tiny_sweep.here).stdout
        assert "in all, besides the start of Ray and of the worker processes" in unlimited

    @pytest.mark.parametrize(
        ("options", "concurrent", "text"),
        [
            ((), 4, "4 runs at a time on 4 cores and 1 GPU"),
            ((), 4, "resources.gpus=auto"),
            (("resources.gpus=0.5",), 2, "2 runs at a time"),
            (("resources.gpus=auto",), None, "how many runs share a GPU"),
            (("resources.cpus=8",), None, "a run does not fit on this machine: resources.cpus"),
        ],
    )
    def test_the_runs_that_the_machine_can_hold(self, call, monkeypatch, sweep_file, options, concurrent, text):
        monkeypatch.setattr("sweeps.cli.plan.local_capacity", lambda: NodeCapacity(4, 1))
        arguments = ["plan", sweep_file, *(part for option in options for part in ("--set", option))]
        shown = json.loads(call(*arguments, "--json").stdout)
        assert shown["machine"] == {"cpus": 4, "gpus": 1, "concurrent": concurrent}
        assert text in call(*arguments).stdout

    def test_calibration_estimates_the_cost_and_writes_nothing(self, call, tmp_path, sweep_file):
        before = files_below(tmp_path)
        ended = call("plan", sweep_file, "--calibrate", "--json")
        assert ended.returncode == 0, ended.stderr
        shown = json.loads(ended.stdout)
        assert shown["core_seconds"] > 0
        for arm in shown["arms"]:
            assert arm["cost"]["seconds"] > 0
            assert arm["cost"]["estimated"]
        assert "~ " in call("plan", sweep_file, "--calibrate").stdout
        assert files_below(tmp_path) == before

    def test_finished_runs_are_better_than_a_calibration(self, call, tiny_sweep):
        shown = [
            json.loads(call("plan", "tiny.yaml", "--json", *more, folder=tiny_sweep.here).stdout)
            for more in ([], ["--calibrate", "--set", "search.seeds=3"])
        ]
        stored, calibrated = ([arm["cost"] for arm in plan["arms"]] for plan in shown)
        assert stored == calibrated

    def test_the_name_of_a_stored_sweep_is_not_a_sweep_file(self, call, tiny_sweep):
        for verb in ("plan", "run", "retry"):
            ended = call(verb, "tiny", folder=tiny_sweep.here)
            check_rejected(ended, "SPEC: ", "results/tiny/spec.yaml")


class TestResults:
    def test_before_any_run_has_finished(self, call, sweep_file, tmp_path):
        folder = ResultsFolder("results", "tiny")
        folder.prepare()
        folder.write("spec.yaml", (tmp_path / sweep_file).read_bytes())
        ended = call("results", "pareto", "tiny")
        assert ended.returncode == 0
        assert "no finished run" in ended.stdout
        assert json.loads(call("results", "pareto", "tiny", "--json").stdout) == []
        assert call("results", "show", "tiny").returncode == 0
        assert json.loads(call("results", "show", "tiny", "--json").stdout) == []
        check_rejected(call("results", "pareto", "tiny", "--png", "front.png"), "SWEEP: ")

    def test_the_front_says_of_which_configurations_some_seeds_have_no_result(self, call, sweep_file, tmp_path):
        folder = ResultsFolder("results", "tiny")
        folder.prepare()
        folder.write("spec.yaml", (tmp_path / sweep_file).read_bytes())
        spec = parse_spec((tmp_path / sweep_file).read_text())
        rows, _ = play(spec, answer=lambda run: {"nll_iw": 90.0 + run.configuration, "au": 1})
        (best, *others) = [row for row in rows if row["configuration"] == 0 and row["arm"] == "vae"]
        for row in rows:
            lost = {"status": "stopped_early", "nll_iw": None} if row in others else {}
            folder.write_run(row | lost)
        lines = call("results", "pareto", "tiny").stdout.splitlines()
        (warning,) = [line for line in lines if line.startswith("warning, ") and "no result" in line]
        assert best["config_id"] in warning
        assert f"{len(others)} of {len(others) + 1} seeds" in warning

    def test_show(self, call, tiny_sweep, stored):
        shown = call("results", "show", *stored).stdout
        for row in tiny_sweep.folder.runs():
            assert row["config_id"] in shown
        assert "2 diverged" in shown
        rows = json.loads(call("results", "show", *stored, "--json").stdout)
        assert [row["run_id"] for row in rows] == [row["run_id"] for row in tiny_sweep.folder.runs()]
        assert rows[0]["nll_iw"] == tiny_sweep.folder.runs()[0]["nll_iw"]

    def test_show_as_markdown_with_selected_columns_and_relative_time(self, call, tiny_sweep, stored, tmp_path):
        arm = tiny_sweep.folder.runs()[0]["arm"]
        options = ["--columns", "nll_iw,mi", "--baseline", arm, "--markdown", "--png", "arms.png"]
        ended = call("results", "show", *stored, *options)
        assert ended.returncode == 0, ended.stderr
        head, rule, *lines = ended.stdout.splitlines()
        assert head == "| arm | runs | nll_iw | mi | time | config_id | parameters |"
        assert rule.count("---") == 7
        assert len(lines) == len({row["config_id"] for row in tiny_sweep.folder.runs()})
        assert (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")

    def test_show_rejects_unknown_columns_baselines_and_folders(self, call, stored):
        ended = call("results", "show", *stored, "--columns", "nll_iw,nothing", "--baseline", "nobody")
        check_rejected(ended, "--columns: ", "--baseline: ", "'nobody'")
        check_rejected(call("results", "show", *stored, "--png", "none/x.png"), "--png: ", "none/x.png")

    def test_the_front_as_a_figure(self, call, stored, tmp_path):
        assert call("results", "pareto", *stored, "--png", "front.png").returncode == 0
        assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
        assert call("results", "pareto", *stored, "--png", "front.png", "--reference", "vae").returncode == 0
        unknown = call("results", "pareto", *stored, "--png", "front.png", "--reference", "nothing")
        check_rejected(unknown, "--reference: ", "vae")
        check_rejected(call("results", "pareto", *stored, "--png", "none/front.png"), "--png: ")
        check_rejected(call("results", "pareto", *stored, "--png", "front.docx"), "--png: ", "extension")
        ended = call("results", "pareto", *stored, "--png", "x.png", "--objectives", "nll_iw:min")
        check_rejected(ended, "--png: ", "two objectives")

    @pytest.mark.parametrize("verb", ["show", "pareto", "curves"])
    @pytest.mark.parametrize(("file", "written"), [("x.png", "x.png"), ("x.pdf", "x.png, x.pdf")])
    def test_the_files_of_a_figure_are_named_on_stderr(self, call, stored, tmp_path, verb, file, written):
        ended = call("results", verb, *stored, "--json", "--png", file)
        assert (ended.returncode, ended.stderr) == (0, f"figure: {written}\n")
        json.loads(ended.stdout)
        assert all((tmp_path / name).is_file() for name in written.split(", "))

    def test_show_explains_columns_without_values(self, call, stored):
        columns = ["nll_iw", "bits_per_dim", "probe_accuracy", "normalised_share"]
        shown = call("results", "show", *stored, "--columns", ",".join(columns)).stdout.splitlines()
        explained = [line.split()[0] for line in shown if " has no value: " in line]
        assert explained == columns[1:]


class TestCatalogues:
    def test_json_of_all_strategies(self, call):
        shown = json.loads(call("strategies", "--json").stdout)
        assert [entry["kind"] for entry in shown] == list(CATALOGUE)

    def test_one_strategy(self, call):
        assert json.loads(call("strategies", "bn_vae", "--json").stdout)["kind"] == "bn_vae"
        text = call("strategies", "bn_vae").stdout
        assert CATALOGUE["bn_vae"].paper in text
        assert "cannot be combined with delta_vae: E03" in text

    def test_all_strategies(self, call):
        text = call("strategies").stdout
        assert all(kind in text for kind in CATALOGUE)

    def test_json_of_all_studies(self, call):
        shown = json.loads(call("studies", "--json").stdout)
        assert [entry["kind"] for entry in shown] == list(STUDIES)
        for entry in shown:
            study = STUDIES[entry["kind"]]
            assert [field["name"] for field in entry["fields"]] == [n for n in study.model_fields if n != "kind"]
            assert all(field["description"] for field in entry["fields"])

    @pytest.mark.parametrize("kind", STUDIES)
    def test_one_study(self, call, kind):
        text = call("studies", kind).stdout
        assert all(column.doc in text for column in STUDIES[kind].columns)
        assert all(doc in text for doc in STUDIES[kind].tables.values())

    def test_all_studies(self, call):
        text = call("studies").stdout
        assert all(kind in text for kind in STUDIES)
        for entry in json.loads(call("studies", "--json").stdout):
            assert entry["summary"] in text


@pytest.mark.parametrize(
    ("arguments", "reader", "received"),
    [
        ("strategies --json", "head -c 1", "["),
        ("strategies --json", "true", ""),
        ("strategies mdr", "head -c 3", "mdr"),
        ("strategies mdr", "true", ""),
        ("--help", "true", ""),
        ("trial --help", "true", ""),
    ],
)
def test_a_reader_that_closes_the_pipe_early_is_no_error(tmp_path, arguments, reader, received):
    command = f"'{sys.executable}' -m sweeps {arguments} | {reader}"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout == received
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_a_closed_pipe_does_not_hide_an_error(tmp_path):
    command = f"'{sys.executable}' -m sweeps trial --set training.epochs=0 | true"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert "training.epochs: " in ended.stderr
    assert ended.returncode == 2


def test_the_plus_sign_of_a_number_does_not_split_a_stack():
    stack = parse_arm_text("encoder_lr:multiplier=1e+1 + kl_linear_epoch:warm_up=2.5e+0")
    assert [item["kind"] for item in stack] == ["encoder_lr", "kl_linear_epoch"]
    assert parse_arm_text("vae") == []


def test_the_word_default_stands_for_the_default_of_a_field():
    stack = parse_arm_text("kl_linear_epoch:warm_up=default,w_start=0.2")
    assert TrialConfig(strategies=stack) == TrialConfig(strategies=[{"kind": "kl_linear_epoch", "w_start": 0.2}])
    with pytest.raises(ConfigError):
        parse_trial({"strategies": parse_arm_text("kl_linear_epoch:warm=default")})


def test_commas_inside_a_list_do_not_separate_fields():
    stack = parse_arm_text("cnn_decoder:size=null,dilations=[1, 2,4],kernel=2")
    assert stack == [{"kind": "cnn_decoder", "size": None, "dilations": [1, 2, 4], "kernel": 2}]
