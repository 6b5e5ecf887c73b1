import itertools
from dataclasses import replace

import pytest
import torch
from helpers import rejects, run, tiny, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import BOS, UNK, History, TextDomain
from lagvae_core.models.lstm import LstmModel
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.strategies.historyless import Historyless

VOCABULARY = 6
MODEL = LstmModel(latent_dim=2, hidden=7, embedding=5, init_range=0.8, init_embedding=1.0)

each_variant = pytest.mark.parametrize("variant", ["unk", "notoken"])


def decoder(variant=None, vocabulary=VOCABULARY, config=MODEL):
    stack = () if variant is None else (Historyless(variant=variant),)
    components = assemble(stack, BuildContext(2, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return components.decoder(
            config, TextDomain(vocabulary), torch.Generator(), components.options(config)
        ).double()


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(*shape, seed=0, vocabulary=VOCABULARY):
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("training", [True, False])
@each_variant
def test_no_step_depends_on_any_word_in_training_or_evaluation(variant, training):
    model, z, features = decoder(variant).train(training), draws(3, 2, 2), []
    for seed in range(3):
        model._stream.manual_seed(0)
        features.append(model.features(History(tokens(3, 5, seed=seed)), z))
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    plain = decoder().train(training)
    of_plain = []
    for seed in range(2):
        plain._stream.manual_seed(0)
        of_plain.append(plain.features(History(tokens(3, 5, seed=seed)), z))
    assert not torch.equal(*of_plain)


@each_variant
def test_the_steps_differ_and_z_reaches_each(variant):
    model, z = decoder(variant).eval(), draws(1, 1, 2).requires_grad_()
    features = model.features(History(tokens(1, 5)), z)
    for one, other in itertools.combinations(features[:, 0], 2):
        assert not torch.allclose(one, other)
    for step in range(5):
        (gradient,) = torch.autograd.grad(features[step, 0] @ draws(7), z, retain_graph=True)
        assert bool((gradient != 0).all())


def test_unk_equals_the_plain_decoder_with_every_word_dropped():
    """Word dropout at rate 1, the first token included, in train mode and with the same weights."""
    model, plain = decoder("unk").train(), decoder().train()
    assert all(torch.equal(plain.get_parameter(name), value) for name, value in model.named_parameters())
    words, z = tokens(3, 5), draws(3, 2, 2)
    dropped = plain(History(torch.full_like(words, UNK)), words, z)
    assert torch.equal(model(History(words), words, z), dropped)
    dropped.sum().backward()
    gradient = plain.reader.embedding.weight.grad.abs().sum(1)
    assert gradient.nonzero().flatten().tolist() == [UNK]


def test_notoken_reads_one_learned_vector_and_has_no_embeddings():
    model, plain = decoder("notoken").train(), decoder()
    assert model.reader.embedding.weight.shape == (1, 5)
    count, of_plain = (sum(p.numel() for p in m.parameters()) for m in (model, plain))
    assert of_plain - count == (VOCABULARY - 1) * 5
    words = tokens(3, 5)
    model(History(words), words, draws(3, 1, 2)).sum().backward()
    assert bool((model.reader.embedding.weight.grad != 0).any())


@each_variant
def test_probabilities_of_one_length_sum_to_one_and_words_are_independent(variant):
    model, z = decoder(variant, vocabulary=4).eval(), draws(1, 3, 2)
    every = torch.tensor(list(itertools.product(range(4), repeat=2)))
    history = History(torch.cat([torch.full((16, 1), BOS), every[:, :1]], 1))
    with torch.no_grad():
        joint = (-model(history, every, z.expand(16, -1, -1))).exp().view(4, 4, 3)
    torch.testing.assert_close(joint.sum((0, 1)), torch.ones(3).double(), rtol=0, atol=1e-12)
    product = joint.sum(1)[:, None] * joint.sum(0)[None]
    torch.testing.assert_close(joint, product, rtol=0, atol=1e-12)
    assert float(joint.std()) > 1e-3
    with torch.no_grad():
        plain = (-decoder(vocabulary=4).eval()(history, every, z.expand(16, -1, -1))).exp().view(4, 4, 3)
    assert not torch.allclose(plain, plain.sum(1)[:, None] * plain.sum(0)[None], atol=1e-3)


@each_variant
def test_evaluation_measures_the_trained_model(variant):
    trial = trial_of(tiny({"kind": "historyless", "variant": variant}))
    trial.model.eval()
    batch = trial.validation.batches[0]
    z = torch.zeros(batch.size, 1, 2)
    shuffled = History(batch.history.tokens_BT.flip(0, 1))
    rec_BS = trial.model.reconstruct(batch, batch.history, z)
    assert torch.equal(trial.model.reconstruct(batch, shuffled, z), rec_BS)
    assert run(trial.config).status == "finished"


# --- incompatibilities -----------------------------------------------------------------------------------------------


def context(*others, data_kind="text"):
    return replace(parse_trial({}).context, strategies=(Historyless(), *others), data_kind=data_kind)


@pytest.mark.parametrize("kind", [kind for kind, strategy in CATALOGUE.items() if "corrupt" in strategy.slots])
def test_strategies_that_drop_words_are_rejected(kind):
    for stack in (["historyless", kind], [kind, "historyless"]):
        with rejects("strategies") as issues:
            parse_trial({"strategies": stack})
        assert issues[0].code == "E09"


def test_dropped_embeddings_are_allowed():
    parse_trial({"strategies": ["historyless", "embedding_dropout"]})


def test_a_decoder_with_a_receptive_field_is_rejected():
    for stack in (["historyless", "cnn_decoder"], ["cnn_decoder", "historyless"]):
        with rejects("strategies") as issues:
            parse_trial({"strategies": stack})
        assert issues[0].code == "E09"
        assert "receptive field" in str(issues[0])


def test_it_is_rejected_on_images():
    (incompatibility,) = Historyless().incompatibilities(context(data_kind="images"))
    assert incompatibility.code == "E09"
    assert "historyless" in incompatibility.message


def test_it_stacks_with_the_language_model():
    """Then the decoder reads nothing but the position of a word."""
    record = run(tiny("historyless", "lstm_lm"))
    assert record.status == "finished"
    assert record.metrics["nll_iw"] == pytest.approx(record.metrics["rec"], abs=1e-6)


@each_variant
def test_dropout_applies_to_the_input_that_replaces_the_words(variant):
    model = decoder(variant, config=MODEL.model_copy(update={"dropout_out": 0.0})).train()
    words, z = tokens(3, 5), draws(3, 1, 2)
    assert not torch.equal(*(model(History(words), words, z) for _ in range(2)))
