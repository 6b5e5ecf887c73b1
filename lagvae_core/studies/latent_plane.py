"""Posterior means in the plane: how far groups lie apart, and how much a mean depends on the batch it stands in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset, TokenSplit
from lagvae_core.errors import ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.base import Findings, Study, needs_z
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["LatentPlane", "scatter_ratio"]


class LatentPlane(Study):
    """The two latent dimensions whose posterior means vary most, by label, and what the batch does to a mean.

    Source: the latent space under three ways of cutting batches (`data.partition`), Song et al. 2024, as far as their
    slides tell. `plane_scatter` is the scatter of the groups' centres over that within groups, over all dimensions.
    `plane_context_sd` is the deviation of an example's mean in train mode over `contexts` random batches of the trial's
    size, root mean square over examples and dimensions: 0 for a remedy without statistics of a batch, whatever its
    partition. Sentences meet companions of their own length there, as in training; for images it is not measured.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("plane_scatter", "float", "scatter of means between labels over that within; null without", "max"),
        Column("plane_context_sd", "float", "deviation of a mean over batches in train mode; null for images"),
    )
    tables: ClassVar = {
        "means": "one row an example: its number in the split, `x` and `y`, the means of the two dimensions that vary "
        "most, and its label or null"
    }

    kind: Literal["latent_plane"] = "latent_plane"
    examples: int = Field(2_000, ge=2, description="examples of the measured split, at most")
    followed: int = Field(200, ge=1, description="examples whose means are followed from batch to batch")
    contexts: int = Field(50, ge=2, le=10_000, description="random batches for each of them")
    seed: int = Field(0, ge=0, description="of the batches")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)

    def measure(self, trained: TrainedModel, progress: Callable[[str, int, int], None]) -> Findings:
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
    def _context_sd(
        self, trained: TrainedModel, split: TokenSplit, progress: Callable[[str, int, int], None]
    ) -> float | None:
        model, size = trained.model, trained.config.training.batch_size
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen: list[Tensor] = []
        try:
            model.train()
            for context in range(self.contexts):
                mean_FZ = torch.full((self.followed, trained.config.model.latent_dim), torch.nan, dtype=torch.float64)
                for batch in split.batches(size, seed=derive_seed(self.seed, "context", context)):
                    rows_B = batch.index_B < self.followed
                    if rows_B.any() and trained.components.accepts(batch.size):
                        found_BZ = model.infer(batch.to(trained.device)).q.base.mean_BZ.double().cpu()
                        mean_FZ[batch.index_B[rows_B]] = found_BZ[rows_B]
                seen.append(mean_FZ)
                progress("batches", context + 1, self.contexts)
        finally:
            model.load_state_dict(weights)
            model.eval()
        # An example whose batch is too small for the remedy once may not be so the next time.
        spread_FZ = _variance(torch.stack(seen))
        found = spread_FZ[~spread_FZ.isnan()]
        return float(found.mean().sqrt()) if len(found) else None


def _variance(seen_CFZ: Tensor) -> Tensor:
    """The variance over contexts, [F, Z], of what is there; NaN of fewer than two."""
    count_FZ = (~seen_CFZ.isnan()).sum(0)
    deviation_CFZ = seen_CFZ - seen_CFZ.nanmean(0)
    return torch.where(count_FZ > 1, deviation_CFZ.square().nansum(0) / (count_FZ - 1).clamp(min=1), torch.nan)


def scatter_ratio(mean_NZ: Tensor, labels: tuple[str, ...]) -> float | None:
    """The sum over groups of n |centre - mean|^2 over the sum of |x - centre|^2; None where all of a group is one."""
    total = within = 0.0
    centre_Z = mean_NZ.mean(0)
    for label in dict.fromkeys(labels):
        group = mean_NZ[torch.tensor([other == label for other in labels])]
        own_Z = group.mean(0)
        total += len(group) * float((own_Z - centre_Z).square().sum())
        within += float((group - own_Z).square().sum())
    return total / within if within > 0 else None
