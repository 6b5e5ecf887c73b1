"""Padded sentences give the same numbers as single sentences."""

import pytest
import torch

from lagvae_core.data import BOS, EOS, PAD, TextDomain, TokenBatch
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.transformer import TransformerModel
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.strategies.cnn_decoder import CnnDecoder
from lagvae_core.strategies.slots import TrainingComponents

MODEL = LstmModel(latent_dim=2, hidden=7, embedding=5, init_range=0.8, init_embedding=1.0)
TRANSFORMERS = {
    f"transformer {latent} {pool}": TransformerModel(
        latent_dim=2, layers=2, width=8, heads=2, latent=latent, pool=pool, dropout=0.0
    )
    for latent, pool in (("prefix", "mean"), ("embedding", "first"), ("memory", "mean"))
}
DOMAIN = TextDomain(11)
SENTENCES = [[4, 5, 6, 7, 8], [9], [10, 4, 4], [5, 5, 5, 5]]


def padded(dtype=torch.int64):
    whole = [[BOS, *words, EOS] for words in SENTENCES]
    longest = max(map(len, whole))
    rows = [[*words, *[PAD] * (longest - len(words))] for words in whole]
    return TokenBatch(torch.tensor(rows), torch.arange(len(rows)), torch.tensor([len(words) for words in whole]))


def alone(row):
    return TokenBatch(torch.tensor([[BOS, *SENTENCES[row], EOS]]), torch.tensor([row]))


def decoder(core):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stack = (CnnDecoder(size=None, dilations=(1, 2)),) if core == "cnn" else ()
        config = TRANSFORMERS.get(core, MODEL)
        components = assemble(stack, BuildContext(2, 4, model=config)) if stack else TrainingComponents()
        return components.decoder(config, DOMAIN, torch.Generator(), DecoderOptions()).double().eval()


@pytest.mark.parametrize("config", [MODEL, *TRANSFORMERS.values()], ids=["lstm", *TRANSFORMERS])
def test_the_encoder_ignores_padding(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = config.encoder(DOMAIN, None).double()
    together = encoder(padded())
    for row in range(len(SENTENCES)):
        one = encoder(alone(row))
        assert torch.allclose(together.mean_BZ[row], one.mean_BZ[0], rtol=0, atol=1e-12)
        assert torch.allclose(together.logvar_BZ[row], one.logvar_BZ[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", ["lstm", "cnn", *TRANSFORMERS])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_decoder_does_not_predict_padding(core, gradients):
    model, batch = decoder(core), padded()
    z = torch.randn(len(SENTENCES), 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        together = model(batch.history, batch.targets, z)
        for row in range(len(SENTENCES)):
            one = alone(row)
            assert torch.allclose(together[row], model(one.history, one.targets, z[row, None])[0], rtol=0, atol=1e-12)
    if gradients:
        together.sum().backward()
        assert model.reader.embedding.weight.grad[PAD].abs().max() == 0


def test_units_count_predicted_tokens():
    batch = padded()
    assert batch.units == sum(len(words) + 1 for words in SENTENCES)
    assert batch.units == len(batch.targets.kept_N)
    assert (batch.targets.tokens_BT.T.flatten()[batch.targets.kept_N] != PAD).all()
    assert alone(0).units == len(SENTENCES[0]) + 1
