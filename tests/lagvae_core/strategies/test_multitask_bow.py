import math

import pytest
import torch
from helpers import assert_equals_plain_vae, dataset_of, rejects, run, tiny, trial_of

from lagvae_core.data import UNK
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.models.bag import word_counts
from lagvae_core.strategies.base import ConfigContext
from lagvae_core.strategies.multitask_bow import MultitaskBow

each_loss = pytest.mark.parametrize("loss", ["multinomial", "bernoulli"])


def bow(**fields):
    return {"kind": "multitask_bow", **fields}


def test_weight_0_without_bow_input_is_the_plain_vae():
    assert_equals_plain_vae(bow(weight=0, bow_input=False))


def test_weight_0_builds_no_head_and_its_column_is_null():
    trial = trial_of(tiny(bow(weight=0)))
    assert len(trial.model.auxiliaries) == 0
    assert trial.model.encoder.features is not None
    assert run(tiny(bow(weight=0))).metrics["bow_nll"] is None


@each_loss
def test_the_loss_includes_the_mean_loss_of_the_head_at_the_decoded_samples(loss):
    """Under scale_vae the decoder reads the scaled samples, not those of the posterior in the objective."""
    trial = trial_of(tiny("scale_vae", bow(weight=0.5, loss=loss)))
    trial.model.double().train()
    batch = trial.train_batches[0]
    state = trial.streams.state_dict()
    total = trial.learner.loss(batch, 0.5)
    trial.streams.load_state_dict(state)
    q = trial.model.infer(batch).q
    z = q.draw(trial.learner.noise(q)).z_BSZ
    (task,) = trial.model.auxiliaries
    of_head = getattr(task.head, loss)(batch, z).mean()
    base = (total.rec_B + 0.5 * total.kl_BZ.sum(1)).mean()
    torch.testing.assert_close(total.total, base + 0.5 * of_head, rtol=1e-12, atol=0)


def test_the_gradient_of_the_head_reaches_the_encoder_through_z_and_never_the_decoder():
    trial = trial_of(tiny(bow(bow_input=False)))
    trial.model.train()
    batch = trial.train_batches[0]
    q = trial.model.infer(batch).q
    (task,) = trial.model.auxiliaries
    task.nll(batch, q.draw(trial.learner.noise(q)).z_BSZ).mean().backward()
    for part, reached in ((trial.model.encoder, True), (task, True), (trial.model.decoder, False)):
        assert all((p.grad is not None and bool(p.grad.any())) == reached for p in part.parameters())


def test_the_head_is_trained_with_the_decoder_and_the_features_with_the_encoder():
    trial = trial_of(tiny("multitask_bow"))
    decoder = {id(parameter) for parameter in trial.model.decoder_parameters()}
    encoder = {id(parameter) for parameter in trial.model.encoder_parameters()}
    (task,) = trial.model.auxiliaries
    features = trial.model.encoder.features
    assert {id(p) for p in task.parameters()} <= decoder
    assert {id(p) for p in features.parameters()} <= encoder
    before = [p.detach().clone() for p in (*task.parameters(), features.bias)]
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    after = (*task.parameters(), features.bias)
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_encoder_reads_the_bag_in_addition_to_its_last_state():
    trial = trial_of(tiny("multitask_bow", model={"embedding": 7}))
    encoder, batch = trial.model.encoder, trial.train_batches[0]
    assert encoder.features.size == 7
    assert encoder.to_latent.in_features == 8 + 7
    read = encoder.read(encoder.embedding(batch.tokens_BL.T), encoder.features(batch))
    assert torch.equal(encoder(batch).mean_BZ, read.mean_BZ)
    none = torch.zeros(batch.size, 7)
    assert not torch.allclose(encoder.read(encoder.embedding(batch.tokens_BL.T), none).mean_BZ, read.mean_BZ)


def test_the_options_set_the_sizes_of_head_and_features():
    trial = trial_of(tiny(bow(bow_size=5, hidden=6)))
    (task,) = trial.model.auxiliaries
    vocabulary = trial.model.encoder.embedding.num_embeddings
    assert trial.model.encoder.features.weight.shape == (vocabulary, 5)
    assert [tuple(p.shape) for p in task.parameters()] == [(6, 2), (6,), (vocabulary - UNK, 6), (vocabulary - UNK,)]
    (default,) = trial_of(tiny("multitask_bow")).model.auxiliaries
    assert default.head.layers[0].out_features == 2


@each_loss
def test_bow_nll_is_the_mean_loss_at_the_encoded_sample(loss):
    config = tiny(bow(loss=loss), evaluation={"limit": None})
    trial = trial_of(config)
    data = dataset_of(config.data)
    split = data.test
    bow_nll = evaluate(trial.model, trial.components, data, split, config.evaluation, torch.device("cpu"))["bow_nll"]
    batches = split.batches(5)
    encoded = encode_split(trial.model, batches, config.evaluation.seed)
    (task,) = trial.model.auxiliaries
    total = 0.0
    with torch.no_grad():
        for batch in batches:
            z = encoded.z_NZ[batch.index_B].float()
            total += float(getattr(task.head, loss)(batch, z[:, None]).sum())
    assert bow_nll == pytest.approx(total / len(split), rel=1e-5)


def test_the_head_learns_the_words():
    """Its loss falls clearly below that of a uniform guess, and z carries more information than without it."""
    config = tiny(bow(weight=5.0), model={"latent_dim": 4}, training={"epochs": 30})
    record = run(config)
    test = dataset_of(config.data).test
    counts = torch.cat([word_counts(batch, 24) for batch in test.batches(32)])
    uniform = float(counts.sum(1).mean()) * math.log(20)
    assert record.metrics["bow_nll"] < uniform - 0.5
    assert record.metrics["mi"] > run(tiny(model={"latent_dim": 4}, training={"epochs": 30})).metrics["mi"] + 0.2


def test_the_features_start_as_a_linear_layer_if_a_strategy_initialises_the_encoder_again():
    features = trial_of(tiny("bn_vae", "multitask_bow", data={"vocabulary": 400})).model.encoder.features
    assert 0.9 / math.sqrt(len(features.weight)) < float(features.weight.detach().abs().max()) < 0.3


# --- incompatibilities and warnings ----------------------------------------------------------------------------------


def test_it_is_rejected_on_images():
    config = tiny("multitask_bow")
    context = ConfigContext(config.strategies, config.training, config.model, "images")
    (incompatibility,) = MultitaskBow().incompatibilities(context)
    assert incompatibility.code == "E09"
    assert "multitask_bow" in incompatibility.message


def test_bow_size_has_no_effect_without_bow_input():
    with rejects("strategies") as issues:
        tiny(bow(bow_input=False, bow_size=3))
    assert issues[0].code == "E18"
    assert "multitask_bow.bow_size" in str(issues[0])
    tiny(bow(bow_size=3))


@pytest.mark.parametrize("other", ["mae", "fisher", "info_mmd"])
def test_several_penalties_give_one_warning(other):
    assert tiny("multitask_bow").warnings() == ()
    for stack in (("multitask_bow", other), (other, "multitask_bow")):
        (warning,) = map(str, tiny(*stack).warnings())
        assert warning.startswith("W6: ")
        assert all(kind in warning for kind in stack)
