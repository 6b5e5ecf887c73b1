"""Trained models from Python: encode, reconstruct, sample and log_likelihood agree with the evaluation of the trial."""

import json

import numpy as np
import pytest
import torch
from helpers import dataset_of, rejects, tiny, tiny_images, tiny_vectors

from lagvae_core import FittedModel, load_model, train_model
from lagvae_core.config.trial import parse_trial
from lagvae_core.data import ImageDataset, TokenDataset
from lagvae_core.errors import CheckpointError, DataError
from lagvae_core.training.callbacks import evaluation_mode
from lagvae_core.training.checkpoint import FileCheckpoint

IRIS = {"kind": "vectors", "path": "sklearn:iris", "standardise": "features"}
CONFIGS = {
    "text": tiny(evaluation={"limit": None}),
    "flow": tiny("iaf_posterior", evaluation={"limit": None}),
    "refined": tiny({"kind": "sa_vae", "refinement_steps": 2, "backward": "none"}, evaluation={"limit": None}),
    "images": tiny_images(evaluation={"limit": None}),
    "vectors": tiny_vectors(data=IRIS, evaluation={"limit": None}),
}


def test_examples(dataset):
    """Return the test split as a user has it."""
    if isinstance(dataset, TokenDataset):
        rows = np.split(dataset.test.tokens, dataset.test.offsets[1:-1])
        return [dataset.vocabulary.decode(row.tolist()) for row in rows]
    if isinstance(dataset, ImageDataset):
        bits = np.unpackbits(dataset.test.bits, axis=1, count=36).reshape(-1, 6, 6)
        return bits.astype(bool)  # the binarised images that are measured
    return dataset.test.x_NX * dataset.scale_X + dataset.mean_X


test_examples.__test__ = False


@pytest.fixture(scope="module", params=CONFIGS)
def fitted(request):
    config = CONFIGS[request.param]
    dataset = dataset_of(config.data)
    record, model = train_model(config, dataset=dataset)
    return record, model, test_examples(dataset)


def test_the_mean_log_likelihood_is_the_nll_of_the_table(fitted):
    record, model, examples = fitted
    evaluation = record.config.evaluation
    found = model.log_likelihood(examples, samples=evaluation.iw_samples, seed=evaluation.seed)
    assert found.shape == (len(examples),)
    assert -found.mean() == pytest.approx(record.metrics["nll_iw"], rel=1e-5)


def test_encode_returns_the_posterior_of_the_evaluation(fitted):
    record, model, examples = fitted
    mean, std = model.encode(examples)
    assert mean.shape == std.shape == (len(examples), record.config.model.latent_dim)
    encoded = model.trained.encoded
    np.testing.assert_allclose(mean, encoded.mean_NZ.numpy(), atol=1e-4)
    assert (std > 0).all()
    if record.config.strategies == ():
        np.testing.assert_allclose(std, (0.5 * encoded.q.logvar_BZ).exp().numpy(), rtol=1e-4)


def test_reconstructions_and_samples_have_the_form_of_the_data(fitted):
    _, model, examples = fitted
    for found, count in ((model.reconstruct(examples), len(examples)), (model.sample(3), 3)):
        assert len(found) == count
        if isinstance(examples, list):
            assert all(isinstance(text, str) for text in found)
        else:
            assert found.shape[1:] == examples.shape[1:]
            assert np.isfinite(found).all()
    again, other = model.sample(3), model.sample(3, seed=1)
    assert np.array_equal(model.sample(3), again)
    assert not np.array_equal(again, other)


def test_vectors_are_in_the_units_of_the_data():
    config = tiny_vectors("ppca", data=IRIS, model={"layers": 0, "sigma_mode": "learned"})
    dataset = dataset_of(config.data)
    _, model = train_model(config, dataset=dataset)
    examples = test_examples(dataset)
    error = np.abs(model.reconstruct(examples) - examples).mean()
    assert error < 0.3 * np.abs(examples - examples.mean(0)).mean()
    np.testing.assert_allclose(model.sample(500).mean(0), dataset.mean_X, rtol=0.1)


def test_a_stored_model_is_the_trained_one(tmp_path):
    config = CONFIGS["text"]
    file = FileCheckpoint(tmp_path / "model.pt")
    dataset = dataset_of(config.data)
    _, model = train_model(config, dataset=dataset)
    from lagvae_core import train

    train(config, dataset=dataset, model_store=file)
    loaded = load_model(tmp_path / "model.pt", dataset=dataset)
    examples = test_examples(dataset)
    assert np.array_equal(loaded.encode(examples)[0], model.encode(examples)[0])
    assert json.loads(json.dumps(repr(loaded))).startswith("FittedModel(lstm")
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "no.pt")


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("text", []),
        ("text", ["", 3]),
        ("images", np.zeros((2, 5, 6), bool)),
        ("images", np.full((2, 6, 6), 2.0)),
        ("vectors", np.zeros((2, 3))),
        ("vectors", np.full((2, 4), np.nan)),
    ],
)
def test_invalid_examples_are_refused(name, examples):
    with pytest.raises(DataError) as caught:
        dataset_of(CONFIGS[name].data).encode_examples(examples)
    assert all(issue.where.startswith("examples") for issue in caught.value.issues)


def test_reinflection_is_refused():
    data = parse_trial({"data": {"kind": "reinflection", "path": "nowhere", "language": "french"}}).data
    with rejects("data.kind", error=DataError):
        data.from_memory(["a"])


def test_a_callback_sees_the_terms_of_each_step_and_can_sample():
    seen = []

    def callback(state):
        if state.event == "step":
            seen.append(state.terms)
        if state.event == "epoch":
            with evaluation_mode(state.model):
                assert len(FittedModel.of(state).sample(2)) == 2

    config = CONFIGS["text"]
    dataset = dataset_of(config.data)
    record, _ = train_model(config, dataset=dataset, callback=callback)
    assert len(seen) == record.cost["decoder_steps"]
    assert all(terms.encoder_norm > 0 and terms.decoder_norm > 0 for terms in seen)
    assert all(terms.total == pytest.approx(terms.rec + terms.kl, rel=1e-4) for terms in seen)
    plain, _ = train_model(config, dataset=dataset)
    assert plain.metrics == record.metrics
    assert torch.is_grad_enabled()
