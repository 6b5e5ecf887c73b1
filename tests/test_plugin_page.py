"""The page about plugins: its files keep the contracts, and they work in a sweep from the first run to a repetition."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from commands import check_rejected, invoke
from plugin_page import write_plugins
from processes import lagvae
from worlds import sweep

from lagvae_core.data import DATA_SOURCES
from lagvae_core.models import MODELS
from lagvae_core.plugins import load_plugin, loaded_plugins, unload_plugins
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES
from lagvae_core.testing import check_data, check_model, check_study, tiny_trial

SMALL = {"latent_dim": 2, "hidden": 8, "embedding": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_plugins(tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def _loaded(files):
    for path in files.values():
        load_plugin(path)
    yield
    unload_plugins()


def test_the_page_has_a_plugin_of_each_role(files):
    assert list(files) == ["capacity", "mean_encoder", "palindromes", "length"]
    assert len(files["capacity"].read_text().splitlines()) < 40


@pytest.mark.usefixtures("_loaded")
class TestContracts:
    """`check_strategy` runs over the remedy of the page in tests/lagvae_core/test_testing.py."""

    def test_the_model(self):
        check_model(MODELS["mean_encoder"], SMALL)

    def test_the_kind_of_data(self):
        check_data(DATA_SOURCES["palindromes"](examples=20))

    def test_the_study(self):
        lengths = {"kind": "palindromes", "examples": 32}
        check_study(STUDIES["length"](), tiny_trial(data=lengths, evaluation={"limit": None}))

    def test_data_of_a_family_take_its_recipe_models_and_strategies(self):
        config = tiny_trial("word_dropout", data={"kind": "palindromes"})
        assert config.context.data_kind == "text"
        assert config.model.kind == "lstm"
        assert set(config.plugins) == {"palindromes.py"}

    def test_all_roles_together(self):
        model = SMALL | {"kind": "mean_encoder"}
        config = tiny_trial({"kind": "capacity"}, data={"kind": "palindromes"}, model=model)
        assert set(config.plugins) == {"capacity.py", "mean_encoder.py", "palindromes.py"}


@pytest.fixture(scope="module")
def story(files, tmp_path_factory):
    """A sweep of two arms on two workers, one of them with the remedy of the page."""
    here = tmp_path_factory.mktemp("story")
    (here / "capacity.py").write_text(files["capacity"].read_text())
    arms = {"vae": [], "capacity": [{"kind": "capacity", "capacity": "search"}]}
    search = {"sampler": "random", "configurations": 1, "seeds": 2, "seed": 0}
    values = sweep(plugins=["capacity.py"], arms=arms, search=search, keep="models")
    (here / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return here, lagvae("run", "tiny.yaml", cwd=here)


def run_ids(here: Path) -> dict[str, str]:
    """Return a run of each arm."""
    files = (here / "results" / "tiny" / "runs").glob("*.parquet")
    return {row["arm"]: row["run_id"] for path in files for row in pq.read_table(path).to_pylist()}


@pytest.fixture(autouse=True)
def _no_plugins_left():
    yield
    unload_plugins()


class TestASweep:
    def test_its_runs_have_a_column_for_the_remedy_and_the_hash_of_its_file(self, story, files):
        here, ended = story
        assert ended.returncode == 0, ended.stderr
        paths = sorted((here / "results" / "tiny" / "runs").glob("*.parquet"))
        rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
        assert {row["status"] for row in rows} == {"finished"}
        for row in rows:
            if row["arm"] == "vae":
                assert row["capacity.capacity"] is row["plugins"] is None
            else:
                assert 0.5 <= row["capacity.capacity"] <= 8
                assert list(json.loads(row["plugins"])) == ["capacity.py"]

    def test_its_plan_has_no_run_left_unless_the_plugin_changes(self, story):
        here, _ = story
        arms = json.loads(invoke("plan", "tiny.yaml", "--json", folder=here).stdout)["arms"]
        assert {arm["arm"]: arm["missing"] for arm in arms} == {"vae": 0, "capacity": 0}
        unload_plugins()
        original = (here / "capacity.py").read_text()
        (here / "capacity.py").write_text(original + "# a remark\n")
        try:
            arms = json.loads(invoke("plan", "tiny.yaml", "--json", folder=here).stdout)["arms"]
        finally:
            (here / "capacity.py").write_text(original)
        assert {arm["arm"]: arm["missing"] for arm in arms} == {"vae": 0, "capacity": 2}

    @pytest.mark.parametrize(
        "command", [("results", "show", "tiny"), ("results", "pareto", "tiny"), ("replay", "tiny")]
    )
    def test_stored_code_runs_only_if_it_is_trusted(self, story, command):
        here, _ = story
        check_rejected(invoke(*command, folder=here), "--trust", "capacity.py")
        assert not loaded_plugins()
        for option in (("--trust",), ("--plugin", "capacity.py")):
            ended = invoke(*command, *option, folder=here)
            assert ended.returncode == 0, ended.stderr
            assert "capacity" in ended.stdout
            unload_plugins()

    def test_a_run_is_repeated_bit_by_bit_with_the_stored_code(self, story):
        here, _ = story
        run_id = run_ids(here)["capacity"]
        check_rejected(invoke("trial", "--from", run_id, folder=here), "--trust", "capacity.py")
        (here / "elsewhere").mkdir()
        ended = invoke("trial", "--from", run_id, "--results", "../results", "--trust", folder=here / "elsewhere")
        assert ended.returncode == 0, ended.stderr
        assert "all metrics equal those of the stored run bit for bit" in ended.stderr

    def test_a_run_without_plugins_needs_no_trust(self, story):
        here, _ = story
        assert invoke("trial", "--from", run_ids(here)["vae"], folder=here).returncode == 0

    def test_stored_code_that_was_changed_is_refused(self, story, tmp_path):
        here, _ = story
        shutil.copytree(here / "results", tmp_path / "results")
        for path in (tmp_path / "results" / "tiny" / "plugins").iterdir():
            path.write_text(path.read_text() + "# changed\n")
        ended = invoke("trial", "--from", run_ids(here)["capacity"], "--trust", folder=tmp_path)
        check_rejected(ended, "must be unchanged since the run")

    def test_a_study_of_a_plugin_is_stored_and_shown(self, story, files):
        here, _ = story
        run_id = run_ids(here)["vae"]
        options = ("--plugin", str(files["length"]))
        ended = invoke("evaluate", run_id, "--what", "length", *options, folder=here)
        assert ended.returncode == 0, ended.stderr
        assert (here / "results" / "tiny" / "evaluations" / "length" / f"{run_id}.parquet").exists()
        shown = invoke("results", "show", "tiny", "--columns", "length_r2", *options, "--trust", folder=here)
        assert "length_r2" in shown.stdout, shown.stderr


def test_a_trial_with_a_plugin_names_it_or_loads_it_from_its_file(files, tmp_path):
    write_plugins(tmp_path)
    values = {"plugins": ["capacity.py"], "strategies": ["capacity"]}
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(values))
    resolved = yaml.safe_load(invoke("show", "trial.yaml", "--resolved", folder=tmp_path).stdout)
    assert resolved["plugins"] == ["capacity.py"]
    assert resolved["strategies"][0]["capacity"] == CATALOGUE["capacity"]().capacity
    unload_plugins()
    check_rejected(invoke("trial", "--arm", "capacity", folder=tmp_path), "capacity")
    described = json.loads(
        invoke("strategies", "capacity", "--json", "--plugin", "capacity.py", folder=tmp_path).stdout
    )
    assert described["kind"] == "capacity"
    assert [field["name"] for field in described["fields"] if field["search"]] == ["capacity"]


@pytest.mark.parametrize("value", ["capacity.py", [3], {"a": 1}])
def test_plugins_that_are_no_list_of_paths_are_refused(value, tmp_path):
    for name, rest in (("trial.yaml", {}), ("sweep.yaml", sweep())):
        (tmp_path / name).write_text(yaml.safe_dump({**rest, "plugins": value}))
    check_rejected(invoke("trial", "trial.yaml", folder=tmp_path), "plugins")
    check_rejected(invoke("plan", "sweep.yaml", folder=tmp_path), "plugins")


def test_a_plugin_that_fails_is_one_message_with_file_and_line(tmp_path):
    (tmp_path / "broken.py").write_text("import math\n\nmath.sqrt(-1)\n")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep(plugins=["broken.py"])))
    check_rejected(invoke("plan", "sweep.yaml", folder=tmp_path), "broken.py:3", "ValueError")
    check_rejected(invoke("trial", "--plugin", "broken.py", folder=tmp_path), "broken.py:3", "ValueError")
