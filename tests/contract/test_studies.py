"""What every study must keep, for all files of the folder; nobody has to add a new one here.

A study is measured with its defaults, or with the options `SMALL` of its own file of tests where it names any.
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
from lagvae_core.errors import ConfigError
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES, Findings, Study
from lagvae_core.training.record import METRIC_COLUMNS

NO_STUDY = {"base", "posterior_mean_recorder", "reference_language_model", "sentence_generator", "trained_model"}
"""Modules of the folder that studies are built from."""

FILES = sorted({module.name for module in pkgutil.iter_modules(studies.__path__)} - NO_STUDY)
TESTS = Path(__file__).parents[1] / "lagvae_core" / "studies"
KINDS = {"synthetic", "text", "images", "reinflection"}

each_study = pytest.mark.parametrize("name", FILES)


def study_in(name):
    module = importlib.import_module(f"lagvae_core.studies.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Study) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{name}.py must hold one study, but holds {found}"
    return found[0]


def small(name):
    """The study with the options that make it quick."""
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
    """The findings, with a look at what was heard of the progress."""
    heard = []
    found = small(name).measure(trained, lambda phase, done, total: heard.append((phase, done, total)))
    assert heard, f"{name} tells no progress"
    for phase, done, total in heard:
        assert isinstance(phase, str)
        assert 0 <= done <= total
    return found


def measurable(name, *, without_z=False):
    """A model of sentences or, for a study of images alone, of images."""
    if "synthetic" in study_in(name).data_kinds:
        return model("lstm_lm") if without_z else model()
    return model_of_images("pixelcnn_lm") if without_z else model_of_images()


def refusal_of(name, trained):
    try:
        small(name).require(trained.config, trained.dataset)
    except ConfigError as error:
        return str(error)
    return None


def is_plain(value):
    """Numbers, texts, None and lists of numbers, of Python's own types."""
    if type(value) is list:
        return all(type(item) in (int, float) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def assert_lawful(name, found):
    study = study_in(name)
    assert isinstance(found, Findings)
    assert set(found.values) == {column.name for column in study.columns}
    for column in study.columns:
        value = found.values[column.name]
        if value is None:
            continue
        expected = {"float": float, "int": int, "floats": list}[column.kind]
        assert type(value) is expected, f"{column.name} is {value!r}"
        values = value if column.kind == "floats" else [value]
        assert all(math.isfinite(number) for number in values), column.name
    assert set(found.tables) <= set(study.tables)
    for table, columns in found.tables.items():
        assert columns, f"{table} has no columns"
        lengths = {key: len(rows) for key, rows in columns.items()}
        assert len(set(lengths.values())) == 1, f"{table}: {lengths}"
        for key, rows in columns.items():
            assert all(map(is_plain, rows)), f"{table}.{key} holds {[type(row) for row in rows[:1]]}"
    json.dumps([found.values, dict(found.tables)], allow_nan=False)


def test_the_folder_s_studies_are_all_known_by_their_names():
    assert FILES
    assert {name: study_in(name) for name in FILES} == STUDIES


@each_study
def test_it_has_a_file_of_tests(name):
    assert (TESTS / f"test_{name}.py").exists()


@each_study
def test_it_is_named_like_its_file_and_exported(name):
    study = study_in(name)
    assert study.name() == name
    assert study().kind == name
    assert study.__name__ in studies.__all__
    assert study.__name__ in importlib.import_module(study.__module__).__all__
    assert study.data_kinds
    assert study.data_kinds <= KINDS


@each_study
def test_it_says_what_it_finds_and_what_each_field_means(name):
    study = study_in(name)
    assert inspect.cleandoc(study.__doc__ or "").count(".") >= 1
    for field, info in study.model_fields.items():
        assert field == "kind" or info.description, f"{name}.{field} has no description"
        assert not info.is_required(), f"{name}.{field} has no default"
    assert all(study.tables.values()), f"{name} does not say what its tables hold"
    assert study.columns or study.tables, f"{name} finds nothing"


@each_study
def test_its_columns_are_described_and_its_own(name):
    taken = {column.name for column in METRIC_COLUMNS}
    taken |= {column.name for strategy in CATALOGUE.values() for column in strategy.columns}
    taken |= {column.name for other in FILES if other != name for column in study_in(other).columns}
    names = [column.name for column in study_in(name).columns]
    assert len(set(names)) == len(names)
    for column in study_in(name).columns:
        assert column.doc
        assert column.name not in taken


@each_study
def test_it_survives_json_and_pickle(name):
    for study in (study_in(name)(), small(name)):
        assert type(study).model_validate_json(study.model_dump_json()) == study
        assert pickle.loads(pickle.dumps(study)) == study


@each_study
def test_its_findings_are_plain_repeat_themselves_and_leave_the_model_as_it_was(name):
    trained = measurable(name)
    small(name).require(trained.config, trained.dataset)
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    drawn_before = torch.get_rng_state()
    found = measured(name, trained)
    assert_lawful(name, found)
    assert set(found.tables) == set(study_in(name).tables)
    assert not any(module.training for module in trained.model.modules())
    for key, value in trained.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn_before)
    assert measured(name, trained) == found


@each_study
def test_a_model_without_z_is_refused_or_measured_as_far_as_it_goes(name):
    trained = measurable(name, without_z=True)
    if incompatibility := refusal_of(name, trained):
        assert "without z" in incompatibility
    else:
        assert_lawful(name, measured(name, trained))


@each_study
def test_a_model_of_another_kind_of_data_is_refused(name):
    trained = model()
    for kind in (KINDS | {"unheard_of"}) - study_in(name).data_kinds:
        data = trained.config.data.model_copy(update={"kind": kind})
        config = trained.config.model_copy(update={"data": data})
        with pytest.raises(ConfigError, match=f"must be one for data of kind {kind}, but is '{name}'. It measures"):
            small(name).require(config, trained.dataset)
