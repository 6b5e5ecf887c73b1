"""Stepping token by token gives the same logits as processing the whole sequence."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from lagvae_core.data import BOS, History, TextDomain
from lagvae_core.models.decoder import DecoderOptions, Skip, TokenDecoder
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.transformer import TransformerModel
from lagvae_core.models.without_z import decoder_without_z
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.strategies.cnn_decoder import CnnDecoder
from lagvae_core.strategies.slots import TrainingComponents

LSTM = LstmModel(latent_dim=2, hidden=7, embedding=5, dropout_out=0.5)
DOMAIN = TextDomain(9)
CORES = {
    "lstm": (LSTM, ()),
    "cnn": (LSTM, (CnnDecoder(size=None, dilations=(1, 2)),)),
    **{
        f"transformer {latent}": (TransformerModel(latent_dim=2, layers=2, width=8, heads=2, latent=latent), ())
        for latent in ("prefix", "embedding", "memory")
    },
}
OPTIONS = {
    "plain": DecoderOptions(),
    "historyless": DecoderOptions(past="unknown"),
    "without words": DecoderOptions(past="absent"),
    **{
        f"skip {kind} {reach}": DecoderOptions(skip=Skip(kind, reach))
        for kind in ("concat", "add")
        for reach in (True, False)
    },
}


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(rows=5, steps=6, seed=1):
    drawn = torch.randint(3, DOMAIN.vocabulary, (rows, steps), generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] = BOS
    return drawn


def with_drawn_weights(model):
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * draws(*parameter.shape, seed=number))
    return model.eval()


def decoder(core, options):
    config, strategies = CORES[core]
    components = assemble(strategies, BuildContext(2, 4, model=config)) if strategies else TrainingComponents()
    return with_drawn_weights(components.decoder(config, DOMAIN, torch.Generator(), options).double())


def stepped(model, state, tokens_RT):
    """Return the logits [T, R, V] and the final state of the decoder."""
    rows = []
    for tokens_R in tokens_RT.T:
        logits_RV, state = model.step(state, tokens_R)
        rows.append(logits_RV)
    return torch.stack(rows), state


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("core", CORES)
class TestEveryDecoder:
    def test_steps_equal_the_whole_sequence(self, core, options):
        model, z_RZ, read_RT = decoder(core, options), draws(5, 2), tokens()
        whole = model.output(model.features(History(read_RT), z_RZ[:, None]))
        assert_close(stepped(model, model.begin(z_RZ), read_RT)[0], whole)

    def test_a_state_can_be_selected_and_continued_in_several_ways(self, core, options):
        model, z_RZ, read_RT = decoder(core, options), draws(5, 2), tokens()
        _, state = stepped(model, model.begin(z_RZ), read_RT[:, :3])
        index, rest = torch.tensor([4, 0, 0, 2]), tokens(4, 3, seed=2)
        logits, _ = stepped(model, state.select(index), rest)
        continued = torch.cat([read_RT[index, :3], rest], 1)
        assert_close(logits, model.output(model.features(History(continued), z_RZ[index, None]))[3:])
        again, _ = stepped(model, state, read_RT[:, 3:])
        assert_close(again, model.output(model.features(History(read_RT), z_RZ[:, None]))[3:])


@pytest.mark.parametrize("core", [core for core in CORES if core != "cnn"])
def test_a_language_model_steps_with_an_empty_z(core):
    model = with_drawn_weights(decoder_without_z(CORES[core][0], DOMAIN, torch.Generator(), DecoderOptions()).double())
    z_RZ, read_RT = torch.zeros(5, 0, dtype=torch.float64), tokens()
    whole = model.output(model.features(History(read_RT), z_RZ[:, None]))
    assert_close(stepped(model, model.begin(z_RZ), read_RT)[0], whole)


@dataclass(frozen=True, eq=False)
class Tagged(History):
    tag_B: Tensor | None = None


class TaggedDecoder(TokenDecoder):
    """Decoder that depends on a tag of each example in addition to z and the past."""

    def __init__(self):
        super().__init__(torch.Generator())
        self.embedding, self.output = nn.Embedding(9, 2), nn.Linear(2, 9, bias=False)

    def features(self, history, z_BSZ):
        words_TB2 = self.embedding(history.tokens_BT.T).cumsum(0)
        tagged_TB2 = words_TB2 * (1.0 + history.tag_B)[None, :, None]
        return (tagged_TB2[:, :, None] + z_BSZ).flatten(1, 2)


def test_the_context_is_selected_with_its_example():
    model = with_drawn_weights(TaggedDecoder().double())
    history = Tagged(tokens(), tag_B=torch.arange(5))
    context, z_RZ, index = history.unread(), draws(5, 2), torch.tensor([3, 3, 1])
    logits, _ = stepped(model, model.begin(z_RZ, context).select(index), history.tokens_BT[index])
    assert_close(logits, model.output(model.features(history, z_RZ[:, None]))[:, index])
