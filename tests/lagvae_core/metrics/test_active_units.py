import math

import pytest
import torch
from linear_gaussian import LinearGaussian

from lagvae_core.metrics import active_units as module
from lagvae_core.metrics.active_units import active_units


def means_of_variance(*variances, n=1000):
    """Return means with exactly these variances (with n - 1), up to rounding."""
    draw = torch.randn(n, len(variances), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    standard = (draw - draw.mean(0)) / draw.std(0)
    return standard * torch.tensor(variances, dtype=torch.float64).sqrt() + 5.0


def test_variances_above_the_threshold_count():
    units = active_units(means_of_variance(0.005, 0.02, 0.0, 1.0, 0.0099, 0.0101))
    assert units.count == 3
    assert units.variance == pytest.approx((0.005, 0.02, 0.0, 1.0, 0.0099, 0.0101), abs=1e-12)


def test_the_threshold_with_random_means():
    """With 1,000 draws a variance has a relative error of 4.5 %, so estimates of 0.005 and 0.02 are far from 0.01."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        draw = torch.randn(1000, 2, generator=generator) * torch.tensor([0.005, 0.02]).sqrt()
        assert active_units(draw[:, :1]).count == 0
        assert active_units(draw[:, 1:]).count == 1


def test_a_variance_at_the_threshold_counts(monkeypatch):
    """The variance of -1/16 and 1/16 is 1/128, without rounding."""
    monkeypatch.setattr(module, "THRESHOLD", 2.0**-7)
    assert active_units(torch.tensor([[-0.0625], [0.0625]])).count == 1
    monkeypatch.setattr(module, "THRESHOLD", 2.0**-7 * (1 + 1e-15))
    assert active_units(torch.tensor([[-0.0625], [0.0625]])).count == 0


def test_the_variance_of_the_exact_posterior_mean_is_one_minus_the_posterior_variance():
    fixture = LinearGaussian.oblique()
    n = 4000
    units = active_units(fixture.mean(fixture.draw(n)))
    for variance, exact in zip(units.variance, (1 - fixture.covariance_ZZ.diagonal()).tolist(), strict=True):
        assert variance == pytest.approx(exact, abs=4 * exact * math.sqrt(2 / (n - 1)))


def test_variances_are_in_units_of_the_prior():
    means = means_of_variance(0.02, 0.02, 0.005)
    scale = torch.tensor([0.1, 100.0, 100.0])
    plain, scaled = active_units(means), active_units(means * scale.double(), scale)
    assert plain.count == scaled.count == 2
    assert scaled.variance == pytest.approx(plain.variance, rel=1e-6)
    assert (
        active_units(means * scale.double()).count == 2
    )  # without units, the last dimension counts and the first does not
    assert active_units(means * 100.0).count == 3


def test_float32_means_far_from_zero_keep_their_variance():
    """In float32, the square of 1,000 leaves no digits for a variance of 0.02."""
    means = (means_of_variance(0.02) + 1000.0).float()
    assert active_units(means).variance[0] == pytest.approx(0.02, rel=1e-3)


def test_one_example_has_no_variance():
    assert active_units(torch.ones(1, 3)) == module.ActiveUnits(0, (0.0, 0.0, 0.0))
