"""TrialConfig: all that one trial is. Frozen, closed to unknown keys, complete in its JSON."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from lagvae_core.data import DataConfig, SyntheticData
from lagvae_core.errors import ConfigError, Mistake
from lagvae_core.models.lstm import LstmModel
from lagvae_core.settings import Setting
from lagvae_core.strategies import CATALOGUE, AnyStrategy, Strategy
from lagvae_core.strategies.base import Parts

__all__ = ["EvaluationConfig", "TrainingConfig", "TrialConfig", "mistakes_of", "parse_trial"]

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "synthetic": {
        "model": {"latent_dim": 1, "hidden": 50, "embedding": 50},
        "training": {"batch_size": 16, "epochs": 50, "decay_min_epoch": 0},
    },
    "text": {
        "model": {"latent_dim": 32, "hidden": 1024, "embedding": 512},
        "training": {"batch_size": 32, "epochs": 100, "decay_min_epoch": 15},
    },
}
"""What a kind of data changes in the defaults of model and training (He et al. 2019, Appendices B.1 and B.2)."""


_Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Setting):
    """The base recipe that every remedy plugs into: He et al. 2019, Appendix B, as their published text code runs it.

    SGD, halved when the validation loss has not improved for `decay_patience` epochs, from epoch `decay_min_epoch`
    on (the code's 15 for text; the paper states none; 0 for the synthetic set). On a decay the best weights come back
    and the optimisers start anew. Training stops at decay number `max_decays` or after `epochs`. The loss that
    selects and decays is rec + kl at weight 1 with one sample, whatever weight is trained with.
    """

    optimiser: Annotated[Literal["sgd", "adam"], Field(description="one optimiser each for encoder and decoder")] = (
        "sgd"
    )
    learning_rate: Annotated[float, Field(gt=0, description="at the start, of the decoder")] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.0
    adam_betas: Annotated[tuple[_Beta, _Beta], Field(description="of Adam, both in [0, 1)")] = (0.9, 0.999)
    batch_size: Annotated[int, Field(ge=1, description="examples in a batch, at most")] = 32
    epochs: Annotated[int, Field(ge=1, description="passes over the training data, at most")] = 100
    clip_norm: Annotated[float, Field(gt=0, description="largest gradient norm")] = 5.0
    clip_scope: Annotated[
        Literal["all", "per_module"],
        Field(description="norm of encoder and decoder together, or each its own"),
    ] = "all"
    decay_factor: Annotated[float, Field(gt=0, le=1, description="learning rate after a decay over before")] = 0.5
    decay_patience: Annotated[int, Field(ge=1, description="epochs without improvement before a decay")] = 2
    decay_min_epoch: Annotated[int, Field(ge=0, description="epoch (from 0) before which no decay happens")] = 15
    max_decays: Annotated[int, Field(ge=1, description="training stops at this decay")] = 5
    reload_best_on_decay: Annotated[bool, Field(description="return to the best weights at a decay")] = True
    kl_explode: Annotated[
        float,
        Field(gt=0, description="validation KL that, twice running at weight >= 0.5, is divergence [nats]"),
    ] = 1000.0


class EvaluationConfig(Setting):
    """How the trained model is measured."""

    split: Annotated[Literal["test", "valid"], Field(description="the split behind the table's metrics")] = "test"
    iw_samples: Annotated[int, Field(ge=1, description="importance samples an example (K of nll_iw)")] = 500
    mi_batch_size: Annotated[int, Field(ge=2, description="group size of mi_batch")] = 32
    limit: Annotated[int | None, Field(ge=2, description="measure only the first n examples of the split")] = None
    seed: Annotated[int, Field(ge=0, description="of the evaluation draws; shared by all runs")] = 0


class TrialConfig(Setting):
    """One trial: data, model, stack of strategies, training, evaluation, seed.

    Defaults of `model` and `training` follow the kind of data (RECIPES). The JSON of a configuration holds every value
    in full, so it means the same when a default changes.
    """

    data: Annotated[DataConfig, Field(description="what is learned")] = SyntheticData()
    model: Annotated[LstmModel, Field(description="encoder and decoder")] = LstmModel()
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
        for section, values in RECIPES.get(str(kind), {}).items():
            own = given.get(section, {})
            if isinstance(own, Mapping):
                filled[section] = {**values, **own}
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
    def _stack_is_meaningful(self) -> TrialConfig:
        mistakes = list(self._stack_mistakes())
        if mistakes:
            raise ConfigError(mistakes)
        return self

    def _stack_mistakes(self) -> Iterator[Mistake]:
        stack = "+".join(strategy.kind for strategy in self.strategies)
        coded = [refusal for strategy in self.strategies for refusal in strategy.refusals(self)]
        for refusal in dict.fromkeys(coded):
            yield Mistake("strategies", stack, f"be a meaningful stack ({refusal.code})", f"{refusal.message}.")
        if coded:
            return
        owners: dict[str, str] = {}
        for strategy in self.strategies:
            for slot in sorted(strategy.slots - Parts.SHARED):
                if slot in owners:
                    law = (
                        f"fill each slot at most once (E-SLOT), and {owners[slot]} and {strategy.kind} both fill {slot}"
                    )
                    yield Mistake("strategies", stack, law, "Remove one of the two.")
                owners[slot] = strategy.kind

    def warnings(self) -> tuple[str, ...]:
        """What may be run but should be known, each once."""
        return tuple(dict.fromkeys(text for strategy in self.strategies for text in strategy.warnings(self)))

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


def mistakes_of(error: ValidationError, root: type[Setting]) -> list[Mistake | str]:
    """Every error that pydantic found, as our mistakes, with keys as the user typed them.

    A value that fits no member of a union is one mistake, its law naming every member.
    """
    found: list[Mistake | str] = []
    for detail in error.errors():
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, ConfigError):
            found.extend(inner.mistakes)
            continue
        mistake = _mistake(detail, root)
        last = found[-1] if found else None
        if isinstance(last, Mistake) and last.key == mistake.key:
            law = f"{last.law} or {mistake.law}"
            found[-1] = Mistake(last.key, last.value, law, last.remedy or mistake.remedy)
        else:
            found.append(mistake)
    return [m for m in found if not (isinstance(m, Mistake) and _looked_into(m, found))]


def _looked_into(mistake: Mistake, found: Sequence[Mistake | str]) -> bool:
    """Whether another mistake lies inside the list or mapping of this one, which is then right as a whole."""
    inside = (f"{mistake.key}[", f"{mistake.key}.")
    whole = isinstance(mistake.value, Mapping | list | tuple)
    return whole and any(isinstance(m, Mistake) and m.key.startswith(inside) for m in found)


class _Missing:
    """The value of a key that was not given."""

    def __repr__(self) -> str:
        return "missing"


LAWS: dict[str, str] = {
    "int_type": "be an integer",
    "int_parsing": "be an integer",
    "int_from_float": "be an integer",
    "float_type": "be a number",
    "float_parsing": "be a number",
    "finite_number": "be a finite number",
    "bool_type": "be true or false",
    "bool_parsing": "be true or false",
    "string_type": "be text",
    "string_too_short": "have at least {min_length} character(s)",
    "tuple_type": "be a list",
    "too_short": "be a list of at least {min_length} values",
    "too_long": "be a list of at most {max_length} values",
    "model_type": "be a mapping of keys to values",
    "model_attributes_type": "be a mapping with a kind",
    "dict_type": "be a mapping of keys to values",
    "literal_error": "be {expected}",
    "missing": "be given",
    "invalid_key": "be text",
}
"""What pydantic's types of error are to a human; the others say it well enough themselves."""


def _mistake(detail: ErrorDetails, root: type[Setting]) -> Mistake:
    names, field, owner = _resolve(detail["loc"], root)
    key = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).lstrip(".") or "the file"
    context, given = detail.get("ctx", {}), detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            hint = _did_you_mean(names[-1], owner)
            return Mistake(key, given, "be a known key", f"{hint} Known here: {', '.join(owner)}.".lstrip())
        case "union_tag_invalid":
            expected = context["expected_tags"].replace("'", "")
            tag = given["kind"] if isinstance(given, Mapping) else context["tag"]
            return Mistake(f"{key}.kind", tag, f"be one of {expected}", _did_you_mean(tag, expected.split(", ")))
        case "union_tag_not_found":
            return Mistake(key, given, "name its kind", f"Known kinds: {', '.join(CATALOGUE)}.")
        case kind:
            value = _Missing() if kind == "missing" else given
            law = LAWS[kind].format(**context) if kind in LAWS else _law_of_message(detail["msg"])
            return Mistake(key, value, law, _explanation(names, field))


def _did_you_mean(word: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else ""


def _law_of_message(message: str) -> str:
    """pydantic's "Input should be less than 1" as "be less than 1"."""
    return re.sub(r"^(Value error, )?(\w+ should )?", "", message).rstrip(".")


def _explanation(names: Sequence[int | str], field: Any) -> str:
    """What a field is, and its default; where that depends on the data, for every kind."""
    if field is None or not field.description:
        return ""
    default = "" if field.is_required() else f" (default {_shown(field.get_default(call_default_factory=True))})"
    if len(names) == 2:
        section, key = names
        recipes = {kind: recipe.get(str(section), {}) for kind, recipe in RECIPES.items()}
        shown = [f"{values[key]} for {kind}" for kind, values in recipes.items() if key in values]
        default = f" (default {', '.join(shown)})" if shown else default
    return f"It is: {field.description}{default}."


def _shown(value: object) -> str:
    return type(value).__name__ if isinstance(value, Setting) else str(value)


def _resolve(loc: tuple[int | str, ...], root: type[Setting]) -> tuple[list[int | str], Any, list[str]]:
    """The keys of `loc` without pydantic's union tags, the last key's field, and the keys known beside it."""
    names: list[int | str] = []
    annotation: Any = root
    field: Any = None
    owner: list[str] = []
    for part in loc:
        members = list(_settings_in(annotation))
        tagged = [m for m in members if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        if tagged and len(members) > 1:
            annotation = tagged[0]
            continue
        if isinstance(part, str) and part.startswith(("function-", "tuple", "constrained-", "literal[")):
            continue
        if isinstance(part, str) and part in ("int", "float", "str") and field is not None:
            continue
        names.append(part)
        if len(members) == 1 and isinstance(part, str):
            owner = list(members[0].model_fields)
            field = members[0].model_fields.get(part)
            annotation = field.annotation if field is not None else None
    return names, field, owner


def _settings_in(annotation: Any) -> Iterator[type[Setting]]:
    if isinstance(annotation, type) and issubclass(annotation, Setting):
        if annotation is Strategy:
            yield from CATALOGUE.values()
        else:
            yield annotation
    elif typing.get_origin(annotation) is Annotated:
        yield from _settings_in(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, dict):
        for argument in typing.get_args(annotation):
            yield from _settings_in(argument)
