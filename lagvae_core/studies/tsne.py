"""Map of the latent space: t-SNE of posterior means in the plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.base import Findings, Study, StudyProgress
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Tsne"]

START_SD = 1e-4
"""Standard deviation of the initial layout along its first axis."""

NEIGHBOURS = 5
"""Number of neighbours for trustworthiness."""


class Tsne(Study):
    """t-SNE of the posterior means E_q[z|x] of the first examples of the measured split.

    Source: van der Maaten and Hinton 2008, with the Barnes-Hut approximation of scikit-learn, initialised with the
    first two principal components. Trustworthiness is defined by Venna and Kaski 2001. Each nearest neighbour on the
    map that is not a nearest neighbour in the latent space lowers it, by an amount that grows with the rank of that
    neighbour by distance in the latent space. The objective of t-SNE is not recorded, because only an approximation of
    it is computed. Distances between clusters and sizes of clusters have no meaning, and even the noise of a collapsed
    encoder gives a map, so look at `au` and `mi` too. A model without z has no map.
    """

    columns: ClassVar = (
        Column(
            "tsne_trust",
            "float",
            "trustworthiness of the map; 1 if the 5 nearest neighbours on the map are also the nearest in latent space",
            "max",
        ),
        Column("tsne_examples", "int", "number of examples on the map"),
    )
    tables: ClassVar = {"map": "one row per example: its index in the split, coordinates `x` and `y`, label or null"}

    kind: Literal["tsne"] = "tsne"
    examples: int = Field(2_000, ge=4, le=10_000, description="largest number of examples on the map")
    perplexity: float = Field(
        30.0, ge=1, description="effective number of neighbours; must be less than the number of examples"
    )
    seed: int = Field(0, ge=0, description="seed of the layout")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        limits = (len(getattr(dataset, config.evaluation.split)), config.evaluation.limit, self.examples)
        examples = min(limit for limit in limits if limit is not None)
        if self.perplexity >= examples:
            message = f"must be less than {examples}, the number of examples on the map"
            yield ValidationIssue(
                "tsne.perplexity", message, "A common choice is a tenth of the number of examples.", self.perplexity
            )

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        split = trained.split.limit(self.examples)
        means_NZ = trained.means(split, lambda done: progress("encode", done, len(split))).numpy()
        if means_NZ.shape[1] == 0:
            return Findings(dict.fromkeys(column.name for column in self.columns))
        progress("tsne", 0, 1)
        place_N2 = self._layout(means_NZ)
        progress("tsne", 1, 1)
        table = {
            "example": list(range(len(split))),
            "x": place_N2[:, 0].tolist(),
            "y": place_N2[:, 1].tolist(),
            "label": list(split.labels) if split.labels is not None else [None] * len(split),
        }
        return Findings({"tsne_trust": _trust(means_NZ, place_N2), "tsne_examples": len(split)}, {"map": table})

    def _layout(self, means_NZ: NDArray[np.float64]) -> NDArray[np.float64]:
        from sklearn.manifold import TSNE

        seed = derive_seed(self.seed, "tsne") % 2**32
        start = _start(means_NZ, seed)
        method = TSNE(perplexity=self.perplexity, init=start, random_state=seed, n_jobs=1)
        place_N2: NDArray[np.float64] = method.fit_transform(means_NZ.astype(np.float32)).astype(np.float64)
        return place_N2


def _trust(means_NZ: NDArray[np.float64], place_N2: NDArray[np.float64]) -> float:
    from sklearn.manifold import trustworthiness

    neighbours = min(NEIGHBOURS, (len(means_NZ) - 1) // 2)
    return float(trustworthiness(means_NZ, place_N2, n_neighbors=neighbours))


def _start(means_NZ: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    """Return the two principal components on a small scale, [N, 2]; noise replaces a component without variance."""
    centred_NZ = means_NZ - means_NZ.mean(0)
    left, scale, _ = np.linalg.svd(centred_NZ, full_matrices=False)
    start_N2 = np.random.default_rng(seed).standard_normal((len(means_NZ), 2)) * START_SD
    largest = scale.max()
    if largest == 0.0:
        return start_N2.astype(np.float32)
    for axis in np.flatnonzero(scale[:2] > 0.0):
        component_N = left[:, axis] * scale[axis]
        # The sign of an axis is arbitrary; fixing it makes the map the same on every machine.
        sign = np.sign(component_N[np.argmax(np.abs(component_N))])
        sd = largest / np.sqrt(len(means_NZ))
        start_N2[:, axis] = sign * component_N / sd * START_SD
    return start_N2.astype(np.float32)
