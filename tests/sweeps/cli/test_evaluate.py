"""`lagvae evaluate`: kept models measured, findings stored, joined and printed, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from processes import lagvae
from worlds import TINY_TRIAL, sweep

from lagvae_core.studies import STUDIES, Findings
from lagvae_core.studies.trained_model import restore
from sweeps.cli import app as cli
from sweeps.spec.sweep import parse_spec
from sweeps.storage.folder import model_name
from sweeps.storage.schema import OBJECTIVE_COLUMNS, RUNS_SCHEMA
from sweeps.storage.table import ResultsFolder
from sweeps.studies.syntax import parse_studies
from sweeps.studies.table import EVALUATION_COLUMNS, evaluation_schema, write_evaluation

QUICK = "probe:labels=[20,64],draws=2,inverse_penalties=[1],tsne:perplexity=5"
WITHOUT_SEARCH = "import sys\nsys.modules['ray'] = sys.modules['optuna'] = None\n"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`lagvae ARGUMENTS` in this process and in a folder of its own, where importing Ray or Optuna is an error."""
    monkeypatch.chdir(tmp_path)
    for name in ("ray", "optuna"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("COLUMNS", "250")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lagvae", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def refused(ended: tuple[int, str, str], *fragments: str) -> None:
    code, out, err = ended
    assert (code, out) == (2, ""), ended
    assert err.startswith("lagvae: ")
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err


@pytest.fixture
def folder(tiny_sweep, tmp_path) -> ResultsFolder:
    """The tiny sweep's own copy for a test."""
    shutil.copytree(tiny_sweep.here / "results", tmp_path / "results")
    return ResultsFolder("results", "tiny")


@pytest.fixture(scope="module")
def evaluated(tiny_sweep, tmp_path_factory):
    """The tiny sweep, all of whose finished runs are evaluated by the real command, without Ray and Optuna."""
    here = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(tiny_sweep.here / "results", here / "results")
    arguments = ["evaluate", "--sweep", "tiny", "--arm", "vae", "--what", QUICK, "--json", "--png", "pictures"]
    ended = lagvae(*arguments, cwd=here, before=WITHOUT_SEARCH)
    assert ended.returncode == 0, ended.stderr
    return here, ended


class TestEvaluated:
    def test_prints_one_object_for_each_run_and_study(self, evaluated, tiny_sweep):
        found = json.loads(evaluated[1].stdout)
        runs = [row["run_id"] for row in tiny_sweep.folder.runs() if row["arm"] == "vae"]
        assert [(entry["run_id"], entry["study"]) for entry in found] == [
            (run, study) for run in runs for study in ("probe", "tsne")
        ]
        for entry in found:
            assert entry["values"].keys() == {column.name for column in STUDIES[entry["study"]].columns}
            assert all((evaluated[0] / file).is_file() for file in entry["files"])

    def test_stores_one_typed_row_for_each_run(self, evaluated):
        here, ended = evaluated
        for entry in json.loads(ended.stdout):
            kind = entry["study"]
            table = pq.read_table(here / f"results/tiny/evaluations/{kind}/{entry['run_id']}.parquet")
            assert table.schema.equals(evaluation_schema(STUDIES[kind]))
            (row,) = table.to_pylist()
            assert {name: row[name] for name in entry["values"]} == entry["values"]
            assert (row["run_id"], row["arm"], row["study"]) == (entry["run_id"], "vae", kind)
            assert json.loads(row["settings"]) == entry["settings"]

    def test_stores_tables_beside(self, evaluated):
        here, _ = evaluated
        for study, name, rows in (("probe", "accuracy", 1 + 4 * 2 * 2), ("tsne", "map", 32)):
            whole = pq.read_table(here / f"results/tiny/evaluations/{study}/{name}")
            assert len(whole) == 2 * rows
            assert len(set(whole["run_id"].to_pylist())) == 2

    def test_the_numbers_are_those_of_the_kept_model(self, evaluated, tiny_sweep):
        entry = next(entry for entry in json.loads(evaluated[1].stdout) if entry["study"] == "probe")
        row = next(row for row in tiny_sweep.folder.runs() if row["run_id"] == entry["run_id"])
        config = parse_config(row)
        trained = restore(tiny_sweep.folder.read(model_name(row["run_id"])), config, config.data.load())
        (study, _) = parse_studies(QUICK)
        assert study.measure(trained, lambda *progress: None).values == entry["values"]

    def test_draws_each_study_that_has_a_picture(self, evaluated):
        here, ended = evaluated
        for entry in json.loads(ended.stdout):
            assert (here / f"pictures/{entry['run_id']}-{entry['study']}.png").read_bytes().startswith(b"\x89PNG")

    def test_the_rows_of_the_runs_are_untouched(self, evaluated, tiny_sweep):
        for row in tiny_sweep.folder.runs():
            name = f"results/tiny/runs/{row['run_id']}.parquet"
            assert (evaluated[0] / name).read_bytes() == (tiny_sweep.here / name).read_bytes()

    def test_results_show_finds_the_columns(self, evaluated, call):
        where = ["tiny", "--results", str(evaluated[0] / "results")]
        code, out, err = call(
            "results", "show", *where, "--columns", "nll_iw,probe_accuracy,probe_labels", "--markdown"
        )
        assert code == 0, err
        head, _, *lines = out.splitlines()
        assert head.startswith("| arm | runs | nll_iw | probe_accuracy | probe_labels |")
        found = json.loads(evaluated[1].stdout)
        values = [entry["values"]["probe_accuracy"] for entry in found if entry["study"] == "probe"]
        (vae,) = [line.split("|") for line in lines if line.startswith("| vae")]
        assert vae[4].split()[0] == f"{sum(values) / 2:.2f}"
        assert vae[5].split()[0] == "64.00"
        assert all(line.split("|")[4].strip() == "" for line in lines if not line.startswith("| vae"))

    def test_json_and_fronts_know_them_too(self, evaluated, call):
        where = ["tiny", "--results", str(evaluated[0] / "results"), "--json"]
        rows = json.loads(call("results", "show", *where, "--columns", "probe_majority")[1])
        assert {row["arm"] for row in rows if row["probe_majority"] is not None} == {"vae"}
        front = json.loads(call("results", "pareto", *where, "--objectives", "nll_iw:min,probe_accuracy:max")[1])
        assert [(member["arm"], member["n"]) for member in front] == [("vae", 2)]
        refused(call("results", "show", *where, "--columns", "probe_acuracy"), "--columns must", "probe_accuracy")


def parse_config(row: dict[str, Any]) -> Any:
    from lagvae_core.config.trial import TrialConfig

    return TrialConfig.model_validate_json(row["config"])


class TestAgain:
    def test_replaces_what_was_found_and_says_where_settings_differ(self, call, folder):
        one, other = [row["run_id"] for row in folder.runs() if row["arm"] == "vae"]
        code, out, _ = call("evaluate", one, other, "--what", "probe:labels=[20],draws=1,inverse_penalties=[1]")
        assert code == 0
        assert one in out
        assert other in out
        assert call("evaluate", one, "--what", "probe:labels=[30],draws=1,inverse_penalties=[1]")[0] == 0
        rows = {row["run_id"]: row for row in folder.rows("evaluations/probe", evaluation_schema(STUDIES["probe"]))}
        assert (rows[one]["probe_labels"], rows[other]["probe_labels"]) == (30, 20)
        table = pq.read_table(Path(f"results/tiny/evaluations/probe/accuracy/{one}.parquet"))
        assert set(table["labels"].to_pylist()) == {30, 64}
        assert "probe was measured in 2 ways" in call("results", "show", "tiny", "--columns", "probe_accuracy")[1]
        assert "ways" not in call("results", "show", "tiny")[1]

    def test_a_table_that_is_not_found_again_goes(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        row = folder.runs()[0]
        (study,) = parse_studies("tsne")
        values = dict.fromkeys(column.name for column in study.columns)
        write_evaluation(folder, row, study, Findings(values, {"map": {"x": [1.0]}}), seconds=0.0, device="cpu")
        path = Path(f"results/tiny/evaluations/tsne/map/{row['run_id']}.parquet")
        assert path.exists()
        write_evaluation(folder, row, study, Findings(values), seconds=0.0, device="cpu")
        assert not path.exists()

    def test_a_table_prints_every_column_of_one_run(self, call, folder):
        run_id = next(row["run_id"] for row in folder.runs() if row["arm"] == "anneal")
        out = call("evaluate", run_id, "--what", "tsne:perplexity=5")[1]
        assert all(column.name in out and column.doc in out for column in STUDIES["tsne"].columns)


class TestModels:
    def test_what_was_not_kept_is_refused_and_trained_again_on_request(self, call, folder):
        row = next(row for row in folder.runs() if row["arm"] == "vae")
        name = model_name(row["run_id"])
        kept = folder.read(name)
        folder.remove(name)
        refused(
            call("evaluate", row["run_id"], "--what", "tsne:perplexity=5"),
            "RUN_ID must be a run whose model is kept",
            "`lagvae evaluate --retrain`",
            "keep: models",
        )
        assert not list(Path("results/tiny").glob("evaluations/*"))
        code, _, err = call("evaluate", row["run_id"], "--what", "tsne:perplexity=5", "--retrain")
        assert code == 0, err
        assert "bit for bit" in err
        assert folder.read(name) == kept

    @pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-9], lambda c: b"x" + c[1:]])
    def test_a_damaged_model_is_refused_in_one_sentence(self, call, folder, damage):
        run_id = folder.runs()[0]["run_id"]
        folder.write(model_name(run_id), damage(folder.read(model_name(run_id))))
        ended = call("evaluate", run_id, "--what", "tsne:perplexity=5")
        place = f"results/tiny/{model_name(run_id)}"
        refused(ended)
        said = [line for line in ended[2].splitlines() if not line.startswith("run ")]
        assert said == [f"lagvae: {place}: The kept model is damaged (its checksum is wrong). Train it again."]
        refused(call("evaluate", "--model", place, "--what", "tsne"), f"{place}: The kept model is damaged")
        refused(call("evaluate", "--model", place, "--what", "tsne", "--retrain"), "--retrain must be left out")
        assert not list(Path("results/tiny").glob("evaluations/*"))

    def test_a_run_of_another_version_stops_no_other(self, call, folder):
        rows = [row for row in folder.runs() if row["status"] == "finished"]
        config = json.loads(rows[0]["config"])
        folder.write_run(rows[0] | {"config": json.dumps(config | {"training": {**config["training"], "gone": 1}})})
        with pytest.warns(
            UserWarning, match=rf"passed over: RUN_ID must be a run of this version.*{rows[0]['run_id']}"
        ):
            code, out, _ = call("evaluate", "--sweep", "tiny", "--what", QUICK.partition(",tsne")[0], "--json")
        assert code == 0
        assert len(json.loads(out)) == len(rows) - 1
        refused(call("evaluate", rows[0]["run_id"], "--what", "probe"), "be a run of this version of lagvae", "gone")

    def test_the_model_of_another_run(self, call, folder):
        one, other = (row["run_id"] for row in folder.runs()[:2])
        model = f"results/tiny/{model_name(other)}"
        refused(call("evaluate", one, "--model", model, "--what", "tsne:perplexity=5"), "must belong to its trial")
        refused(
            call("evaluate", one, "--model", "nothing.pt", "--what", "tsne"), "--model must be a file", "nothing.pt"
        )
        refused(
            call("evaluate", one, other, "--model", model, "--what", "tsne"), "--model must be the weights of one run"
        )

    def test_a_trial_keeps_its_model_for_evaluation_without_a_sweep(self, call, tmp_path):
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TINY_TRIAL))
        assert call("trial", "trial.yaml", "--keep", "kept/m.pt", "--arm", "lstm_lm")[0] == 0
        code, out, err = call("evaluate", "--model", "kept/m.pt", "--what", QUICK, "--json", "--png", "pictures")
        assert code == 0, err
        probe, tsne = json.loads(out)
        assert probe["values"]["probe_accuracy"] is None
        assert probe["values"]["probe_bow"] is not None
        assert set(tsne["values"].values()) == {None}
        assert probe["files"] == tsne["files"] == []
        assert [path.name for path in (tmp_path / "pictures").iterdir()] == [f"{probe['run_id']}-probe.png"]

    def test_a_trial_refuses_a_file_that_cannot_be(self, call, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(TINY_TRIAL))
        refused(call("trial", "trial.yaml", "--keep", "file/m.pt"), "--keep must be in a folder that can be written to")

    def test_keeping_is_asked_for_and_changes_no_identity(self):
        specs = [parse_spec(yaml.safe_dump(sweep(**keep))) for keep in ({}, {"keep": "nothing"}, {"keep": "models"})]
        assert [spec.keep for spec in specs] == ["nothing", "nothing", "models"]
        identities = {spec.trial_config(spec.arms[0], spec.arms[0].probe(), 0).config_id("x") for spec in specs}
        assert len(identities) == 1

    def test_run_refuses_to_keep_what_it_does_not_know(self, call, tmp_path):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep()))
        refused(call("run", "tiny.yaml", "--keep", "all"), "keep must be 'nothing' or 'models'", "'all'")


class TestWrongRuns:
    @pytest.mark.parametrize("run_id", ["../x", "../../tiny/runs/x", "a" * 300, "", ".", "x\0y", "0" * 12, "é-0"])
    def test_hostile_ids(self, call, folder, tmp_path, run_id):
        before = sorted(tmp_path.rglob("*"))
        ended = call("evaluate", run_id, "--what", "tsne")
        refused(ended, "RUN_ID must be CONFIG_ID-SEED")
        assert len(ended[2]) < 1000
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_unknown_run_and_several_mistakes_at_once(self, call, folder):
        diverged = next(row["run_id"] for row in folder.runs() if row["status"] == "diverged")
        refused(call("evaluate", "0" * 12 + "-0", "../x", "--what", "tsne"), "2 mistakes", "be a run stored in results")
        refused(call("evaluate", diverged, "--what", "tsne"), f"{diverged} must be a finished run", "'diverged'")

    def test_which_runs_must_be_said(self, call, folder):
        run_id = folder.runs()[0]["run_id"]
        refused(call("evaluate", "--what", "tsne"), "RUN_ID must say which models to measure")
        refused(call("evaluate", "--sweep", "../x", "--what", "tsne"), "SWEEP must be a sweep stored in results")
        refused(call("evaluate", "--sweep", "tiny", "--arm", "x", "--what", "tsne"), "--arm must be an arm of tiny")
        refused(call("evaluate", run_id, "--arm", "vae", "--what", "tsne"), "--arm must stand beside --sweep alone")

    def test_changed_data_and_the_same_data_elsewhere(self, call, tmp_path):
        for name in ("train", "valid", "test"):
            (tmp_path / "corpus").mkdir(exist_ok=True)
            (tmp_path / f"corpus/{name}.txt").write_text("x\ta b c\ny\tb c d\nx\tc d a\n" * 6)
        trial = TINY_TRIAL | {"data": {"kind": "text", "path": "corpus"}}
        (tmp_path / "text.yaml").write_text(yaml.safe_dump(trial))
        code, out, _ = call("trial", "text.yaml", "--json", "--keep", "m.pt")
        assert code == 0
        record = json.loads(out)
        folder = ResultsFolder("results", "s")
        folder.prepare()
        same = {name: record[name] for name in ("run_id", "config_id", "data_fingerprint", "status")}
        folder.write_run(
            dict.fromkeys(RUNS_SCHEMA.names)
            | same
            | {"sweep": "s", "arm": "vae", "configuration": 0, "seed": 0, "threads": 1}
            | {"config": json.dumps(record["config"])}
        )
        shutil.copytree("corpus", "elsewhere")
        (tmp_path / "corpus/test.txt").write_text("x\ta b\ny\tb c\n" * 9)
        evaluate = ["evaluate", record["run_id"], "--model", "m.pt", "--what", "probe:labels=[9],draws=1"]
        refused(call(*evaluate), "the data must be what run", "The files have changed since")
        assert not Path("results/s/evaluations").exists()
        assert call(*evaluate, "--data", "elsewhere")[0] == 0

    def test_data_of_a_kind_without_a_path_do_not_move(self, call, folder):
        ended = call("evaluate", folder.runs()[0]["run_id"], "--what", "tsne:perplexity=5", "--data", "x")
        refused(ended, "--data must be left out for synthetic data")

    def test_a_picture_folder_that_cannot_be(self, call, folder, tmp_path):
        (tmp_path / "file").write_text("")
        evaluate = ["evaluate", folder.runs()[0]["run_id"], "--what", "tsne:perplexity=5"]
        refused(call(*evaluate, "--png", "pictures", "--device", "nonsense"), "device must be auto, cpu or cuda")
        assert not Path("pictures").exists()
        (tmp_path / "results/tiny/evaluations").write_text("in the way")
        refused(call(*evaluate), "--results must be a folder that can be written to")
        (tmp_path / "results/tiny/evaluations").unlink()
        refused(call(*evaluate, "--png", "file"), "--png must be a folder")
        assert not list(tmp_path.glob("results/tiny/evaluations/*"))


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
            ("", ["--what must name at least one study", "probe"]),
            ("vae", ["--what must be one of", "'vae'"]),
            ("probes", ["--what must be one of", "Did you mean probe?"]),
            (
                "probe:draws=0,drws=1",
                ["2 mistakes", "probe.draws must be greater", "probe.drws", "Did you mean draws?"],
            ),
            ("probe:draws=[,tsne:seed=-1", ["--what must give each field a YAML value"]),
            ("probe:draws", ["--what must give fields as name=value"]),
            ("probe,probe", ["--what must name each study once", "'probe'"]),
            ("tsne:perplexity=32,probe", ["tsne.perplexity must be less than the 32 examples"]),
        ],
    )
    def test_mistakes(self, call, folder, what, fragments):
        refused(call("evaluate", "--sweep", "tiny", "--arm", "vae", "--what", what), *fragments)
        assert not list(Path("results/tiny").glob("evaluations/*"))

    def test_no_two_columns_share_a_name(self):
        of_studies = [column.name for study in STUDIES.values() for column in study.columns]
        assert len(set(of_studies)) == len(of_studies)
        taken = {*RUNS_SCHEMA.names, *OBJECTIVE_COLUMNS, *(name for name, _, _ in EVALUATION_COLUMNS)}
        assert not taken & set(of_studies)

    def test_the_catalogue(self, call):
        found = json.loads(call("studies", "--json")[1])
        assert [entry["kind"] for entry in found] == list(STUDIES)
        for entry in found:
            study = STUDIES[entry["kind"]]
            assert [field["name"] for field in entry["fields"]] == [n for n in study.model_fields if n != "kind"]
            assert all(field["description"] for field in entry["fields"])
            text = call("studies", entry["kind"])[1]
            assert all(column.doc in text for column in study.columns)
            assert all(doc in text for doc in study.tables.values())
            assert entry["summary"] in call("studies")[1]
        refused(call("studies", "prob"), "NAME must be one of", "'prob'")
