"""Posterior means in a plane: the separation of labels, and the dependence of a mean on its batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset, TokenSplit
from lagvae_core.errors import ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.base import Findings, Study, StudyProgress, needs_z
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["LatentPlane", "scatter_ratio"]


class LatentPlane(Study):
    """Posterior means in the two latent dimensions in which they vary most, and the effect of batches on the means.

    Source: Song et al. 2024 show the latent space under three ways to partition the data into batches
    (`data.partition`); this study follows their slides, as far as they show the method. `plane_scatter` is the scatter
    of the centres of the labels divided by the scatter within labels, over all dimensions. `plane_context_sd` is the
    standard deviation of an example's mean in train mode over `contexts` random batches, as the root mean square over
    examples and dimensions. Without a strategy that uses batch statistics, it is 0 for every partition. It is measured
    only for synthetic data and text, in batches of the trial's batch size that hold sentences of the same length.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "plane_scatter",
            "float",
            "scatter of means between labels divided by the scatter within labels; null without labels",
            "max",
        ),
        Column(
            "plane_context_sd",
            "float",
            "standard deviation of an example's mean over batches in train mode; null unless the data are sentences",
        ),
    )
    tables: ClassVar = {
        "means": "one row per example: its index in the split, the means `x` and `y` of the two dimensions that vary "
        "most, and its label or null"
    }

    kind: Literal["latent_plane"] = "latent_plane"
    examples: int = Field(2_000, ge=2, description="largest number of examples of the measured split")
    followed: int = Field(200, ge=1, description="number of examples for plane_context_sd")
    contexts: int = Field(50, ge=2, le=10_000, description="number of random batches per example for plane_context_sd")
    seed: int = Field(0, ge=0, description="seed of the random batches")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        split = trained.split.limit(self.examples)
        mean_NZ = trained.means(split, lambda done: progress("encode", done, len(split)))
        first, second = (*mean_NZ.var(0).argsort(descending=True)[:2].tolist(), None)[:2]
        labels = list(split.labels) if split.labels is not None else [None] * len(split)
        table: dict[str, list[Any]] = {
            "example": list(range(len(split))),
            "x": mean_NZ[:, first].tolist(),
            "y": mean_NZ[:, second].tolist() if second is not None else [0.0] * len(split),
            "label": labels,
        }
        values = {
            "plane_scatter": scatter_ratio(mean_NZ, split.labels) if split.labels is not None else None,
            "plane_context_sd": self._context_sd(trained, split, progress) if isinstance(split, TokenSplit) else None,
        }
        return Findings(values, {"means": table})

    @torch.no_grad()
    def _context_sd(self, trained: TrainedModel, split: TokenSplit, progress: StudyProgress) -> float | None:
        model, size = trained.model, trained.config.training.batch_size
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        means: list[Tensor] = []
        try:
            model.train()
            for context in range(self.contexts):
                mean_FZ = torch.full((self.followed, trained.config.model.latent_dim), torch.nan, dtype=torch.float64)
                for batch in split.batches(size, seed=derive_seed(self.seed, "context", context)):
                    rows_B = batch.index_B < self.followed
                    if rows_B.any() and trained.components.accepts(batch.size):
                        mean_BZ = model.infer(batch.to(trained.device)).q.base.mean_BZ.double().cpu()
                        mean_FZ[batch.index_B[rows_B]] = mean_BZ[rows_B]
                means.append(mean_FZ)
                progress("batches", context + 1, self.contexts)
        finally:
            model.load_state_dict(weights)
            model.eval()
        # In a context in which an example's batch is too small for the statistics of a strategy, its mean is missing.
        variance_FZ = _variance(torch.stack(means))
        known = variance_FZ[~variance_FZ.isnan()]
        return float(known.mean().sqrt()) if len(known) else None


def _variance(mean_CFZ: Tensor) -> Tensor:
    """Return the variance over contexts [F, Z], ignoring NaNs; NaN if there are fewer than two values."""
    count_FZ = (~mean_CFZ.isnan()).sum(0)
    deviation_CFZ = mean_CFZ - mean_CFZ.nanmean(0)
    return torch.where(count_FZ > 1, deviation_CFZ.square().nansum(0) / (count_FZ - 1).clamp(min=1), torch.nan)


def scatter_ratio(mean_NZ: Tensor, labels: tuple[str, ...]) -> float | None:
    """Return the scatter between groups divided by the scatter within groups.

    The ratio is the sum over groups of n |centre of the group - mean|^2, divided by the sum over examples of
    |x - centre of its group|^2. The result is None if all examples of each group coincide.

    Args:
        mean_NZ: Posterior means of the examples.
        labels: Group of each example.
    """
    between = within = 0.0
    centre_Z = mean_NZ.mean(0)
    for label in dict.fromkeys(labels):
        group = mean_NZ[torch.tensor([other == label for other in labels])]
        group_centre_Z = group.mean(0)
        between += len(group) * float((group_centre_Z - centre_Z).square().sum())
        within += float((group - group_centre_Z).square().sum())
    return between / within if within > 0 else None
