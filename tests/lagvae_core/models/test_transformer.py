import itertools
import math

import pytest
import torch
from helpers import rejects
from torch import nn

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import BOS, EOS, History, TextDomain, TokenBatch
from lagvae_core.models.decoder import DecoderOptions, Skip, UnitDropout
from lagvae_core.models.transformer import Block, TransformerModel, positions

TINY = TransformerModel(latent_dim=2, layers=2, width=8, heads=2, feedforward=12, dropout=0.0, dropout_in=0.0)
LATENT = ("prefix", "embedding", "memory")
VOCABULARY = 6


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().double()


def decoder(vocabulary=VOCABULARY, skip=None, **changes):
    config = TINY.model_copy(update=changes)
    options = DecoderOptions(UnitDropout(config.dropout_in), skip=skip)
    return seeded(lambda: config.decoder(TextDomain(vocabulary), stream(), options)).eval()


def encoder(**changes):
    return seeded(lambda: TINY.model_copy(update=changes).encoder(TextDomain(VOCABULARY), None))


def sentences(batch=3, steps=6):
    tokens = torch.randint(3, VOCABULARY, (batch, steps + 1), generator=stream())
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    return TokenBatch(tokens, torch.arange(batch))


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_the_pre_norm_layer_of_pytorch(causal):
    block = seeded(lambda: Block(TINY, 0.0))
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True).double()
    with torch.no_grad():
        for number, parameter in enumerate(block.parameters()):
            parameter.copy_(draws(*parameter.shape, seed=number))
    pairs = {
        "self_attn.in_proj_": block.project.linear,
        "self_attn.out_proj.": block.merge,
        "linear1.": block.enter.linear,
        "linear2.": block.leave,
        "norm1.": block.attention_norm,
        "norm2.": block.feedforward_norm,
    }
    layer.load_state_dict(
        {f"{name}{part}": getattr(ours, part) for name, ours in pairs.items() for part in ("weight", "bias")}
    )
    x = draws(3, 5, 8, seed=99)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64) if causal else None
    assert_close(block(x, causal=causal)[0], layer(x, src_mask=mask, is_causal=causal))


def test_positions_are_sines_and_cosines():
    encoded = positions(3, 4, draws(1, 1, 6))
    for row, place in zip(encoded, range(3, 7), strict=True):
        expected = [f(place / 10_000 ** (2 * i / 6)) for i in range(3) for f in (math.sin, math.cos)]
        assert row.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("latent", LATENT)
class TestDecoder:
    def test_probabilities_of_all_sequences_of_one_length_sum_to_one(self, latent):
        model = decoder(vocabulary=4, latent=latent)
        every = torch.tensor(list(itertools.product(range(4), repeat=3)))
        inputs = torch.cat([torch.full((len(every), 1), BOS), every[:, :-1]], 1)
        with torch.no_grad():
            nll = model(History(inputs), every, draws(1, 3, 2).expand(len(every), -1, -1))
        probability = (-nll).exp()
        assert_close(probability.sum(0), torch.ones(3).double())
        assert float(probability.std(0).min()) > 0.01 / len(every)  # the probabilities differ

    def test_a_step_depends_on_z_and_the_past_alone(self, latent):
        model, batch, z, recorded = decoder(latent=latent), sentences(1), draws(1, 1, 2).requires_grad_(), {}

        def cut(module, inputs, output):
            recorded["words"] = output.detach().requires_grad_()
            return recorded["words"]

        hook = model.reader.embedding.register_forward_hook(cut)
        features = model.features(batch.history, z)
        hook.remove()
        for step in range(6):
            of_words, of_z = torch.autograd.grad(
                features[step, 0] @ draws(8, seed=step), (recorded["words"], z), retain_graph=True
            )
            influence = of_words.abs().amax((1, 2))
            assert torch.equal(influence[step + 1 :], torch.zeros(5 - step).double())
            assert bool((influence[: step + 1] > 0).all())
            assert bool((of_z != 0).all())

    def test_without_its_path_no_step_depends_on_z(self, latent):
        model, batch, z = decoder(latent=latent), sentences(1), draws(1, 1, 2).requires_grad_()
        with torch.no_grad():
            for linear in model.from_z:
                linear.weight.zero_()
        (gradient,) = torch.autograd.grad(model.features(batch.history, z).sum(), z)
        assert torch.equal(gradient, torch.zeros_like(gradient))

    @pytest.mark.parametrize("skip", [None, Skip("add"), Skip("concat")], ids=str)
    def test_samples_and_sentences_in_one_call_equal_separate_calls(self, latent, skip):
        model, batch, z = decoder(latent=latent, skip=skip), sentences(4), draws(4, 3, 2)
        together = model(batch.history, batch.targets_BT, z)
        for row, sample in itertools.product(range(4), range(3)):
            one = TokenBatch(batch.tokens_BL[row : row + 1], batch.index_B[row : row + 1])
            alone = model(one.history, one.targets_BT, z[row : row + 1, sample : sample + 1])
            assert_close(together[row, sample], alone[0, 0])

    @pytest.mark.parametrize("place", ["dropout", "dropout_in", "dropout_out"])
    def test_each_kind_of_dropout_acts_in_training_alone(self, latent, place):
        model, batch, z = decoder(latent=latent, **{place: 0.5}), sentences(), draws(3, 1, 2)
        whole = decoder(latent=latent)(batch.history, batch.targets_BT, z)
        assert torch.equal(model(batch.history, batch.targets_BT, z), whole)
        model.train()
        dropped = [model(batch.history, batch.targets_BT, z) for _ in range(2)]
        assert not torch.equal(dropped[0], whole)
        assert not torch.equal(dropped[0], dropped[1])
        model._stream.manual_seed(0)
        assert torch.equal(model(batch.history, batch.targets_BT, z), dropped[0])

    @pytest.mark.parametrize("kind", ["add", "concat"])
    def test_a_skip_connection_reaches_the_output_and_with_everywhere_each_block(self, latent, kind):
        sizes = []
        for skip in (None, Skip(kind, everywhere=False), Skip(kind, everywhere=True)):
            model = decoder(latent=latent, skip=skip)
            sizes.append(sum(p.numel() for p in model.parameters()))
        to_output = 2 * (8 if kind == "add" else VOCABULARY)
        of_block = 2 * (8 + 8 if kind == "add" else 3 * 8 + 12)
        assert sizes[1] - sizes[0] == to_output
        assert sizes[2] - sizes[1] == 2 * of_block


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_the_encoder_depends_on_every_token_and_position(pool):
    read, batch = encoder(pool=pool), sentences(1)
    before = read(batch)
    for position in range(batch.tokens_BL.shape[1]):
        tokens = batch.tokens_BL.clone()
        tokens[0, position] = (tokens[0, position] + 1) % VOCABULARY
        after = read(TokenBatch(tokens, batch.index_B))
        assert not torch.equal(after.mean_BZ, before.mean_BZ), position
    swapped = batch.tokens_BL.clone()
    swapped[0, 1:3] = torch.tensor([4, 5])
    one = read(TokenBatch(swapped, batch.index_B))
    swapped[0, 1:3] = torch.tensor([5, 4])
    assert not torch.allclose(read(TokenBatch(swapped, batch.index_B)).mean_BZ, one.mean_BZ)


def test_embedded_sentences_are_read_like_sentences():
    read, batch = encoder(), sentences()
    assert torch.equal(read.read(read.embedding(batch.tokens_BL.T)).mean_BZ, read(batch).mean_BZ)


def test_initial_values():
    model = seeded(lambda: TransformerModel(width=64).decoder(TextDomain(500), stream(), DecoderOptions()))
    embedding, output = model.reader.embedding.weight.detach(), model.output.weight.detach()
    assert float(embedding.std()) == pytest.approx(1 / 8, rel=0.05)
    assert float(output.abs().max()) == pytest.approx(math.sqrt(6 / (64 + 500)), rel=0.01)
    assert not any(p.detach().any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_heads_must_divide_the_width():
    with rejects("model.heads") as issues:
        parse_trial({"model": {"kind": "transformer", "width": 10, "heads": 4}})
    assert issues[0].value == 4


def test_it_has_its_own_defaults_of_training():
    values = {"data": {"kind": "text", "path": "nowhere"}, "model": {"kind": "transformer"}}
    training = parse_trial(values).training
    assert (training.optimiser, training.learning_rate, training.epochs) == ("adam", 5e-4, 100)
    chosen = parse_trial({**values, "training": {"optimiser": "sgd", "learning_rate": 0.1}}).training
    assert (chosen.optimiser, chosen.learning_rate) == ("sgd", 0.1)
