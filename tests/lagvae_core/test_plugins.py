"""Plugins: what joins the catalogues, what is refused with file and line, and what a plugin changes in an identity."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from helpers import run, tiny

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import DATA_SOURCES
from lagvae_core.errors import ConfigError
from lagvae_core.models import MODELS
from lagvae_core.plugins import Plugin, load_plugin, load_plugins, loaded_plugins, unload_plugins
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES

CAPACITY = '''\
"""A remedy of a user."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, Strategy
from lagvae_core.strategies.slots import Objective


class Capacity(Strategy):
    """The KL is held near a constant capacity: rec + strength * |KL - capacity|."""

    slots: ClassVar[frozenset[str]] = frozenset({"objective"})
    paper: ClassVar[str] = "Burgess et al. 2018, Understanding disentangling in beta-VAE"

    kind: Literal["capacity"] = "capacity"
    capacity: Annotated[float, Field(ge=0, description="target KL [nats]"), Tunable(0.5, 8.0)] = 2.0
    strength: Annotated[float, Field(gt=0, description="weight of the distance")] = 1.0

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"objective": CapacityObjective(self)}


class CapacityObjective(Objective):
    def __init__(self, config):
        self._config = config

    def __call__(self, rec_B, kl_BZ, weight):
        distance_B = (kl_BZ.sum(1) - self._config.capacity).abs()
        return (rec_B + weight * self._config.strength * distance_B).mean()
'''


@pytest.fixture(autouse=True)
def _no_plugins_left():
    yield
    unload_plugins()


def capacity(**changes: str) -> Plugin:
    """Return the remedy of a user, with some of its text replaced."""
    text = CAPACITY
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return Plugin("capacity.py", text, "capacity.py")


def replaced(old: str, new: str) -> Plugin:
    return capacity(**{old: new})


def test_a_strategy_of_a_plugin_trains_like_one_of_lagvae():
    load_plugin(capacity())
    config = tiny({"kind": "capacity", "capacity": 0.0})
    assert parse_trial(json.loads(config.model_dump_json())) == config
    assert pickle.loads(pickle.dumps(config)) == config
    record = run(config)
    assert record.status == "finished"
    assert record.metrics == run(tiny()).metrics  # at capacity 0, the loss is that of the plain VAE
    assert run(tiny({"kind": "capacity", "capacity": 1.0})).metrics != record.metrics


def test_before_it_is_loaded_its_kind_is_unknown():
    with pytest.raises(ConfigError) as error:
        tiny("capacity")
    assert [(issue.where, issue.value) for issue in error.value.issues] == [("strategies[0].kind", "capacity")]


def test_the_hash_of_the_text_is_part_of_the_identity_of_configurations_that_use_it():
    before = tiny().config_id("data")
    load_plugin(capacity())
    with_plugin = tiny("capacity").config_id("data")
    assert tiny().config_id("data") == before
    load_plugin(replaced("the distance", "the absolute distance"))
    assert tiny("capacity").config_id("data") != with_plugin
    load_plugin(capacity())
    assert tiny("capacity").config_id("data") == with_plugin
    assert tiny("capacity").plugins == {"capacity.py": capacity().sha256}


def test_a_plugin_with_the_same_text_is_run_once():
    load_plugin(capacity())
    config = CATALOGUE["capacity"]
    load_plugin(Plugin("capacity.py", CAPACITY, "elsewhere/capacity.py"))
    assert CATALOGUE["capacity"] is config


def test_a_new_text_of_a_plugin_replaces_all_classes_of_the_old_one():
    load_plugin(capacity())
    load_plugin(capacity(**{'"capacity"] = "capacity"': '"held"] = "held"'}))
    assert "capacity" not in CATALOGUE
    assert tiny("held").strategies[0].capacity == 2.0


def test_a_plugin_may_extend_a_class_of_lagvae_under_a_kind_of_its_own():
    text = '''
        from typing import Literal
        from lagvae_core.strategies.beta_vae import BetaVae

        class Double(BetaVae):
            """The factor counts twice."""
            kind: Literal["double"] = "double"
    '''
    load_plugin(Plugin("double.py", dedent(text), "double.py"))
    assert tiny("double").strategies[0].beta == tiny("beta_vae").strategies[0].beta


# --- what is refused -------------------------------------------------------------------------------------------------


def issues_of(*plugins: Plugin | Path | str):
    catalogues = [dict(catalogue) for catalogue in (CATALOGUE, MODELS, DATA_SOURCES, STUDIES)]
    with pytest.raises(ConfigError) as error:
        load_plugins(plugins)
    if len(plugins) == 1:
        assert [dict(catalogue) for catalogue in (CATALOGUE, MODELS, DATA_SOURCES, STUDIES)] == catalogues
        assert loaded_plugins() == {}
    return error.value.issues


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"capacity"] = "capacity"', '"free_bits"] = "free_bits"', 12),  # taken by lagvae
        ('"capacity"] = "capacity"', '"Free bits"] = "Free bits"', 12),
        ('frozenset({"objective"})', 'frozenset({"objectif"})', 12),
        ('    slots: ClassVar[frozenset[str]] = frozenset({"objective"})\n', "", 12),
        ("    paper: ClassVar", "    source: ClassVar", 12),
        ("def build", "def built", 12),
        (', description="weight of the distance"', "", 12),
        ("] = 1.0", "]", 12),
        ('    """The KL is held near a constant capacity: rec + strength * |KL - capacity|."""\n', "", 12),
        ("import Objective", "import Objectif", 9),
        ("class Capacity(Strategy):", "class Capacity(Strategy:", 12),
        ("class CapacityObjective(Objective):", "1 / 0\nclass CapacityObjective(Objective):", 26),
    ],
)
def test_an_invalid_class_or_a_failing_file_is_one_issue_with_its_line(old, new, line):
    (issue,) = issues_of(replaced(old, new))
    assert issue.where == f"capacity.py:{line}"
    assert issue.message
    assert "Capacity" in issue.message or "must run" in issue.message


def test_a_file_that_defines_no_class_is_refused():
    (issue,) = issues_of(Plugin("empty.py", "from lagvae_core.strategies.beta_vae import BetaVae\n", "empty.py"))
    assert issue.where == "empty.py"


def test_all_problems_of_all_plugins_are_reported_at_once(tmp_path):
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    paths = [tmp_path / "missing.py", tmp_path / "binary.py", tmp_path / "my-remedy.py", tmp_path]
    issues = issues_of(*paths, replaced("def build", "def built"))
    assert [issue.value for issue in issues[:4]] == [str(path) for path in paths]
    assert issues[4].where == "capacity.py:12"


def test_two_files_of_the_same_name_are_refused():
    issues = issues_of(capacity(), Plugin("capacity.py", CAPACITY + "\n", "other/capacity.py"))
    assert [issue.value for issue in issues] == ["other/capacity.py"]


def test_two_plugins_must_not_define_the_same_kind():
    issues = issues_of(capacity(), Plugin("other.py", CAPACITY, "other.py"))
    assert [issue.where for issue in issues] == ["other.py:12"]


def test_the_class_of_a_plugin_that_is_not_loaded_has_no_identity():
    load_plugin(capacity())
    strategy = CATALOGUE["capacity"]()
    unload_plugins()
    with pytest.raises(ConfigError) as error:
        parse_trial({"strategies": (strategy,)})
    assert error.value.issues


# --- installed packages ----------------------------------------------------------------------------------------------


def installed(folder: Path, text: str) -> str:
    """Install a package that offers a strategy, and return what a new process says about it."""
    (folder / "capacity_package.py").write_text(text)
    information = folder / "capacity_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: capacity-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[lagvae.strategies]\ncapacity = capacity_package:Capacity\n")
    script = """
        import json, warnings
        from lagvae_core import TrialConfig
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = TrialConfig.model_validate({"strategies": ["capacity"]}).plugins
            except ValueError as error:
                result = None
        print(json.dumps([result, [str(item.message) for item in caught]]))
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [sys.executable, "-c", dedent(script)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def test_an_installed_package_offers_a_strategy_under_the_hash_of_its_file(tmp_path):
    assert installed(tmp_path, CAPACITY) == [{"capacity_package": capacity().sha256}, []]


def test_a_broken_package_is_one_warning_and_its_strategy_is_unknown(tmp_path):
    plugins, warnings = installed(tmp_path, CAPACITY.replace("def build", "def built"))
    assert plugins is None
    (warning,) = warnings
    assert "capacity-package" in warning
    assert "build" in warning
