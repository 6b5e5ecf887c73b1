"""Conversion of pydantic errors to `ValidationIssue`s: the key as the user wrote it, the problem, and a hint."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lagvae_core.catalogue import catalogue_of
from lagvae_core.config.recipe import defaults_of
from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.settings import FrozenConfig
from lagvae_core.strategies import CATALOGUE

__all__ = ["issues_of", "models_in"]

Path = Sequence[int | str]
"""Keys and list positions that lead to a value, such as ("strategies", 0, "beta")."""


def issues_of(error: ValidationError, root: type[BaseModel]) -> list[ValidationIssue]:
    """Convert the errors of a pydantic validation.

    Args:
        error: The error that pydantic raised.
        root: The pydantic model that was validated.

    Returns:
        One issue per wrong value. If a value fits no member of a union, its issue says what each member requires.
    """
    issues: list[ValidationIssue] = []
    for detail in error.errors():
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, ConfigError):
            issues.extend(inner.issues)
            continue
        issue = _issue(detail, root)
        last = issues[-1] if issues else None
        if last is not None and last.where == issue.where:
            message = _alternatives(last.message, issue.message)
            issues[-1] = replace(last, message=message, hint=last.hint or issue.hint)
        else:
            issues.append(issue)
    return [issue for issue in issues if not _is_redundant(issue, issues)]


def _alternatives(first: str, second: str) -> str:
    """Join "must be X" and "must be Y" to "must be X or Y"."""
    for prefix in ("must be ", "must "):
        if first.startswith(prefix) and second.startswith(prefix):
            return f"{first} or {second.removeprefix(prefix)}"
    return f"{first} or {second}"


def _is_redundant(issue: ValidationIssue, issues: Sequence[ValidationIssue]) -> bool:
    """Whether the issue is about a list or mapping, and another issue is about one of its elements."""
    inside = (f"{issue.where}[", f"{issue.where}.")
    is_container = isinstance(issue.value, Mapping | list | tuple)
    return is_container and any(other.where.startswith(inside) for other in issues)


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
    "too_short": "must be a list of at least {min_length} value(s)",
    "too_long": "must be a list of at most {max_length} value(s)",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping that contains the key `kind`",
    "dict_type": "must be a mapping of keys to values",
    "literal_error": "must be {expected}",
    "missing": "is required but missing",
    "invalid_key": "must be text",
}
"""Messages by type of pydantic error. Errors of other types keep pydantic's own message."""


def _issue(detail: ErrorDetails, root: type[BaseModel]) -> ValidationIssue:
    path, field, known = _resolve(detail["loc"], root)
    key = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in path).lstrip(".") or "the file"
    context, value = detail.get("ctx", {}), detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            hint = f"{did_you_mean(path[-1], known)} Known keys: {', '.join(known)}.".lstrip()
            return ValidationIssue(key, "unknown key", hint)
        case "union_tag_invalid":
            kinds = context["expected_tags"].replace("'", "")
            kind = value["kind"] if isinstance(value, Mapping) else context["tag"]
            hint = f"{did_you_mean(kind, kinds.split(', '))} Known kinds: {kinds}.".lstrip()
            return ValidationIssue(f"{key}.kind", "unknown kind", hint, kind)
        case "union_tag_not_found":
            # Only strategies lack a default kind.
            return ValidationIssue(
                key, "must contain the key `kind`", f"Known strategies: {', '.join(CATALOGUE)}.", value
            )
        case "missing":
            return ValidationIssue(key, MESSAGES["missing"], _explanation(path, field))
        case error_type:
            template = MESSAGES.get(error_type)
            message = template.format(**context) if template is not None else _message_of_pydantic(detail["msg"])
            return ValidationIssue(key, message, _explanation(path, field), value)


def _message_of_pydantic(message: str) -> str:
    """Turn pydantic's "Input should be less than 1" into "must be less than 1"."""
    return re.sub(r"^(Value error, )?\w+ should ", "must ", message).removeprefix("Value error, ").rstrip(".")


def _explanation(path: Path, field: FieldInfo | None) -> str:
    """Return the description of a field and its default, such as "(Momentum of SGD; default 0.0.)"."""
    if field is None or not field.description:
        return ""
    default = _default(path, field)
    return f"({_capitalised(field.description)}{f'; default {default}' if default else ''}.)"


def _default(path: Path, field: FieldInfo) -> str:
    """Return the default of a field, listed by kind of data if it depends on that; "" if there is no default."""
    if len(path) == 2:
        section, key = path
        defaults = defaults_of(str(section))
        by_kind = [f"{values[str(key)]} for {kind}" for kind, values in defaults.items() if str(key) in values]
        if by_kind:
            return ", ".join(by_kind)
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    return type(value).__name__ if isinstance(value, FrozenConfig) else str(value)


def _capitalised(text: str) -> str:
    """Capitalise the first word unless it is a symbol, such as `q(z)` or `.npz`."""
    word = text.split(maxsplit=1)[0]
    return text[0].upper() + text[1:] if len(word) > 1 and word.isalpha() else text


def _resolve(loc: tuple[int | str, ...], root: type[BaseModel]) -> tuple[list[int | str], FieldInfo | None, list[str]]:
    """Resolve pydantic's `loc`, which starts at `root`.

    Returns:
        The path without pydantic's union tags, the field of its last key, and the names of all fields at that level.
    """
    path: list[int | str] = []
    annotation: Any = root
    field: FieldInfo | None = None
    known: list[str] = []
    for part in loc:
        models = list(models_in(annotation))
        tagged = [
            model for model in models if "kind" in model.model_fields and model.model_fields["kind"].default == part
        ]
        if tagged and len(models) > 1:
            annotation = tagged[0]
            continue
        if isinstance(part, str) and part.startswith(("function-", "tuple", "constrained-", "literal[")):
            continue
        if isinstance(part, str) and part in ("int", "float", "str") and field is not None:
            continue
        if any(part == model.__name__ for model in models):
            continue
        path.append(part)
        if len(models) == 1 and isinstance(part, str):
            known = list(models[0].model_fields)
            field = models[0].model_fields.get(part)
            annotation = field.annotation if field is not None else None
    return path, field, known


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models in a type annotation."""
    if (catalogue := catalogue_of(annotation)) is not None:
        yield from catalogue.values()
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) is Annotated:
        yield from models_in(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, dict):
        for argument in typing.get_args(annotation):
            yield from models_in(argument)
