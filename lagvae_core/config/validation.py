"""What pydantic finds wrong, said as a person would: the key as typed, the law, the value, the remedy."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lagvae_core.config.recipe import RECIPES
from lagvae_core.errors import MISSING, ConfigError, ValidationIssue
from lagvae_core.settings import FrozenConfig
from lagvae_core.strategies import CATALOGUE, Strategy

__all__ = ["issues_of"]


def issues_of(error: ValidationError, root: type[BaseModel]) -> list[ValidationIssue]:
    """Every error that pydantic found, as our mistakes, with keys as the user typed them.

    A value that fits no member of a union is one mistake, its law naming every member.
    """
    found: list[ValidationIssue] = []
    for detail in error.errors():
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, ConfigError):
            found.extend(inner.issues)
            continue
        issue = _issue(detail, root)
        last = found[-1] if found else None
        if last is not None and last.where == issue.where:
            message = f"{last.message} or {issue.message.removeprefix('must ')}"
            found[-1] = replace(last, message=message, hint=last.hint or issue.hint)
        else:
            found.append(issue)
    return [m for m in found if not _looked_into(m, found)]


def _looked_into(issue: ValidationIssue, found: Sequence[ValidationIssue]) -> bool:
    """Whether another mistake lies inside the list or mapping of this one, which is then right as a whole."""
    inside = (f"{issue.where}[", f"{issue.where}.")
    whole = isinstance(issue.value, Mapping | list | tuple)
    return whole and any(m.where.startswith(inside) for m in found)


MESSAGES: dict[str, str] = {
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} character(s)",
    "tuple_type": "must be a list",
    "too_short": "must be a list of at least {min_length} values",
    "too_long": "must be a list of at most {max_length} values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping with a kind",
    "dict_type": "must be a mapping of keys to values",
    "literal_error": "must be {expected}",
    "missing": "must be given",
    "invalid_key": "must be text",
}
"""What pydantic's types of error are to a human; the others say it well enough themselves."""


def _issue(detail: ErrorDetails, root: type[BaseModel]) -> ValidationIssue:
    names, field, owner = _resolve(detail["loc"], root)
    key = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).lstrip(".") or "the file"
    context, given = detail.get("ctx", {}), detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            hint = _did_you_mean(names[-1], owner)
            return ValidationIssue(
                key, "must be a known key", f"{hint} Known here: {', '.join(owner)}.".lstrip(), given
            )
        case "union_tag_invalid":
            expected = context["expected_tags"].replace("'", "")
            tag = given["kind"] if isinstance(given, Mapping) else context["tag"]
            return ValidationIssue(
                f"{key}.kind", f"must be one of {expected}", _did_you_mean(tag, expected.split(", ")), tag
            )
        case "union_tag_not_found":
            return ValidationIssue(key, "must name its kind", f"Known kinds: {', '.join(CATALOGUE)}.", given)
        case kind:
            value = MISSING if kind == "missing" else given
            message = MESSAGES[kind].format(**context) if kind in MESSAGES else _message_of_pydantic(detail["msg"])
            return ValidationIssue(key, message, _explanation(names, field), value)


def _did_you_mean(word: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else ""


def _message_of_pydantic(message: str) -> str:
    """Turn pydantic's "Input should be less than 1" into "must be less than 1"."""
    return re.sub(r"^(Value error, )?\w+ should ", "must ", message).removeprefix("Value error, ").rstrip(".")


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
    return type(value).__name__ if isinstance(value, FrozenConfig) else str(value)


def _resolve(loc: tuple[int | str, ...], root: type[BaseModel]) -> tuple[list[int | str], Any, list[str]]:
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


def _settings_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation is Strategy:
            yield from CATALOGUE.values()
        else:
            yield annotation
    elif typing.get_origin(annotation) is Annotated:
        yield from _settings_in(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, dict):
        for argument in typing.get_args(annotation):
            yield from _settings_in(argument)
