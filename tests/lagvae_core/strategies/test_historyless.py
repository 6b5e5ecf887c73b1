import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import run, tiny, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import BOS, UNK, History, TextDomain
from lagvae_core.errors import ConfigError
from lagvae_core.models.lstm import LstmModel
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.strategies.historyless import Historyless

VOCABULARY = 6
MODEL = LstmModel(latent_dim=2, hidden=7, embedding=5, init_range=0.8, init_embedding=1.0)

each_variant = pytest.mark.parametrize("variant", ["unk", "notoken"])


def decoder(variant=None, vocabulary=VOCABULARY, setting=MODEL):
    stack = () if variant is None else (Historyless(variant=variant),)
    components = assemble(stack, BuildContext(2, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return components.decoder(
            setting, TextDomain(vocabulary), torch.Generator(), components.options(setting)
        ).double()


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(*shape, seed=0, vocabulary=VOCABULARY):
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("training", [True, False])
@each_variant
def test_no_step_depends_on_any_word_in_training_or_evaluation(variant, training):
    model, z, found = decoder(variant).train(training), draws(3, 2, 2), []
    for seed in range(3):
        model._stream.manual_seed(0)
        found.append(model.features(History(tokens(3, 5, seed=seed)), z))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    plain = decoder().train(training)
    seen = []
    for seed in range(2):
        plain._stream.manual_seed(0)
        seen.append(plain.features(History(tokens(3, 5, seed=seed)), z))
    assert not torch.equal(*seen)


@each_variant
def test_the_steps_differ_and_z_reaches_each(variant):
    model, z = decoder(variant).eval(), draws(1, 1, 2).requires_grad_()
    features = model.features(History(tokens(1, 5)), z)
    for one, other in itertools.combinations(features[:, 0], 2):
        assert not torch.allclose(one, other)
    for step in range(5):
        (gradient,) = torch.autograd.grad(features[step, 0] @ draws(7), z, retain_graph=True)
        assert bool((gradient != 0).all())


def test_unk_is_the_plain_decoder_with_every_word_dropped():
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
def test_the_sentences_of_one_length_sum_to_one_and_their_words_are_independent(variant):
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
def test_the_model_that_is_measured_is_the_one_that_was_trained(variant):
    trial = trial_of(tiny({"kind": "historyless", "variant": variant}))
    trial.model.eval()
    batch = trial.valid_batches[0]
    z = torch.zeros(batch.size, 1, 2)
    shuffled = History(batch.history.tokens_BT.flip(0, 1))
    seen = trial.model.reconstruct(batch, batch.history, z)
    assert torch.equal(trial.model.reconstruct(batch, shuffled, z), seen)
    assert run(trial.config).status == "finished"


# --- refusals --------------------------------------------------------------------------------------------------------


def context(*others, data_kind="text"):
    return replace(parse_trial({}).context, strategies=(Historyless(), *others), data_kind=data_kind)


@pytest.mark.parametrize("kind", ["word_dropout", "contiguous_dropout"])
def test_a_corruption_of_the_words_is_subsumed(kind):
    corruption = SimpleNamespace(kind=kind, slots=frozenset({"corrupt"}))
    (incompatibility,) = Historyless().incompatibilities(context(corruption))
    assert incompatibility.code == "E09"
    assert incompatibility.message.startswith(f"historyless leaves no word of the past that {kind} could drop")
    assert incompatibility.message.endswith("remove one of the two")


def test_dropped_units_are_no_corruption_of_words():
    units = SimpleNamespace(kind="embedding_dropout", slots=frozenset({"input_dropout"}))
    assert list(Historyless().incompatibilities(context(units))) == []


def test_a_receptive_field_without_a_past_is_refused():
    for stack in (["historyless", "cnn_decoder"], ["cnn_decoder", "historyless"]):
        with pytest.raises(ConfigError, match=r"\(E09\).*historyless takes away the past.*cnn_decoder.dilations"):
            parse_trial({"strategies": stack})


def test_it_is_about_words():
    (incompatibility,) = Historyless().incompatibilities(context(data_kind="images"))
    assert incompatibility.code == "E09"
    assert "historyless is about the words of a text" in incompatibility.message


def test_the_language_model_may_be_without_a_past_too():
    """Then it knows the place of a word and nothing else."""
    record = run(tiny("historyless", "lstm_lm"))
    assert record.status == "finished"
    assert record.metrics["nll_iw"] == pytest.approx(record.metrics["rec"], abs=1e-6)


@each_variant
def test_dropout_falls_on_what_stands_in_the_place_of_words(variant):
    model = decoder(variant, setting=MODEL.model_copy(update={"dropout_out": 0.0})).train()
    words, z = tokens(3, 5), draws(3, 1, 2)
    assert not torch.equal(*(model(History(words), words, z) for _ in range(2)))
