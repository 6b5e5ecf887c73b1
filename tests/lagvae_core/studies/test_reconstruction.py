import pytest
from helpers import tiny, trained_of
from sentences import LINES

from lagvae_core.errors import ConfigError
from lagvae_core.metrics.reconstruction import bleu, edit_rate, exact_match, token_accuracy
from lagvae_core.studies import Reconstruction

SMALL = {"examples": 8, "max_length": 8}


def measured(trained, **options):
    return Reconstruction(**options).measure(trained, lambda phase, done, total: None)


def test_an_autoencoder_that_learned_its_sentences_by_heart_repeats_them(autoencoder):
    found = measured(autoencoder)
    sentences = found.tables["sentences"]
    assert sentences["original"] == LINES
    assert sentences["mean_greedy"] == sentences["mean_beam"] == LINES
    assert found.values["rec_exact_mean"] == found.values["rec_token_accuracy_mean"] == 1.0
    assert found.values["rec_bleu_mean"] == pytest.approx(100.0)
    assert found.values["rec_edit_rate_mean"] == 0.0


@pytest.fixture(scope="module")
def found():
    return measured(trained_of(tiny()), max_length=8)


class TestOfAModelThatCannotRepeat:
    def test_there_is_a_row_for_each_z_and_decoding_with_the_scores_of_its_sentences(self, found):
        scores, sentences = found.tables["scores"], found.tables["sentences"]
        rows = list(zip(scores["z"], scores["decoding"], strict=True))
        assert rows == [(z, d) for z in ("mean", "sample") for d in ("greedy", "sampling", "beam")]
        originals = [text.split() for text in sentences["original"]]
        for row, (z, decoding) in enumerate(rows):
            repeated = [text.split() for text in sentences[f"{z}_{decoding}"]]
            assert scores["exact"][row] == exact_match(originals, repeated)
            assert scores["token_accuracy"][row] == token_accuracy(originals, repeated)
            assert scores["edit_rate"][row] == edit_rate(originals, repeated)
            assert scores["bleu"][row] == bleu(originals, repeated)
            assert 0 <= scores["ended"][row] <= 1
        assert scores["exact"][0] < 1

    def test_the_columns_are_those_of_greedy_search(self, found):
        scores = found.tables["scores"]
        for name, of in found.values.items():
            score, z = name.removeprefix("rec_").rsplit("_", 1)
            assert of == scores[score][scores["z"].index(z)]

    def test_originals_stand_in_the_order_of_the_split(self, found):
        trained = trained_of(tiny())
        split, vocabulary = trained.split, trained.dataset.vocabulary
        first = vocabulary.decode(split.tokens[split.offsets[0] : split.offsets[1]].tolist())
        assert found.tables["sentences"]["original"][0] == first
        assert found.tables["sentences"]["example"] == list(range(16))


def test_fewer_examples_are_the_first_ones(autoencoder):
    few, all_of_them = measured(autoencoder, examples=3), measured(autoencoder)
    for name, rows in all_of_them.tables["sentences"].items():
        assert few.tables["sentences"][name] == rows[:3], name


def test_another_seed_samples_other_words():
    trained = trained_of(tiny())
    one, other = (measured(trained, seed=seed, max_length=8).tables["sentences"] for seed in (0, 1))
    assert one["mean_sampling"] != other["mean_sampling"]
    assert one["mean_beam"] == other["mean_beam"]


def test_a_model_without_z_is_refused():
    config = tiny("lstm_lm")
    with pytest.raises(ConfigError, match=r"model without z, as that of lstm_lm, but is 'reconstruction'"):
        Reconstruction().require(config, trained_of(config).dataset)
