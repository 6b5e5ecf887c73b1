"""Fields and docstring of a configuration class as plain data, for catalogues and documentation."""

from __future__ import annotations

import inspect
from typing import Any

from lagvae_core.settings import FrozenConfig, describe_constraints

__all__ = ["describe_docstring", "describe_fields"]


def describe_fields(config: type[FrozenConfig]) -> list[dict[str, Any]]:
    """Return name, description, type, constraints and default of every field except `kind`."""
    return [
        {
            "name": name,
            "description": field.description,
            "type": _type_name(field.annotation),
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


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
