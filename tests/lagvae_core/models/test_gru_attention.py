import itertools
import math

import inflections
import pytest
import torch

from lagvae_core.data import BOS, EOS, UNK, InflectionDomain
from lagvae_core.data.reinflection.arrays import ABSENT, InflectionBatch
from lagvae_core.data.text.tokens import TokenBatch
from lagvae_core.models.bag import BagFeatures, word_counts
from lagvae_core.models.decoder import DecoderOptions, Skip, UnitDropout
from lagvae_core.models.gru_attention import GruAttentionModel, GruEncoder
from lagvae_core.models.projection import twice_differentiable

TINY = GruAttentionModel(latent_dim=3, hidden=8, embedding=5, tag_embedding=4)
DOMAIN = InflectionDomain(9, 4)
OPTIONS = {
    "plain": DecoderOptions(),
    "skip concat": DecoderOptions(skip=Skip("concat")),
    "skip add": DecoderOptions(skip=Skip("add")),
    "unknown past": DecoderOptions(past="unknown"),
    "no past": DecoderOptions(past="absent"),
}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def built(domain=DOMAIN, options=OPTIONS["plain"], seed=0, **changes):
    """Return a decoder in eval mode and double precision, and the encoder that it is bound to."""
    config = GruAttentionModel(**{**TINY.model_dump(), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = config.encoder(domain, None).double()
        decoder = config.decoder(domain, stream(), options).double().eval()
    decoder.bind(encoder)
    return decoder, encoder


def batch_of(*examples):
    """Return examples (source, features, target) as one batch, padded if their lengths differ."""

    def padded(forms):
        whole = [[BOS, *form, EOS] for form in forms]
        longest = max(map(len, whole))
        lengths = torch.tensor([len(form) for form in whole])
        tokens = torch.tensor([[*form, *[0] * (longest - len(form))] for form in whole])
        return tokens, torch.arange(len(whole)), lengths if len(set(lengths.tolist())) > 1 else None

    most = max(len(tags) for _, tags, _ in examples)
    tags = torch.tensor([[*tags, *[ABSENT] * (most - len(tags))] for _, tags, _ in examples])
    source = TokenBatch(*padded([source for source, _, _ in examples]))
    return InflectionBatch(*padded([target for _, _, target in examples]), source=source, tags_BK=tags)


EXAMPLES = [
    ([4, 5, 6], [0, 2], [4, 5, 6, 7, 8]),
    ([8], [1], [8, 8]),
    ([5, 6, 7, 8, 4, 4], [3, 0, 1], [7]),
    ([4, 4], [2], [4, 5, 4]),
]
BATCH = batch_of(*EXAMPLES)


def draws(*shape, seed=1):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def nll(decoder, batch, z):
    return decoder(batch.history, batch.targets, z)


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


class TestSizes:
    @pytest.mark.parametrize(
        ("characters", "features", "by_encoder", "by_z"),
        [(36, 31, 3_217_928, 3_295_240), (62, 25, 3_250_866, 3_250_866 + 77_312)],
        ids=["turkish", "german"],
    )
    def test_number_of_parameters(self, characters, features, by_encoder, by_z):
        domain = InflectionDomain(characters, features)
        with torch.device("meta"):
            encoder = GruAttentionModel().encoder(domain, None)
            decoders = [
                GruAttentionModel(start=start).decoder(domain, stream(), DecoderOptions()) for start in ("encoder", "z")
            ]
        assert [count(encoder, decoder) for decoder in decoders] == [by_encoder, by_z]
        if characters == 36:
            decoder = decoders[1]
            assert count(encoder) == 1_021_788
            assert count(decoder.reader, decoder.cell, decoder.output) == 1_824_372
            assert count(decoder.attention, decoder.score) == 365_568
            assert count(decoder.tag_embedding) == 6_200
            assert count(decoder.start) == 77_312

    def test_shapes(self):
        decoder, encoder = built()
        q = encoder(BATCH)
        assert q.mean_BZ.shape == q.logvar_BZ.shape == (4, 3)
        assert nll(decoder, BATCH, draws(4, 6, 3)).shape == (4, 6)

    def test_layers_are_initialised_as_documented(self):
        decoder, encoder = built(hidden=64)
        for module, inputs in [
            (encoder.gru, 32),
            (encoder.to_latent, 64),
            (decoder.cell, 64),
            (decoder.attention, 64 + 4),
            (decoder.score, 64),
            (decoder.start, 3),
            (decoder.output, 64 + 4 + 1),
        ]:
            bound = 1.0 / math.sqrt(inputs)
            for parameter in module.parameters():
                assert parameter.abs().max() <= bound
            values = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
            std = bound / math.sqrt(3)
            assert abs(float(values.mean())) < 4 * std / math.sqrt(len(values))
        for embedding in (encoder.embedding, decoder.reader.embedding, decoder.tag_embedding):
            assert abs(float(embedding.weight.detach().mean())) < 4 / math.sqrt(embedding.weight.numel())


class TestEncoder:
    def test_padding_has_no_effect(self):
        _, encoder = built()
        together = encoder(BATCH)
        for row, example in enumerate(EXAMPLES):
            alone = encoder(batch_of(example))
            assert torch.allclose(together.mean_BZ[row], alone.mean_BZ[0], rtol=0, atol=1e-12)
            assert torch.allclose(together.logvar_BZ[row], alone.logvar_BZ[0], rtol=0, atol=1e-12)

    def test_it_reads_only_the_source_and_in_both_directions(self):
        _, encoder = built()
        first = encoder(batch_of(([4, 5, 6], [0], [7]))).mean_BZ
        assert torch.equal(first, encoder(batch_of(([4, 5, 6], [1, 2], [8, 8]))).mean_BZ)
        backwards = encoder.state(batch_of(([6, 5, 4], [0], [7])).source)
        assert not torch.allclose(encoder.state(batch_of(([4, 5, 6], [0], [7])).source), backwards)
        words = encoder.embedding(torch.tensor([[BOS, 4, 5, 6, EOS]])).transpose(0, 1)
        forward, backward = encoder.gru(words)[0].chunk(2, 2)
        expected = torch.cat([forward[-1], backward[0]], 1)
        assert torch.allclose(encoder.state(batch_of(([4, 5, 6], [0], [7])).source), expected, rtol=0, atol=1e-12)
        assert torch.equal(encoder.read(words).mean_BZ, encoder(batch_of(([4, 5, 6], [0], [7]))).mean_BZ)

    def test_additional_features_describe_the_source(self):
        encoder = GruEncoder(TINY, 9, BagFeatures(6, 9))
        assert encoder.to_latent.in_features == 8 + 6
        assert encoder(BATCH).mean_BZ.shape == (4, 3)
        counts = word_counts(BATCH, 9)
        assert counts[1].tolist() == [0, 0, 0, 0, 0, 1]  # <unk>, then 4 to 8
        assert counts[2].tolist() == [0, 2, 1, 1, 1, 1]


def by_hand(decoder, encoder, batch, z_Z, row=0):
    """Return -log p(target | z, features) of one example from the published equations, step by step."""
    config, cell = decoder._config, decoder.cell
    _, tags, target = EXAMPLES[row]
    if decoder.start is None:
        hidden = encoder.state(batch_of(EXAMPLES[row]).source)
    else:
        hidden = decoder.start(z_Z[None]).tanh()
    embedded = decoder.tag_embedding(torch.tensor(tags))
    total, past = 0.0, [BOS, *target]
    for previous, character_id in zip(past, [*target, EOS], strict=True):
        scores = decoder.score(decoder.attention(torch.cat([hidden.expand(len(tags), -1), embedded], 1)).tanh())
        attended = (scores.softmax(0) * embedded).sum(0, keepdim=True)
        character = decoder.reader.embedding(torch.tensor([previous]))
        hidden = cell(torch.cat([character, attended, z_Z[None]], 1), hidden)
        size = config.hidden + config.tag_embedding
        weight, bias = decoder.output.weight[:, :size], decoder.output.weight[:, size]
        logits = torch.cat([hidden, attended], 1) @ weight.T + bias
        total = total - logits.log_softmax(1)[0, character_id]
    return total


class TestDecoder:
    @pytest.mark.parametrize("start", ["z", "encoder"])
    def test_it_equals_the_equations_with_and_without_padding(self, start):
        decoder, encoder = built(start=start)
        z = draws(4, 3, 3)
        result = nll(decoder, BATCH, z).detach()
        for row, sample in itertools.product(range(4), range(3)):
            expected = by_hand(decoder, encoder, BATCH, z[row, sample], row)
            assert float(result[row, sample]) == pytest.approx(expected.item(), abs=1e-10)

    @pytest.mark.parametrize("name", OPTIONS)
    def test_samples_in_one_call_equal_separate_calls(self, name):
        decoder, _ = built(options=OPTIONS[name])
        z = draws(4, 5, 3)
        together = nll(decoder, BATCH, z)
        for sample in range(5):
            assert torch.allclose(together[:, sample], nll(decoder, BATCH, z[:, sample, None])[:, 0], rtol=1e-12)

    @pytest.mark.parametrize("start", ["z", "encoder"])
    @pytest.mark.parametrize("name", OPTIONS)
    def test_probabilities_of_all_sequences_sum_to_one(self, name, start):
        """All sequences with V = 4 and T = 3; `</s>` does not end a sequence here."""
        decoder, _ = built(InflectionDomain(4, 4), OPTIONS[name], start=start)
        every = torch.tensor(list(itertools.product(range(4), repeat=3)))
        tokens = torch.cat([torch.full((64, 1), BOS), every], 1)
        source = TokenBatch(torch.tensor([[BOS, 3, EOS]]).repeat(64, 1), torch.arange(64))
        tags = torch.tensor([[2, 0]]).repeat(64, 1)
        batch = InflectionBatch(tokens, torch.arange(64), source=source, tags_BK=tags)
        result = nll(decoder, batch, draws(1, 2, 3).expand(64, -1, -1))
        assert (-result).exp().sum(0).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)

    @pytest.mark.parametrize("name", ["plain", "skip concat", "skip add"])
    def test_no_step_depends_on_its_target_and_every_step_depends_on_z(self, name):
        decoder, _ = built(options=OPTIONS[name])
        batch = batch_of(([4, 5], [0, 2], [4, 5, 6, 7, 8]))
        embedded = decoder.reader.embedding(batch.history.tokens_BT.T).detach().requires_grad_()
        decoder.reader.forward = lambda history, stream: embedded
        z = draws(1, 1, 3).requires_grad_()
        logits = decoder.output(decoder.features(batch.history, z))[:, 0]
        for step in range(len(logits)):
            by_word, by_z = torch.autograd.grad(logits[step].square().sum(), [embedded, z], retain_graph=True)
            by_word = by_word[:, 0].abs().sum(1)
            assert (by_word[: step + 1] > 0).all()
            assert (by_word[step + 1 :] == 0).all()
            assert (by_z != 0).all()
            for logit in logits[step]:
                assert (torch.autograd.grad(logit, z, retain_graph=True)[0] != 0).any()

    def test_order_and_padding_of_features_have_no_effect(self):
        decoder, _ = built()
        z = draws(1, 2, 3)
        original = batch_of(([4], [0, 2, 3], [5, 6]))
        expected = nll(decoder, original, z)
        for tags in ([3, 0, 2], [2, ABSENT, 3, 0, ABSENT]):
            other = batch_of(([4], tags, [5, 6]))
            assert torch.allclose(nll(decoder, other, z), expected, rtol=0, atol=1e-12)
        assert not torch.allclose(nll(decoder, batch_of(([4], [0, 2], [5, 6])), z), expected)

    def test_it_depends_on_the_source_only_if_its_initial_state_comes_from_the_encoder(self):
        z = draws(1, 1, 3)
        for start in ("z", "encoder"):
            decoder, _ = built(start=start)
            one, other = (nll(decoder, batch_of((source, [0], [5])), z) for source in ([4, 5], [8, 8, 8]))
            assert torch.equal(one, other) == (start == "z")

    @pytest.mark.parametrize("name", OPTIONS)
    @pytest.mark.parametrize("start", ["z", "encoder"])
    def test_steps_equal_the_whole_sequence(self, name, start):
        decoder, _ = built(options=OPTIONS[name], start=start)
        z = draws(4, 2, 3)
        whole = decoder.output(decoder.features(BATCH.history, z))
        context = BATCH.history.select(torch.arange(4).repeat_interleave(2))
        state, chosen = decoder.begin(z.flatten(0, 1), context), torch.arange(8)
        for step in range(BATCH.history.tokens_BT.shape[1]):
            if step == 2:  # select as beam search does
                chosen = torch.tensor([5, 0, 5, 7])
                state = state.select(chosen)
            logits, state = decoder.step(state, context.tokens_BT[chosen, step])
            assert torch.allclose(logits, whole[step][chosen], rtol=0, atol=1e-12)

    def test_blank_characters_have_no_effect(self):
        decoder, _ = built()
        z = draws(4, 1, 3)
        tokens = BATCH.history.tokens_BT
        blank = torch.zeros_like(tokens, dtype=torch.bool)
        blank[:, 1] = True
        rest = {"tags_BK": BATCH.tags_BK, "source": BATCH.source}
        kind = type(BATCH.history)
        changed = tokens.clone()
        changed[:, 1] = 8
        results = [decoder(kind(history, blank, **rest), BATCH.targets, z) for history in (tokens, changed)]
        assert torch.equal(*results)
        assert not torch.allclose(results[0], nll(decoder, BATCH, z))

    def test_without_a_past_characters_are_independent_given_z(self):
        decoder, _ = built(options=OPTIONS["no past"])
        assert decoder.reader.embedding.num_embeddings == 1
        z = draws(1, 1, 3)
        one, other = (nll(decoder, batch_of(([4], [0], target)), z) for target in ([5, 6], [6, 6]))
        three, four = (nll(decoder, batch_of(([4], [0], target)), z) for target in ([5, 7], [6, 7]))
        assert torch.allclose(one - other, three - four, rtol=0, atol=1e-12)


class TestDropout:
    def test_dropout_acts_in_train_mode_only(self):
        options = DecoderOptions(UnitDropout(0.5))
        decoder, _ = built(options=options, dropout_out=0.5)
        z = draws(4, 1, 3)
        in_eval_mode = nll(decoder, BATCH, z)
        plain, _ = built()
        assert torch.equal(in_eval_mode, nll(plain, BATCH, z))
        decoder.train()
        assert not torch.equal(nll(decoder, BATCH, z), nll(decoder, BATCH, z))


class TestPredictionsAsPast:
    def test_it_reads_its_predictions_in_training_and_the_truth_in_evaluation(self):
        self_fed, _ = built(feed="self")
        teacher, _ = built()
        z = draws(4, 1, 3)
        assert torch.equal(nll(self_fed, BATCH, z), nll(teacher, BATCH, z))
        self_fed.train()
        features = self_fed.features(BATCH.history, z)
        predicted = self_fed.output(features).argmax(2).T
        tokens = torch.cat([torch.full((4, 1), BOS), predicted[:, :-1]], 1)
        history = type(BATCH.history)(tokens, tags_BK=BATCH.tags_BK, source=BATCH.source)
        assert torch.allclose(features, teacher.features(history, z), rtol=0, atol=1e-12)

    def test_dropped_characters_stay_dropped(self):
        self_fed, _ = built(feed="self")
        self_fed.train()
        teacher, _ = built()
        tokens = torch.full_like(BATCH.history.tokens_BT, UNK)
        history = type(BATCH.history)(tokens, tags_BK=BATCH.tags_BK, source=BATCH.source)
        z = draws(4, 1, 3)
        assert torch.allclose(self_fed.features(history, z), teacher.features(history, z), rtol=0, atol=1e-12)


def test_gradients_equal_finite_differences():
    decoder, encoder = built()
    z = draws(4, 2, 3).requires_grad_()
    with twice_differentiable():
        assert torch.autograd.gradcheck(lambda z: nll(decoder, BATCH, z), (z,))
    total = nll(decoder, BATCH, z).sum() + encoder(BATCH).mean_BZ.sum()
    total.backward()
    for module in (decoder, encoder.embedding, encoder.gru):
        assert all(parameter.grad is not None for parameter in module.parameters())
    assert (decoder.reader.embedding.weight.grad[0] == 0).all()  # the output never depends on padding


def test_the_encoder_gets_gradients_through_the_initial_state_and_is_registered_once():
    trial = inflections.trial_of(inflections.tiny(start="encoder"))
    names = [name for name, _ in trial.model.named_parameters()]
    assert not [name for name in names if name.startswith("decoder") and "gru" in name]
    batch = trial.train_batches[0]
    z = torch.zeros(batch.size, 1, 3)
    trial.model.reconstruct(batch, batch.history, z).sum().backward()
    assert trial.model.encoder.gru.weight_hh_l0.grad.abs().sum() > 0
