"""Sentences from the prior of a model: their perplexity, their overlap with the training text and their variety."""

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
from lagvae_core.studies.base import Findings, Study, StudyProgress
from lagvae_core.studies.reference_language_model import ReferenceLanguageModel, perplexity, with_training_text
from lagvae_core.studies.sentence_generator import SentenceGenerator, sentence_data
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Generation"]


class Generation(Study):
    """Measurements of sentences that are sampled word by word from the model's generative prior and decoder.

    Source: Song et al. 2024, Table 5. The paper leaves some choices open. By default, this study generates 10,000
    sentences of at most 100 tokens (use 200 for Yahoo). It counts all occurrences of n-grams of words without `<s>` and
    `</s>`; an n-gram is known if it occurs in the training sentences. Do not compare Dist-n and perplexity with the
    published numbers: the paper's Dist-2 and Dist-3 are below its Dist-1, which is impossible under the usual
    definition, and the paper does not name the language model that it uses for the perplexity.

    `generation_ppl` is the perplexity under a language model: an `lstm_lm` trial with the recipe of this kind of data,
    trained for at most `judge_epochs` epochs on the training sentences. It is stored in the cache and shared by all
    models of the same data. A model that repeats one good sentence has a low perplexity. `reverse` measures the
    opposite direction: the perplexity of the measured split under a language model of the generated sentences, which is
    low only if they cover the language. This study can also measure an `lstm_lm`, as a baseline for a VAE.
    """

    columns: ClassVar = (
        Column("generation_ppl", "float", "perplexity of generated sentences under an lstm_lm of the training text"),
        Column("generation_ppl_reverse", "float", "perplexity of the split under an lstm_lm of generated sentences"),
        *(
            Column(f"gram_{n}", "float", f"percentage of generated {n}-grams that occur in the training text")
            for n in range(1, 5)
        ),
        Column("generation_entropy", "float", "entropy of the distribution of generated words [nats]"),
        *(
            Column(
                f"dist_{n}",
                "float",
                f"number of distinct generated {n}-grams divided by the number of all generated {n}-grams",
            )
            for n in range(1, 4)
        ),
        Column("generation_length", "float", "mean number of words per generated sentence"),
        Column("generation_ended", "float", "fraction of generated sentences that ended within max_length tokens"),
    )
    tables: ClassVar = {
        "sentences": "one row per sentence: its `text`, whether it `ended`, and its `log_p` given z in nats"
    }
    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text"})

    kind: Literal["generation"] = "generation"
    sentences: int = Field(10_000, ge=1, description="number of generated sentences")
    max_length: int = Field(
        100, ge=1, le=10_000, description="largest number of tokens in a sentence, including `</s>`"
    )
    temperature: float = Field(1.0, gt=0, description="divisor of the logits; 1 samples from the model")
    judge_epochs: int = Field(20, ge=1, description="largest number of training epochs of the language model")
    judge_hidden: int | None = Field(
        None, ge=1, description="number of recurrent units of the language model; null for the number in the recipe"
    )
    judge_embedding: int | None = Field(
        None, ge=1, description="embedding size of the language model; null for the size in the recipe"
    )
    reverse: bool = Field(False, description="also train a language model on the generated sentences")
    seed: int = Field(0, ge=0, description="seed of the random draws of z and of words")

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        generator, dataset = SentenceGenerator.of(trained), sentence_data(trained)
        decoded = generator.generate(
            Sampling(self.max_length, self.seed, self.temperature, purpose="generation words"),
            trained.from_prior(self.sentences, self.seed, "generation"),
            torch.arange(self.sentences),
            lambda done: progress("generate", done, self.sentences),
        )
        ids = ([BOS, *sentence.words, EOS][: None if sentence.ended else -1] for sentence in decoded)
        generated = TokenSplit.of(ids, None)
        ppl = perplexity(self._reference.of(trained, _epochs("reference model", progress)), generated)
        reverse = self._reverse_perplexity(trained, generated, progress) if self.reverse else None
        words = Sentences.of([sentence.words for sentence in decoded])
        known = _words(dataset.train)
        values = {
            "generation_ppl": ppl,
            "generation_ppl_reverse": reverse,
            **{f"gram_{n}": known_ngrams(words, known, n) for n in range(1, 5)},
            "generation_entropy": unigram_entropy(words),
            **{f"dist_{n}": distinct(words, n) for n in range(1, 4)},
            "generation_length": len(words.words) / len(decoded),
            "generation_ended": sum(sentence.ended for sentence in decoded) / len(decoded),
        }
        return Findings(values, {"sentences": _table(generator, decoded)})

    @property
    def _reference(self) -> ReferenceLanguageModel:
        return ReferenceLanguageModel(self.judge_epochs, self.judge_hidden, self.judge_embedding)

    def _reverse_perplexity(
        self, trained: TrainedModel, generated: TokenSplit, progress: StudyProgress
    ) -> float | None:
        data = trained.config.data.model_copy(update={"partition": "fixed_random"})
        config = trained.config.model_copy(update={"data": data})
        dataset = with_training_text(sentence_data(trained), generated)
        reference = self._reference.on(config, dataset, trained.device, _epochs("reverse reference model", progress))
        measured = trained.split
        assert isinstance(measured, TokenSplit), "this study needs a model of sentences"
        return perplexity(reference, measured)


def _epochs(phase: str, progress: StudyProgress) -> Callable[[int, int], None]:
    return lambda epoch, epochs: progress(phase, epoch, epochs)


def _words(split: TokenSplit) -> Sentences:
    """Return the sentences of a split without special tokens."""
    sentence = np.repeat(np.arange(len(split)), split.lengths)
    is_word = split.tokens >= UNK
    return Sentences(split.tokens[is_word].astype(np.int64), sentence[is_word])


def _table(generator: SentenceGenerator, decoded: Sequence[Decoded]) -> dict[str, list[Any]]:
    return {
        "text": generator.decode_ids([sentence.words for sentence in decoded]),
        "ended": [sentence.ended for sentence in decoded],
        "log_p": [sentence.log_p for sentence in decoded],
    }
