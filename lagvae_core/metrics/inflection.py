"""Accuracy of reinflection: greedily generated forms and their edit distance to the true forms.

Shape suffixes: B examples, S samples of z per example, Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data import EOS, UNK, InflectionBatch
from lagvae_core.metrics.decoding import Greedy
from lagvae_core.metrics.encoding import EncodedSplit
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = ["INFLECTION_COLUMNS", "SAMPLES", "Edits", "edits", "inflect", "inflection_columns"]

SAMPLES = 10
"""Number of posterior samples per example for `accuracy_sampled`."""

NO_CHARACTER = -1
"""Id that replaces a generated `<unk>`, so that it never matches a character."""

INFLECTION_COLUMNS: tuple[Column, ...] = (
    Column(
        "accuracy", "float", "fraction of correctly inflected words, decoded greedily from the mean of q(z|x)", "max"
    ),
    Column("accuracy_sampled", "float", f"accuracy with {SAMPLES} samples of q(z|x) per example", "max"),
    Column(
        "accuracy_swapped",
        "float",
        "accuracy with the mean of a different word: 0 if z alone encodes the word, equal to accuracy if z is unused",
    ),
    Column("levenshtein", "float", "mean unit-cost edit distance to the true form [code points]", "min"),
    Column("levenshtein_relative", "float", "mean of levenshtein divided by the length of the true form", "min"),
)
"""Columns that `inflection_columns` computes."""

Form = Sequence[int]


@dataclass(frozen=True)
class Edits:
    """Unit-cost edit distance between a generated form and the true form, and the length of the true form."""

    distance: int
    length: int

    @property
    def relative(self) -> float:
        """Distance divided by the length of the true form."""
        return self.distance / self.length


def edits(generated: Form, true: Form) -> Edits:
    """Return the edit distance between two words, given as ids of their code points without special tokens.

    A generated `<unk>` matches no character.
    """
    characters = [NO_CHARACTER if character == UNK else character for character in generated]
    return Edits(Levenshtein.distance(characters, list(true)), len(true))


@torch.no_grad()
def inflect(model: Vae, batch: InflectionBatch, z_BSZ: Tensor) -> list[list[list[int]]]:
    """Return the greedily generated form, as ids, for each example and each of its S samples.

    A form is truncated after 2 n + 20 characters, where n is the length of its source including `<s>` and `</s>`. The
    model must be in eval mode.
    """
    decoder: Any = model.decoder
    samples, device = z_BSZ.shape[1], z_BSZ.device
    row_R = torch.arange(batch.size, device=device).repeat_interleave(samples)
    limits = [2 * length + 20 for length in batch.source.sizes_B.tolist()]
    context = batch.history.unread().select(row_R)
    sentences = Greedy(max(limits))(decoder, z_BSZ.flatten(0, 1), batch.index_B[row_R.cpu()], context)
    forms = [list(sentence.words) for sentence in sentences]
    return [[form[:limit] for form in forms[row * samples : (row + 1) * samples]] for row, limit in enumerate(limits)]


def inflection_columns(
    model: Vae, batches: Sequence[InflectionBatch], encoded: EncodedSplit, seed: int
) -> dict[str, float | None]:
    """Return the values of `INFLECTION_COLUMNS`, which are means over all examples.

    For `accuracy_swapped`, each example is decoded with the posterior mean of the example half a split further on,
    which is a different word even if the file is in alphabetical order. The value is None if there is only one example.
    """
    examples = len(encoded.rec_N)
    edits_by_z: dict[str, list[Edits]] = {"mean": [], "sampled": [], "swapped": []}
    for batch in batches:
        mean_NZ = encoded.mean_NZ.to(encoded.precision)
        other_B = (batch.index_B + examples // 2) % examples
        q = encoded.infer(batch).q
        noise = example_noise(seed, "inflection", batch.index_B, SAMPLES, q.size[1]).to(q.base.mean_BZ)
        means_B2Z = torch.stack([mean_NZ[batch.index_B], mean_NZ[other_B]], 1).to(noise.device)
        generated = inflect(model, batch, torch.cat([means_B2Z, q.draw(noise).z_BSZ], 1))
        for forms, true in zip(generated, _true_forms(batch), strict=True):
            from_mean, from_other, *from_samples = (edits(form, true) for form in forms)
            edits_by_z["mean"].append(from_mean)
            edits_by_z["swapped"].append(from_other)
            edits_by_z["sampled"] += from_samples
    from_means = edits_by_z["mean"]
    return {
        "accuracy": _accuracy(from_means),
        "accuracy_sampled": _accuracy(edits_by_z["sampled"]),
        "accuracy_swapped": _accuracy(edits_by_z["swapped"]) if examples > 1 else None,
        "levenshtein": sum(e.distance for e in from_means) / examples,
        "levenshtein_relative": sum(e.relative for e in from_means) / examples,
    }


def _true_forms(batch: InflectionBatch) -> list[list[int]]:
    return [form[1 : form.index(EOS)] for form in batch.tokens_BL.tolist()]


def _accuracy(every: Sequence[Edits]) -> float:
    return sum(e.distance == 0 for e in every) / len(every)
