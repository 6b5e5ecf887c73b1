import math
from dataclasses import replace

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, run, tiny

from lagvae_core.data import BOS, EOS, PAD, UNK, History
from lagvae_core.strategies.contiguous_dropout import ContiguousDropout
from lagvae_core.strategies.word_dropout import WordDropout


def contiguous(**fields):
    return {"kind": "contiguous_dropout", **fields}


def history(batch=200, steps=50):
    """`<s>` and words from 10 on, all different."""
    tokens = torch.arange(batch * steps).view(batch, steps) + 10
    tokens[:, 0] = BOS
    return History(tokens)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def dropped(original, seed=0, **fields):
    """The positions at which words are dropped, [B, T]."""
    corrupted = ContiguousDropout(**fields).corrupt(original, stream(seed))
    if fields.get("replace") == "zero":
        assert torch.equal(corrupted.tokens_BT, original.tokens_BT)
        return corrupted.blank_BT
    assert corrupted.blank_BT is None
    changed = corrupted.tokens_BT != original.tokens_BT
    assert bool((corrupted.tokens_BT[changed] == UNK).all())
    return changed


def poisson_tail(mean, length):
    """P(l > length)."""
    return 1.0 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(length + 1))


@pytest.mark.parametrize("fields", [{"rate": 0.0}, {"mean_length": 0.0}, {"mean_length": 0.0, "starts": 2}])
def test_without_runs_it_is_the_plain_vae(fields):
    assert_equals_plain_vae(contiguous(**fields))
    original, generator = history(), stream()
    before = generator.get_state()
    assert ContiguousDropout(**fields).corrupt(original, generator) is original
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("replacement", ["unk", "zero"])
@pytest.mark.parametrize("fields", [{"rate": 1.0}, {"starts": 500}])
def test_endless_runs_drop_every_word_like_word_dropout(fields, replacement):
    strategy = ContiguousDropout(mean_length=1e6, replace=replacement, **fields)
    corrupted = strategy.corrupt(history(steps=20), stream())
    expected = WordDropout(rate=1.0, replace=replacement).corrupt(history(steps=20), stream())
    assert torch.equal(corrupted.tokens_BT, expected.tokens_BT)
    if replacement == "zero":
        assert torch.equal(corrupted.blank_BT, expected.blank_BT)


@pytest.mark.parametrize(("rate", "mean_length"), [(0.1, 3.5), (0.5, 0.7), (0.02, 20.0), (1.0, 0.3)])
def test_the_rate_at_each_position_matches_the_closed_form(rate, mean_length):
    """A word is kept if no run that starts j positions before it is longer than j."""
    sentences = 100_000
    rates = dropped(history(sentences, 30), rate=rate, mean_length=mean_length).double().mean(0)
    assert float(rates[0]) == 0.0
    kept = 1.0
    for position in range(29):
        kept *= 1.0 - rate * poisson_tail(mean_length, position)
        error = math.sqrt(kept * (1.0 - kept) / sentences)
        assert float(rates[position + 1]) == pytest.approx(1.0 - kept, abs=4 * error + 1e-9), position
    if mean_length < 10:
        assert 1.0 - kept == pytest.approx(1.0 - math.exp(-rate * mean_length), abs=0.1)


@pytest.mark.parametrize("fields", [{"rate": 0.2}, {"starts": 1}, {"starts": 2}, {"starts": 7}])
def test_the_dropped_words_are_the_union_of_the_drawn_runs(fields):
    """The expected mask comes from the same draws, run by run."""
    batch, steps, mean = 50, 12, 3.5
    generator, expected = stream(4), torch.zeros(batch, steps, dtype=torch.bool)
    if "starts" in fields:
        start = 1 + (torch.rand(batch, fields["starts"], generator=generator) * (steps - 1)).long()
        length = torch.poisson(torch.full(start.shape, mean), generator=generator)
        runs = [(b, int(s), int(n)) for b in range(batch) for s, n in zip(start[b], length[b], strict=True)]
    else:
        begins = torch.rand(batch, steps, generator=generator) < fields["rate"]
        length = torch.poisson(torch.full(begins.shape, mean), generator=generator)
        runs = [(b, t, int(length[b, t])) for b in range(batch) for t in range(1, steps) if begins[b, t]]
    for b, start, length in runs:
        for position in range(start, min(start + length, steps)):
            expected[b, position] = True
    assert torch.equal(dropped(history(batch, steps), seed=4, **fields), expected)
    assert 0 < int(expected.sum()) < batch * (steps - 1)


def test_runs_start_at_words_and_never_in_the_padding():
    tokens = torch.full((20_000, 10), 7)
    tokens[:, 0], tokens[:, 4], tokens[:, 5:] = BOS, EOS, PAD
    strategy = ContiguousDropout(starts=1, mean_length=1e6, replace="zero")
    blank = strategy.corrupt(History(tokens), stream()).blank_BT
    first = blank.int().argmax(1)
    shares = torch.bincount(first, minlength=10).double() / len(tokens)
    assert shares[1:4].tolist() == pytest.approx([1 / 3] * 3, abs=4 * math.sqrt(2 / 9 / len(tokens)))
    assert float(shares[1:4].sum()) == 1.0


def test_one_start_per_sentence_drops_one_run_with_a_uniform_start():
    sentences, steps = 20_000, 10
    mask = dropped(history(sentences, steps), starts=1, mean_length=1e6)
    assert not mask[:, 0].any()
    edges = mask[:, 1:].int().diff(dim=1)
    assert not (edges < 0).any()  # an endless run never ends
    first = mask.int().argmax(1)
    shares = torch.bincount(first, minlength=steps)[1:].double() / sentences
    p = 1 / (steps - 1)
    assert shares.tolist() == pytest.approx([p] * (steps - 1), abs=4 * math.sqrt(p * (1 - p) / sentences))


def test_each_sentence_and_each_pass_has_its_own_runs():
    for fields in ({}, {"starts": 2}):
        mask = dropped(history(), **fields)
        assert len({tuple(row) for row in mask.tolist()}) > 100
        assert not torch.equal(dropped(history(), seed=1, **fields), mask)


def test_a_sentence_of_one_word():
    for fields in ({"rate": 1.0}, {"starts": 3}):
        mask = dropped(history(2_000, 2), mean_length=1.0, **fields)
        assert not mask[:, 0].any()
        chance = 1.0 - math.exp(-1.0 if "rate" in fields else -3.0)
        assert float(mask[:, 1].double().mean()) == pytest.approx(chance, abs=4 * math.sqrt(0.25 / 2_000))


def test_it_trains_with_starts_and_with_each_replacement():
    for strategy in (contiguous(replace="zero"), contiguous(starts=2)):
        assert run(tiny(strategy)).status == "finished"


def test_a_rate_is_an_unused_option_with_a_number_of_starts():
    with rejects("strategies") as issues:
        tiny(contiguous(rate=0.3, starts=2))
    assert issues[0].code == "E18"
    assert "contiguous_dropout.rate" in issues[0].hint
    tiny(contiguous(starts=2))


def test_it_is_refused_on_images_and_with_word_dropout():
    config = tiny("contiguous_dropout")
    (incompatibility,) = config.strategies[0].incompatibilities(replace(config.context, data_kind="images"))
    assert incompatibility.code == "E09"
    for stack in (("word_dropout", "contiguous_dropout"), ("contiguous_dropout", "word_dropout")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == "E-SLOT"
        for word in (*stack, "corrupt"):
            assert word in issues[0].message
