import logging
import math

import numpy as np
import pytest
import torch
from helpers import tiny, trained_of
from sentences import LINES

from lagvae_core.data import BOS, EOS, TokenSplit
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.metrics.generation import Sentences, distinct, known_ngrams, unigram_entropy
from lagvae_core.studies.generation import Generation
from lagvae_core.studies.reference_language_model import ReferenceLanguageModel, perplexity, with_training_text

SMALL = {"sentences": 20, "max_length": 8, "judge_epochs": 2, "judge_hidden": 8, "judge_embedding": 8}
REFERENCE = ReferenceLanguageModel(epochs=2, hidden=8, embedding=8)


def measured(trained, **options):
    return Generation(**{**SMALL, **options}).measure(trained, lambda phase, done, total: None)


@pytest.fixture(scope="module")
def trained():
    return trained_of(tiny())


@pytest.fixture(scope="module")
def findings(trained):
    return measured(trained, sentences=200)


def ids(trained, texts):
    return [[trained.dataset.vocabulary.words.index(word) for word in text.split()] for text in texts]


class TestColumns:
    def test_the_columns_describe_the_sentences_of_the_table(self, trained, findings):
        texts = findings.tables["sentences"]["text"]
        assert len(texts) == 200
        words = Sentences.of(ids(trained, texts))
        train = trained.dataset.train
        known = Sentences.of(
            ids(trained, map(trained.dataset.vocabulary.decode, np.split(train.tokens, train.offsets[1:-1])))
        )
        for n in range(1, 5):
            assert findings.values[f"gram_{n}"] == pytest.approx(known_ngrams(words, known, n))
        for n in range(1, 4):
            assert findings.values[f"dist_{n}"] == distinct(words, n)
        assert findings.values["generation_entropy"] == unigram_entropy(words)
        assert findings.values["generation_length"] == pytest.approx(sum(len(t.split()) for t in texts) / 200)
        assert findings.values["generation_ended"] == sum(findings.tables["sentences"]["ended"]) / 200
        assert findings.values["generation_ppl_reverse"] is None

    def test_the_perplexity_counts_the_end_of_a_sentence_that_has_ended(self, trained, findings):
        table = findings.tables["sentences"]
        assert {True, False} == set(table["ended"]), "the test needs both"
        rows = [
            [BOS, *words, EOS] if ended else [BOS, *words]
            for words, ended in zip(ids(trained, table["text"]), table["ended"], strict=True)
        ]
        reference = REFERENCE.of(trained)
        nll, tokens = 0.0, 0
        for row in rows:
            batch = TokenSplit.of([row]).batches(1)[0]
            nll += float(reference.model.reconstruct(batch, batch.history, torch.zeros(1, 1, 0)).detach())
            tokens += len(row) - 1
        assert findings.values["generation_ppl"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)

    def test_the_reverse_perplexity_is_that_of_the_split_under_a_model_of_the_generated_sentences(self, trained):
        findings = measured(trained, reverse=True)
        rows = [
            [BOS, *words, *([EOS] if ended else [])]
            for words, ended in zip(
                ids(trained, findings.tables["sentences"]["text"]), findings.tables["sentences"]["ended"], strict=True
            )
        ]
        dataset = with_training_text(trained.dataset, TokenSplit.of(rows))
        reference = REFERENCE.on(trained.config, dataset, trained.device)
        assert findings.values["generation_ppl_reverse"] == pytest.approx(
            perplexity(reference, trained.split), rel=1e-9
        )
        assert findings.values["generation_ppl_reverse"] != pytest.approx(
            perplexity(REFERENCE.of(trained), trained.split)
        )


class TestSentences:
    def test_the_first_sentences_do_not_depend_on_their_number(self, trained, findings):
        assert measured(trained).tables["sentences"]["text"] == findings.tables["sentences"]["text"][:20]

    def test_a_different_seed_gives_different_sentences(self, trained, findings):
        assert measured(trained, seed=1).tables["sentences"]["text"] != findings.tables["sentences"]["text"][:20]

    def test_sentences_are_cut_at_max_length(self, trained):
        findings = measured(trained, max_length=2)
        assert max(len(text.split()) for text in findings.tables["sentences"]["text"]) == 2
        assert findings.values["generation_ended"] < 1

    def test_z_comes_from_the_prior_that_the_model_is_sampled_from(self):
        scaled = trained_of(tiny("scale_vae"))
        z_NZ = scaled.from_prior(4000, 0, "generation")
        f_bar = scaled.model.posterior.f_bar
        assert (f_bar > 2).any()
        assert torch.allclose(z_NZ.std(0) / f_bar, torch.ones(2), atol=4 / math.sqrt(2 * 4000))

    def test_a_language_model_generates_sentences_without_z(self):
        findings = measured(trained_of(tiny("lstm_lm")))
        assert len(set(findings.tables["sentences"]["text"])) > 1

    def test_a_model_that_knows_few_sentences_repeats_their_ngrams(self, autoencoder):
        findings = measured(autoencoder, sentences=100, max_length=12)
        assert findings.values["gram_1"] == 100.0
        assert findings.values["gram_2"] > 50
        assert set(LINES) & set(findings.tables["sentences"]["text"])


class TestReferenceLanguageModel:
    def test_the_perplexity_of_a_split_equals_that_of_the_evaluation(self, trained):
        reference = REFERENCE.of(trained)
        dataset, evaluation = reference.dataset, reference.config.evaluation
        metrics = evaluate(reference.model, reference.components, dataset, dataset.test, evaluation, reference.device)
        assert perplexity(reference, dataset.test) == pytest.approx(metrics["ppl"], rel=1e-6)

    def test_one_reference_is_trained_for_all_models_of_the_same_data(self, trained, tmp_path, monkeypatch):
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path))
        epochs = []
        first = REFERENCE.of(trained, lambda epoch, total: epochs.append((epoch, total)))
        assert epochs == [(1, 2), (2, 2)]
        other = trained_of(tiny("beta_vae", seed=3, model={"hidden": 12}))
        second = REFERENCE.of(other, lambda epoch, total: epochs.append(None))
        assert len(epochs) == 2
        assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
        assert len(list(tmp_path.glob("reference-lm-*"))) == 1
        REFERENCE.on(trained.config, with_training_text(trained.dataset, trained.dataset.test), trained.device)
        assert len(list(tmp_path.glob("reference-lm-*"))) == 2

    def test_a_damaged_file_in_the_cache_is_replaced(self, trained, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path))
        REFERENCE.of(trained)
        (file,) = tmp_path.glob("reference-lm-*")
        whole = file.read_bytes()
        file.write_bytes(whole[:-7])
        with caplog.at_level(logging.WARNING):
            REFERENCE.of(trained)
        assert len(caplog.records) == 1
        assert len(file.read_bytes()) == len(whole)

    def test_without_a_usable_cache_folder_the_reference_is_trained_each_time(self, trained, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path / "file"))
        assert perplexity(REFERENCE.of(trained), trained.split) == perplexity(REFERENCE.of(trained), trained.split)

    def test_a_text_without_predicted_tokens_has_no_perplexity(self, trained):
        assert perplexity(REFERENCE.of(trained), TokenSplit.of([[BOS]])) is None
