"""TrialConfig: all that one trial is. Frozen, closed to unknown keys, complete in its JSON."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from lagvae_core.config.recipe import RECIPES
from lagvae_core.config.validation import issues_of
from lagvae_core.data import DataConfig, SyntheticData
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.models import AnyModel
from lagvae_core.models.lstm import LstmModel
from lagvae_core.settings import EvaluationConfig, FrozenConfig, TrainingConfig
from lagvae_core.strategies import AnyStrategy
from lagvae_core.strategies.base import ConfigContext
from lagvae_core.strategies.slots import TrainingComponents

__all__ = ["TrialConfig", "format_run_id", "parse_trial"]


class TrialConfig(FrozenConfig):
    """One trial: data, model, stack of strategies, training, evaluation, seed.

    Defaults of `model` and `training` follow the kind of data (RECIPES). The JSON of a configuration holds every value
    in full, so it means the same when a default changes.
    """

    data: Annotated[DataConfig, Field(description="what is learned")] = SyntheticData()
    model: Annotated[AnyModel, Field(description="encoder and decoder")] = LstmModel()
    strategies: Annotated[tuple[AnyStrategy, ...], Field(description="remedies; none is the plain VAE")] = ()
    training: Annotated[TrainingConfig, Field(description="the base recipe")] = TrainingConfig()
    evaluation: Annotated[EvaluationConfig, Field(description="how it is measured")] = EvaluationConfig()
    seed: Annotated[int, Field(ge=0, lt=2**53, description="of all random streams of the trial")] = 0

    @model_validator(mode="before")
    @classmethod
    def _recipe_of_the_data(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        data = given.get("data", {})
        kind = data.get("kind", "synthetic") if isinstance(data, Mapping) else getattr(data, "kind", None)
        filled = dict(given)
        recipe = RECIPES.get(str(kind), RECIPES["synthetic"])  # of an unknown kind the mistake is told elsewhere
        for section, values in recipe.items():
            own = given.get(section, {})
            if isinstance(own, Mapping):
                same = own.get("kind", values.get("kind")) == values.get("kind")
                filled[section] = {**values, **own} if same else own
        return filled

    @field_validator("data", mode="before")
    @classmethod
    def _synthetic_by_default(cls, given: Any) -> Any:
        return {"kind": "synthetic", **given} if isinstance(given, Mapping) and "kind" not in given else given

    @field_validator("strategies", mode="before")
    @classmethod
    def _bare_kinds(cls, given: Any) -> Any:
        if not isinstance(given, Sequence) or isinstance(given, str):
            return given
        return tuple({"kind": item} if isinstance(item, str) else item for item in given)

    @model_validator(mode="after")
    def _is_meaningful(self) -> TrialConfig:
        issues = [*self._model_issues()] or [*self._stack_issues()]
        if issues:
            raise ConfigError(issues)
        return self

    @property
    def epochs(self) -> int:
        """How many epochs are trained at most, those of a pretraining included."""
        return self.training.epochs + sum(strategy.pretraining_epochs for strategy in self.strategies)

    @property
    def context(self) -> ConfigContext:
        """What a strategy may know of the configuration that it stands in."""
        data = self.data
        batching = getattr(data, "batching", None)
        return ConfigContext(self.strategies, self.training, self.model, data.kind, data.partition, batching)

    def _model_issues(self) -> Iterator[ValidationIssue]:
        kind, known = self.data.kind, self.model.data_kinds
        if kind not in known:
            message = f"must model data of kind {kind}"
            yield ValidationIssue("model.kind", message, f"It models {' and '.join(sorted(known))}.", self.model.kind)

    def _stack_issues(self) -> Iterator[ValidationIssue]:
        stack = "+".join(strategy.kind for strategy in self.strategies)
        coded = [
            incompatibility
            for strategy in self.strategies
            for incompatibility in strategy.incompatibilities(self.context)
        ]
        for incompatibility in dict.fromkeys(coded):
            message, code = "not a valid combination of strategies", incompatibility.code
            yield ValidationIssue("strategies", message, f"{incompatibility.message}.", stack, code)
        if coded:
            return
        for one, other in itertools.combinations(self.strategies, 2):
            if one.kind == other.kind:
                message = f"{one.kind} is listed twice"
                yield ValidationIssue("strategies", message, "Remove one of the two.", stack, "E-SLOT")
            elif slots := " and ".join(sorted((one.slots & other.slots) - TrainingComponents.SHARED)):
                message = f"{one.kind} and {other.kind} both fill {slots}"
                yield ValidationIssue("strategies", message, "Remove one of the two.", stack, "E-SLOT")

    def warnings(self) -> tuple[str, ...]:
        """What may be run but should be known, each once."""
        of_strategies = (text for strategy in self.strategies for text in strategy.warnings(self.context))
        return tuple(dict.fromkeys([*self.model.warnings(), *of_strategies]))

    def canonical(self) -> str:
        """The JSON that identifies the configuration: every value, sorted; without seed and without file locations."""
        values = self.model_dump(mode="json", exclude={"seed": True, "data": {"path"}})
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def config_id(self, data_fingerprint: str) -> str:
        """12 hexadecimal digits from the full configuration without its seed, and the content of the data."""
        return hashlib.sha256(f"{self.canonical()}\n{data_fingerprint}".encode()).hexdigest()[:12]

    def run_id(self, data_fingerprint: str) -> str:
        """Return the identity of the run: `config_id` and seed."""
        return format_run_id(self.config_id(data_fingerprint), self.seed)


def format_run_id(config_id: str, seed: int) -> str:
    """Return the `run_id` of a configuration under a seed."""
    return f"{config_id}-{seed}"


def parse_trial(given: Mapping[str, Any], source: str = "") -> TrialConfig:
    """`given` as a TrialConfig.

    Raises:
        ConfigError: with every mistake at once; each names the key, the value, the law and the remedy.
    """
    try:
        return TrialConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigError(issues_of(error, TrialConfig), source) from None
