"""A map of the latent space: posterior means of some examples laid out in the plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.base import Findings, Study
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Tsne"]

START_DEVIATION = 1e-4
NEIGHBOURS = 5


class Tsne(Study):
    """t-SNE of posterior means E_q[z|x] of the measured split's first examples.

    Source: van der Maaten and Hinton 2008, by scikit-learn's Barnes-Hut approximation, started from the two principal
    components. Trustworthiness is that of Venna and Kaski 2001: it falls with the rank, among the means, of those that
    the map makes neighbours and that are none. The divergence that t-SNE descends is known to the approximation alone
    and is not kept. Distances between clusters and their sizes mean nothing, and a collapsed encoder's noise is laid
    out as readily as structure: read `au` and `mi` beside it. A model without z has no map.
    """

    columns: ClassVar = (
        Column(
            "tsne_trust", "float", "trustworthiness of the map: 1 where its 5 nearest are near among the means", "max"
        ),
        Column("tsne_examples", "int", "examples on the map"),
    )
    tables: ClassVar = {"map": "one row an example: its number in the split, coordinates `x` and `y`, label or null"}

    kind: Literal["tsne"] = "tsne"
    examples: int = Field(2_000, ge=4, le=10_000, description="examples on the map, at most")
    perplexity: float = Field(30.0, ge=1, description="effective number of neighbours; below the number of examples")
    seed: int = Field(0, ge=0, description="of the layout")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        limits = (len(getattr(dataset, config.evaluation.split)), config.evaluation.limit, self.examples)
        examples = min(limit for limit in limits if limit is not None)
        if self.perplexity >= examples:
            message = f"must be less than the {examples} examples on the map"
            yield ValidationIssue("tsne.perplexity", message, "A tenth of them is a common choice.", self.perplexity)

    def measure(self, trained: TrainedModel, progress: Callable[[str, int, int], None]) -> Findings:
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
    """The two principal components on a small scale, [N, 2], and noise in the place of one that does not vary."""
    centred_NZ = means_NZ - means_NZ.mean(0)
    left, scale, _ = np.linalg.svd(centred_NZ, full_matrices=False)
    noise_N2 = np.random.default_rng(seed).standard_normal((len(means_NZ), 2)) * START_DEVIATION
    largest = scale.max()
    if largest == 0.0:
        return noise_N2.astype(np.float32)
    for axis in np.flatnonzero(scale[:2] > 0.0):
        component_N = left[:, axis] * scale[axis]
        # An axis's sign is arbitrary; fix it, so that the map is the same on every machine.
        sign = np.sign(component_N[np.argmax(np.abs(component_N))])
        deviation = largest / np.sqrt(len(means_NZ))
        noise_N2[:, axis] = sign * component_N / deviation * START_DEVIATION
    return noise_N2.astype(np.float32)
