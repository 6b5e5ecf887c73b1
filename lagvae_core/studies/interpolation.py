"""Sentences along straight lines between pairs of examples in the latent space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import ValidationIssue
from lagvae_core.metrics.decoding import Greedy
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.base import Findings, Study, StudyProgress, needs_z, straight_line
from lagvae_core.studies.sentence_generator import SentenceGenerator
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Interpolation"]


class Interpolation(Study):
    """Sentences decoded greedily along the straight line between two examples, z_a = (1 - a) z_1 + a z_2.

    Source: Bowman et al. 2016, section 4 (not checked against the paper); the steps a = 0, 0.2, ..., 1 are those of
    DU-VAE (Shen et al. 2021). The endpoints of a line give the greedy reconstructions of the two examples. The pairs
    are drawn from the measured split, and no example is used twice. The study has no columns: the sentences are meant
    to be read.
    """

    tables: ClassVar = {
        "sentences": "one row per step: the `pair`, the indices `first` and `second` of its examples, `a` and `text`"
    }
    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text"})

    kind: Literal["interpolation"] = "interpolation"
    pairs: int = Field(10, ge=1, description="largest number of pairs of examples")
    steps: int = Field(5, ge=1, le=1_000, description="number of equal steps from one example to the other")
    between: Literal["mean", "sample"] = Field(
        "mean", description="endpoints of the line: posterior means, or one posterior sample of each example"
    )
    max_length: int = Field(
        100, ge=1, le=10_000, description="largest number of tokens in a sentence, including `</s>`"
    )
    seed: int = Field(0, ge=0, description="seed of the choice of pairs")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)
        limits = (len(getattr(dataset, config.evaluation.split)), config.evaluation.limit)
        examples = min(limit for limit in limits if limit is not None)
        if examples < 2:
            message = f"needs at least two examples, but the split has {examples}"
            yield ValidationIssue(self.name(), message, "Measure a model of a larger data set.")

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        encoded, generator = trained.encoded, SentenceGenerator.of(trained)
        z_NZ = encoded.mean_NZ if self.between == "mean" else encoded.z_NZ
        order = torch.randperm(len(z_NZ), generator=_generator(self.seed))
        pairs = min(self.pairs, len(z_NZ) // 2)
        first_P, second_P = order[: 2 * pairs].view(2, pairs)
        a_A, z_PAZ = straight_line(z_NZ[first_P], z_NZ[second_P], self.steps)
        total = z_PAZ.shape[0] * z_PAZ.shape[1]
        decoded = generator.generate(
            Greedy(self.max_length),
            z_PAZ.flatten(0, 1),
            torch.arange(total),
            lambda done: progress("interpolate", done, total),
        )
        steps = len(a_A)
        table: dict[str, list[Any]] = {
            "pair": torch.arange(pairs).repeat_interleave(steps).tolist(),
            "first": first_P.repeat_interleave(steps).tolist(),
            "second": second_P.repeat_interleave(steps).tolist(),
            "a": a_A.repeat(pairs).tolist(),
            "text": generator.decode_ids([sentence.words for sentence in decoded]),
        }
        return Findings(tables={"sentences": table})


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "interpolation"))
