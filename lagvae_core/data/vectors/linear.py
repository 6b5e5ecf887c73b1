"""Generated vectors: a Gaussian linear model of a latent variable, with a chosen spectrum of the covariance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lagvae_core.data.base import Batching, Partition, SplitLimits, Unit
from lagvae_core.data.vectors.arrays import VectorBatch, VectorDataset, VectorSplit
from lagvae_core.data.vectors.source import vector_batches
from lagvae_core.randomness import derive_seed

__all__ = ["LinearGaussianData", "LinearModel", "linear_model"]

_FORMAT = 1
"""Version of the generator. It must change whenever equal fields give other values."""


class LinearGaussianData(SplitLimits):
    """Vectors of a Gaussian linear model: z ~ N(0, I), x = W z + mu + N(0, noise I).

    The covariance of x has the given `eigenvalues`, and `noise` in all other directions. W is U (Lambda - noise
    I)^(1/2) with random orthonormal columns U, and mu ~ N(0, I); both depend only on `seed` and the sizes. For these
    data, the linear VAE (`model.layers` 0) and probabilistic PCA have closed forms: with a decoder variance s, the best
    model uses exactly the directions whose eigenvalue exceeds s, and collapses if s exceeds the largest eigenvalue.

    Source: Tipping & Bishop 1999, Probabilistic Principal Component Analysis; Lucas et al. 2019, Don't Blame the ELBO!
    """

    batching: ClassVar[Batching | None] = None
    unit: ClassVar[Unit] = "feature"

    kind: Literal["linear_gaussian"] = "linear_gaussian"
    examples: int = Field(2_000, ge=1, description="number of training vectors")
    heldout: int = Field(1_000, ge=1, description="number of validation vectors, and of test vectors")
    features: int = Field(10, ge=1, le=65536, description="number of values per vector")
    eigenvalues: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (4.0, 2.0, 1.0, 0.5), min_length=1, description="largest eigenvalues of the covariance, each above `noise`"
    )
    noise: float = Field(0.1, gt=0, description="variance of the noise, the remaining eigenvalues of the covariance")
    seed: int = Field(0, ge=0, description="seed of the model and the vectors; independent of the trial's seed")
    partition: Partition = Field("resplit_random", description="division of the training vectors into batches")

    @model_validator(mode="after")
    def _check_spectrum(self) -> LinearGaussianData:
        if len(self.eigenvalues) > self.features:
            raise ValueError(f"must have at most as many eigenvalues as features, {self.features}")
        if min(self.eigenvalues) <= self.noise:
            raise ValueError(f"must have eigenvalues that exceed the noise, {self.noise:g}")
        if self.partition == "fixed_by_group":
            raise ValueError("must have partition fixed_random or resplit_random, because the vectors have no labels")
        return self

    def load(self) -> VectorDataset:
        """Generate the vectors. `truth` of the result has `<split>_z`, float64 [N, Z]."""
        model = linear_model(self)
        values, truth = {}, {}
        for split, size in self._sizes.items():
            generator = np.random.default_rng(derive_seed(self.seed, "linear_gaussian", split))
            # One draw per vector, so that a vector does not depend on the number of vectors after it.
            draws = generator.standard_normal((size, len(self.eigenvalues) + self.features))
            z_NZ, noise_NX = np.hsplit(draws, [len(self.eigenvalues)])
            truth[f"{split}_z"] = z_NZ
            values[split] = z_NZ @ model.weight_XZ.T + model.mean_X + np.sqrt(self.noise) * noise_NX
        fingerprint = self.fingerprint()
        return VectorDataset.of(values, remarks=self.limit_remarks(), truth=truth, fingerprint=fingerprint)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that the vectors depend on, and the version of the generator."""
        fields = self.model_dump(mode="json", exclude={*SplitLimits.model_fields, "partition", "examples", "heldout"})
        identity = json.dumps([_FORMAT, fields, self._sizes], sort_keys=True)
        return f"{hashlib.sha256(identity.encode()).hexdigest()}-v{_FORMAT}"

    def train_batches(self, train: VectorSplit, batch_size: int, seed: int, epoch: int) -> list[VectorBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        return vector_batches(self.partition, train, batch_size, seed, epoch)

    @property
    def _sizes(self) -> dict[str, int]:
        sizes = {"train": self.examples, "valid": self.heldout, "test": self.heldout}
        return {split: min(size, self.limits[split] or size) for split, size in sizes.items()}


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Parameters of the generator, float64: x = W z + mu + noise."""

    weight_XZ: NDArray[np.float64]
    mean_X: NDArray[np.float64]
    noise: float

    @property
    def covariance_XX(self) -> NDArray[np.float64]:
        """The covariance of x."""
        spread: NDArray[np.float64] = self.weight_XZ @ self.weight_XZ.T
        return spread + self.noise * np.eye(len(self.mean_X))


def linear_model(config: LinearGaussianData) -> LinearModel:
    """Return the parameters of the generator; they depend only on the sizes, the spectrum and the seed."""
    generator = np.random.default_rng(derive_seed(config.seed, "linear_gaussian", "model"))
    directions_XZ = np.linalg.qr(generator.standard_normal((config.features, len(config.eigenvalues))))[0]
    scale_Z = np.sqrt(np.array(config.eigenvalues) - config.noise)
    return LinearModel(directions_XZ * scale_Z, generator.standard_normal(config.features), config.noise)
