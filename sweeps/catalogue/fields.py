"""Fields and docstring of a configuration class as plain data, for catalogues and documentation."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

from lagvae_core.settings import FrozenConfig, describe_constraints

__all__ = ["describe_docstring", "describe_fields", "describe_type"]


def describe_fields(config: type[FrozenConfig]) -> list[dict[str, Any]]:
    """Return name, description, type, constraints and default of every field except `kind`."""
    return [
        {
            "name": name,
            "description": field.description,
            "type": describe_type(field.annotation),
            "constraints": ", ".join(describe_constraints(field.metadata)),
            "default": field.default,
        }
        for name, field in config.model_fields.items()
        if name != "kind"
    ]


def describe_docstring(config: type[FrozenConfig]) -> dict[str, str]:
    """Return the class docstring ("description") and its first paragraph as a single line ("summary")."""
    text = inspect.getdoc(config) or ""
    return {"summary": " ".join(text.split("\n\n")[0].split()), "description": text}


def describe_type(annotation: Any) -> str:
    """Return the type of a field as text, such as "integer or null", with the constraints of inner types."""
    arguments = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case None:
            return _NAMES.get(annotation, "mapping")
        case typing.Annotated:
            marks = [mark for part in arguments[1:] for mark in getattr(part, "metadata", [part])]
            constraints = " and ".join(describe_constraints(marks))
            return f"{describe_type(arguments[0])} {constraints}".rstrip()
        case typing.Literal:
            return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
        case typing.Union | types.UnionType:
            return " or ".join(dict.fromkeys(map(describe_type, arguments)))
        case origin if origin is tuple and arguments[-1] is ...:
            name, _, constraints = describe_type(arguments[0]).partition(" ")
            return f"list of {name}s {constraints}".rstrip()
        case origin if origin is tuple:
            return f"list [{', '.join(map(describe_type, arguments))}]"
        case _:
            return "mapping"


_NAMES = {int: "integer", float: "number", bool: "true or false", str: "text", type(None): "null", Any: "any value"}
