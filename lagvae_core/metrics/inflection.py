"""How well a model inflects: forms written greedily, and their distance from the right ones.

Shape suffixes: B examples, S samples of z each, Z latent dimensions, L characters written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from lagvae_core.data import EOS, UNK, InflectionBatch
from lagvae_core.metrics.decoding import Greedy
from lagvae_core.metrics.encoding import EncodedSplit
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = ["SAMPLES", "Edits", "edits", "inflect", "inflection_columns"]

SAMPLES = 10
"""Posterior samples an example behind `accuracy_sampled`."""

NOWHERE = -1
"""Stands for a written `<unk>`: a character that is right nowhere."""

Form = Sequence[int]


@dataclass(frozen=True)
class Edits:
    """The unit-cost edit distance of one written form from the right one, and the characters of the latter."""

    distance: int
    length: int

    @property
    def relative(self) -> float:
        return self.distance / self.length


def edits(written: Form, right: Form) -> Edits:
    """Of two words as ids of their code points, without specials; a written `<unk>` is right nowhere."""
    known = [NOWHERE if character == UNK else character for character in written]
    return Edits(Levenshtein.distance(known, list(right)), len(right))


@torch.no_grad()
def inflect(model: Vae, batch: InflectionBatch, z_BSZ: Tensor) -> list[list[list[int]]]:
    """For each example and each of its S samples the most likely character after another, until `</s>`: ids.

    A form that has not ended after twice the length of its source (with `<s>` and `</s>`) and 20 characters is cut
    there. The model must be in eval mode.
    """
    decoder: Any = model.decoder
    samples, device = z_BSZ.shape[1], z_BSZ.device
    row_R = torch.arange(batch.size, device=device).repeat_interleave(samples)
    most = [2 * length + 20 for length in batch.source.sizes_B.tolist()]
    context = batch.history.unread().select(row_R)
    found = Greedy(max(most))(decoder, z_BSZ.flatten(0, 1), batch.index_B[row_R.cpu()], context)
    written = [list(one.words) for one in found]
    return [[form[:limit] for form in written[row * samples : (row + 1) * samples]] for row, limit in enumerate(most)]


def inflection_columns(
    model: Vae, batches: Sequence[InflectionBatch], encoded: EncodedSplit, seed: int
) -> dict[str, float | None]:
    """The mean over all examples of what `lagvae_core.evaluation.data_specific_metrics` declares.

    `accuracy_swapped` takes the posterior mean of the example that is half the split away: another word, in a file in
    alphabetical order too. Null where there is no other.
    """
    examples = len(encoded.rec_N)
    found: dict[str, list[Edits]] = {"mean": [], "sampled": [], "swapped": []}
    for batch in batches:
        mean_NZ = encoded.mean_NZ.to(encoded.precision)
        other_B = (batch.index_B + examples // 2) % examples
        q = encoded.infer(batch).q
        noise = example_noise(seed, "inflection", batch.index_B, SAMPLES, q.size[1]).to(q.base.mean_BZ)
        means_B2Z = torch.stack([mean_NZ[batch.index_B], mean_NZ[other_B]], 1).to(noise.device)
        written = inflect(model, batch, torch.cat([means_B2Z, q.draw(noise).z_BSZ], 1))
        for forms, right in zip(written, _right(batch), strict=True):
            by_mean, by_other, *by_samples = (edits(form, right) for form in forms)
            found["mean"].append(by_mean)
            found["swapped"].append(by_other)
            found["sampled"] += by_samples
    of_mean = found["mean"]
    return {
        "accuracy": _accuracy(of_mean),
        "accuracy_sampled": _accuracy(found["sampled"]),
        "accuracy_swapped": _accuracy(found["swapped"]) if examples > 1 else None,
        "levenshtein": sum(e.distance for e in of_mean) / examples,
        "levenshtein_relative": sum(e.relative for e in of_mean) / examples,
    }


def _right(batch: InflectionBatch) -> list[list[int]]:
    return [form[1 : form.index(EOS)] for form in batch.tokens_BL.tolist()]


def _accuracy(every: Sequence[Edits]) -> float:
    return sum(e.distance == 0 for e in every) / len(every)
