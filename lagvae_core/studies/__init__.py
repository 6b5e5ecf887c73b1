"""Studies: measurements of a trained model on request, one per file. `STUDIES` maps each kind to its class."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from lagvae_core.studies.base import Findings, Study, Table

__all__ = ["STUDIES", "Findings", "Study", "Table"]

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

STUDIES: dict[str, type[Study]] = {
    value.name(): value
    for module in _MODULES
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Study) and value.__module__ == module.__name__
    if value is not Study
}
"""Study classes by kind, in the order of their files."""
