"""The study `reconstruction`."""

import pytest
from helpers import dataset_of, tiny, trained_of
from sentences import LINES

from lagvae_core.metrics.reconstruction import bleu, edit_rate, exact_match, token_accuracy
from lagvae_core.studies.reconstruction import Reconstruction

SMALL = {"examples": 8, "max_length": 8}


def measured(trained, **options):
    return Reconstruction(**options).measure(trained, lambda phase, done, total: None)


def test_an_autoencoder_that_has_memorised_its_sentences_reproduces_them(autoencoder):
    findings = measured(autoencoder)
    sentences = findings.tables["sentences"]
    assert sentences["original"] == LINES
    assert sentences["mean_greedy"] == sentences["mean_beam"] == LINES
    assert findings.values["rec_exact_mean"] == findings.values["rec_token_accuracy_mean"] == 1.0
    assert findings.values["rec_bleu_mean"] == pytest.approx(100.0)
    assert findings.values["rec_edit_rate_mean"] == 0.0


@pytest.fixture(scope="module")
def findings():
    return measured(trained_of(tiny()), max_length=8)


class TestImperfectModel:
    def test_each_z_and_decoding_has_a_row_with_the_scores_of_its_sentences(self, findings):
        scores, sentences = findings.tables["scores"], findings.tables["sentences"]
        rows = list(zip(scores["z"], scores["decoding"], strict=True))
        assert rows == [(z, d) for z in ("mean", "sample") for d in ("greedy", "sampling", "beam")]
        originals = [text.split() for text in sentences["original"]]
        for row, (z, decoding) in enumerate(rows):
            reconstructed = [text.split() for text in sentences[f"{z}_{decoding}"]]
            assert scores["exact"][row] == exact_match(originals, reconstructed)
            assert scores["token_accuracy"][row] == token_accuracy(originals, reconstructed)
            assert scores["edit_rate"][row] == edit_rate(originals, reconstructed)
            assert scores["bleu"][row] == bleu(originals, reconstructed)
            assert 0 <= scores["ended"][row] <= 1
        assert scores["exact"][0] < 1

    def test_the_columns_are_those_of_greedy_decoding(self, findings):
        scores = findings.tables["scores"]
        for name, value in findings.values.items():
            score, z = name.removeprefix("rec_").rsplit("_", 1)
            assert value == scores[score][scores["z"].index(z)]

    def test_the_originals_are_in_the_order_of_the_split(self, findings):
        trained = trained_of(tiny())
        split, vocabulary = trained.split, trained.dataset.vocabulary
        first = vocabulary.decode(split.tokens[split.offsets[0] : split.offsets[1]].tolist())
        assert findings.tables["sentences"]["original"][0] == first
        assert findings.tables["sentences"]["example"] == list(range(16))


def test_fewer_examples_are_the_first_of_the_split(autoencoder):
    few, all_of_them = measured(autoencoder, examples=3), measured(autoencoder)
    for name, rows in all_of_them.tables["sentences"].items():
        assert few.tables["sentences"][name] == rows[:3], name


def test_a_different_seed_changes_sampling_only():
    trained = trained_of(tiny())
    one, other = (measured(trained, seed=seed, max_length=8).tables["sentences"] for seed in (0, 1))
    assert one["mean_sampling"] != other["mean_sampling"]
    assert one["mean_beam"] == other["mean_beam"]


def test_a_model_without_z_is_refused():
    config = tiny("lstm_lm")
    assert [issue.where for issue in Reconstruction().issues(config, dataset_of(config.data))] == ["reconstruction"]
