"""What a declaration of settings says of itself, as plain data: for catalogues, help and documentation."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from lagvae_core.settings import FrozenConfig

__all__ = ["describe_docstring", "describe_fields"]

SIGNS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}", "min_length": "at least {} long"}


def describe_fields(setting: type[FrozenConfig]) -> list[dict[str, Any]]:
    """Name, description, type, law and default of every field but `kind`."""
    return [
        {
            "name": name,
            "description": field.description,
            "type": _type_name(field.annotation),
            "law": ", ".join(_laws(field.metadata)),
            "default": field.default,
        }
        for name, field in setting.model_fields.items()
        if name != "kind"
    ]


def describe_docstring(setting: type[FrozenConfig]) -> dict[str, str]:
    """The docstring, and its first paragraph on one line."""
    text = inspect.getdoc(setting) or ""
    return {"summary": " ".join(text.split("\n\n")[0].split()), "description": text}


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _laws(metadata: list[Any]) -> Iterator[str]:
    for mark in metadata:
        for name, text in SIGNS.items():
            if hasattr(mark, name):
                yield text.format(getattr(mark, name))
