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
from lagvae_core.studies import Generation
from lagvae_core.studies.reference_language_model import ReferenceLanguageModel, perplexity, with_training_text

SMALL = {"sentences": 20, "max_length": 8, "judge_epochs": 2, "judge_hidden": 8, "judge_embedding": 8}
JUDGE = ReferenceLanguageModel(epochs=2, hidden=8, embedding=8)


def measured(trained, **options):
    return Generation(**{**SMALL, **options}).measure(trained, lambda phase, done, total: None)


@pytest.fixture(scope="module")
def trained():
    return trained_of(tiny())


@pytest.fixture(scope="module")
def found(trained):
    return measured(trained, sentences=200)


def ids(trained, texts):
    return [[trained.dataset.vocabulary.words.index(word) for word in text.split()] for text in texts]


class TestColumns:
    def test_they_are_those_of_the_sentences_in_the_table(self, trained, found):
        texts = found.tables["sentences"]["text"]
        assert len(texts) == 200
        words = Sentences.of(ids(trained, texts))
        train = trained.dataset.train
        known = Sentences.of(
            ids(trained, map(trained.dataset.vocabulary.decode, np.split(train.tokens, train.offsets[1:-1])))
        )
        for n in range(1, 5):
            assert found.values[f"gram_{n}"] == pytest.approx(known_ngrams(words, known, n))
        for n in range(1, 4):
            assert found.values[f"dist_{n}"] == distinct(words, n)
        assert found.values["generation_entropy"] == unigram_entropy(words)
        assert found.values["generation_length"] == pytest.approx(sum(len(t.split()) for t in texts) / 200)
        assert found.values["generation_ended"] == sum(found.tables["sentences"]["ended"]) / 200
        assert found.values["generation_ppl_reverse"] is None

    def test_the_perplexity_is_the_judge_s_with_an_end_where_there_is_one(self, trained, found):
        table = found.tables["sentences"]
        assert {True, False} == set(table["ended"]), "the test wants both"
        rows = [
            [BOS, *words, EOS] if ended else [BOS, *words]
            for words, ended in zip(ids(trained, table["text"]), table["ended"], strict=True)
        ]
        judge = JUDGE.of(trained)
        nll, tokens = 0.0, 0
        for row in rows:
            batch = TokenSplit.of([row]).batches(1)[0]
            nll += float(judge.model.reconstruct(batch, batch.history, torch.zeros(1, 1, 0)).detach())
            tokens += len(row) - 1
        assert found.values["generation_ppl"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)

    def test_reverse_is_the_perplexity_of_the_split_under_a_model_of_the_sentences(self, trained):
        found = measured(trained, reverse=True)
        rows = [
            [BOS, *words, *([EOS] if ended else [])]
            for words, ended in zip(
                ids(trained, found.tables["sentences"]["text"]), found.tables["sentences"]["ended"], strict=True
            )
        ]
        dataset = with_training_text(trained.dataset, TokenSplit.of(rows))
        judge = JUDGE.on(trained.config, dataset, trained.device)
        assert found.values["generation_ppl_reverse"] == pytest.approx(perplexity(judge, trained.split), rel=1e-9)
        assert found.values["generation_ppl_reverse"] != pytest.approx(perplexity(JUDGE.of(trained), trained.split))


class TestSentences:
    def test_the_first_ones_are_the_same_however_many_there_are(self, trained, found):
        assert measured(trained).tables["sentences"]["text"] == found.tables["sentences"]["text"][:20]

    def test_another_seed_says_something_else(self, trained, found):
        assert measured(trained, seed=1).tables["sentences"]["text"] != found.tables["sentences"]["text"][:20]

    def test_they_are_cut_at_max_length(self, trained):
        found = measured(trained, max_length=2)
        assert max(len(text.split()) for text in found.tables["sentences"]["text"]) == 2
        assert found.values["generation_ended"] < 1

    def test_z_comes_from_the_prior_that_the_model_is_sampled_from(self):
        scaled = trained_of(tiny("scale_vae"))
        z_NZ = scaled.from_prior(4000, 0, "generation")
        f_bar = scaled.model.posterior.f_bar
        assert (f_bar > 2).any()
        assert torch.allclose(z_NZ.std(0) / f_bar, torch.ones(2), atol=4 / math.sqrt(2 * 4000))

    def test_a_language_model_speaks_without_z(self):
        found = measured(trained_of(tiny("lstm_lm")))
        assert len(set(found.tables["sentences"]["text"])) > 1

    def test_a_model_that_knows_few_sentences_repeats_their_ngrams(self, autoencoder):
        found = measured(autoencoder, sentences=100, max_length=12)
        assert found.values["gram_1"] == 100.0
        assert found.values["gram_2"] > 50
        assert set(LINES) & set(found.tables["sentences"]["text"])


class TestJudge:
    def test_its_perplexity_of_a_split_is_that_of_its_own_evaluation(self, trained):
        judge = JUDGE.of(trained)
        dataset, setting = judge.dataset, judge.config.evaluation
        own = evaluate(judge.model, judge.components, dataset, dataset.test, setting, judge.device)
        assert perplexity(judge, dataset.test) == pytest.approx(own["ppl"], rel=1e-6)

    def test_it_is_trained_once_for_all_models_of_the_same_data(self, trained, tmp_path, monkeypatch):
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path))
        heard = []
        first = JUDGE.of(trained, lambda epoch, epochs: heard.append((epoch, epochs)))
        assert heard == [(1, 2), (2, 2)]
        other = trained_of(tiny("beta_vae", seed=3, model={"hidden": 12}))
        second = JUDGE.of(other, lambda epoch, epochs: heard.append(None))
        assert len(heard) == 2
        assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
        assert len(list(tmp_path.glob("judge-*"))) == 1
        JUDGE.on(trained.config, with_training_text(trained.dataset, trained.dataset.test), trained.device)
        assert len(list(tmp_path.glob("judge-*"))) == 2

    def test_a_damaged_file_is_replaced(self, trained, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path))
        JUDGE.of(trained)
        (file,) = tmp_path.glob("judge-*")
        whole = file.read_bytes()
        file.write_bytes(whole[:-7])
        with caplog.at_level(logging.WARNING):
            JUDGE.of(trained)
        assert "trained again" in caplog.text
        assert len(file.read_bytes()) == len(whole)

    def test_without_a_usable_folder_it_is_trained_each_time(self, trained, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path / "file"))
        assert perplexity(JUDGE.of(trained), trained.split) == perplexity(JUDGE.of(trained), trained.split)

    def test_a_text_without_predictions_has_no_perplexity(self, trained):
        assert perplexity(JUDGE.of(trained), TokenSplit.of([[BOS]])) is None
