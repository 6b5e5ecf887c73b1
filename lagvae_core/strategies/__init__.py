"""All strategies, one per file. A strategy class in this folder is added to `CATALOGUE` automatically."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Annotated

from lagvae_core.catalogue import Catalogue, own_classes
from lagvae_core.strategies.base import Strategy

__all__ = ["CATALOGUE", "AnyStrategy", "Strategy"]

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

CATALOGUE: Catalogue[Strategy] = Catalogue(
    Strategy,
    "strategy",
    "lagvae.strategies",
    [config for module in _MODULES for config in own_classes(module, Strategy)],
)
"""All strategy classes by `kind`, in the order of their file names, followed by those of plugins."""

AnyStrategy = Annotated[Strategy, CATALOGUE]
