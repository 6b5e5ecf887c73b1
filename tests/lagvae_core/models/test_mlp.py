"""The fully connected model: shapes, options, units of the likelihood, and likelihoods that do not fit the data."""

import math

import numpy as np
import pytest
import torch
from helpers import rejects, run, tiny_vectors, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import VectorBatch, VectorDataset, VectorDomain
from lagvae_core.errors import DataError
from lagvae_core.models.decoder import DecoderOptions, Skip
from lagvae_core.models.likelihoods import LIKELIHOODS
from lagvae_core.models.mlp import ACTIVATIONS, MlpModel
from lagvae_core.training.trial import Trial

DOMAIN = VectorDomain(6, "binary")
X = torch.randint(0, 2, (5, 6), generator=torch.Generator().manual_seed(0)).float()
BATCH = VectorBatch(X, torch.arange(5))


def built(skip=None, domain=DOMAIN, **fields):
    torch.manual_seed(0)
    config = MlpModel(latent_dim=2, **{"layers": 2, "width": 7} | fields)
    stream = torch.Generator()
    return config.encoder(domain, None), config.decoder(domain, stream, DecoderOptions(skip=skip))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_every_likelihood_has_one_value_per_sample(likelihood, layers):
    encoder, decoder = built(likelihood=likelihood, layers=layers)
    q = encoder(BATCH)
    assert q.mean_BZ.shape == q.logvar_BZ.shape == (5, 2)
    rec = decoder(None, X, torch.randn(5, 3, 2))
    assert rec.shape == (5, 3)
    assert bool(torch.isfinite(rec).all())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_samples_and_examples_are_independent_in_evaluation(activation, norm):
    encoder, decoder = built(activation=activation, norm=norm)
    encoder.eval(), decoder.eval()
    z = torch.randn(5, 3, 2)
    together = decoder(None, X, z)
    apart = torch.stack([decoder(None, X, z[:, k : k + 1])[:, 0] for k in range(3)], 1)
    torch.testing.assert_close(together, apart)
    one = VectorBatch(X[:1], torch.arange(1))
    torch.testing.assert_close(encoder(one).mean_BZ, encoder(BATCH).mean_BZ[:1])


def test_batch_normalisation_accepts_a_batch_of_one_example():
    encoder, decoder = built(norm="batch")
    before = {name: value.clone() for name, value in encoder.state_dict().items() if "running" in name}
    assert bool(torch.isfinite(encoder(VectorBatch(X[:1], torch.arange(1))).mean_BZ).all())
    assert bool(torch.isfinite(decoder(None, X[:1], torch.randn(1, 1, 2))).all())
    assert before
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("kind", ["concat", "add"])
def test_skip_connections_reach_the_layers_after_the_first(kind, everywhere):
    _, decoder = built(Skip(kind, everywhere))
    with torch.no_grad():
        decoder.layers[0][0].weight.zero_()  # cuts the plain path of z
        if everywhere:  # and the skip to the output
            if kind == "concat":
                decoder.output.weight[:, -2:].zero_()
            else:
                decoder.skips["2"].weight.zero_()
    z = torch.randn(5, 1, 2, requires_grad=True)
    decoder(None, X, z).sum().backward()
    assert float(z.grad.abs().min()) > 0
    _, plain = built()
    with torch.no_grad():
        plain.layers[0][0].weight.zero_()
    z.grad = None
    plain(None, X, z).sum().backward()
    assert float(z.grad.abs().max()) == 0


def test_the_linear_model_is_linear():
    encoder, decoder = built(layers=0, domain=VectorDomain(6))
    assert {name for name, _ in encoder.named_parameters()} == {"to_latent.weight", "to_latent.bias"}
    one, other, middle = (
        decoder.outputs(z[None, None]) for z in (torch.zeros(2), torch.ones(2), torch.full((2,), 0.5))
    )
    torch.testing.assert_close(middle, (one + other) / 2)


def test_encoders_of_counts_read_logarithms():
    encoder, _ = built(likelihood="poisson")
    torch.testing.assert_close(encoder.inputs(BATCH), X.log1p())
    encoder, _ = built(likelihood="gaussian")
    assert torch.equal(encoder.inputs(BATCH), X)


@pytest.mark.parametrize("standardise", ["features", "shared"])
def test_likelihoods_are_those_of_the_original_values(standardise):
    """The standardised model is the plain model after a change of variables, so both have the same density."""
    x = np.random.default_rng(0).normal(2.0, [1.0, 4.0, 0.3], (50, 3))
    plain, data = (
        VectorDataset.of(dict.fromkeys(("train", "valid", "test"), x), standardise=s) for s in ("none", standardise)
    )
    model = MlpModel(latent_dim=2, layers=0, likelihood="gaussian", sigma=0.5)
    decoder = model.decoder(data.domain, torch.Generator(), DecoderOptions()).double()
    z = torch.randn(50, 1, 2, dtype=torch.float64)
    seen = torch.from_numpy(data.train.x_NX).double()
    rec = decoder(None, seen, z)
    scale = torch.from_numpy(data.scale_X)
    mean = decoder.outputs(z) * scale + torch.from_numpy(data.mean_X)
    original = torch.distributions.Normal(mean, 0.5 * scale).log_prob(
        torch.from_numpy(plain.train.x_NX).double()[:, None]
    )
    torch.testing.assert_close(rec, -original.sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        {"likelihood": "bernoulli", "sigma": 0.5},
        {"likelihood": "poisson", "sigma_mode": "learned"},
        {"likelihood": "gaussian", "degrees": 3},
        {"likelihood": "multinomial", "totals": "observed"},
        {"likelihood": "student_t", "sigma_mode": "optimal"},
    ],
)
def test_options_without_effect_are_refused(model):
    with rejects("model"):
        parse_trial({"data": {"kind": "linear_gaussian"}, "model": model})


@pytest.mark.parametrize(
    ("values", "likelihood", "fits"),
    [
        (np.eye(4), "bernoulli", True),
        (np.eye(4) * 3, "bernoulli", False),
        (np.eye(4) * 3, "multinomial", True),
        (np.eye(4) * 0.5, "poisson", False),
        (np.eye(4) * 0.5, "student_t", True),
    ],
)
def test_a_likelihood_that_does_not_fit_the_values_is_refused(values, likelihood, fits):
    data = VectorDataset.of(dict.fromkeys(("train", "valid", "test"), values))
    config = tiny_vectors(model={"likelihood": likelihood})
    if fits:
        Trial(config, data, torch.device("cpu"))
        return
    with pytest.raises(DataError) as caught:
        Trial(config, data, torch.device("cpu"))
    assert [(issue.where, issue.value) for issue in caught.value.issues] == [("model.likelihood", likelihood)]


def test_counts_are_refused_once_they_are_standardised():
    data = VectorDataset.of(dict.fromkeys(("train", "valid", "test"), np.eye(4) * 3), standardise="shared")
    with pytest.raises(DataError, match="standardise=none"):
        Trial(tiny_vectors(model={"likelihood": "poisson"}), data, torch.device("cpu"))


def test_the_columns_of_vectors():
    metrics = run(tiny_vectors(model={"sigma": 0.5}, evaluation={"limit": None, "iw_samples": 50})).metrics
    assert metrics["sigma"] == pytest.approx(0.5)
    assert metrics["nats_per_feature"] == pytest.approx(metrics["nll_iw"] / 6)
    assert metrics["tokens"] is metrics["ppl"] is metrics["bits_per_dim"] is None
    assert 0 < metrics["rmse"] < math.inf


def test_swapping_a_used_z_increases_the_error():
    trained = run(tiny_vectors("ppca", evaluation={"limit": None})).metrics
    assert trained["rmse_swapped"] > 1.2 * trained["rmse"]


def test_a_small_loss_does_not_count_as_divergence():
    trial = trial_of(tiny_vectors())
    assert trial.divergence.loss_floor == 6
