import math
from dataclasses import replace

import pytest
import torch
from helpers import assert_equals_plain_vae, run, tiny, trial_of

from lagvae_core.data import BOS, UNK, History
from lagvae_core.strategies.word_dropout import WordDropout


def word_dropout(**fields):
    return {"kind": "word_dropout", **fields}


def history(batch=200, steps=50):
    """`<s>` and words from 10 on, each its own number."""
    tokens = torch.arange(batch * steps).view(batch, steps) + 10
    tokens[:, 0] = BOS
    return History(tokens)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def dropped(seed=0, given=None, **fields):
    """Where words were dropped, [B, T]."""
    given = given or history()
    found = WordDropout(**fields).corrupt(given, stream(seed))
    if fields.get("replace") == "zero":
        assert torch.equal(found.tokens_BT, given.tokens_BT)
        return found.blank_BT
    assert found.blank_BT is None
    changed = found.tokens_BT != given.tokens_BT
    assert bool((found.tokens_BT[changed] == UNK).all())
    return changed


def test_no_dropout_is_the_plain_vae():
    assert_equals_plain_vae(word_dropout(rate=0.0))
    given, generator = history(), stream()
    before = generator.get_state()
    assert WordDropout(rate=0.0).corrupt(given, generator) is given
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("replacement", ["unk", "zero"])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
def test_words_are_dropped_independently_at_the_rate(rate, replacement):
    found = dropped(rate=rate, replace=replacement)[:, 1:].double()

    def assert_mean(values, expected, spread):
        assert float(values.mean()) == pytest.approx(expected, abs=4 * spread / math.sqrt(values.numel()))

    assert_mean(found, rate, math.sqrt(rate * (1 - rate)))
    # neighbouring pairs share a member, which leaves their products' covariance at most twice the variance
    pairs = math.sqrt(3 * rate**2 * (1 - rate**2))
    assert_mean(found[1:] * found[:-1], rate**2, pairs)  # the batch does not share its draws
    assert_mean(found[:, 1:] * found[:, :-1], rate**2, pairs)


@pytest.mark.parametrize("replacement", ["unk", "zero"])
def test_of_a_step_all_sentences_share_the_draw(replacement):
    passes = [dropped(seed, history(3, 50), rate=0.4, scope="step", replace=replacement) for seed in range(400)]
    found = torch.stack(passes)
    assert not found[:, :, 0].any()
    assert (found == found[:, :1]).all()
    shares = found[:, 0, 1:].double()
    assert float(shares.mean()) == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / shares.numel()))


def test_each_pass_drops_other_words():
    generator = stream()
    first, second = (WordDropout().corrupt(history(), generator).tokens_BT for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("replacement", ["unk", "zero"])
def test_the_start_of_the_sentence_is_dropped_only_on_demand(replacement):
    kept, given = dropped(rate=1.0, replace=replacement), history()
    assert not kept[:, 0].any()
    assert kept[:, 1:].all()
    assert dropped(rate=1.0, drop_bos=True, replace=replacement).all()
    share = float(dropped(given=given, rate=0.4, drop_bos=True, replace=replacement)[:, 0].double().mean())
    assert share == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / 200))


@pytest.mark.parametrize("replacement", ["unk", "zero"])
def test_without_any_word_the_decoder_knows_z_and_the_place_alone(replacement):
    trial = trial_of(tiny(word_dropout(rate=1.0, drop_bos=True, replace=replacement), model={"dropout_in": 0.0}))
    decoder, batch = trial.model.double().decoder.eval(), trial.train_batches[0]
    z = torch.zeros(batch.size, 1, 2, dtype=torch.float64)
    features = decoder.features(trial.learner.history(batch), z)
    assert torch.equal(features, features[:, :1].expand_as(features))
    seen = decoder.features(batch.history, z)
    assert not torch.equal(seen, seen[:, :1].expand_as(seen))


def test_targets_and_the_encoders_input_are_whole_and_so_is_evaluation():
    """Before any training the rate changes the training loss alone, and that through the reconstruction."""
    losses, validations = [], []
    for rate in (0.0, 0.9):
        trial = trial_of(tiny(word_dropout(rate=rate)))
        batch = trial.train_batches[0]
        tokens = batch.tokens_BL.clone()
        losses.append(trial.learner.loss(batch, 1.0))
        assert torch.equal(batch.tokens_BL, tokens)
        trial.step, trial.history = 1, [torch.ones(4)]
        validations.append({k: v for k, v in trial.validate().values.items() if k.startswith("valid_")})
    assert torch.equal(losses[0].kl_BZ, losses[1].kl_BZ)
    assert not torch.equal(losses[0].rec_B, losses[1].rec_B)
    assert validations[0] == validations[1]


def test_the_loss_is_that_of_the_whole_targets_given_what_was_left():
    trial = trial_of(tiny(word_dropout(rate=0.5), model={"dropout_in": 0.0, "dropout_out": 0.0}))
    batch, streams = trial.train_batches[0], trial.streams
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    found = trial.learner.loss(batch, 1.0)
    streams.load_state_dict(state)
    q = trial.model.infer(batch).q
    z = q.rsample(torch.randn(batch.size, 1, 2, generator=streams["posterior"]))
    left = WordDropout(rate=0.5).corrupt(batch.history, streams["corruption"])
    assert torch.equal(found.rec_B, trial.model.decoder(left, batch.tokens_BL[:, 1:], z)[:, 0])


def test_it_trains_with_each_replacement():
    for setting in (word_dropout(), word_dropout(replace="zero", drop_bos=True)):
        assert run(tiny(setting)).status == "finished"


def test_words_that_are_seen_in_evaluation_alone_are_warned_of():
    (warning,) = tiny(word_dropout(rate=1.0)).warnings()
    assert warning.startswith("word_dropout at a rate of 1 shows the decoder no word in training")
    assert tiny(word_dropout(rate=0.99)).warnings() == ()


def test_it_is_about_words():
    config = tiny("word_dropout")
    (incompatibility,) = config.strategies[0].incompatibilities(replace(config.context, data_kind="images"))
    assert incompatibility.code == "E09"
    assert incompatibility.message.startswith("word_dropout is about the words of a text")
