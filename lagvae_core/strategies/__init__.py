"""All strategies, one per file. A strategy class in this folder is added to `CATALOGUE` automatically."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from lagvae_core.strategies.base import Strategy

__all__ = ["CATALOGUE", "AnyStrategy", "Strategy"]

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

CATALOGUE: dict[str, type[Strategy]] = {
    value.name(): value
    for module in _MODULES
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Strategy) and value.__module__ == module.__name__
    if "kind" in vars(value).get("__annotations__", {}) and value is not Strategy
}
"""All strategy classes by `kind`, in the order of their file names."""

if TYPE_CHECKING:
    AnyStrategy = Strategy
else:
    AnyStrategy = Annotated[Union[tuple(CATALOGUE.values())], Field(discriminator="kind")]  # noqa: UP007
