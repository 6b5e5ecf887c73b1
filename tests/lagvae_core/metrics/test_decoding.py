import itertools
import math

import pytest
import torch

from lagvae_core.data import BOS, EOS, PAD, UNK, History, TextDomain
from lagvae_core.metrics.decoding import Beam, Greedy, Sampling, decode_all
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.lstm import LstmModel
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.strategies.cnn_decoder import CnnDecoder
from lagvae_core.strategies.slots import TrainingComponents

MODEL = LstmModel(latent_dim=2, hidden=7, embedding=5)
CORES = {"lstm": (), "cnn": (CnnDecoder(size=None, dilations=(1, 2)),)}
ROWS = 12

each_core = pytest.mark.parametrize("core", CORES)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decoder(core="lstm", vocabulary=12, scale=1.0):
    """Return a decoder whose best sentences differ in length and to which `<pad>` and `<s>` are likely."""
    components = assemble(CORES[core], BuildContext(2, 4, model=MODEL)) if CORES[core] else TrainingComponents()
    model = components.decoder(MODEL, TextDomain(vocabulary), torch.Generator(), DecoderOptions()).double().eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(scale * draws(*parameter.shape, seed=number))
    return model


def z(rows=ROWS):
    return draws(rows, 2, seed=9)


def index(rows=ROWS):
    return torch.arange(rows)


def log_p(model, z_Z, tokens):
    """Return log p of `tokens`, including `</s>` if present, by the decoder's likelihood."""
    history = torch.tensor([[BOS, *tokens[:-1]]])
    return -float(model(History(history), torch.tensor([tokens]), z_Z[None, None]).detach())


def tokens_of(decoded):
    return [*decoded.words, EOS] if decoded.ended else list(decoded.words)


def sentences(usable, steps):
    """Yield every sequence that can be generated: ended within `steps` tokens, or truncated."""
    words = [word for word in usable if word != EOS]
    for length in range(steps):
        yield from ([*prefix, EOS] for prefix in itertools.product(words, repeat=length))
    yield from map(list, itertools.product(words, repeat=steps))


@each_core
@pytest.mark.parametrize(
    "method",
    [Greedy(8), Sampling(8, seed=0), Beam(8, 3), Beam(8, 3, length_normalised=True)],
    ids=["greedy", "sampling", "beam", "beam by length"],
)
class TestEveryMethod:
    def test_sentences_are_valid_and_have_the_likelihood_of_the_decoder(self, core, method):
        model = decoder(core)
        decoded = method(model, z(), index())
        assert {PAD, BOS, EOS}.isdisjoint(word for one in decoded for word in one.words)
        for one, z_Z in zip(decoded, z(), strict=True):
            assert len(tokens_of(one)) <= 8
            assert one.ended or len(one.words) == 8
            assert one.log_p == pytest.approx(log_p(model, z_Z, tokens_of(one)), abs=1e-10)
        assert {one.ended for one in decoded} == {True, False}, "the test needs both"

    def test_sentences_do_not_depend_on_the_batch(self, core, method):
        model = decoder(core)
        together = method(model, z(), index())
        alone = [method(model, z()[row : row + 1], torch.tensor([row]))[0] for row in range(ROWS)]
        blocks = decode_all(method, model, z(), index())
        assert [(one.words, one.ended) for one in together] == [(one.words, one.ended) for one in alone]
        assert [one.words for one in together] == [one.words for one in blocks]
        assert len({one.words for one in together}) > 1


@each_core
@pytest.mark.parametrize("length_normalised", [False, True])
def test_a_beam_of_width_one_is_greedy(core, length_normalised):
    model = decoder(core)
    assert Beam(8, 1, length_normalised)(model, z(), index()) == Greedy(8)(model, z(), index())


@each_core
@pytest.mark.parametrize("length_normalised", [False, True])
def test_a_beam_that_holds_every_prefix_finds_the_best_of_all_sentences(core, length_normalised):
    model, steps = decoder(core, vocabulary=5, scale=0.7), 3
    usable = [EOS, UNK, 4]
    every = list(sentences(usable, steps))
    assert len(every) == 1 + 2 + 4 + 8
    decoded = Beam(steps, len(usable) ** steps, length_normalised)(model, z(), index())
    greedy = Greedy(steps)(model, z(), index())
    for one, z_Z in zip(decoded, z(), strict=True):
        scores = [log_p(model, z_Z, tokens) / (len(tokens) if length_normalised else 1) for tokens in every]
        best = max(range(len(every)), key=scores.__getitem__)
        assert tokens_of(one) == every[best]
    assert [one.words for one in decoded] != [one.words for one in greedy], "greedy search must not suffice"


def test_without_length_normalisation_sentences_are_shorter():
    model = decoder()
    raw, normalised = (Beam(8, 20, by_length)(model, z(), index()) for by_length in (False, True))
    assert all(one.log_p >= other.log_p - 1e-12 for one, other in zip(raw, normalised, strict=True))
    assert sum(len(one.words) for one in raw) < sum(len(one.words) for one in normalised)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampled_sentences_have_the_frequencies_of_their_probabilities(temperature):
    model, steps, n = decoder(vocabulary=5, scale=0.7), 3, 20_000
    one_z = z(1)
    decoded = decode_all(Sampling(steps, 3, temperature), model, one_z.expand(n, -1), index(n))
    counts = {}
    for one in decoded:
        key = tuple(tokens_of(one))
        counts[key] = counts.get(key, 0) + 1
    total = 0.0
    for tokens in sentences([EOS, UNK, 4], steps):
        p = sampling_probability(model, one_z, tokens, temperature)
        total += p
        assert counts.pop(tuple(tokens), 0) / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))
    assert total == pytest.approx(1.0, abs=1e-12)
    assert not counts


def sampling_probability(model, z_1Z, tokens, temperature):
    """Return the product over steps of the probabilities renormalised over the words that can be emitted."""
    features = model.features(History(torch.tensor([[BOS, *tokens[:-1]]])), z_1Z[:, None])
    usable = model.output(features)[:, 0, [EOS, UNK, 4]].detach() / temperature
    column = {EOS: 0, UNK: 1, 4: 2}
    return math.exp(sum(float(row.log_softmax(0)[column[token]]) for row, token in zip(usable, tokens, strict=True)))


def test_sampling_at_a_low_temperature_is_greedy():
    model = decoder()
    cold = Sampling(8, 0, temperature=1e-6)(model, z(), index())
    assert [one.words for one in cold] == [one.words for one in Greedy(8)(model, z(), index())]


def test_samples_depend_on_seed_purpose_and_example():
    model, one_z = decoder(), z(1).expand(ROWS, -1)
    plain = [one.words for one in Sampling(8, 0)(model, one_z, index())]
    assert len(set(plain)) > 1
    assert plain != [one.words for one in Sampling(8, 1)(model, one_z, index())]
    assert plain != [one.words for one in Sampling(8, 0, purpose="other")(model, one_z, index())]
    assert plain[::-1] == [one.words for one in Sampling(8, 0)(model, one_z, index().flip(0))]


def test_generation_requires_eval_mode():
    with pytest.raises(AssertionError, match="eval mode"):
        Greedy(3)(decoder().train(), z(), index())
