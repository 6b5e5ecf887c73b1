"""TrialConfig: all that one trial is. Frozen, closed to unknown keys, complete in its JSON."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from lagvae_core.config.recipe import RECIPES
from lagvae_core.config.validation import mistakes_of
from lagvae_core.data import DataConfig, SyntheticData
from lagvae_core.errors import ConfigError, Mistake
from lagvae_core.models import ModelConfig
from lagvae_core.models.lstm import LstmModel
from lagvae_core.settings import EvaluationConfig, Setting, TrainingConfig
from lagvae_core.strategies import AnyStrategy
from lagvae_core.strategies.base import Setup
from lagvae_core.strategies.slots import Parts

__all__ = ["TrialConfig", "parse_trial"]


class TrialConfig(Setting):
    """One trial: data, model, stack of strategies, training, evaluation, seed.

    Defaults of `model` and `training` follow the kind of data (RECIPES). The JSON of a configuration holds every value
    in full, so it means the same when a default changes.
    """

    data: Annotated[DataConfig, Field(description="what is learned")] = SyntheticData()
    model: Annotated[ModelConfig, Field(description="encoder and decoder")] = LstmModel()
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
        mistakes = [*self._model_mistakes()] or [*self._stack_mistakes()]
        if mistakes:
            raise ConfigError(mistakes)
        return self

    @property
    def epochs(self) -> int:
        """How many epochs are trained at most, those of a pretraining included."""
        return self.training.epochs + sum(strategy.pretraining_epochs for strategy in self.strategies)

    @property
    def setup(self) -> Setup:
        """What a strategy may know of the configuration that it stands in."""
        data = self.data
        batching = getattr(data, "batching", None)
        return Setup(self.strategies, self.training, self.model, data.kind, data.partition, batching)

    def _model_mistakes(self) -> Iterator[Mistake]:
        kind, known = self.data.kind, self.model.data_kinds
        if kind not in known:
            law = f"model data of kind {kind}"
            yield Mistake("model.kind", self.model.kind, law, f"It models {' and '.join(sorted(known))}.")

    def _stack_mistakes(self) -> Iterator[Mistake]:
        stack = "+".join(strategy.kind for strategy in self.strategies)
        coded = [refusal for strategy in self.strategies for refusal in strategy.refusals(self.setup)]
        for refusal in dict.fromkeys(coded):
            yield Mistake("strategies", stack, f"be a meaningful stack ({refusal.code})", f"{refusal.message}.")
        if coded:
            return
        for one, other in itertools.combinations(self.strategies, 2):
            if one.kind == other.kind:
                law = f"name each strategy once (E-SLOT), and {one.kind} is there twice"
                yield Mistake("strategies", stack, law, "Remove one of the two.")
            elif slots := " and ".join(sorted((one.slots & other.slots) - Parts.SHARED)):
                law = f"fill each slot at most once (E-SLOT), and {one.kind} and {other.kind} both fill {slots}"
                yield Mistake("strategies", stack, law, "Remove one of the two.")

    def warnings(self) -> tuple[str, ...]:
        """What may be run but should be known, each once."""
        of_strategies = (text for strategy in self.strategies for text in strategy.warnings(self.setup))
        return tuple(dict.fromkeys([*self.model.warnings(), *of_strategies]))

    def canonical(self) -> str:
        """The JSON that identifies the configuration: every value, sorted; without seed and without file locations."""
        values = self.model_dump(mode="json", exclude={"seed": True, "data": {"path"}})
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def config_id(self, data_fingerprint: str) -> str:
        """12 hexadecimal digits from the full configuration without its seed, and the content of the data."""
        return hashlib.sha256(f"{self.canonical()}\n{data_fingerprint}".encode()).hexdigest()[:12]

    def run_id(self, data_fingerprint: str) -> str:
        return f"{self.config_id(data_fingerprint)}-{self.seed}"


def parse_trial(given: Mapping[str, Any], source: str = "") -> TrialConfig:
    """`given` as a TrialConfig.

    Raises:
        ConfigError: with every mistake at once; each names the key, the value, the law and the remedy.
    """
    try:
        return TrialConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigError(mistakes_of(error, TrialConfig), source) from None
