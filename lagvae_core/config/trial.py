"""TrialConfig: the complete configuration of one trial."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from lagvae_core.catalogue import Catalogue
from lagvae_core.config.recipe import recipe_of
from lagvae_core.config.validation import issues_of, models_in
from lagvae_core.data import DATA_SOURCES, DataConfig, SyntheticData
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.metrics.likelihood import UNRELIABLE_SHARE
from lagvae_core.metrics.pareto_tail import KHAT_LIMIT
from lagvae_core.models import MODELS, AnyModel
from lagvae_core.models.lstm import LstmModel
from lagvae_core.settings import EvaluationConfig, FrozenConfig, TrainingConfig, identifying_values, value_before
from lagvae_core.strategies import CATALOGUE, AnyStrategy
from lagvae_core.strategies.base import ConfigContext
from lagvae_core.strategies.rules import ConfigWarning
from lagvae_core.strategies.slots import TrainingComponents

__all__ = ["TrialConfig", "complete_stored", "data_warnings", "format_run_id", "parse_trial"]

MANY_UNKNOWN = 0.05
"""Fraction of unknown words in a held-out split above which a trial warns."""


MAX_STRATEGIES = 100
"""Largest number of strategies in a stack. No two of them have the same kind."""


class TrialConfig(FrozenConfig):
    """Configuration of one trial: data, model, stack of strategies, training, evaluation and seed.

    The defaults of `model`, `training` and `evaluation` depend on the kind of data (`RECIPES`). The JSON of a
    configuration contains every value, so its meaning does not change when a default changes.
    """

    data: Annotated[DataConfig, Field(description="source of the training, validation and test data")] = SyntheticData()
    model: Annotated[AnyModel, Field(description="encoder and decoder")] = LstmModel()
    strategies: Annotated[
        tuple[AnyStrategy, ...],
        Field(max_length=MAX_STRATEGIES, description="stack of remedies; the empty stack is the plain VAE"),
    ] = ()
    training: Annotated[TrainingConfig, Field(description="optimisation and learning-rate decay")] = TrainingConfig()
    evaluation: Annotated[EvaluationConfig, Field(description="measurement of the trained model")] = EvaluationConfig()
    seed: Annotated[int, Field(ge=0, lt=2**53, description="seed of all random streams of the trial")] = 0

    @model_validator(mode="before")
    @classmethod
    def _apply_recipe(cls, values: Any) -> Any:
        """Fill in the defaults for the kind of data."""
        if not isinstance(values, Mapping):
            return values
        data = values.get("data", {})
        kind = data.get("kind", "synthetic") if isinstance(data, Mapping) else getattr(data, "kind", None)
        filled = dict(values)
        model = values.get("model", {})
        chosen = model.get("kind") if isinstance(model, Mapping) else getattr(model, "kind", None)
        for section, defaults in recipe_of(str(kind), None if chosen is None else str(chosen)).items():
            given = values.get(section, {})
            if isinstance(given, Mapping):
                same_kind = given.get("kind", defaults.get("kind")) == defaults.get("kind")
                filled[section] = {**defaults, **given} if same_kind else given
        return filled

    @field_validator("data", mode="before")
    @classmethod
    def _default_to_synthetic(cls, value: Any) -> Any:
        return {"kind": "synthetic", **value} if isinstance(value, Mapping) and "kind" not in value else value

    @field_validator("strategies", mode="before")
    @classmethod
    def _expand_names(cls, value: Any) -> Any:
        """Turn the bare name of a strategy into the strategy with its defaults."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            return value
        return tuple({"kind": item} if isinstance(item, str) else item for item in value)

    @model_validator(mode="after")
    def _check_combination(self) -> TrialConfig:
        issues = [*self._subclass_issues()] or [*self._model_issues()] or [*self._stack_issues()]
        if issues:
            raise ConfigError(issues)
        return self

    @property
    def epochs(self) -> int:
        """Largest number of training epochs, including pretraining."""
        return self.training.epochs + sum(strategy.pretraining_epochs for strategy in self.strategies)

    @property
    def plugins(self) -> dict[str, str]:
        """SHA-256 of each plugin that defines a part of this configuration, by name; empty without plugins."""
        parts: list[tuple[Catalogue[Any], str]] = [(DATA_SOURCES, self.data.kind), (MODELS, self.model.kind)]
        parts += [(CATALOGUE, strategy.kind) for strategy in self.strategies]
        origins = (catalogue.origin(kind) for catalogue, kind in parts)
        return {origin.plugin: origin.sha256 for origin in origins if origin is not None}

    @property
    def context(self) -> ConfigContext:
        """The parts of the configuration that a strategy may inspect to check its combination with other strategies."""
        data, kind = self.data, self.data.family_kind
        return ConfigContext(self.strategies, self.training, self.model, kind, data.partition, data.batching)

    def _subclass_issues(self) -> Iterator[ValidationIssue]:
        """Refuse subclasses of shipped classes: identities contain the fields of an object but not its code."""
        parts = {section: getattr(self, section) for section in ("data", "model", "training", "evaluation")}
        parts |= {f"strategies[{number}]": strategy for number, strategy in enumerate(self.strategies)}
        for where, part in parts.items():
            shipped = set(models_in(TrialConfig.model_fields[where.partition("[")[0]].annotation))
            if type(part) not in shipped:
                parent = next(base.__name__ for base in type(part).__mro__ if base in shipped)
                message = f"must not be an instance of a subclass of {parent}"
                hint = (
                    f"Its runs would have the same identity as those of {parent}. Use {parent} itself, or give the "
                    "class a kind of its own and load its file with load_plugin."
                )
                yield ValidationIssue(where, message, hint, type(part).__name__)

    def _model_issues(self) -> Iterator[ValidationIssue]:
        kind, model = self.data.family_kind, self.model
        if kind not in model.data_kinds:
            supported = " and ".join(sorted(model.data_kinds))
            hint = f"{model.kind} supports {supported} data. Choose another model or change data.kind."
            yield ValidationIssue("model.kind", f"must be a model that supports {kind} data", hint, model.kind)

    def _stack_issues(self) -> Iterator[ValidationIssue]:
        stack = "+".join(strategy.kind for strategy in self.strategies)
        incompatibilities = [
            incompatibility
            for strategy in self.strategies
            for incompatibility in strategy.incompatibilities(self.context)
        ]
        for incompatibility in dict.fromkeys(incompatibilities):
            message, hint = "must be a valid combination of strategies", f"{incompatibility.message}."
            yield ValidationIssue("strategies", message, hint, stack, incompatibility.code)
        if incompatibilities:
            return
        for one, other in itertools.combinations(self.strategies, 2):
            if one.kind == other.kind:
                message = f"must not list {one.kind} twice"
                yield ValidationIssue("strategies", message, f"Remove one {one.kind}.", stack, "E-SLOT")
            elif slots := sorted((one.slots & other.slots) - TrainingComponents.SHARED):
                noun = "slot" if len(slots) == 1 else "slots"
                message = f"{one.kind} and {other.kind} both fill the {noun} {' and '.join(slots)}"
                hint = f"Remove {one.kind} or {other.kind}."
                yield ValidationIssue("strategies", message, hint, stack, "E-SLOT")

    def warnings(
        self, batches_per_epoch: int | None = None, trained_epochs: int | None = None
    ) -> tuple[ConfigWarning, ...]:
        """Return the warnings of the model and the strategies about this configuration, without duplicates.

        Args:
            batches_per_epoch: Number of training batches; None if the data are not loaded yet. Some warnings depend on
                it.
            trained_epochs: Number of epochs of the main training, once it has ended; None for the planned number.
        """
        context = replace(self.context, batches_per_epoch=batches_per_epoch, trained_epochs=trained_epochs)
        of_model = (ConfigWarning(None, text) for text in self.model.warnings())
        of_strategies = (warning for strategy in self.strategies for warning in strategy.warnings(context))
        return tuple(dict.fromkeys([*of_model, *of_strategies]))

    def settled_epoch(self, curve: Sequence[Mapping[str, Any]] = ()) -> int:
        """Return the first epoch, counted with pretraining, whose objective no schedule of any strategy changes.

        Args:
            curve: Columns of the epochs trained so far, in order. The end of some schedules is found from them.

        Returns:
            At least 1, and `epochs` + 1 if the end is not reached within the training or not known yet.
        """
        pretraining = self.epochs - self.training.epochs
        context = self.context
        if len(curve) > pretraining:
            start = curve[pretraining - 1]["step"] if pretraining else 0
            main = [
                {**epoch, "epoch": epoch["epoch"] - pretraining, "step": epoch["step"] - start}
                for epoch in curve[pretraining:]
            ]
            batches = main[0]["step"] + main[0]["skipped_batches"]
            context = replace(context, batches_per_epoch=batches, curve=main)
        return pretraining + max((strategy.settled_epoch(context) for strategy in self.strategies), default=1)

    def result_warnings(self, metrics: Mapping[str, Any]) -> tuple[ConfigWarning, ...]:
        """Return the warnings about the result of a finished trial, without duplicates.

        Args:
            metrics: Values of the metric columns by name; empty if the trial did not finish.
        """
        of_strategies = [warning for strategy in self.strategies for warning in strategy.result_warnings(metrics)]
        share = metrics.get("iw_unreliable")
        if share is not None and share > UNRELIABLE_SHARE:
            text = (
                f"nll_iw is unreliable, because the importance weights of {share:.0%} of the examples have a Pareto "
                f"k-hat above {KHAT_LIMIT}: another draw of the samples may change it by much more than nll_iw_mc_se; "
                "compare nll_elbo instead."
            )
            of_strategies.append(ConfigWarning("W10", text))
        return tuple(dict.fromkeys(of_strategies))

    def canonical(self) -> str:
        """Return the JSON that identifies the configuration.

        The JSON contains every value except the seed, the location of the data files, and every `AddedField` with the
        behaviour before it existed. Its keys are sorted.
        """
        values = identifying_values(self)
        del values["seed"]
        values["data"].pop("path", None)
        if plugins := self.plugins:
            values["plugins"] = plugins
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def config_id(self, data_fingerprint: str) -> str:
        """Return 12 hexadecimal digits that identify the configuration (without its seed) and the content of its data.

        Args:
            data_fingerprint: `Dataset.fingerprint` of the loaded data.
        """
        return config_id_of(self.canonical(), data_fingerprint)

    def run_id(self, data_fingerprint: str) -> str:
        """Return the identifier of the run: the `config_id` and the seed, joined by a dash."""
        return format_run_id(self.config_id(data_fingerprint), self.seed)


def data_warnings(report: Mapping[str, int | float | str]) -> tuple[ConfigWarning, ...]:
    """Return the warnings about loaded data.

    Args:
        report: Facts about the data, `Dataset.report`.
    """
    unit = report.get("unit", "words")
    rates = {split: float(report.get(f"{split}_oov_rate", 0.0)) for split in ("train", "valid", "test")}
    trained = rates.pop("train") > 0
    many = [f"{rate:.1%} of the {unit} of {split}" for split, rate in rates.items() if rate > MANY_UNKNOWN]
    if trained or not many:
        return ()
    text = (
        f"{' and '.join(many)} are unknown, but no unknown {unit} occur in train, so the probability of <unk> is "
        "untrained: nll_iw and nll_elbo depend on the initial weights of the model."
    )
    return (ConfigWarning("W11", text),)


def config_id_of(canonical: str, data_fingerprint: str) -> str:
    """Return the `config_id` of the configuration with a canonical JSON (see `TrialConfig.config_id`)."""
    return hashlib.sha256(f"{canonical}\n{data_fingerprint}".encode()).hexdigest()[:12]


def format_run_id(config_id: str, seed: int) -> str:
    """Return the identifier of the run of one configuration with one seed."""
    return f"{config_id}-{seed}"


def complete_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a stored configuration with the fields that were added since.

    A stored configuration contains the value of every field that existed, so a missing field gets the value that means
    the behaviour before it existed, even if that is not its default.
    """
    strategies = []
    for strategy in values.get("strategies", ()):
        fields = CATALOGUE[strategy["kind"]].model_fields if strategy.get("kind") in CATALOGUE else {}
        before = {name: value_before(field) for name, field in fields.items() if name not in strategy}
        strategies.append({**strategy, **{name: value for name, value in before.items() if value is not ...}})
    return {**values, "strategies": strategies}


def parse_trial(values: Mapping[str, Any], source: str = "") -> TrialConfig:
    """Validate a configuration.

    Args:
        values: The configuration as plain data, such as the content of a YAML file.
        source: File or command from which the values come, named in error messages.

    Raises:
        ConfigError: The configuration is invalid. The error carries all issues at once.
    """
    try:
        return TrialConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(issues_of(error, TrialConfig), source) from None
