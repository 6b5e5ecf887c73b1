import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from lagvae_core.metrics.pareto_tail import KHAT_LIMIT, pareto_khat, tail_size


def khat(log_w_BS):
    return pareto_khat(log_w_BS.topk(tail_size(log_w_BS.shape[1]) + 1, dim=1).values)


def weights(k, samples, examples=100):
    draws = genpareto.rvs(k, size=(examples, samples), random_state=np.random.default_rng(0))
    return torch.tensor(np.log(draws))


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.5, 1.0, 2.0])
def test_the_shape_of_pareto_weights_is_recovered_up_to_the_prior(k):
    values = khat(weights(k, 2000))
    count = tail_size(2000)
    shrunk = (count * k + 10 * 0.5) / (count + 10)  # ten observations of the prior k = 0.5
    assert float(values.mean()) == pytest.approx(shrunk, abs=0.06)
    # the estimator's asymptotic standard deviation is (1 + k) / sqrt(count)
    assert float(values.std()) < 1.3 * (1 + abs(k)) / count**0.5


def test_a_constant_factor_of_the_weights_does_not_matter():
    log_w = weights(0.5, 500, 20)
    for shift in (-3000.0, 3000.0):
        torch.testing.assert_close(khat(log_w + shift), khat(log_w), rtol=0, atol=1e-8)


def test_equal_weights_have_no_tail():
    assert khat(torch.full((3, 100), -40.0, dtype=torch.float64)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("spread", [5.0, 50.0, 3000.0])
def test_a_single_dominant_weight_is_far_above_the_limit(spread):
    log_w = spread * torch.randn(50, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = khat(log_w)
    assert bool(values.isfinite().all())
    assert float((values > KHAT_LIMIT).double().mean()) > 0.95


def test_few_samples_have_no_khat():
    assert bool(khat(torch.randn(2, 20).double()).isnan().all())
    assert bool(khat(torch.randn(2, 21).double()).isfinite().all())
