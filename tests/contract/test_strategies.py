"""The contract of every strategy. It covers all files of the folder, so a new strategy needs no change here."""

import importlib
import inspect
import itertools
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import essence, run, tiny, trial_of

from lagvae_core import strategies
from lagvae_core.plugins import class_issues
from lagvae_core.settings import tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from lagvae_core.strategies.rules import Trait
from lagvae_core.testing import STRATEGY_CHECKS, check_stacks
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.record import METRIC_COLUMNS
from sweeps.spec.space import Dimension
from sweeps.storage.schema import is_integral

NO_STRATEGY = {"base", "kl_schedule", "normalised_means", "refinement", "rules", "slots"}
"""Modules of the folder without a strategy of their own."""

FILES = sorted({module.name for module in pkgutil.iter_modules(strategies.__path__)} - NO_STRATEGY)
TESTS = Path(__file__).parents[1] / "lagvae_core" / "strategies"

each_strategy = pytest.mark.parametrize("name", FILES)


def strategy_in(name):
    module = importlib.import_module(f"lagvae_core.strategies.{name}")
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Strategy) and value.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"{name}.py must define one strategy, got {classes}"
    return classes[0]


def plain(value):
    """Return tensors and containers of them as plain values that can be compared bit for bit."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, torch.Generator):
        return plain(value.get_state())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def test_the_catalogue_contains_the_strategies_of_the_folder():
    assert FILES
    assert {name: strategy_in(name) for name in FILES} == CATALOGUE


@each_strategy
def test_it_has_a_file_of_tests(name):
    assert (TESTS / f"test_{name}.py").exists()


@each_strategy
def test_it_has_the_name_of_its_file_and_is_in_the_catalogue(name):
    strategy = strategy_in(name)
    assert strategy.name() == name
    assert strategy().kind == name
    assert CATALOGUE[name] is strategy
    assert strategy.__name__ in importlib.import_module(strategy.__module__).__all__


@each_strategy
def test_its_docstring_source_and_fields_are_documented(name):
    strategy = strategy_in(name)
    assert inspect.cleandoc(strategy.__doc__ or "").count(".") >= 1
    assert "Source:" in strategy.__doc__
    assert any(year in strategy.paper for year in map(str, range(2013, 2040)))
    for field, info in strategy.model_fields.items():
        assert field == "kind" or info.description, f"{name}.{field} has no description"
        assert not info.is_required(), f"{name}.{field} has no default"


@each_strategy
def test_its_columns_are_documented_and_unique(name):
    common = {column.name for column in METRIC_COLUMNS}
    others = {column.name: column for other in FILES if other != name for column in strategy_in(other).columns}
    for column in strategy_in(name).columns:
        assert column.doc
        assert column.name not in common
        assert others.get(column.name, column) is column, "strategies may share a column, but not only its name"


@each_strategy
@pytest.mark.parametrize("check", [check for check in STRATEGY_CHECKS if check != "stacks"])
def test_it_keeps_the_contract_that_users_can_check(name, check):
    STRATEGY_CHECKS[check](strategy_in(name))


@each_strategy
def test_it_is_complete_and_documented(name):
    assert list(class_issues(strategy_in(name), CATALOGUE, "another plugin"))[1:] == []  # the first: its kind is taken


@each_strategy
def test_it_trains_with_every_other_strategy_or_is_refused_with_a_code(name):
    """Each pair trains once, in the order of their names; test_stacks.py compares the rules in both orders."""
    check_stacks(strategy_in(name), FILES[FILES.index(name) :])


@each_strategy
def test_its_search_ranges_contain_only_valid_values_and_the_default(name):
    from optuna.distributions import BaseDistribution

    strategy = strategy_in(name)
    for field, annotation, tunable in tunables(strategy):
        dimension = Dimension(f"{name}.{field}", tunable, is_integral(annotation) and not tunable.choices)
        distribution = dimension.distribution()
        assert isinstance(distribution, BaseDistribution)
        for value in dimension.probes():
            assert getattr(strategy.model_validate({field: value}), field) == value
            assert distribution._contains(distribution.to_internal_repr(value))
        assert dimension.contains(strategy.model_fields[field].default), f"{name}.{field}: default out of range"


@pytest.fixture(scope="module")
def resumed_elsewhere(tmp_path_factory):
    """The records of trials that were started in one process and finished in another, by strategy."""
    folder = tmp_path_factory.mktemp("resumed")
    for what in ("begin", "finish"):
        script = str(Path(__file__).with_name("resume_script.py"))
        subprocess.run([sys.executable, "-W", "error", script, what, str(folder)], check=True)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in FILES}


@each_strategy
def test_it_resumes_bit_for_bit_in_a_new_process(name, resumed_elsewhere):
    assert essence(resumed_elsewhere[name]) == essence(run(tiny(name)))


@each_strategy
def test_a_checkpoint_contains_the_state_of_every_slot(name):
    trial, fresh = trial_of(tiny(name)), trial_of(tiny(name))
    list(trial.updates())
    trial.end_epoch(trial.validate())
    list(itertools.islice(trial.updates(), 2))
    state = checkpoints.decode(checkpoints.encode(trial.state_dict()), trial.run_id)
    assert set(state["parts"]) == {slot for slot, _ in trial.components.stateful()}
    fresh.load_state_dict(state)
    assert plain(fresh.state_dict()) == plain(trial.state_dict())
    for (slot, part), (_, restored) in zip(trial.components.stateful(), fresh.components.stateful(), strict=True):
        assert plain(vars(restored)) == plain(vars(part)), slot
    hidden, restored = (
        {key: value for key, value in vars(t.components.posterior).items() if key not in vars(torch.nn.Module())}
        for t in (trial, fresh)
    )
    assert plain(restored) == plain(hidden)


@each_strategy
def test_its_traits_agree_with_its_columns(name):
    """What a trait says about the KL or the latent variable is also null in the table."""
    strategy = strategy_in(name)
    if Trait.KL_NOT_BY_DIMENSION in strategy.traits or Trait.NO_LATENT_VARIABLE in strategy.traits:
        assert "kl_by_dimension" in strategy.unmeasured
    assert ("kl" in strategy.unmeasured) == (Trait.NO_LATENT_VARIABLE in strategy.traits)
