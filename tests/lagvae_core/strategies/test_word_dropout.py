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
    """Return `<s>` and distinct words from 10 on."""
    tokens = torch.arange(batch * steps).view(batch, steps) + 10
    tokens[:, 0] = BOS
    return History(tokens)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def dropped(seed=0, original=None, **fields):
    """Return where words were dropped, [B, T]."""
    original = original or history()
    corrupted = WordDropout(**fields).corrupt(original, stream(seed))
    if fields.get("replace") == "zero":
        assert torch.equal(corrupted.tokens_BT, original.tokens_BT)
        return corrupted.blank_BT
    assert corrupted.blank_BT is None
    changed = corrupted.tokens_BT != original.tokens_BT
    assert bool((corrupted.tokens_BT[changed] == UNK).all())
    return changed


def test_rate_0_is_the_plain_vae():
    assert_equals_plain_vae(word_dropout(rate=0.0))
    original, generator = history(), stream()
    before = generator.get_state()
    assert WordDropout(rate=0.0).corrupt(original, generator) is original
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("replacement", ["unk", "zero"])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
def test_words_are_dropped_independently_at_the_rate(rate, replacement):
    drops = dropped(rate=rate, replace=replacement)[:, 1:].double()

    def assert_mean(values, expected, spread):
        assert float(values.mean()) == pytest.approx(expected, abs=4 * spread / math.sqrt(values.numel()))

    assert_mean(drops, rate, math.sqrt(rate * (1 - rate)))
    # Neighbouring pairs share a member, so the variance of the mean of their products is at most 3 times as large.
    pairs = math.sqrt(3 * rate**2 * (1 - rate**2))
    assert_mean(drops[1:] * drops[:-1], rate**2, pairs)  # examples have separate draws
    assert_mean(drops[:, 1:] * drops[:, :-1], rate**2, pairs)


@pytest.mark.parametrize("replacement", ["unk", "zero"])
def test_scope_step_shares_the_draw_among_all_sentences(replacement):
    passes = [dropped(seed, history(3, 50), rate=0.4, scope="step", replace=replacement) for seed in range(400)]
    drops = torch.stack(passes)
    assert not drops[:, :, 0].any()
    assert (drops == drops[:, :1]).all()
    shares = drops[:, 0, 1:].double()
    assert float(shares.mean()) == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / shares.numel()))


def test_each_pass_drops_different_words():
    generator = stream()
    first, second = (WordDropout().corrupt(history(), generator).tokens_BT for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("replacement", ["unk", "zero"])
def test_the_start_of_the_sentence_is_dropped_only_with_drop_bos(replacement):
    drops = dropped(rate=1.0, replace=replacement)
    assert not drops[:, 0].any()
    assert drops[:, 1:].all()
    assert dropped(rate=1.0, drop_bos=True, replace=replacement).all()
    share = float(dropped(rate=0.4, drop_bos=True, replace=replacement)[:, 0].double().mean())
    assert share == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / 200))


@pytest.mark.parametrize("replacement", ["unk", "zero"])
def test_without_any_word_the_decoder_reads_z_alone(replacement):
    trial = trial_of(tiny(word_dropout(rate=1.0, drop_bos=True, replace=replacement), model={"dropout_in": 0.0}))
    decoder, batch = trial.model.double().decoder.eval(), trial.train_batches[0]
    z = torch.zeros(batch.size, 1, 2, dtype=torch.float64)
    features = decoder.features(trial.learner.history(batch), z)
    assert torch.equal(features, features[:, :1].expand_as(features))
    with_words = decoder.features(batch.history, z)
    assert not torch.equal(with_words, with_words[:, :1].expand_as(with_words))


def test_targets_encoder_input_and_evaluation_are_unchanged():
    """Before any training the rate changes nothing but the reconstruction in the training loss."""
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


def test_the_loss_predicts_all_targets_from_the_remaining_words():
    trial = trial_of(tiny(word_dropout(rate=0.5), model={"dropout_in": 0.0, "dropout_out": 0.0}))
    batch, streams = trial.train_batches[0], trial.streams
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    loss = trial.learner.loss(batch, 1.0)
    streams.load_state_dict(state)
    q = trial.model.infer(batch).q
    z = q.rsample(torch.randn(batch.size, 1, 2, generator=streams["posterior"]))
    remaining = WordDropout(rate=0.5).corrupt(batch.history, streams["corruption"])
    assert torch.equal(loss.rec_B, trial.model.decoder(remaining, batch.tokens_BL[:, 1:], z)[:, 0])


def test_it_trains_with_each_replacement():
    for strategy in (word_dropout(), word_dropout(replace="zero", drop_bos=True)):
        assert run(tiny(strategy)).status == "finished"


def test_rate_1_gives_a_warning():
    (warning,) = map(str, tiny(word_dropout(rate=1.0)).warnings())
    assert "historyless" in warning
    assert tiny(word_dropout(rate=0.99)).warnings() == ()


def test_it_is_rejected_on_images():
    config = tiny("word_dropout")
    (incompatibility,) = config.strategies[0].incompatibilities(replace(config.context, data_kind="images"))
    assert incompatibility.code == "E09"
    assert "word_dropout" in incompatibility.message
