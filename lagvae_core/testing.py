"""Tests of the contract of each role, for the classes of lagvae and for those of plugins.

Each `check_...` function trains tiny models for some seconds and raises an AssertionError that says what is wrong. They
need no test framework.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
import math
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lagvae_core.catalogue import Catalogue, Origin
from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.data import DATA_SOURCES, Dataset, DataSource, Split
from lagvae_core.errors import ConfigError
from lagvae_core.evaluation.data_specific_metrics import DATA_COLUMNS, DATA_SPECIFIC_METRICS
from lagvae_core.models import MODELS, ModelConfig
from lagvae_core.models.decoder import TokenDecoder
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.plugins import class_issues
from lagvae_core.runtime import torch_threads
from lagvae_core.settings import FrozenConfig, tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.rules import CODES
from lagvae_core.studies import STUDIES, Findings, Study
from lagvae_core.studies.trained_model import TrainedModel
from lagvae_core.training.checkpoint import MemoryCheckpoint
from lagvae_core.training.record import METRIC_COLUMNS, Progress, TrialRecord
from lagvae_core.training.trial import Trial, train

__all__ = [
    "STRATEGY_CHECKS",
    "check_data",
    "check_findings",
    "check_metrics",
    "check_model",
    "check_neutral",
    "check_resume",
    "check_serialisation",
    "check_stacks",
    "check_strategy",
    "check_study",
    "essence",
    "tiny_dataset",
    "tiny_image_file",
    "tiny_trial",
    "tiny_trial_with",
    "train_interrupted",
]

TINY_DATA: dict[str, Any] = {
    "kind": "synthetic",
    "examples": 64,
    "heldout": 32,
    "vocabulary": 20,
    "length": 5,
    "hidden": 8,
    "embedding": 8,
}
TINY_VECTORS: dict[str, Any] = {
    "kind": "linear_gaussian",
    "examples": 64,
    "heldout": 32,
    "features": 6,
    "eigenvalues": [3.0, 1.0],
}
TINY_MODELS: dict[str, dict[str, Any]] = {
    "synthetic": {"latent_dim": 2, "hidden": 8, "embedding": 8, "init_range": 0.3},
    "images": {"latent_dim": 2, "kernels": [3, 3, 3], "maps": 4, "encoder_maps": 4, "encoder_hidden": 8},
    "vectors": {"latent_dim": 2, "layers": 1, "width": 8},
}
"""Sizes of a tiny model for each of the tiny data sets."""
TINY_STRATEGIES: dict[str, dict[str, Any]] = {"aggressive": {"max_inner": 8, "check": 3, "mi_tol": 10.0}}
"""Fields that make a strategy fast, by its kind."""
TINY_TRAINING: dict[str, Any] = {"epochs": 2, "batch_size": 16}
TINY_EVALUATION: dict[str, Any] = {"iw_samples": 8, "limit": 16}

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def tiny_image_file() -> Path:
    """Write grey images of 6 x 6 pixels, labelled by the column of a bright square. The process keeps the file."""
    generator, arrays = np.random.default_rng(0), dict[str, Any]()
    for split, count in (("train", 64), ("valid", 32), ("test", 32)):
        corners = generator.integers(0, 4, (count, 2))
        images = generator.integers(0, 40, (count, 1, 6, 6), dtype=np.uint8)
        for image, (row, column) in zip(images, corners, strict=True):
            image[0, row : row + 3, column : column + 3] = generator.integers(200, 256, (3, 3))
        arrays |= {split: images, f"{split}_labels": corners[:, 1]}
    _FOLDERS.append(folder := tempfile.TemporaryDirectory())
    np.savez(path := Path(folder.name, "images.npz"), **arrays)
    return path


def tiny_trial(*strategies: Any, seed: int = 0, on: str = "synthetic", **sections: Mapping[str, Any]) -> TrialConfig:
    """Return a configuration that trains in a tenth of a second.

    Args:
        strategies: The strategies, by kind or with their fields.
        seed: Seed of the trial.
        on: Tiny data set: synthetic, images or vectors.
        sections: Changed fields of the sections data, model, training and evaluation. Data of another
            kind replace the tiny data.

    Raises:
        ConfigError: The stack is invalid, for example because it does not support this kind of data.
    """
    source = {"synthetic": TINY_DATA, "vectors": TINY_VECTORS}.get(on)
    if source is None:
        source = {"kind": "images", "path": str(tiny_image_file())}
    model = TINY_MODELS[on]
    defaults = {"data": source, "model": model, "training": TINY_TRAINING, "evaluation": TINY_EVALUATION}
    if sections.get("data", {}).get("kind", source["kind"]) != source["kind"]:
        defaults["data"] = {}
    filled = {name: {**values, **sections.get(name, {})} for name, values in defaults.items()}
    return parse_trial({**filled, "strategies": list(strategies), "seed": seed})


@functools.cache
def tiny_dataset(data: DataSource) -> Dataset:
    """Return loaded data. They are loaded once per process."""
    return data.load()


class _InterruptionError(Exception):
    """A deliberate interruption of a trial."""


def train_interrupted(config: TrialConfig, selected: Callable[[Progress], bool]) -> TrialRecord:
    """Train with one interruption at each place that `selected` accepts, resuming from a checkpoint each time."""
    store, seen = MemoryCheckpoint(), set[Progress]()

    def progress(place: Progress) -> None:
        if selected(place) and place not in seen:
            seen.add(place)
            raise _InterruptionError

    while True:
        try:
            return train(
                config, dataset=tiny_dataset(config.data), checkpoint=store, checkpoint_seconds=0.0, progress=progress
            )
        except _InterruptionError:
            continue


def essence(record: TrialRecord | Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON without times, memory and the path of the data: equal for equal trainings."""
    values = record.to_json() if isinstance(record, TrialRecord) else dict(record)
    data = {name: value for name, value in values["config"]["data"].items() if name != "path"}
    steps = {name: value for name, value in values["cost"].items() if name.endswith("_steps")}
    curve = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in values["curve"]]
    return {**values, "config": {**values["config"], "data": data}, "curve": curve, "cost": steps}


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


@contextmanager
def _registered(config: type[FrozenConfig], catalogue: Catalogue[Any]) -> Iterator[None]:
    """Context manager. The class is in its catalogue, also if its file is not loaded as a plugin."""
    name = str(config.model_fields["kind"].default)
    if catalogue.get(name) is config:
        yield
        return
    plugin = f"test of {config.__module__}"
    issues = [f"{message}. {hint}" for message, hint in class_issues(config, catalogue, plugin)]
    _require(not issues, "\n".join(issues))
    catalogue.add(config, Origin(plugin, ""))
    try:
        yield
    finally:
        catalogue.remove(plugin)


def check_serialisation(config: FrozenConfig) -> None:
    """Check that JSON and pickle preserve a configuration."""
    copy = type(config).model_validate_json(config.model_dump_json())
    _require(copy == config, f"{config!r} changes when it is written to JSON and read again: {copy!r}")
    _require(pickle.loads(pickle.dumps(config)) == config, f"{config!r} changes when it is pickled")


# --- strategies ------------------------------------------------------------------------------------------------------


def tiny_trial_with(strategy: type[Strategy], **sections: Any) -> TrialConfig:
    """Return a tiny trial of a strategy with its defaults, on the first kind of tiny data that it supports."""
    errors = []
    for on in TINY_MODELS:
        try:
            return tiny_trial(strategy.name(), on=on, **sections)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _default(strategy: type[Strategy]) -> Strategy:
    return strategy.model_validate({})


def _check_slots(strategy: type[Strategy]) -> None:
    """A strategy builds exactly the slots that it declares, and trials share no stateful component."""
    context = BuildContext(latent_dim=2, batches_per_epoch=4)
    filled, again = _default(strategy).build(context), _default(strategy).build(context)
    _require(
        set(filled) == strategy.slots, f"build fills {sorted(filled)}, but slots declares {sorted(strategy.slots)}"
    )
    for slot, component in filled.items():
        stateless = isinstance(component, float | str) or inspect.isfunction(component) or inspect.isclass(component)
        stateless = stateless or inspect.ismethod(component)
        _require(
            stateless or component is not again[slot], f"build returns the same object for the slot {slot} every time"
        )


def _check_identity(strategy: type[Strategy]) -> None:
    """JSON and pickle preserve a strategy, alone and in a trial."""
    check_serialisation(_default(strategy))
    config = tiny_trial_with(strategy)
    check_serialisation(config)
    _require(type(config.strategies[0]) is strategy, f"{strategy.name()} names another class")


def _check_ranges(strategy: type[Strategy]) -> None:
    """Search ranges contain only valid values, and the default."""
    for name, _, tunable in tunables(strategy):
        default = strategy.model_fields[name].default
        ends = tunable.choices or (tunable.low, tunable.high)
        for value in ends:
            kept = getattr(strategy.model_validate({name: value}), name)
            _require(kept == value, f"{name}: the value {value} of its search range becomes {kept}")
        low, high = tunable.low, tunable.high
        inside = default in tunable.choices if low is None or high is None else low <= default <= high
        _require(inside, f"{name}: the default {default} is outside the search range")


def check_metrics(record: TrialRecord, dataset: Dataset, strategies: Sequence[type[Strategy]]) -> None:
    """Check that the metrics of a finished trial are complete and finite, and that the laws between them hold.

    Args:
        record: The record of the trial.
        dataset: Its data.
        strategies: Classes of its strategies.
    """
    _require(record.status == "finished", f"the trial ended with {record.status}: {record.stop_reason}")
    metrics = record.metrics
    absent = set(DATA_COLUMNS) - set(dataset.domain.columns(1.0, 1, 1))
    unmeasured = absent.union(*(strategy.unmeasured for strategy in strategies))
    own = [column for strategy in strategies for column in strategy.columns]
    family = record.config.data.family_kind
    own += DATA_SPECIFIC_METRICS[family].columns if family in DATA_SPECIFIC_METRICS else ()
    for column in (*METRIC_COLUMNS, *own):
        value = metrics[column.name]
        if column.name in unmeasured:
            _require(value is None, f"{column.name} is declared as unmeasured, but is {value}")
            continue
        values = value if column.kind == "floats" else [value]
        finite = values is not None and all(number is not None and math.isfinite(number) for number in values)
        _require(finite, f"{column.name} must be finite, got {value}")
        _require(column.kind != "int" or isinstance(value, int), f"{column.name} must be an integer, got {value!r}")
    known = {column.name for column in (*METRIC_COLUMNS, *own)}
    _require(known <= set(metrics), f"columns without a value: {sorted(known - set(metrics))}")
    _require(1 <= metrics["iw_ess"] <= metrics["iw_k"], f"iw_ess must be from 1 to iw_k, got {metrics['iw_ess']}")
    slack = 4 * metrics["nll_iw_mc_se"] + 0.5
    _require(metrics["nll_iw"] <= metrics["nll_elbo"] + slack, "nll_iw must not exceed nll_elbo by more than its error")
    sampling = 0.005  # error of a KL near 0 that is estimated from samples
    if "mi" not in unmeasured:
        limit = metrics["kl"] + 3 * metrics["mi_se"] + sampling
        _require(metrics["mi"] <= limit, f"mi = {metrics['mi']} must not exceed kl = {metrics['kl']} beyond its error")
        _require(metrics["mi"] <= metrics["mi_cap"], "mi must not exceed the logarithm of the number of examples")
    if "kl" not in unmeasured:
        _require(metrics["kl"] >= -sampling, f"kl must not be negative, got {metrics['kl']}")
        _require(metrics["mi_batch"] <= metrics["mi_batch_cap"] + 1e-9, "mi_batch must not exceed mi_batch_cap")
        _require(metrics["au"] >= 0, f"au must not be negative, got {metrics['au']}")


def _check_training(strategy: type[Strategy]) -> None:
    """A strategy trains, and its metrics obey mi <= kl and nll_iw <= nll_elbo within their error."""
    config = tiny_trial_with(strategy, evaluation={"limit": None, "iw_samples": 50})
    dataset = tiny_dataset(config.data)
    check_metrics(train(config, dataset=dataset), dataset, [strategy])


def _check_resume(strategy: type[Strategy]) -> None:
    """A trial that is interrupted twice gives the same record as one that is not, bit by bit."""
    check_resume(tiny_trial_with(strategy, training={"epochs": 3}))


def check_resume(config: TrialConfig) -> None:
    """Check that a trial of at least 3 epochs that is interrupted twice gives the same record, bit by bit."""
    places = {("train", 1, 3), ("train", 3, 2)}
    interrupted = train_interrupted(config, lambda place: (place.phase, place.epoch, place.done) in places)
    whole = train(config, dataset=tiny_dataset(config.data))
    _require(essence(interrupted) == essence(whole), "a resumed trial must equal an uninterrupted one bit by bit")


def check_stacks(strategy: type[Strategy], others: Iterable[str] | None = None) -> None:
    """Check that a strategy trains with others, on the first kind of tiny data that both support, or is refused.

    Args:
        strategy: The strategy.
        others: Kinds of the other strategies; by default, all that are loaded.
    """
    for other in [kind for kind in CATALOGUE if kind != strategy.name()] if others is None else others:
        fields = {"kind": other, **TINY_STRATEGIES.get(other, {})}
        for on in TINY_MODELS:
            try:
                config = tiny_trial(strategy.name(), fields, on=on)
            except ConfigError as error:
                codes = {issue.code for issue in error.issues}
                _require(codes <= set(CODES), f"with {other}: refused without a documented code: {error}")
                continue
            trial = Trial(config, tiny_dataset(config.data), torch.device("cpu"))
            trial.model.train()
            for batch in trial.train_batches[:2]:
                trial.train_batch(trial.learner.observed(batch))
            finite = all(torch.isfinite(entry).all() for entry in trial.history)
            _require(finite, f"with {other}: the loss is not finite")
            break


def _check_settled_epoch(strategy: type[Strategy]) -> None:
    """The settled epoch is within the training, or the first epoch after it."""
    for epochs, batches in itertools.product((1, 4, 200), (None, 3, 1000)):
        context = parse_trial({"strategies": [], "training": {"epochs": epochs}}).context
        context = dataclasses.replace(context, strategies=(_default(strategy),), batches_per_epoch=batches)
        settled = _default(strategy).settled_epoch(context)
        _require(
            type(settled) is int and 1 <= settled <= epochs + 1,
            f"settled_epoch must be an integer from 1 to {epochs + 1}, got {settled!r}",
        )


STRATEGY_CHECKS: Mapping[str, Callable[[type[Strategy]], None]] = {
    "slots": _check_slots,
    "identity": _check_identity,
    "ranges": _check_ranges,
    "training": _check_training,
    "resume": _check_resume,
    "stacks": check_stacks,
    "settled_epoch": _check_settled_epoch,
}
"""The parts of `check_strategy`, each of which takes a class that is in the catalogue."""


def check_strategy(strategy: type[Strategy], neutral: Mapping[str, Any] | None = None) -> None:
    """Check that a strategy keeps the contract of all strategies.

    It is complete and documented, builds the slots that it declares, survives JSON and pickle, has valid search ranges,
    trains with finite metrics that obey mi <= kl and nll_iw <= nll_elbo within their error, resumes bit by bit, and
    trains with every other strategy or is refused with a documented code.

    Args:
        strategy: The class. Its file need not be loaded as a plugin.
        neutral: Fields and values with which training must equal that of the plain VAE bit by bit; None if there are
            none.

    Raises:
        AssertionError: The contract is broken; the message says where.
    """
    with _registered(strategy, CATALOGUE), torch_threads(1):
        for name, check in STRATEGY_CHECKS.items():
            try:
                check(strategy)
            except AssertionError as error:
                raise AssertionError(f"{strategy.name()}, {name}: {error}") from None
        if neutral is not None:
            check_neutral({"kind": strategy.name(), **neutral})


def check_neutral(strategy: Mapping[str, Any], updates: int = 20) -> None:
    """Check that a strategy with neutral fields gives the losses and parameters of the plain VAE, bit by bit.

    Args:
        strategy: Kind and fields of the strategy.
        updates: Number of outer updates, in float64.
    """
    (losses, parameters), (plain_losses, plain_parameters) = _updates(updates, strategy), _updates(updates)
    kind = strategy["kind"]
    _require(losses == plain_losses, f"{kind}: with neutral fields, the losses must be those of the plain VAE")
    _require(
        parameters.keys() == plain_parameters.keys(), f"{kind}: with neutral fields, there must be no more parameters"
    )
    for name, value in plain_parameters.items():
        _require(torch.equal(parameters[name], value), f"{kind}: with neutral fields, {name} must be trained equally")


def _updates(count: int, *strategies: Mapping[str, Any]) -> tuple[list[float], dict[str, Tensor]]:
    config = tiny_trial(*strategies)
    trial = Trial(config, tiny_dataset(config.data), torch.device("cpu"))
    trial.model.double().train()
    for batch in itertools.islice(itertools.cycle(trial.train_batches), count):
        trial.train_batch(batch)
    return [float(terms[0]) for terms in trial.history], dict(trial.model.named_parameters())


# --- models, data and studies ----------------------------------------------------------------------------------------


def check_model(model: type[ModelConfig], fields: Mapping[str, Any], data: DataSource | None = None) -> None:
    """Check that a model keeps the contract of all models.

    JSON and pickle preserve it; the encoder gives a Gaussian and the decoder one likelihood per sample; the gradient
    reaches every parameter; a token decoder gives the same likelihood token by token and never looks ahead; a trial
    trains with finite metrics that obey the laws, and resumes bit by bit.

    Args:
        model: The class. Its file need not be loaded as a plugin.
        fields: Small sizes, so that the check is fast, with `latent_dim` of at least 2.
        data: Small data that the model supports; by default, tiny synthetic data.

    Raises:
        AssertionError: The contract is broken; the message says where.
    """
    with _registered(model, MODELS), torch_threads(1):
        kind = str(model.model_fields["kind"].default)
        source = DATA_SOURCES["synthetic"].model_validate(TINY_DATA) if data is None else data
        values = {"data": source, "model": {**fields, "kind": kind}}
        config = parse_trial({**values, "training": {**TINY_TRAINING, "epochs": 3}, "evaluation": {"iw_samples": 50}})
        check_serialisation(config.model)
        _check_gradients(config)
        dataset = tiny_dataset(source)
        check_metrics(train(config, dataset=dataset), dataset, [])
        check_resume(config)


def _check_gradients(config: TrialConfig) -> None:
    trial = Trial(config, tiny_dataset(config.data), torch.device("cpu"))
    model, batch = trial.model.eval(), trial.train_batches[0]
    q = model.encoder(batch)
    shape = (batch.size, config.model.latent_dim)
    is_gaussian = isinstance(q, Gaussian) and q.mean_BZ.shape == q.logvar_BZ.shape == shape
    _require(is_gaussian, f"the encoder must return a Gaussian whose mean and logvar are {list(shape)}")
    z_BSZ = (q.mean_BZ + (0.5 * q.logvar_BZ).exp())[:, None].expand(-1, 3, -1)
    nll_BS = model.decoder(batch.history, batch.targets, z_BSZ)
    _require(nll_BS.shape == (batch.size, 3), f"the decoder must return [B, S], got {list(nll_BS.shape)}")
    (nll_BS.mean() + q.mean_BZ.square().mean() + q.logvar_BZ.square().mean()).backward()
    for name, parameter in model.named_parameters():
        _require(parameter.grad is not None and parameter.grad.isfinite().all(), f"no gradient reaches {name}")
    if isinstance(model.decoder, TokenDecoder):
        _check_steps(model.decoder, batch, z_BSZ[:, 0].detach())


@torch.no_grad()
def _check_steps(decoder: TokenDecoder, batch: Any, z_BZ: Tensor) -> None:
    """Read token by token; the logits must be those of one pass, which therefore does not look ahead."""
    features_TBF = decoder.features(batch.history, z_BZ[:, None])
    state = decoder.begin(z_BZ, batch.history.unread())
    for t, tokens_B in enumerate(batch.history.tokens_BT.T):
        logits_BV, state = decoder.step(state, tokens_B)
        expected_BV = decoder.output(features_TBF[t])
        close = torch.allclose(logits_BV, expected_BV, rtol=1e-4, atol=1e-5)
        _require(close, f"at position {t}, `step` must give the logits of `features`")


def check_data(source: DataSource) -> None:
    """Check that a kind of data keeps the contract of all kinds.

    JSON and pickle preserve its configuration; loading it twice gives the same fingerprint; batches contain every
    example once and depend only on their arguments; and the model of its recipe trains on it.

    Args:
        source: A configuration of small data, with at least 16 examples in each split.

    Raises:
        AssertionError: The contract is broken; the message says where.
    """
    with _registered(type(source), DATA_SOURCES), torch_threads(1):
        check_serialisation(source)
        dataset = source.load()
        fingerprints = {dataset.fingerprint, source.load().fingerprint, source.fingerprint()}
        _require(len(fingerprints) == 1, f"the fingerprint must always be the same, got {sorted(fingerprints)}")
        for name in ("train", "valid", "test"):
            split: Split = getattr(dataset, name)
            _check_batches(split.batches(7), len(split), f"{name}.batches")
            _require(len(split.limit(3)) == 3, f"{name}.limit(3) must return 3 examples, got {len(split.limit(3))}")
        batches = [source.train_batches(dataset.train, 7, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1))]
        for number, epoch_batches in enumerate(batches):
            _check_batches(epoch_batches, len(dataset.train), "train_batches", at_most=number < 2)
        orders = [[batch.index_B.tolist() for batch in epoch_batches] for epoch_batches in batches]
        _require(orders[0] == orders[1], "train_batches must depend only on its arguments")
        _require(len(orders[0]) == len(orders[2]), "every epoch must have the same number of batches")
        sizes = {"latent_dim": 2} | dict.fromkeys(("hidden", "embedding"), 8)
        config = parse_trial({"data": source, "training": TINY_TRAINING, "evaluation": TINY_EVALUATION})
        known = {name: size for name, size in sizes.items() if name in type(config.model).model_fields}
        config = config.model_copy(update={"model": config.model.model_copy(update=known)})
        record = train(config, dataset=dataset)
        _require(record.status == "finished", f"a trial ended with {record.status}: {record.stop_reason}")


def _check_batches(batches: Sequence[Any], examples: int, where: str, *, at_most: bool = False) -> None:
    index = sorted(itertools.chain.from_iterable(batch.index_B.tolist() for batch in batches))
    _require(index == list(range(examples)), f"{where} must contain each of {examples} examples exactly once")
    _require(max(batch.size for batch in batches) <= 7 or not at_most, f"{where} must respect the batch size")


def check_study(study: Study, config: TrialConfig | None = None) -> None:
    """Check that a study keeps the contract of all studies.

    JSON and pickle preserve it; it measures a value for each of its columns, finite or null; its findings are plain
    data and the same every time; and the model and PyTorch's global random state are unchanged.

    Args:
        study: The study, with options that make it fast.
        config: Trial whose model is measured; by default, a tiny plain VAE on synthetic data.

    Raises:
        AssertionError: The contract is broken; the message says where.
    """
    with _registered(type(study), STUDIES), torch_threads(1):
        check_serialisation(study)
        config = tiny_trial() if config is None else config
        trial = Trial(config, tiny_dataset(config.data), torch.device("cpu"))
        trial.fit()
        trained = TrainedModel.of(trial)
        issues = [*study.unsupported_data(config), *study.issues(config, trained.dataset)]
        _require(not issues, "; ".join(map(str, issues)))
        before = {name: value.clone() for name, value in trained.model.state_dict().items()}
        random_state = torch.get_rng_state()
        findings = study.measure(trained, lambda phase, done, total: None)
        check_findings(study, findings)
        _require(torch.equal(torch.get_rng_state(), random_state), "PyTorch's global random state must not change")
        for name, value in trained.model.state_dict().items():
            _require(torch.equal(value, before[name]), f"the model must not change, but {name} did")
        again = study.measure(trained, lambda phase, done, total: None)
        _require(again == findings, "the findings must be the same every time")


def check_findings(study: Study, findings: Findings) -> None:
    """Check that findings are plain data that agree with the declarations of their study."""
    columns = {column.name: column for column in study.columns}
    measured = set(findings.values)
    _require(measured == set(columns), f"values must be those of columns, {sorted(columns)}, got {sorted(measured)}")
    for name, value in findings.values.items():
        expected = {"float": float, "int": int, "floats": list}[columns[name].kind]
        _require(value is None or type(value) is expected, f"{name} must be a {expected.__name__}, got {value!r}")
    unknown = set(findings.tables) - set(study.tables)
    _require(not unknown, f"tables without a declaration: {sorted(unknown)}")
    for table, entries in findings.tables.items():
        lengths = {name: len(rows) for name, rows in entries.items()}
        _require(len(set(lengths.values())) == 1, f"the columns of {table} must be equally long, got {lengths}")
    try:
        json.dumps([findings.values, dict(findings.tables)], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"findings must be finite plain data: {error}") from None
