"""What is measured of a trained model on request, one file each. `STUDIES` finds a study by its kind."""

from __future__ import annotations

from lagvae_core.studies.base import Findings, Study, Table
from lagvae_core.studies.probe import Probe
from lagvae_core.studies.tsne import Tsne

__all__ = ["STUDIES", "Findings", "Probe", "Study", "Table", "Tsne"]

_ALL: tuple[type[Study], ...] = (
    Probe,
    Tsne,
)

STUDIES: dict[str, type[Study]] = {study.name(): study for study in _ALL}
