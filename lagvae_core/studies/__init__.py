"""Studies: measurements of a trained model on request, one file each. `STUDIES` maps each kind to its class."""

from __future__ import annotations

from lagvae_core.studies.base import Findings, Study, Table
from lagvae_core.studies.drawings import Drawings
from lagvae_core.studies.generation import Generation
from lagvae_core.studies.interpolation import Interpolation
from lagvae_core.studies.latent_plane import LatentPlane
from lagvae_core.studies.posterior_means import PosteriorMeans
from lagvae_core.studies.probe import Probe
from lagvae_core.studies.reconstruction import Reconstruction
from lagvae_core.studies.tsne import Tsne
from lagvae_core.studies.uncertainty import Uncertainty

__all__ = [
    "STUDIES",
    "Drawings",
    "Findings",
    "Generation",
    "Interpolation",
    "LatentPlane",
    "PosteriorMeans",
    "Probe",
    "Reconstruction",
    "Study",
    "Table",
    "Tsne",
    "Uncertainty",
]

_ALL: tuple[type[Study], ...] = (
    Drawings,
    Generation,
    Interpolation,
    LatentPlane,
    PosteriorMeans,
    Probe,
    Reconstruction,
    Tsne,
    Uncertainty,
)

STUDIES: dict[str, type[Study]] = {study.name(): study for study in _ALL}
"""Study classes by kind."""
