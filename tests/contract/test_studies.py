"""Contract of all studies. A new file in the folder of studies is tested here without further changes.

A study is measured with its defaults, or with the options `SMALL` of its test file if that defines them.
"""

import functools
import importlib
import importlib.util
import inspect
import json
import math
import pickle
import pkgutil
import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny, tiny_images, trained_of

from lagvae_core import studies
from lagvae_core.config.recipe import RECIPES
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES, Findings, Study
from lagvae_core.training.record import METRIC_COLUMNS

NO_STUDY = {"base", "posterior_mean_recorder", "reference_language_model", "sentence_generator", "trained_model"}
"""Modules of the folder that contain no study."""

FILES = sorted({module.name for module in pkgutil.iter_modules(studies.__path__)} - NO_STUDY)
TESTS = Path(__file__).parents[1] / "lagvae_core" / "studies"
KINDS = set(RECIPES)

each_study = pytest.mark.parametrize("name", FILES)


def study_in(name):
    module = importlib.import_module(f"lagvae_core.studies.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Study) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{name}.py must define one study, but defines {found}"
    return found[0]


def kinds_of(name):
    """Return the kinds of data that the study supports."""
    kinds = study_in(name).data_kinds
    return KINDS if kinds is None else kinds


def small(name):
    """Return the study with options that make it fast."""
    path = TESTS / f"test_{name}.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(TESTS), str(TESTS.parent), *sys.path])
        specification = importlib.util.spec_from_file_location(f"small_{name}", path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    return study_in(name)(**getattr(module, "SMALL", {}))


@functools.cache
def model(*strategies):
    return trained_of(tiny(*strategies, evaluation={"limit": None}))


@functools.cache
def model_of_images(*strategies):
    return trained_of(tiny_images(*strategies, evaluation={"limit": None}))


def measured(name, trained):
    """Return the findings, and check the reports of the progress."""
    progress = []
    findings = small(name).measure(trained, lambda phase, done, total: progress.append((phase, done, total)))
    assert progress, f"{name} does not report its progress"
    for phase, done, total in progress:
        assert isinstance(phase, str)
        assert 0 <= done <= total
    return findings


def measurable(name, *, without_z=False):
    """Return a model of sentences, or of images for a study that supports only images."""
    if "synthetic" in kinds_of(name):
        return model("lstm_lm") if without_z else model()
    return model_of_images("pixelcnn_lm") if without_z else model_of_images()


def is_plain(value):
    """Return whether `value` is a number, a text, None or a list of numbers, all of built-in types."""
    if type(value) is list:
        return all(type(item) in (int, float) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def assert_valid(name, findings):
    study = study_in(name)
    assert isinstance(findings, Findings)
    assert set(findings.values) == {column.name for column in study.columns}
    for column in study.columns:
        value = findings.values[column.name]
        if value is None:
            continue
        expected = {"float": float, "int": int, "floats": list}[column.kind]
        assert type(value) is expected, f"{column.name} is {value!r}"
        values = value if column.kind == "floats" else [value]
        assert all(math.isfinite(number) for number in values), column.name
    assert set(findings.tables) <= set(study.tables)
    for table, columns in findings.tables.items():
        assert columns, f"{table} has no columns"
        lengths = {key: len(rows) for key, rows in columns.items()}
        assert len(set(lengths.values())) == 1, f"{table}: {lengths}"
        for key, rows in columns.items():
            assert all(map(is_plain, rows)), f"{table}.{key} contains {[type(row) for row in rows[:1]]}"
    json.dumps([findings.values, dict(findings.tables)], allow_nan=False)


def test_the_catalogue_contains_every_study_of_the_folder():
    assert FILES
    assert {name: study_in(name) for name in FILES} == STUDIES


@each_study
def test_the_study_has_a_test_file(name):
    assert (TESTS / f"test_{name}.py").exists()


@each_study
def test_the_study_has_the_name_of_its_file_and_is_public_there(name):
    study = study_in(name)
    assert study.name() == name
    assert study().kind == name
    assert STUDIES[name] is study
    assert study.__name__ in importlib.import_module(study.__module__).__all__
    assert kinds_of(name)
    assert kinds_of(name) <= KINDS


@each_study
def test_study_fields_and_tables_are_documented(name):
    study = study_in(name)
    assert inspect.cleandoc(study.__doc__ or "").count(".") >= 1
    for field, info in study.model_fields.items():
        assert field == "kind" or info.description, f"{name}.{field} has no description"
        assert not info.is_required(), f"{name}.{field} has no default"
    assert all(study.tables.values()), f"{name} has a table without a description"
    assert study.columns or study.tables, f"{name} has neither columns nor tables"


@each_study
def test_the_columns_are_documented_and_unique(name):
    taken = {column.name for column in METRIC_COLUMNS}
    taken |= {column.name for strategy in CATALOGUE.values() for column in strategy.columns}
    taken |= {column.name for other in FILES if other != name for column in study_in(other).columns}
    names = [column.name for column in study_in(name).columns]
    assert len(set(names)) == len(names)
    for column in study_in(name).columns:
        assert column.doc
        assert column.name not in taken


@each_study
def test_a_study_converts_to_json_and_pickle_and_back(name):
    for study in (study_in(name)(), small(name)):
        assert type(study).model_validate_json(study.model_dump_json()) == study
        assert pickle.loads(pickle.dumps(study)) == study


@each_study
def test_the_findings_are_plain_data_and_reproducible_and_the_model_is_unchanged(name):
    trained = measurable(name)
    assert [*small(name).unsupported_data(trained.config), *small(name).issues(trained.config, trained.dataset)] == []
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    random_state = torch.get_rng_state()
    findings = measured(name, trained)
    assert_valid(name, findings)
    assert set(findings.tables) == set(study_in(name).tables)
    assert not any(module.training for module in trained.model.modules())
    for key, value in trained.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert measured(name, trained) == findings


@each_study
def test_a_model_without_z_is_refused_or_measured(name):
    trained = measurable(name, without_z=True)
    issues = list(small(name).issues(trained.config, trained.dataset))
    if issues:
        assert [issue.where for issue in issues] == [name]
        assert "latent variable" in issues[0].message
    else:
        assert_valid(name, measured(name, trained))


@each_study
def test_a_model_of_an_unsupported_kind_of_data_is_refused(name):
    trained = model()
    unsupported = KINDS | {"unknown"} if study_in(name).data_kinds is not None else set()
    for kind in unsupported - kinds_of(name):
        data = trained.config.data.model_copy(update={"kind": kind})
        config = trained.config.model_copy(update={"data": data})
        (issue,) = small(name).unsupported_data(config)
        assert issue.where == name
        assert issue.message == f"does not support {kind} data"
        assert issue.hint
