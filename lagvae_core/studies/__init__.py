"""Studies: measurements of a trained model on request, one per file. `STUDIES` maps each kind to its class."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from lagvae_core.catalogue import Catalogue, own_classes
from lagvae_core.studies.base import Findings, Study, Table

__all__ = ["STUDIES", "Findings", "Study", "Table"]

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

STUDIES: Catalogue[Study] = Catalogue(
    Study, "study", "lagvae.studies", [config for module in _MODULES for config in own_classes(module, Study)]
)
"""Study classes by kind, in the order of their files, followed by those of plugins."""
