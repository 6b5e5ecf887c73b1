"""The `lagvae` command: what it prints where, its exit codes, and that wrong input changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import tiny_image_file
from processes import Ended, lagvae
from worlds import TINY_TRIAL, sweep

from lagvae_core.strategies import CATALOGUE
from sweeps.cli import app as cli
from sweeps.spec.arm_syntax import parse_arm_text
from sweeps.storage.table import ResultsFolder

Cli = Callable[..., Ended]

WITHOUT_RAY = "import sys\nsys.modules['ray'] = None\n"
"""From then on `import ray` is an ImportError."""


@pytest.fixture
def call(monkeypatch, capsys, tmp_path) -> Cli:
    """`lagvae ARGUMENTS` in this process and in a folder of its own, where importing Ray is an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["lagvae", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        code = caught.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, out, err)

    return call


@pytest.fixture
def tiny_file(tmp_path) -> str:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(), sort_keys=False))
    return "tiny.yaml"


@pytest.fixture
def trial_file(tmp_path) -> str:
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TINY_TRIAL))
    return "trial.yaml"


def write_corpus(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir()
    for name in ("train", "valid", "test"):
        content = files.get(name, "a b c\nb c d\nc d a\n" * 6)
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with its content; None for a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


class TestTrial:
    def test_one_json_object_on_stdout_and_progress_on_stderr(self, tmp_path, trial_file):
        ended = lagvae("trial", trial_file, "--json", "--arm", "beta_vae:beta=0.5", cwd=tmp_path, before=WITHOUT_RAY)
        assert ended.returncode == 0, ended.stderr
        (line,) = ended.stdout.splitlines()
        record = json.loads(line)
        assert record["status"] == "finished"
        assert record["config"]["strategies"] == [{"kind": "beta_vae", "beta": 0.5}]
        assert record["metrics"]["iw_k"] == 10
        assert [epoch["epoch"] for epoch in record["curve"]] == [1, 2]
        assert "epoch   2/2" in ended.stderr
        assert "data: 64/32/32" in ended.stderr

    def test_a_table_without_json(self, call, trial_file):
        ended = call("trial", trial_file)
        assert ended.returncode == 0
        assert "nll_iw" in ended.stdout
        assert "epoch" in ended.stderr

    def test_a_number_that_is_not_measured_is_a_dash(self, call, trial_file):
        ended = call("trial", trial_file, "--arm", "iaf_posterior")
        assert ended.returncode == 0
        assert "  mi -  au " in ended.stderr

    def test_the_same_twice(self, call, trial_file):
        first, again = (json.loads(call("trial", trial_file, "--json").stdout) for _ in range(2))
        assert first["metrics"] == again["metrics"]

    def test_set_wins_over_the_file(self, call, trial_file):
        ended = call("trial", trial_file, "--json", "--set", "training.epochs=1", "--set", "seed=3")
        record = json.loads(ended.stdout)
        assert len(record["curve"]) == 1
        assert record["config"]["seed"] == 3

    def test_images_need_no_more_than_their_kind_and_path(self, call):
        data = ("--set", "data.kind=images", "--set", f"data.path={tiny_image_file()}")
        small = ("model.size=reduced", "training.epochs=1", "evaluation.iw_samples=2", "data.limit=20")
        ended = call("trial", *data, *(word for item in small for word in ("--set", item)), "--json")
        assert ended.returncode == 0, ended.stderr
        record = json.loads(ended.stdout)
        assert (record["config"]["model"]["kind"], record["config"]["training"]["optimiser"]) == (
            "resnet_pixelcnn",
            "adam",
        )
        assert record["metrics"]["bits_per_dim"] > 0
        assert record["metrics"]["ppl"] is None
        assert "data: 20/32/32 train/valid/test examples of 6 x 6 pixels, mean grey 0.2" in ended.stderr

    def test_a_bad_file_of_images_is_refused(self, call, tmp_path):
        (tmp_path / "images.npz").write_bytes(b"")
        ended = call("trial", "--set", "data.kind=images", "--set", "data.path=images.npz")
        assert ended.returncode == 2
        assert "be a whole .npz file" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""

    def test_a_diverged_trial_ends_with_1_and_lawful_json(self, call, trial_file):
        ended = call("trial", trial_file, "--json", "--arm", "encoder_lr:multiplier=1.0e30")
        assert ended.returncode == 1
        record = json.loads(ended.stdout, parse_constant=pytest.fail)
        assert record["status"] == "diverged"
        assert record["metrics"] == {}

    def test_text_with_labels_and_dropped_lines(self, call, tmp_path):
        train = "pos\ta b c\nneg\tb c\n\npos\ta b c d e f g\n" * 5
        write_corpus(tmp_path / "corpus", train=train, valid="pos\ta b\nneg\tc x\n" * 3, test="neg\ta\npos\tb\n" * 3)
        sets = {"data.kind": "text", "data.path": "corpus", "data.max_length": 6, "training.epochs": 1}
        sets |= {"model.hidden": 8, "model.embedding": 8, "model.latent_dim": 2, "evaluation.iw_samples": 5}
        ended = call("trial", "--json", *(part for key, value in sets.items() for part in ("--set", f"{key}={value}")))
        assert ended.returncode == 0, ended.stderr
        assert "data: 10/6/6 train/valid/test" in ended.stderr
        assert "5 empty lines dropped" in ended.stderr
        assert "5 long lines dropped" in ended.stderr
        assert "labels neg pos" in ended.stderr
        report = json.loads(ended.stdout)["data"]
        assert report["train_dropped_empty"] == report["train_dropped_long"] == 5

    def test_resumes_from_its_checkpoint_after_a_kill(self, tmp_path, trial_file):
        trouble = """
import os, signal
from lagvae_core.training import trial as trainable
trainable.train.__kwdefaults__["checkpoint_seconds"] = 0.0
from sweeps.cli.trial import Watcher
def epoch(self, record):
    if record.epoch == 1:
        os.kill(0, signal.SIGKILL)
Watcher.epoch = epoch
"""
        keep = ["--checkpoint", "kept/state.pt"]
        killed = lagvae("trial", trial_file, *keep, cwd=tmp_path, before=WITHOUT_RAY + trouble)
        assert killed.returncode == -signal.SIGKILL
        assert (tmp_path / "kept/state.pt").exists()
        resumed = lagvae("trial", trial_file, "--json", *keep, cwd=tmp_path, before=WITHOUT_RAY)
        assert resumed.returncode == 0, resumed.stderr
        assert "epoch   1/2" not in resumed.stderr, "the first epoch was not trained again"
        assert "epoch   2/2" in resumed.stderr
        whole = lagvae("trial", trial_file, "--json", cwd=tmp_path, before=WITHOUT_RAY)
        for part in ("metrics", "config", "run_id"):
            assert json.loads(resumed.stdout)[part] == json.loads(whole.stdout)[part]

    def test_python_m(self, tmp_path):
        command = [sys.executable, "-m", "sweeps", "strategies", "aggressive"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "He et al. 2019" in ended.stdout


class TestFrom:
    @pytest.mark.parametrize("arm", ["vae", "anneal", "encoder_lr"])
    def test_repeats_the_run_of_a_sweep_bit_for_bit(self, call, tiny_sweep, arm):
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

    def test_the_folder_may_be_a_uri(self, call, tiny_sweep):
        row = tiny_sweep.folder.runs()[0]
        uri = (tiny_sweep.here / "results").as_uri()
        ended = call("trial", "--from", row["run_id"], "--results", uri, "--json")
        assert ended.returncode == 0, ended.stderr

    def test_changed_data_are_refused(self, call, tmp_path):
        path = write_corpus(tmp_path / "corpus")
        sets = {"data": {"kind": "text", "path": str(path)}, "model": TINY_TRIAL["model"]}
        (tmp_path / "text.yaml").write_text(yaml.safe_dump(TINY_TRIAL | sets))
        record = json.loads(call("trial", "text.yaml", "--json").stdout)
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
            }
        )
        (path / "train.txt").write_text("x y z\n" * 9)
        ended = call("trial", "--from", record["run_id"])
        assert ended.returncode == 2
        assert "The files have changed since" in ended.stderr


def check_refusal(ended: Ended, *fragments: str) -> None:
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert [line.startswith("lagvae: ") for line in ended.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in ended.stderr
    for fragment in fragments:
        assert fragment in ended.stderr


class TestWrongTrial:
    @pytest.mark.parametrize(
        ("arguments", "fragments"),
        [
            (["--set", "training.epoch=3"], ["training.epoch must be a known key", "3", "Did you mean epochs?"]),
            (["--set", "model.hidden=big"], ["model.hidden must be an integer", "'big'", "It is: "]),
            (["--set", "training.learning_rate=-1"], ["training.learning_rate must be greater than 0", "-1"]),
            (["--set", "training.epochs=.nan"], ["training.epochs must", "nan"]),
            (["--set", "training.epochs"], ["--set must be KEY=VALUE", "--set training.epochs=3"]),
            (["--set", "training..epochs=3"], ["--set must be KEY=VALUE"]),
            (["--set", "training.epochs=["], ["--set training.epochs must be a YAML value", "'['"]),
            (["--set", "training.epochs=2020-13-45"], ["--set training.epochs must be a YAML value"]),
            (["--set", "seed=-1"], ["seed must be greater than or equal to 0", "-1"]),
            (["--set", "strategies=[beta_vae, beta_vae]"], ["beta_vae is there twice", "Remove one of the two."]),
            (["--arm", "beta_vae+kl_linear_epoch"], ["beta_vae", "kl_linear_epoch", "E02"]),
            (["--arm", "nonsense"], ["nonsense", "aggressive"]),
            (["--arm", "beta_vae:beta"], ["--arm must give fields as name=value", "For example"]),
            (["--arm", "beta_vae:beta=["], ["--arm must", "["]),
            (["--arm", "beta_vae:beta=-1"], ["strategies[0].beta must be greater than or equal to 0", "-1"]),
            (["--device", "cuda:x"], ["device must be"]),
            (["--checkpoint", "file/state.pt"], ["--checkpoint must be in a folder that can be written to"]),
            (["--checkpoint", "empty"], ["--checkpoint must be a file and no folder", "'empty'"]),
            (["--keep", "empty"], ["--keep must be a file and no folder"]),
            (["--keep", "same.pt", "--checkpoint", "./same.pt"], ["--keep must be another file than --checkpoint"]),
            (["--threads", "100000"], ["--threads must be at most the", "cores there are, but is 100000"]),
            (["--from", "abc-0"], ["--from must be a run stored below results", "'abc-0'", "CONFIG_ID-SEED"]),
            (["--set", "data.kind=text"], ["data.path must be given"]),
            (["--set", "data={kind: text, path: none}"], ["data.path must be a folder", "'none'"]),
            (["--set", "data={kind: text, path: empty}"], ["data.path must have a file train.txt"]),
            (["--set", "data={kind: text, path: latin}"], ["data.path must hold UTF-8 text", "line 2"]),
            (["--set", "data={kind: text, path: blank}"], ["data.path must have a sentence in every file"]),
            (["--set", "data={kind: speech}"], ["data.kind must be one of synthetic, text", "'speech'"]),
        ],
    )
    def test_is_refused_and_changes_nothing(self, call, tmp_path, arguments, fragments):
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        write_corpus(tmp_path / "latin", train=b"a b\ncaf\xe9\n")
        write_corpus(tmp_path / "blank", valid="\n \n")
        before = tree(tmp_path)
        check_refusal(call("trial", *arguments), *fragments)
        assert tree(tmp_path) == before

    def test_all_mistakes_at_once(self, call):
        arguments = ["--set", "training.epochs=0", "--set", "model.hiden=3", "--arm", "beta_vae:beta=-1"]
        arguments += ["--threads", "100000", "--keep", "."]
        fragments = ["5 mistakes", "training.epochs", "model.hiden", "Did you mean hidden?", "strategies[0].beta"]
        check_refusal(call("trial", *arguments), *fragments, "--threads must", "--keep must")

    def test_file_and_from(self, call, trial_file, tiny_sweep):
        stored = ["--from", tiny_sweep.folder.runs()[0]["run_id"], "--results", str(tiny_sweep.here / "results")]
        check_refusal(call("trial", trial_file, *stored), "CONFIG.yaml must be left out with --from")

    def test_a_checkpoint_of_another_trial(self, call, trial_file):
        assert call("trial", trial_file, "--checkpoint", "state.pt").returncode == 0
        ended = call("trial", trial_file, "--checkpoint", "state.pt", "--set", "seed=1")
        check_refusal(ended, "A checkpoint must belong to its trial", "Give each trial a checkpoint of its own")

    def test_a_damaged_checkpoint(self, call, trial_file, tmp_path):
        (tmp_path / "state.pt").write_bytes(b"rubbish")
        ended = call("trial", trial_file, "--checkpoint", "state.pt")
        check_refusal(ended, "The checkpoint is damaged", "Remove it")
        assert (tmp_path / "state.pt").read_bytes() == b"rubbish"


class TestWrongSweep:
    CHANGES: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"searhc": {}}, ["searhc must be a known key", "Did you mean search?"]),
        ({"search": {"seeds": 0}}, ["search.seeds must", "0"]),
        ({"search": {"seeds": "two"}}, ["search.seeds must be an integer", "'two'"]),
        ({"name": "../x"}, ["name must start with a letter or digit", "'../x'"]),
        ({"objectives": {"nll_iv": "min"}}, ["objectives.nll_iv must be a numeric column", "Did you mean nll_iw"]),
        (
            {"arms": {"a": [{"kind": "beta_vae", "beta": {"low": 1, "high": 0}}]}},
            ["arms.a[0].beta must satisfy low < high"],
        ),
        (
            {"arms": {"a": ["nonsense"]}},
            ["arms.a[0].kind must be a strategy of `lagvae strategies`", "aggressive", "'nonsense'"],
        ),
        ({"arms": {"a": ["beta_vae", "kl_linear_epoch"]}}, ["arms.a must", "E02", "beta_vae", "kl_linear_epoch"]),
        ({"trial": {"data": {"kind": "text", "path": "none"}}}, ["tiny: trial.data.path must be a folder", "none"]),
        ({"trial": {"data": {"kind": "text", "path": "latin"}}}, ["must hold UTF-8 text"]),
        ({"resources": {"cpus": 4096}}, ["resources.cpus must be at most", "4096"]),
    )

    @pytest.mark.parametrize(("change", "fragments"), CHANGES)
    def test_run_refuses_and_changes_nothing(self, call, tmp_path, change, fragments):
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(sweep(**change), sort_keys=False))
        write_corpus(tmp_path / "latin", train=b"caf\xe9\n")
        before = tree(tmp_path)
        check_refusal(call("run", "wrong.yaml"), *fragments)
        assert tree(tmp_path) == before

    @pytest.mark.parametrize("verb", ["run", "plan"])
    def test_no_such_sweep(self, call, tmp_path, verb):
        check_refusal(call(verb, "nonsense"), "the file must exist", "'nonsense'", "quickstart")
        assert tree(tmp_path) == {}

    def test_a_results_folder_that_cannot_be(self, call, tmp_path, tiny_file):
        before = tree(tmp_path)
        ended = call("run", tiny_file, "--results", f"{tiny_file}/results")
        check_refusal(ended, "--results must be a folder that can be written to", "tiny.yaml/results")
        assert tree(tmp_path) == before

    def test_results_of_no_sweep(self, call, tmp_path):
        for verb in ("show", "pareto"):
            check_refusal(call("results", verb, "nonsense"), "SWEEP must be a sweep stored in results", "--results")
            check_refusal(call("results", verb, "../x"), "SWEEP must be")
        assert tree(tmp_path) == {}

    def test_results_below_a_regular_file(self, call, tiny_file):
        where = ["--results", f"{tiny_file}/results"]
        check_refusal(call("results", "show", "tiny", *where), "SWEEP must be a sweep stored in tiny.yaml/results")
        check_refusal(call("trial", "--from", "abc-0", *where), "--from must be a run stored below")
        assert call("plan", tiny_file, *where).returncode == 0

    @pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999999", ":1"])
    def test_an_address_where_no_cluster_answers(self, call, tmp_path, tiny_file, address):
        before = tree(tmp_path)
        check_refusal(call("run", tiny_file, "--address", address), address, "`ray start --head`")
        assert tree(tmp_path) == before

    def test_results_of_another_sweep_names_those_there_are(self, call, tiny_sweep):
        ended = call("results", "show", "tinny", "--results", str(tiny_sweep.here / "results"))
        check_refusal(ended, "'tinny'", "Stored there: tiny.")

    @pytest.mark.parametrize("axes", ["nonsense:min", "nll_iw", "nll_iw:down", "", "status:min"])
    def test_objectives_that_cannot_be(self, call, tiny_sweep, axes):
        here = str(tiny_sweep.here / "results")
        check_refusal(call("results", "pareto", "tiny", "--results", here, "--objectives", axes), "--objectives must")

    def test_an_unknown_strategy(self, call):
        check_refusal(call("strategies", "agressive"), "NAME must be one of ", "aggressive", "'agressive'")


class TestPlan:
    def test_writes_nothing(self, call, tmp_path, tiny_file):
        before = tree(tmp_path)
        ended = call("plan", tiny_file)
        assert ended.returncode == 0, ended.stderr
        assert "8 of 8 runs to do" in ended.stdout
        assert tree(tmp_path) == before

    def test_json(self, call, tiny_file):
        shown = json.loads(call("plan", tiny_file, "--json").stdout)
        assert (shown["sweep"], shown["runs"], shown["missing"], shown["core_seconds"]) == ("tiny", 8, 8, None)
        assert [(arm["arm"], arm["configurations"], arm["missing"]) for arm in shown["arms"]] == [
            ("vae", 1, 2),
            ("beta", 3, 6),
        ]

    def test_of_a_finished_sweep(self, call, tiny_sweep):
        before = tiny_sweep.files
        where = [str(tiny_sweep.here / "tiny.yaml"), "--results", str(tiny_sweep.here / "results"), "--json"]
        shown = json.loads(call("plan", *where).stdout)
        assert (shown["runs"], shown["missing"], shown["core_seconds"]) == (14, 0, 0)
        more = json.loads(call("plan", *where, "--set", "search.seeds=3").stdout)
        assert more["missing"] == 7
        assert more["core_seconds"] > 0
        assert tiny_sweep.files == before


class TestResults:
    def test_before_anything_finished(self, call, tiny_file, tmp_path):
        folder = ResultsFolder("results", "tiny")
        folder.prepare()
        folder.write("spec.yaml", (tmp_path / tiny_file).read_bytes())
        ended = call("results", "pareto", "tiny")
        assert ended.returncode == 0
        assert "no run has finished" in ended.stdout
        assert json.loads(call("results", "pareto", "tiny", "--json").stdout) == []
        assert call("results", "show", "tiny").returncode == 0
        assert json.loads(call("results", "show", "tiny", "--json").stdout) == []
        check_refusal(call("results", "pareto", "tiny", "--png", "front.png"), "SWEEP must hold finished runs to draw")

    def test_show(self, call, tiny_sweep):
        where = ["tiny", "--results", str(tiny_sweep.here / "results")]
        shown = call("results", "show", *where).stdout
        for row in tiny_sweep.folder.runs():
            assert row["config_id"] in shown
        assert "2 diverged" in shown
        rows = json.loads(call("results", "show", *where, "--json").stdout)
        assert [row["run_id"] for row in rows] == [row["run_id"] for row in tiny_sweep.folder.runs()]
        assert rows[0]["nll_iw"] == tiny_sweep.folder.runs()[0]["nll_iw"]

    def test_show_as_markdown_with_chosen_columns_and_relative_time(self, call, tiny_sweep, tmp_path):
        where = ["tiny", "--results", str(tiny_sweep.here / "results")]
        arm = tiny_sweep.folder.runs()[0]["arm"]
        options = ["--columns", "nll_iw,mi", "--baseline", arm, "--markdown", "--png", "arms.png"]
        ended = call("results", "show", *where, *options)
        assert ended.returncode == 0, ended.stderr
        head, rule, *lines = ended.stdout.splitlines()
        assert head == "| arm | runs | nll_iw | mi | time | config_id | parameters |"
        assert rule.count("---") == 7
        assert len(lines) == len({row["config_id"] for row in tiny_sweep.folder.runs()})
        assert (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")

    def test_show_refuses_what_is_not_there(self, call, tiny_sweep):
        where = ["tiny", "--results", str(tiny_sweep.here / "results")]
        ended = call("results", "show", *where, "--columns", "nll_iw,nothing", "--baseline", "nobody")
        check_refusal(ended, "--columns must be numeric columns", "--baseline must be an arm of tiny")
        check_refusal(call("results", "show", *where, "--png", "none/x.png"), "--png must be a file")

    def test_the_front_as_a_picture(self, call, tiny_sweep, tmp_path):
        where = ["tiny", "--results", str(tiny_sweep.here / "results")]
        assert call("results", "pareto", *where, "--png", "front.png").returncode == 0
        assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
        check_refusal(call("results", "pareto", *where, "--png", "none/front.png"), "--png must be a file")
        ended = call("results", "pareto", *where, "--png", "x.png", "--objectives", "nll_iw:min")
        check_refusal(ended, "--png must have two objectives")


class TestStrategies:
    def test_json_covers_the_catalogue(self, call):
        shown = json.loads(call("strategies", "--json").stdout)
        assert [entry["kind"] for entry in shown] == list(CATALOGUE)
        for entry in shown:
            strategy = CATALOGUE[entry["kind"]]
            assert entry["paper"] == strategy.paper
            assert entry["slots"] == sorted(strategy.slots)
            assert [field["name"] for field in entry["fields"]] == [n for n in strategy.model_fields if n != "kind"]
            assert all(field["description"] for field in entry["fields"])

    def test_one(self, call):
        assert json.loads(call("strategies", "bn_vae", "--json").stdout)["kind"] == "bn_vae"
        text = call("strategies", "bn_vae").stdout
        assert CATALOGUE["bn_vae"].paper in text
        assert "not with delta_vae: E03" in text

    def test_all(self, call):
        text = call("strategies").stdout
        assert all(kind in text for kind in CATALOGUE)


@pytest.mark.parametrize(
    ("asked", "reader", "heard"),
    [
        ("strategies --json", "head -c 1", "["),
        ("strategies --json", "true", ""),
        ("strategies mdr", "head -c 3", "mdr"),
        ("strategies mdr", "true", ""),
    ],
)
def test_a_reader_that_closes_early_is_no_error(tmp_path, asked, reader, heard):
    command = f"'{sys.executable}' -m sweeps {asked} | {reader}"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout == heard
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_nor_does_it_hide_what_the_command_has_to_say(tmp_path):
    command = f"'{sys.executable}' -m sweeps trial --set training.epochs=0 | true"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert "training.epochs must" in ended.stderr
    assert ended.returncode == 2


def test_a_stack_is_split_at_its_strategies_and_not_at_the_sign_of_a_number():
    stack = parse_arm_text("encoder_lr:multiplier=1e+1 + kl_linear_epoch:warm_up=2.5e+0")
    assert [item["kind"] for item in stack] == ["encoder_lr", "kl_linear_epoch"]
    assert parse_arm_text("vae") == []


def test_the_commas_of_a_list_do_not_separate_fields():
    stack = parse_arm_text("cnn_decoder:size=null,dilations=[1, 2,4],kernel=2")
    assert stack == [{"kind": "cnn_decoder", "size": None, "dilations": [1, 2, 4], "kernel": 2}]
