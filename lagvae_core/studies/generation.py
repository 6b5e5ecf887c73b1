"""What a model says on its own: sentences from its prior, and how likely, how copied and how varied they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.data import BOS, EOS, UNK, TokenSplit
from lagvae_core.metrics.decoding import Decoded, Sampling
from lagvae_core.metrics.generation import Sentences, distinct, known_ngrams, unigram_entropy
from lagvae_core.studies.base import Findings, Study
from lagvae_core.studies.reference_language_model import ReferenceLanguageModel, perplexity, with_training_text
from lagvae_core.studies.sentence_generator import SentenceGenerator, sentence_data
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Generation"]

Progress = Callable[[str, int, int], None]


class Generation(Study):
    """Sentences by ancestral sampling from the model's own generative prior and decoder, and what they are like.

    Source: Song et al. 2024, Table 5. What the paper leaves open is decided here: 10,000 sentences of at most 100
    tokens (take 200 for Yahoo); n-grams are counted by occurrence, over words without `<s>` and `</s>`, and are known
    if the training sentences have them. The paper's Dist-2 and Dist-3 lie below its Dist-1, which the usual definition
    excludes, and it does not say which language model gave its perplexity: compare neither with the printed numbers.

    The perplexity is that under an `lstm_lm` trial of the recipe of this kind of data, trained for `judge_epochs` on
    the training sentences and kept in the cache: one judge for all models of the same data. A model that repeats one
    good sentence has a low one; `reverse` asks the opposite, the perplexity of the measured split under a language
    model of the generated sentences, which is low only where they cover the language. An `lstm_lm` can be measured too,
    and is what a VAE's sentences should be held against.
    """

    columns: ClassVar = (
        Column("generation_ppl", "float", "perplexity of generated sentences under an lstm_lm of the training text"),
        Column("generation_ppl_reverse", "float", "perplexity of the split under an lstm_lm of generated sentences"),
        *(
            Column(f"gram_{n}", "float", f"generated {n}-grams known from the training text, in percent")
            for n in range(1, 5)
        ),
        Column("generation_entropy", "float", "entropy of the distribution of generated words [nats]"),
        *(Column(f"dist_{n}", "float", f"different {n}-grams over all generated {n}-grams") for n in range(1, 4)),
        Column("generation_length", "float", "mean number of words of a generated sentence"),
        Column("generation_ended", "float", "share of generated sentences that ended before max_length"),
    )
    tables: ClassVar = {"sentences": "one row a sentence: its `text`, whether it `ended`, `log_p` given its z in nats"}
    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text"})

    kind: Literal["generation"] = "generation"
    sentences: int = Field(10_000, ge=1, description="how many are generated")
    max_length: int = Field(100, ge=1, le=10_000, description="tokens at which a sentence is cut, `</s>` counted")
    temperature: float = Field(1.0, gt=0, description="the logits are divided by it; 1 samples from the model")
    judge_epochs: int = Field(20, ge=1, description="epochs of the language model, at most")
    judge_hidden: int | None = Field(None, ge=1, description="its recurrent units; null: those of the recipe")
    judge_embedding: int | None = Field(None, ge=1, description="its embeddings' size; null: that of the recipe")
    reverse: bool = Field(False, description="also train a language model on what was generated")
    seed: int = Field(0, ge=0, description="of z and of the words")

    def measure(self, trained: TrainedModel, progress: Progress) -> Findings:
        generator, dataset = SentenceGenerator.of(trained), sentence_data(trained)
        found = generator.generate(
            Sampling(self.max_length, self.seed, self.temperature, purpose="generation words"),
            trained.from_prior(self.sentences, self.seed, "generation"),
            torch.arange(self.sentences),
            lambda done: progress("generate", done, self.sentences),
        )
        spoken = TokenSplit.of(([BOS, *one.words, EOS][: None if one.ended else -1] for one in found), None)
        ppl = perplexity(self._judge.of(trained, _epochs("judge", progress)), spoken)
        reverse = self._reverse(trained, spoken, progress) if self.reverse else None
        words = Sentences.of([one.words for one in found])
        known = _words(dataset.train)
        values = {
            "generation_ppl": ppl,
            "generation_ppl_reverse": reverse,
            **{f"gram_{n}": known_ngrams(words, known, n) for n in range(1, 5)},
            "generation_entropy": unigram_entropy(words),
            **{f"dist_{n}": distinct(words, n) for n in range(1, 4)},
            "generation_length": len(words.words) / len(found),
            "generation_ended": sum(one.ended for one in found) / len(found),
        }
        return Findings(values, {"sentences": _table(generator, found)})

    @property
    def _judge(self) -> ReferenceLanguageModel:
        return ReferenceLanguageModel(self.judge_epochs, self.judge_hidden, self.judge_embedding)

    def _reverse(self, trained: TrainedModel, spoken: TokenSplit, progress: Progress) -> float | None:
        data = trained.config.data.model_copy(update={"partition": "fixed_random"})
        config = trained.config.model_copy(update={"data": data})
        dataset = with_training_text(sentence_data(trained), spoken)
        reference = self._judge.on(config, dataset, trained.device, _epochs("reverse judge", progress))
        measured = trained.split
        assert isinstance(measured, TokenSplit), "a split of sentences"
        return perplexity(reference, measured)


def _epochs(phase: str, progress: Progress) -> Callable[[int, int], None]:
    return lambda epoch, epochs: progress(phase, epoch, epochs)


def _words(split: TokenSplit) -> Sentences:
    """The sentences of a split without their specials."""
    owner = np.repeat(np.arange(len(split)), split.lengths)
    kept = split.tokens >= UNK
    return Sentences(split.tokens[kept].astype(np.int64), owner[kept])


def _table(generator: SentenceGenerator, found: Sequence[Decoded]) -> dict[str, list[Any]]:
    return {
        "text": generator.decode_ids([one.words for one in found]),
        "ended": [one.ended for one in found],
        "log_p": [one.log_p for one in found],
    }
