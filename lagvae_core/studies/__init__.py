"""What is measured of a trained model on request, one file each. `STUDIES` finds a study by its kind."""

from __future__ import annotations

from lagvae_core.studies.base import Findings, Study, Table
from lagvae_core.studies.posterior_means import PosteriorMeans

__all__ = ["STUDIES", "Findings", "Study", "Table"]

_ALL: tuple[type[Study], ...] = (PosteriorMeans,)

STUDIES: dict[str, type[Study]] = {study.name(): study for study in _ALL}
