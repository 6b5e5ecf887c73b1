"""Reconstructions of sentences from z, compared with the originals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import UNK, Dataset, Split, TokenBatch
from lagvae_core.errors import ValidationIssue
from lagvae_core.evaluation.evaluate import ENCODE_BATCH
from lagvae_core.metrics.decoding import Beam, DecodingMethod, Greedy, Sampling
from lagvae_core.metrics.reconstruction import bleu, edit_rate, exact_match, token_accuracy
from lagvae_core.studies.base import Findings, Study, StudyProgress, needs_z
from lagvae_core.studies.sentence_generator import SentenceGenerator
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Reconstruction"]

SCORES = {"exact": exact_match, "token_accuracy": token_accuracy, "edit_rate": edit_rate, "bleu": bleu}
MEANING: dict[str, tuple[str, Literal["min", "max"]]] = {
    "exact": ("fraction of sentences that are reproduced word for word", "max"),
    "token_accuracy": ("fraction of words that are reproduced at the same position", "max"),
    "edit_rate": ("mean word-level edit distance divided by the length of the original", "min"),
    "bleu": ("corpus BLEU-4 in percent", "max"),
}
FROM = {"mean": "the posterior mean", "sample": "a posterior sample"}


class Reconstruction(Study):
    """Reconstructions of the first examples of the measured split: greedy, sampled and by beam search.

    z is E_q[z|x], or the sample of q(z|x) that the evaluation draws; He et al. 2019 use a sample. By default, the beam
    search ranks sentences by log p(x|z) without length normalisation, as the code of He et al. does. A decoder that
    ignores z generates the same likely sentence for all examples, and its token accuracy is above 0. The columns are
    the scores of greedy decoding. Table `scores` has all six combinations of z and decoding method.
    """

    columns: ClassVar = tuple(
        Column(f"rec_{name}_{source}", "float", f"{meaning}, by greedy decoding of {of}", direction)
        for source, of in FROM.items()
        for name, (meaning, direction) in MEANING.items()
    )
    tables: ClassVar = {
        "scores": "one row for each `z` and `decoding`: the four scores, and the fraction of sentences that `ended`",
        "sentences": "one row per example: its index in the split, the original, and a column for each z and decoding",
    }
    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text"})

    kind: Literal["reconstruction"] = "reconstruction"
    examples: int = Field(1_000, ge=1, description="largest number of examples, from the start of the measured split")
    max_length: int = Field(
        100, ge=1, le=10_000, description="largest number of tokens in a sentence, including `</s>`"
    )
    beam: int = Field(5, ge=1, le=1_000, description="width of the beam search")
    length_normalised: bool = Field(False, description="rank the beam by log p(x|z) divided by the number of tokens")
    seed: int = Field(0, ge=0, description="seed of the random draws of words")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        split, generator = trained.split.limit(self.examples), SentenceGenerator.of(trained)
        encoded = trained.encode(split)
        progress("encode", len(split), len(split))
        originals = _sentences(split)
        sentences: dict[str, list[Any]] = {
            "example": list(range(len(split))),
            "original": generator.decode_ids(originals),
        }
        scores: list[dict[str, Any]] = []
        for source, z_NZ in (("mean", encoded.mean_NZ), ("sample", encoded.z_NZ)):
            for name, decoding in self._decodings().items():
                report = _phase(progress, name, len(split))
                decoded = generator.generate(decoding, z_NZ, torch.arange(len(split)), report)
                words = [sentence.words for sentence in decoded]
                ended = sum(sentence.ended for sentence in decoded) / len(decoded)
                values = {score: function(originals, words) for score, function in SCORES.items()}
                scores.append({"z": source, "decoding": name, **values, "ended": ended})
                sentences[f"{source}_{name}"] = generator.decode_ids(words)
        greedy = {row["z"]: row for row in scores if row["decoding"] == "greedy"}
        values = {f"rec_{name}_{source}": greedy[source][name] for source in FROM for name in SCORES}
        rows = {name: [row[name] for row in scores] for name in scores[0]}
        return Findings(values, {"scores": rows, "sentences": sentences})

    def _decodings(self) -> dict[str, DecodingMethod]:
        return {
            "greedy": Greedy(self.max_length),
            "sampling": Sampling(self.max_length, self.seed, purpose="reconstruction words"),
            "beam": Beam(self.max_length, self.beam, self.length_normalised),
        }


def _phase(progress: StudyProgress, phase: str, total: int) -> Callable[[int], None]:
    return lambda done: progress(phase, done, total)


def _sentences(split: Split) -> list[list[int]]:
    """Return the word ids of each example, in order."""
    words: dict[int, list[int]] = {}
    for batch in split.batches(ENCODE_BATCH):
        assert isinstance(batch, TokenBatch), "this study needs a model of sentences"
        for number, tokens in zip(batch.index_B.tolist(), batch.targets_BT.tolist(), strict=True):
            words[number] = [token for token in tokens if token >= UNK]
    return [words[number] for number in range(len(split))]
