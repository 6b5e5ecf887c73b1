"""The generated Gaussian linear set: its spectrum, its truth, and what identifies it."""

import numpy as np
import pytest
from helpers import rejects

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import LinearGaussianData
from lagvae_core.data.vectors.linear import linear_model


def test_the_covariance_has_the_chosen_eigenvalues():
    config = LinearGaussianData(features=6, eigenvalues=(5.0, 2.0), noise=0.3)
    eigenvalues = np.linalg.eigvalsh(linear_model(config).covariance_XX)[::-1]
    np.testing.assert_allclose(eigenvalues, [5.0, 2.0, 0.3, 0.3, 0.3, 0.3])


def test_the_vectors_follow_the_model():
    config = LinearGaussianData(features=4, eigenvalues=(3.0, 1.0), noise=0.2, examples=20_000, heldout=10)
    data, model = config.load(), linear_model(config)
    x = data.train.x_NX.astype(np.float64)
    # standard errors of means and covariances are at most sqrt(2) * 3 / sqrt(20000) = 0.03
    np.testing.assert_allclose(x.mean(0), model.mean_X, atol=0.1)
    np.testing.assert_allclose(np.cov(x.T), model.covariance_XX, atol=0.15)
    noise = x - data.truth["train_z"] @ model.weight_XZ.T - model.mean_X
    assert noise.var() == pytest.approx(0.2, rel=0.05)


def test_a_vector_depends_on_its_position_alone():
    many, few = (LinearGaussianData(examples=n, heldout=5).load() for n in (50, 20))
    np.testing.assert_array_equal(many.train.x_NX[:20], few.train.x_NX)
    np.testing.assert_array_equal(many.test.x_NX, few.test.x_NX)


def test_equal_vectors_have_equal_fingerprints():
    limited, short = LinearGaussianData(examples=50, limit=20), LinearGaussianData(examples=20)
    assert limited.fingerprint() == short.fingerprint() == short.load().fingerprint
    np.testing.assert_array_equal(limited.load().train.x_NX, short.load().train.x_NX)
    for change in ({"noise": 0.2}, {"seed": 1}, {"features": 11}, {"eigenvalues": (4.0, 2.0)}):
        assert LinearGaussianData(examples=20, **change).fingerprint() != short.fingerprint()


@pytest.mark.parametrize(
    "fields", [{"noise": 0.5}, {"features": 3}, {"eigenvalues": []}, {"partition": "fixed_by_group"}]
)
def test_impossible_spectra_are_refused(fields):
    where = "data.eigenvalues" if "eigenvalues" in fields else "data"
    with rejects(where):
        parse_trial({"data": {"kind": "linear_gaussian", **fields}})
