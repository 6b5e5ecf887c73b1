"""Probabilistic PCA: exact likelihood, exact posterior, active units, and the linear VAE that is trained to it."""

import math

import numpy as np
import pytest
import torch
from helpers import dataset_of, rejects, run, tiny_vectors, trial_of

from lagvae_core.data import VectorDataset
from lagvae_core.strategies.ppca import PrincipalComponents
from lagvae_core.training.trial import Trial

DATA = {
    "kind": "linear_gaussian",
    "examples": 500,
    "heldout": 200,
    "features": 5,
    "eigenvalues": [4.0, 2.0, 1.0],
    "noise": 0.2,
}
MEASURED = {"limit": None, "iw_samples": 50}


def config(*strategies, **model):
    fields = {"latent_dim": 3, "layers": 0, **model}
    return tiny_vectors(*strategies, data=DATA, model=fields, training={"epochs": 1}, evaluation=MEASURED)


def spectrum():
    x = dataset_of(config().data).train.x_NX.astype(np.float64)
    return np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]


def exact_nll(trial):
    """-log p(x) of the test split under the marginal of the trial's decoder, mean over examples."""
    decoder = trial.model.decoder
    weight, mean = decoder.output.weight.detach().double(), decoder.output.bias.detach().double()
    covariance = weight @ weight.T + decoder.likelihood.sigma() ** 2 * torch.eye(len(mean), dtype=torch.float64)
    x = torch.from_numpy(trial.dataset.test.x_NX).double()
    return -float(torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).mean())


@pytest.mark.parametrize("sigma_mode", ["learned", "fixed"])
def test_the_bounds_equal_the_exact_likelihood(sigma_mode):
    trial = trial_of(config("ppca", sigma_mode=sigma_mode))
    trial.fit()
    metrics = trial.measure(lambda place: None)
    assert metrics["nll_iw"] == pytest.approx(exact_nll(trial), abs=1e-4)  # the proposal is the posterior
    assert metrics["iw_ess"] == pytest.approx(50, rel=1e-3)
    assert metrics["nll_elbo"] == pytest.approx(metrics["nll_iw"], abs=0.5)
    x = trial.dataset.train.x_NX
    error = trial.model.infer(trial.dataset.test.batches(200)[0]).q
    posterior = PrincipalComponents.of(trial.config.model, trial.train_batches)
    precision = torch.eye(3, dtype=torch.float64) + posterior.weight_XZ.T @ posterior.weight_XZ / posterior.variance
    exact = torch.from_numpy(trial.dataset.test.x_NX).double() - torch.from_numpy(x).double().mean(0)
    mean = exact @ posterior.weight_XZ @ torch.linalg.inv(precision) / posterior.variance
    torch.testing.assert_close(error.mean_BZ.double(), mean, rtol=1e-4, atol=1e-4)
    variance = torch.linalg.inv(precision)
    torch.testing.assert_close(
        torch.diag(variance).expand(200, 3), error.logvar_BZ.double().exp(), rtol=1e-4, atol=1e-4
    )
    assert float((variance - torch.diag(torch.diag(variance))).abs().max()) < 1e-8


def test_the_variance_of_maximum_likelihood_is_the_mean_of_the_remaining_eigenvalues():
    metrics = run(config("ppca", sigma_mode="learned")).metrics
    assert metrics["sigma"] ** 2 == pytest.approx(spectrum()[3:].mean(), rel=1e-5)
    best = metrics["nll_iw"]
    for factor in (0.7, 1.4):  # on 500 training examples the optimum of train is close to that of test
        assert run(config("ppca", sigma=factor * metrics["sigma"])).metrics["nll_iw"] > best


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.1, 1.7, 3.0])
def test_the_active_units_are_the_eigenvalues_above_the_variance(sigma):
    metrics = run(config("ppca", sigma=sigma, latent_dim=4)).metrics
    assert metrics["au"] == (spectrum()[:4] > sigma**2).sum()
    assert (metrics["kl"] < 1e-6) == (metrics["au"] == 0)


def test_nothing_is_trained_and_the_seed_has_no_effect():
    one, other = (run(config("ppca").model_copy(update={"seed": seed})) for seed in (0, 1))
    assert one.cost["encoder_steps"] == one.cost["decoder_steps"] == 0
    # The order of the training examples changes the sums of the covariance in the last bits.
    assert one.metrics["nll_iw"] == pytest.approx(other.metrics["nll_iw"], abs=1e-5)


def test_more_dimensions_than_features_are_unused():
    metrics = run(config("ppca", sigma_mode="learned", latent_dim=8)).metrics
    assert metrics["au"] == 4  # one direction remains for the noise
    assert math.isfinite(metrics["nll_iw"])


def test_data_without_noise_have_a_finite_likelihood():
    z = np.random.default_rng(0).normal(size=(100, 1))
    data = VectorDataset.of(dict.fromkeys(("train", "valid", "test"), z @ np.ones((1, 4))))
    trial = Trial(config("ppca", sigma_mode="learned"), data, torch.device("cpu"))
    trial.fit()
    metrics = trial.measure(lambda place: None)
    assert metrics["sigma"] == pytest.approx(math.exp(-6.0), rel=1e-3)
    assert math.isfinite(metrics["nll_iw"])


@pytest.mark.parametrize("sigma", [0.8, 1.2, 1.6, 2.4])
def test_the_trained_linear_vae_agrees(sigma):
    """Lucas et al. 2019: the linear VAE has the optimum of probabilistic PCA, and collapses at the same variance."""
    training = config().training.model_copy(update={"batch_size": 500})
    trial = trial_of(config(sigma=sigma).model_copy(update={"training": training}))
    (batch,) = trial.train_batches
    trial.model.train()
    for rate in (0.03, 0.003):
        trial.learner.learning_rate = rate
        trial.learner.reset_optimisers()
        for _ in range(400):
            trial.train_batch(batch)
    trial.model.eval()
    exact = trial_of(config("ppca", sigma=sigma))
    scales = torch.linalg.svdvals(trial.model.decoder.output.weight.detach())
    expected = np.sqrt((spectrum()[:3] - sigma**2).clip(min=0))
    np.testing.assert_allclose(scales, expected, atol=0.08)
    assert exact_nll(trial) == pytest.approx(exact_nll(exact), abs=0.02)
    means = trial.model.infer(batch).q.mean_BZ.detach()
    active = int((means.var(0) >= 0.01).sum())
    assert active == (spectrum()[:3] > sigma**2).sum()


def test_it_is_refused_with_others_and_for_other_likelihoods():
    with rejects("strategies") as issues:
        config("ppca", "beta_vae")
    assert issues[0].code == "E18"
    with rejects("strategies") as issues:
        config("ppca", likelihood="student_t")
    assert issues[0].code == "E09"
