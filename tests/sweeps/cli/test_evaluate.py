"""`lagvae evaluate`: studies of kept models, stored and printed findings, and rejected input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from commands import check_rejected, invoke
from worlds import TINY_TRIAL, sweep

from lagvae_core.config.trial import TrialConfig
from lagvae_core.studies import STUDIES, Findings
from lagvae_core.studies.trained_model import restore
from sweeps.spec.sweep import parse_spec
from sweeps.storage.folder import model_name
from sweeps.storage.schema import objective_columns, runs_schema
from sweeps.storage.table import ResultsFolder
from sweeps.studies.syntax import parse_studies
from sweeps.studies.table import EVALUATION_COLUMNS, evaluation_schema, write_evaluation

QUICK = "probe:labels=[20,64],draws=2,inverse_penalties=[1],tsne:perplexity=5"
QUICK_PROBE, QUICK_TSNE = "probe:labels=[20],draws=1,inverse_penalties=[1]", "tsne:perplexity=5"


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run `lagvae ARGUMENTS` in this process and in `tmp_path`, where importing Ray or Optuna is an error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        return invoke(*arguments, folder=tmp_path, without=("ray", "optuna"))

    return call


@pytest.fixture
def folder(tiny_sweep, tmp_path) -> ResultsFolder:
    """A copy of the tiny sweep."""
    shutil.copytree(tiny_sweep.here / "results", tmp_path / "results")
    return ResultsFolder("results", "tiny")


@pytest.fixture(scope="module")
def evaluated(tiny_sweep, tmp_path_factory):
    """A copy of the tiny sweep after an evaluation of the arm `vae`: its folder, and the printed entries."""
    here = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(tiny_sweep.here / "results", here / "results")
    arguments = ["evaluate", "--sweep", "tiny", "--arm", "vae", "--what", QUICK, "--json", "--png", "pictures"]
    ended = invoke(*arguments, folder=here, without=("ray", "optuna"))
    assert ended.returncode == 0, ended.stderr
    return here, json.loads(ended.stdout)


def config_of(row: dict[str, Any]) -> TrialConfig:
    return TrialConfig.model_validate_json(row["config"])


def no_evaluation_below(folder: Path) -> bool:
    return not list(folder.glob("results/tiny/evaluations/*"))


class TestEvaluation:
    def test_it_prints_one_object_per_run_and_study(self, evaluated, tiny_sweep):
        here, entries = evaluated
        runs = [row["run_id"] for row in tiny_sweep.folder.runs() if row["arm"] == "vae"]
        assert [(entry["run_id"], entry["study"]) for entry in entries] == [
            (run, study) for run in runs for study in ("probe", "tsne")
        ]
        for entry in entries:
            assert entry["values"].keys() == {column.name for column in STUDIES[entry["study"]].columns}
            assert all((here / file).is_file() for file in entry["files"])

    def test_it_stores_one_typed_row_per_run(self, evaluated):
        here, entries = evaluated
        for entry in entries:
            kind = entry["study"]
            table = pq.read_table(here / f"results/tiny/evaluations/{kind}/{entry['run_id']}.parquet")
            assert table.schema.equals(evaluation_schema(STUDIES[kind]))
            (row,) = table.to_pylist()
            assert {name: row[name] for name in entry["values"]} == entry["values"]
            assert (row["run_id"], row["arm"], row["study"]) == (entry["run_id"], "vae", kind)
            assert json.loads(row["settings"]) == entry["settings"]

    def test_it_stores_the_tables_of_a_study(self, evaluated):
        here, _ = evaluated
        for study, name, rows in (("probe", "accuracy", 1 + 4 * 2 * 2), ("tsne", "map", 32)):
            whole = pq.read_table(here / f"results/tiny/evaluations/{study}/{name}")
            assert len(whole) == 2 * rows
            assert len(set(whole["run_id"].to_pylist())) == 2

    def test_its_numbers_are_those_of_the_kept_model(self, evaluated, tiny_sweep):
        entry = next(entry for entry in evaluated[1] if entry["study"] == "probe")
        row = next(row for row in tiny_sweep.folder.runs() if row["run_id"] == entry["run_id"])
        config = config_of(row)
        trained = restore(tiny_sweep.folder.read(model_name(row["run_id"])), config, config.data.load())
        (study, _) = parse_studies(QUICK)
        assert study.measure(trained, lambda *progress: None).values == entry["values"]

    def test_it_draws_each_study_that_has_a_figure(self, evaluated):
        here, entries = evaluated
        for entry in entries:
            assert (
                (here / f"pictures/vae-config0-seed{entry['run_id'][-1]}-{entry['study']}.png")
                .read_bytes()
                .startswith(b"\x89PNG")
            )

    def test_it_does_not_change_the_rows_of_the_runs(self, evaluated, tiny_sweep):
        for row in tiny_sweep.folder.runs():
            name = f"results/tiny/runs/{row['run_id']}.parquet"
            assert (evaluated[0] / name).read_bytes() == (tiny_sweep.here / name).read_bytes()

    def test_results_show_joins_its_columns(self, evaluated, call):
        here, entries = evaluated
        columns = "nll_iw,probe_accuracy,probe_labels"
        ended = call("results", "show", "tiny", "--results", str(here / "results"), "--columns", columns, "--markdown")
        assert ended.returncode == 0, ended.stderr
        head, _, *lines = ended.stdout.splitlines()
        assert head.startswith("| arm | runs | nll_iw | probe_accuracy | probe_labels |")
        values = [entry["values"]["probe_accuracy"] for entry in entries if entry["study"] == "probe"]
        (vae,) = [line.split("|") for line in lines if line.startswith("| vae")]
        assert vae[4].split()[0] == f"{sum(values) / 2:.2f}"
        assert vae[5].split()[0] == "64.00"
        assert all(line.split("|")[4].strip() == "" for line in lines if not line.startswith("| vae"))

    def test_json_and_fronts_join_them_too(self, evaluated, call):
        stored = ["tiny", "--results", str(evaluated[0] / "results"), "--json"]
        rows = json.loads(call("results", "show", *stored, "--columns", "probe_majority").stdout)
        assert {row["arm"] for row in rows if row["probe_majority"] is not None} == {"vae"}
        front = json.loads(call("results", "pareto", *stored, "--objectives", "nll_iw:min,probe_accuracy:max").stdout)
        assert [(member["arm"], member["n"]) for member in front] == [("vae", 2)]
        ended = call("results", "show", *stored, "--columns", "probe_acuracy")
        check_rejected(ended, "--columns: ", "probe_accuracy")


class TestRepeatedEvaluation:
    def test_it_replaces_the_findings_and_different_settings_are_a_warning(self, call, folder):
        one, other = [row["run_id"] for row in folder.runs() if row["arm"] == "vae"]
        ended = call("evaluate", one, other, "--what", QUICK_PROBE)
        assert ended.returncode == 0
        assert one in ended.stdout
        assert other in ended.stdout
        assert call("evaluate", one, "--what", QUICK_PROBE.replace("20", "30")).returncode == 0
        rows = {row["run_id"]: row for row in folder.rows("evaluations/probe", evaluation_schema(STUDIES["probe"]))}
        assert (rows[one]["probe_labels"], rows[other]["probe_labels"]) == (30, 20)
        table = pq.read_table(Path(f"results/tiny/evaluations/probe/accuracy/{one}.parquet"))
        assert set(table["labels"].to_pylist()) == {30, 64}
        assert "warning, probe" in call("results", "show", "tiny", "--columns", "probe_accuracy").stdout
        assert "warning, probe" not in call("results", "show", "tiny").stdout

    def test_a_table_without_new_findings_is_removed(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        row = folder.runs()[0]
        (study,) = parse_studies("tsne")
        values = dict.fromkeys(column.name for column in study.columns)
        write_evaluation(folder, row, study, Findings(values, {"map": {"x": [1.0]}}), seconds=0.0, device="cpu")
        path = Path(f"results/tiny/evaluations/tsne/map/{row['run_id']}.parquet")
        assert path.exists()
        write_evaluation(folder, row, study, Findings(values), seconds=0.0, device="cpu")
        assert not path.exists()

    def test_the_table_of_one_run_has_every_column(self, call, folder):
        run_id = next(row["run_id"] for row in folder.runs() if row["arm"] == "anneal")
        out = call("evaluate", run_id, "--what", QUICK_TSNE).stdout
        assert all(column.name in out and column.doc in out for column in STUDIES["tsne"].columns)


class TestModels:
    def test_a_run_without_a_kept_model_is_rejected_and_trained_again_on_request(self, call, folder, tmp_path):
        row = next(row for row in folder.runs() if row["arm"] == "vae")
        name = model_name(row["run_id"])
        weights = folder.read(name)
        folder.remove(name)
        evaluate = ["evaluate", row["run_id"], "--what", QUICK_TSNE]
        check_rejected(call(*evaluate), "RUN_ID: ", row["run_id"], "`lagvae evaluate --retrain`", "keep: models")
        assert no_evaluation_below(tmp_path)
        ended = call(*evaluate, "--retrain")
        assert ended.returncode == 0, ended.stderr
        assert "bit for bit" in ended.stderr
        assert folder.read(name) == weights

    def test_a_sweep_without_any_model_is_rejected_in_one_line(self, call, folder):
        for row in folder.runs():
            folder.remove(model_name(row["run_id"]))
        ended = call("evaluate", "--sweep", "tiny", "--what", QUICK_TSNE)
        check_rejected(ended, "RUN_ID: ", "`lagvae evaluate --retrain`")
        assert len(ended.stderr.splitlines()) == 1
        assert "run_id" not in ended.stderr

    def test_run_counts_the_runs_without_a_model_if_models_are_kept(self, call, folder, tiny_sweep, tmp_path):
        shutil.copy(tiny_sweep.here / "tiny.yaml", tmp_path)
        assert "have no model" not in invoke("run", "tiny.yaml", folder=tmp_path, without=()).stdout
        finished = [row["run_id"] for row in folder.runs() if row["status"] == "finished"]
        for run_id in finished[:3]:
            folder.remove(model_name(run_id))
        last = invoke("run", "tiny.yaml", folder=tmp_path, without=()).stdout.splitlines()[-1]
        assert last.startswith(f"3 of {len(finished)} finished runs have no model")
        assert "--retrain" in last
        ended = invoke("run", "tiny.yaml", "--keep", "nothing", folder=tmp_path, without=())
        assert "have no model" not in ended.stdout

    @pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-9], lambda c: b"x" + c[1:]])
    def test_a_damaged_model_is_reported_in_one_line(self, call, folder, damage, tmp_path):
        run_id = folder.runs()[0]["run_id"]
        folder.write(model_name(run_id), damage(folder.read(model_name(run_id))))
        place = f"results/tiny/{model_name(run_id)}"
        ended = call("evaluate", run_id, "--what", QUICK_TSNE)
        check_rejected(ended)
        (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("run ")]
        assert line.startswith(f"lagvae: {place}: ")
        assert "damaged" in line
        check_rejected(call("evaluate", "--model", place, "--what", "tsne"), f"{place}: ", "damaged")
        check_rejected(call("evaluate", "--model", place, "--what", "tsne", "--retrain"), "--retrain: ")
        assert no_evaluation_below(tmp_path)

    def test_a_run_of_another_version_is_skipped(self, call, folder):
        rows = [row for row in folder.runs() if row["status"] == "finished"]
        config = json.loads(rows[0]["config"])
        folder.write_run(rows[0] | {"config": json.dumps(config | {"training": {**config["training"], "gone": 1}})})
        with pytest.warns(UserWarning, match=rows[0]["run_id"]):
            ended = call("evaluate", "--sweep", "tiny", "--what", QUICK.partition(",tsne")[0], "--json")
        assert ended.returncode == 0
        assert len(json.loads(ended.stdout)) == len(rows) - 1
        check_rejected(call("evaluate", rows[0]["run_id"], "--what", "probe"), "RUN_ID: ", "training.gone")

    def test_the_model_of_another_run(self, call, folder):
        one, other = (row["run_id"] for row in folder.runs()[:2])
        model = f"results/tiny/{model_name(other)}"
        check_rejected(call("evaluate", one, "--model", model, "--what", QUICK_TSNE), f"{model}: ")
        check_rejected(call("evaluate", one, "--model", "nothing.pt", "--what", "tsne"), "--model: ", "nothing.pt")
        check_rejected(call("evaluate", one, other, "--model", model, "--what", "tsne"), "--model: ")

    def test_a_model_that_a_trial_kept_is_evaluated_without_a_sweep(self, call, tmp_path):
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TINY_TRIAL))
        assert call("trial", "trial.yaml", "--keep", "kept/m.pt", "--arm", "lstm_lm").returncode == 0
        ended = call("evaluate", "--model", "kept/m.pt", "--what", QUICK, "--json", "--png", "pictures")
        assert ended.returncode == 0, ended.stderr
        probe, tsne = json.loads(ended.stdout)
        assert probe["values"]["probe_accuracy"] is None
        assert probe["values"]["probe_bow"] is not None
        assert set(tsne["values"].values()) == {None}
        assert probe["files"] == tsne["files"] == []
        assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["m-probe.png"]

    def test_a_trial_rejects_a_file_that_cannot_be_written(self, call, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TINY_TRIAL))
        check_rejected(call("trial", "trial.yaml", "--keep", "file/m.pt"), "--keep: ", "'file/m.pt'")

    def test_keeping_models_does_not_change_the_identity_of_runs(self):
        specs = [parse_spec(yaml.safe_dump(sweep(**keep))) for keep in ({}, {"keep": "nothing"}, {"keep": "models"})]
        assert [spec.keep for spec in specs] == ["nothing", "nothing", "models"]
        identities = {spec.trial_config(spec.arms[0], spec.arms[0].probe(), 0).config_id("x") for spec in specs}
        assert len(identities) == 1

    def test_run_rejects_an_unknown_value_of_keep(self, call, tmp_path):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep()))
        check_rejected(call("run", "tiny.yaml", "--keep", "all"), "keep: ", "'all'")


class TestInvalidRuns:
    @pytest.mark.parametrize("run_id", ["../x", "../../tiny/runs/x", "a" * 300, "", ".", "x\0y", "0" * 12, "é-0"])
    def test_hostile_ids(self, call, folder, tmp_path, run_id):
        before = sorted(tmp_path.rglob("*"))
        ended = call("evaluate", run_id, "--what", "tsne")
        check_rejected(ended, "RUN_ID: ")
        assert len(ended.stderr) < 1000
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_unknown_run_and_several_problems_at_once(self, call, folder):
        diverged = next(row["run_id"] for row in folder.runs() if row["status"] == "diverged")
        unknown = "0" * 12 + "-0"
        check_rejected(call("evaluate", unknown, "../x", "--what", "tsne"), "2 problems", unknown, "'../x'")
        check_rejected(call("evaluate", diverged, "--what", "tsne"), f"{diverged}: ", "'diverged'")

    def test_runs_are_named_or_selected_by_sweep_and_arm(self, call, folder):
        run_id = folder.runs()[0]["run_id"]
        check_rejected(call("evaluate", "--what", "tsne"), "RUN_ID: ", "--sweep", "--model")
        check_rejected(call("evaluate", "--sweep", "../x", "--what", "tsne"), "SWEEP: ")
        check_rejected(call("evaluate", "--sweep", "tiny", "--arm", "x", "--what", "tsne"), "--arm: ", "'x'")
        check_rejected(call("evaluate", run_id, "--arm", "vae", "--what", "tsne"), "--arm: ")

    def test_changed_data_are_rejected_and_moved_data_are_not(self, call, tmp_path):
        for name in ("train", "valid", "test"):
            (tmp_path / "corpus").mkdir(exist_ok=True)
            (tmp_path / f"corpus/{name}.txt").write_text("x\ta b c\ny\tb c d\nx\tc d a\n" * 6)
        trial = TINY_TRIAL | {"data": {"kind": "text", "path": "corpus"}}
        (tmp_path / "text.yaml").write_text(yaml.safe_dump(trial))
        ended = call("trial", "text.yaml", "--json", "--keep", "m.pt")
        assert ended.returncode == 0
        record = json.loads(ended.stdout)
        folder = ResultsFolder("results", "s")
        folder.prepare()
        same = {name: record[name] for name in ("run_id", "config_id", "data_fingerprint", "status")}
        folder.write_run(
            dict.fromkeys(runs_schema().names)
            | same
            | {"sweep": "s", "arm": "vae", "configuration": 0, "seed": 0, "attempt": 1, "threads": 1}
            | {"config": json.dumps(record["config"])}
        )
        shutil.copytree("corpus", "elsewhere")
        (tmp_path / "corpus/test.txt").write_text("x\ta b\ny\tb c\n" * 9)
        evaluate = ["evaluate", record["run_id"], "--model", "m.pt", "--what", "probe:labels=[9],draws=1"]
        check_rejected(call(*evaluate), "data: ", record["run_id"], "--data")
        assert not Path("results/s/evaluations").exists()
        assert call(*evaluate, "--data", "elsewhere").returncode == 0

    def test_data_without_a_path_cannot_be_moved(self, call, folder):
        ended = call("evaluate", folder.runs()[0]["run_id"], "--what", QUICK_TSNE, "--data", "x")
        check_rejected(ended, "--data: ", "synthetic")

    def test_folders_that_cannot_be_written_to(self, call, folder, tmp_path):
        (tmp_path / "file").write_text("")
        evaluate = ["evaluate", folder.runs()[0]["run_id"], "--what", QUICK_TSNE]
        check_rejected(call(*evaluate, "--png", "pictures", "--device", "nonsense"), "'nonsense'")
        assert not Path("pictures").exists()
        (tmp_path / "results/tiny/evaluations").write_text("in the way")
        check_rejected(call(*evaluate), "--results: ")
        (tmp_path / "results/tiny/evaluations").unlink()
        check_rejected(call(*evaluate, "--png", "file"), "--png: ", "'file'")
        assert no_evaluation_below(tmp_path)


class TestStudies:
    def test_commas_separate_studies_and_fields(self):
        one, other = parse_studies(" probe:labels=[20, 64],draws=2 , balanced=true,tsne ")
        assert (one.labels, one.draws, one.balanced) == ((20, 64), 2, True)
        assert other == STUDIES["tsne"]()
        assert [study.name() for study in parse_studies("tsne+probe:draws=1")] == ["tsne", "probe"]
        assert [study.name() for study in parse_studies("tsne,probe")] == ["tsne", "probe"]

    @pytest.mark.parametrize(
        ("what", "fragments"),
        [
            ("", ["--what: ", "probe"]),
            ("vae", ["--what: ", "'vae'"]),
            ("probes", ["--what: ", "Did you mean probe?"]),
            ("probe:draws=0,drws=1", ["2 problems", "--what probe.draws: ", "--what probe.drws: "]),
            ("probe:draws=[,tsne:seed=-1", ["--what: "]),
            ("probe:draws", ["--what: ", "'probe:draws'"]),
            ("probe,probe", ["--what: ", "'probe'"]),
            ("tsne:perplexity=32,probe", ["tsne.perplexity: ", "32"]),
        ],
    )
    def test_invalid_studies(self, call, folder, what, fragments, tmp_path):
        check_rejected(call("evaluate", "--sweep", "tiny", "--arm", "vae", "--what", what), *fragments)
        assert no_evaluation_below(tmp_path)

    def test_no_two_columns_have_the_same_name(self):
        of_studies = [column.name for study in STUDIES.values() for column in study.columns]
        assert len(set(of_studies)) == len(of_studies)
        taken = {*runs_schema().names, *objective_columns(), *(name for name, _, _ in EVALUATION_COLUMNS)}
        assert not taken & set(of_studies)
