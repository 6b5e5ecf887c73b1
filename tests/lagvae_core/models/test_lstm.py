import itertools
import math

import pytest
import torch

from lagvae_core.data import BOS, EOS, History, TokenBatch
from lagvae_core.models.decoder import DecoderOptions, UnitDropout, dropout
from lagvae_core.models.lstm import LstmDecoder, LstmEncoder, LstmModel

TINY = LstmModel(latent_dim=2, hidden=7, embedding=5, init_range=0.8, init_embedding=1.0)
VOCABULARY = 6


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def options(config=TINY):
    return DecoderOptions(UnitDropout(config.dropout_in))


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def decoder(config=TINY, vocabulary=VOCABULARY, seed=0, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = config.model_copy(update=changes)
        return LstmDecoder(config, vocabulary, stream(), options(config)).double().eval()


def encoder(config=TINY, vocabulary=VOCABULARY, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LstmEncoder(config, vocabulary).double()


def sentences(batch=3, steps=6):
    tokens = torch.randint(3, VOCABULARY, (batch, steps + 1), generator=stream())
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    return TokenBatch(tokens, torch.arange(batch))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


class TestSizes:
    @pytest.mark.parametrize(
        ("vocabulary", "embedding", "hidden", "latent", "in_encoder", "in_decoder"),
        [
            (1004, 50, 50, 1, 70_700, 121_050),
            (1004, 50, 50, 2, 70_800, 121_300),
            (19_997, 512, 1024, 32, 16_603_648, 37_178_880),
        ],
        ids=["synthetic", "synthetic in two dimensions", "yelp"],
    )
    def test_number_of_parameters(self, vocabulary, embedding, hidden, latent, in_encoder, in_decoder):
        config = LstmModel(latent_dim=latent, hidden=hidden, embedding=embedding)
        with torch.device("meta"):
            counts = (
                count(LstmEncoder(config, vocabulary)),
                count(LstmDecoder(config, vocabulary, stream(), options())),
            )
        lstm = 4 * hidden * (embedding + hidden) + 8 * hidden
        assert counts[0] == in_encoder == vocabulary * embedding + lstm + 2 * latent * hidden
        decoder_only = 4 * hidden * latent + latent * hidden + hidden * vocabulary
        assert counts[1] == in_decoder == vocabulary * embedding + lstm + decoder_only
        totals = {(1004, 1): 191_750, (1004, 2): 192_100, (19_997, 32): 53_782_528}
        assert sum(counts) == totals[vocabulary, latent]

    def test_shapes(self):
        batch = sentences(batch=4)
        q = encoder()(batch)
        assert q.mean_BZ.shape == q.logvar_BZ.shape == (4, 2)
        for samples in (1, 3):
            assert decoder()(batch.history, batch.targets_BT, draws(4, samples, 2)).shape == (4, samples)


class TestInitialisation:
    @pytest.mark.parametrize("build", [LstmEncoder, lambda *args: LstmDecoder(*args, stream(), options())])
    def test_parameters_are_uniform_within_the_documented_bounds(self, build):
        """Uniform on (-b, b): standard deviation b / sqrt 3, mean within four standard errors of 0, extremes near b."""
        config = LstmModel(latent_dim=32, hidden=64, embedding=32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = build(config, 200)
        names = []
        for name, parameter in module.named_parameters():
            bound = 0.1 if "embedding" in name else 0.01
            values, n = parameter.detach().double(), parameter.numel()
            assert float(values.abs().max()) <= bound * (1 + 1e-6)
            assert float(values.abs().max()) > 0.97 * bound
            assert abs(float(values.mean())) < 4 * bound / math.sqrt(3 * n)
            # the variance of a squared uniform is 4 b^4 / 45
            assert float(values.square().mean()) == pytest.approx(
                bound**2 / 3, abs=4 * bound**2 * math.sqrt(4 / 45 / n)
            )
            names.append(name)
        assert {"lstm.bias_ih_l0", "lstm.bias_hh_l0"} <= set(names)

    def test_the_configuration_sets_the_bounds(self):
        module = LstmDecoder(
            LstmModel(latent_dim=1, hidden=8, embedding=8, init_range=3.0, init_embedding=7.0), 50, stream(), options()
        )
        assert 6.5 < float(module.reader.embedding.weight.detach().abs().max()) <= 7.0
        assert 2.7 < float(module.lstm.weight_hh_l0.detach().abs().max()) <= 3.0

    def test_the_forget_gate_has_no_offset(self):
        module = LstmEncoder(LstmModel(hidden=500, embedding=2), 10)
        gates = (module.lstm.bias_ih_l0 + module.lstm.bias_hh_l0).detach().view(4, 500).mean(1)
        assert float(gates.abs().max()) < 4 * 0.01 * math.sqrt(2 / 3 / 500)


class TestDecoderIsADistribution:
    @pytest.mark.parametrize("steps", [1, 3])
    def test_probabilities_of_all_sequences_of_one_length_sum_to_one(self, steps):
        model = decoder(vocabulary=4)
        every = torch.tensor(list(itertools.product(range(4), repeat=steps)))
        inputs = torch.cat([torch.full((len(every), 1), BOS), every[:, :-1]], 1)
        with torch.no_grad():
            nll = model(History(inputs), every, draws(1, 3, 2).expand(len(every), -1, -1))
        probability = (-nll).exp()
        torch.testing.assert_close(probability.sum(0), torch.ones(3).double(), rtol=0, atol=1e-12)
        assert float(probability.std(0).min()) > 0.01 / len(every)  # the probabilities differ

    def test_it_equals_the_equations_evaluated_word_by_word(self):
        model, batch, z = decoder(), sentences(), draws(3, 1, 2)
        result = model(batch.history, batch.targets_BT, z)[:, 0]
        lstm, latent = model.lstm, z[:, 0]
        cell = latent @ model.start.weight.T
        hidden, nll = cell.tanh(), torch.zeros(3).double()
        for word, target in zip(batch.history.tokens_BT.T, batch.targets_BT.T, strict=True):
            from_input = (
                torch.cat([model.reader.embedding.weight[word], latent], 1) @ lstm.weight_ih_l0.T + lstm.bias_ih_l0
            )
            i, f, g, o = (from_input + hidden @ lstm.weight_hh_l0.T + lstm.bias_hh_l0).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            nll = nll - (hidden @ model.output.weight.T).log_softmax(1)[torch.arange(3), target]
        torch.testing.assert_close(result, nll, rtol=0, atol=1e-12)

    def test_the_value_is_the_same_with_and_without_gradients(self):
        model, batch, z = decoder(), sentences(), draws(3, 2, 2)
        with_gradient = model(batch.history, batch.targets_BT, z)
        with torch.no_grad():
            without = model(batch.history, batch.targets_BT, z)
        torch.testing.assert_close(without, with_gradient.detach(), rtol=0, atol=1e-12)


class TestDependenciesOfAStep:
    def outputs(self, model, z, steps=5):
        """Return the decoder's LSTM outputs [T, R, H], and its embeddings [T, B, E] as leaves of the graph."""
        recorded = {}

        def cut(module, inputs, output):
            recorded["words"] = output.detach().requires_grad_()
            return recorded["words"]

        hooks = [
            model.reader.embedding.register_forward_hook(cut),
            model.lstm.register_forward_hook(lambda module, inputs, output: recorded.update(hidden=output[0])),
        ]
        batch = sentences(len(z), steps)
        model(batch.history, batch.targets_BT, z)
        for hook in hooks:
            hook.remove()
        return recorded["hidden"], recorded["words"]

    def test_no_step_depends_on_a_later_word(self):
        hidden, words = self.outputs(decoder(), draws(1, 1, 2))
        for step in range(5):
            jacobian = torch.stack([torch.autograd.grad(unit, words, retain_graph=True)[0] for unit in hidden[step, 0]])
            influence = jacobian.abs().amax((0, 2, 3))
            assert torch.equal(influence[step + 1 :], torch.zeros(4 - step).double())
            assert bool((influence[: step + 1] > 0).all())

    @pytest.mark.parametrize("cut", ["start", "input", None])
    def test_every_step_depends_on_z(self, cut):
        """z enters through the input and through the initial state; either path alone reaches every step."""
        model, z = decoder(), draws(1, 1, 2).requires_grad_()
        with torch.no_grad():
            if cut == "start":
                model.start.weight.zero_()
            if cut == "input":
                model.lstm.weight_ih_l0[:, TINY.embedding :].zero_()
        hidden, _ = self.outputs(model, z)
        for step in range(5):
            (gradient,) = torch.autograd.grad(hidden[step, 0] @ draws(7), z, retain_graph=True)
            assert bool((gradient != 0).all())

    def test_without_both_paths_no_step_depends_on_z(self):
        model, z = decoder(), draws(1, 1, 2).requires_grad_()
        with torch.no_grad():
            model.start.weight.zero_()
            model.lstm.weight_ih_l0[:, TINY.embedding :].zero_()
        hidden, _ = self.outputs(model, z)
        (gradient,) = torch.autograd.grad(hidden.sum(), z)
        assert torch.equal(gradient, torch.zeros_like(gradient))

    def test_the_initial_state(self):
        """c0 = W z and h0 = tanh(c0)."""
        model, z = decoder(), draws(2, 1, 2)
        states = []
        hook = model.lstm.register_forward_pre_hook(lambda module, inputs: states.append(inputs[1]))
        batch = sentences(2)
        model(batch.history, batch.targets_BT, z)
        hook.remove()
        hidden, cell = states[0]
        torch.testing.assert_close(cell[0], z[:, 0] @ model.start.weight.T, rtol=0, atol=1e-14)
        torch.testing.assert_close(hidden, cell.tanh(), rtol=0, atol=1e-14)


class TestBatching:
    def test_samples_in_one_call_equal_separate_calls(self):
        model, batch, z = decoder(), sentences(batch=4), draws(4, 6, 2)
        together = model(batch.history, batch.targets_BT, z)
        for sample in range(6):
            alone = model(batch.history, batch.targets_BT, z[:, sample : sample + 1])
            torch.testing.assert_close(together[:, sample : sample + 1], alone, rtol=0, atol=1e-12)

    def test_sentences_in_one_call_equal_separate_calls(self):
        read, write, batch, z = encoder(), decoder(), sentences(batch=4), draws(4, 2, 2)
        q = read(batch)
        nll = write(batch.history, batch.targets_BT, z)
        for row in range(4):
            one = TokenBatch(batch.tokens_BL[row : row + 1], batch.index_B[row : row + 1])
            torch.testing.assert_close(read(one).mean_BZ[0], q.mean_BZ[row], rtol=0, atol=1e-12)
            torch.testing.assert_close(read(one).logvar_BZ[0], q.logvar_BZ[row], rtol=0, atol=1e-12)
            alone = write(one.history, one.targets_BT, z[row : row + 1])
            torch.testing.assert_close(alone[0], nll[row], rtol=0, atol=1e-12)

    def test_the_encoder_depends_on_every_token(self):
        read, batch = encoder(), sentences(batch=1)
        before = read(batch)
        for position in range(batch.tokens_BL.shape[1]):
            tokens = batch.tokens_BL.clone()
            tokens[0, position] = (tokens[0, position] + 1) % VOCABULARY
            after = read(TokenBatch(tokens, batch.index_B))
            assert not torch.equal(after.mean_BZ, before.mean_BZ), position
            assert not torch.equal(after.logvar_BZ, before.logvar_BZ), position


class TestDropout:
    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_rate_and_expectation(self, rate):
        n = 200_000
        dropped = dropout(torch.ones(n), rate, stream())
        assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        zeros = float((dropped == 0).double().mean())
        assert zeros == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / n))
        assert float(dropped.double().mean()) == pytest.approx(1.0, abs=4 * math.sqrt(rate / (1 - rate) / n))

    def test_neighbours_are_dropped_independently(self):
        dropped = (dropout(torch.ones(400, 500), 0.5, stream()) == 0).double()
        for one, other in ((dropped[1:], dropped[:-1]), (dropped[:, 1:], dropped[:, :-1])):
            both = float((one * other).mean())
            # neighbouring pairs share one unit, so the covariance of their products is at most twice the variance
            assert both == pytest.approx(0.25, abs=4 * math.sqrt(3 * 0.1875 / one.numel()))

    def test_without_a_rate_or_a_stream_it_is_the_identity(self):
        x, generator = draws(5), stream()
        before = generator.get_state()
        assert dropout(x, 0.0, generator) is x
        assert dropout(x, 0.5, None) is x
        assert torch.equal(generator.get_state(), before)

    def test_the_state_of_the_stream_determines_the_mask(self):
        x, generator = torch.ones(100), stream()
        state = generator.get_state()
        first, second = dropout(x, 0.5, generator), dropout(x, 0.5, generator)
        generator.set_state(state)
        assert torch.equal(dropout(x, 0.5, generator), first)
        assert not torch.equal(first, second)

    def test_the_gradient_has_the_same_mask_as_the_value(self):
        x = torch.ones(100, requires_grad=True)
        dropped = dropout(x, 0.5, stream())
        (gradient,) = torch.autograd.grad(dropped.sum(), x)
        assert torch.equal(gradient, dropped.detach())

    def test_there_is_no_dropout_in_eval_mode(self):
        model, batch, z = decoder(), sentences(), draws(3, 2, 2)
        before = model._stream.get_state()
        first = model(batch.history, batch.targets_BT, z)
        assert torch.equal(model(batch.history, batch.targets_BT, z), first)
        assert torch.equal(model._stream.get_state(), before)
        plain = decoder(dropout_in=0.0, dropout_out=0.0).train()
        assert torch.equal(plain(batch.history, batch.targets_BT, z), first)

    @pytest.mark.parametrize("place", ["dropout_in", "dropout_out"])
    def test_each_kind_of_dropout_acts_in_training(self, place):
        model, batch, z = decoder(**{"dropout_in": 0.0, "dropout_out": 0.0, place: 0.5}), sentences(), draws(3, 1, 2)
        whole = model(batch.history, batch.targets_BT, z)
        model.train()
        dropped = [model(batch.history, batch.targets_BT, z) for _ in range(2)]
        assert not torch.equal(dropped[0], whole)
        assert not torch.equal(dropped[0], dropped[1])
        model._stream.manual_seed(0)
        assert torch.equal(model(batch.history, batch.targets_BT, z), dropped[0])

    def test_samples_of_an_example_share_the_mask_of_the_embeddings(self):
        model, batch = decoder(dropout_out=0.0).train(), sentences()
        nll = model(batch.history, batch.targets_BT, draws(3, 1, 2).expand(3, 4, 2))
        torch.testing.assert_close(nll, nll[:, :1].expand(3, 4), rtol=0, atol=1e-12)

    def test_z_is_never_dropped(self):
        model, batch, inputs_seen = decoder(dropout_in=0.9).train(), sentences(), []
        z = draws(3, 1, 2)
        hook = model.lstm.register_forward_pre_hook(lambda module, inputs: inputs_seen.append(inputs[0]))
        model(batch.history, batch.targets_BT, z)
        hook.remove()
        assert torch.equal(inputs_seen[0][:, :, TINY.embedding :], z[:, 0].expand(6, 3, 2))
        assert bool((inputs_seen[0][:, :, : TINY.embedding] == 0).any())
