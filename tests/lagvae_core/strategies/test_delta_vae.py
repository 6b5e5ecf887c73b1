import math
import re

import pytest
import torch
from helpers import run, tiny
from scipy.special import lambertw

from lagvae_core.config import parse_trial
from lagvae_core.errors import ConfigError
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.strategies.base import Surroundings
from lagvae_core.strategies.delta_vae import DeltaVae, committed_deviations

DELTAS = [1e-9, 1e-4, 0.05, 0.1, 0.15, 1.0, 10.0]
SPREADS = [0.1, 3.0, 30.0]


def posterior_of(delta=0.1):
    return DeltaVae(delta=delta).parts(Surroundings(5, 4))["posterior"].double()


def outputs(spread=3.0, batch=64, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    a, s = (spread * torch.randn(batch, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    return Gaussian(a.to(dtype), s.to(dtype))


# --- the interval of sigma -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", DELTAS)
def test_the_roots_satisfy_the_equation(delta):
    for sigma in committed_deviations(delta):
        y = 2 * math.log(sigma)
        assert math.expm1(y) - y == pytest.approx(2 * delta, rel=1e-6)
        assert math.log(sigma**2) - sigma**2 + 2 * delta + 1 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("delta", DELTAS[2:])
def test_the_roots_are_those_of_the_lambert_function(delta):
    for sigma, branch in zip(committed_deviations(delta), (0, -1), strict=True):
        assert sigma**2 == pytest.approx(float(-lambertw(-math.exp(-(2 * delta + 1)), branch).real), rel=1e-9)


@pytest.mark.parametrize(("delta", "lower", "upper"), [(0.1, 0.702, 1.331), (0.15, 0.641, 1.409)])
def test_the_interval_is_the_known_one(delta, lower, upper):
    assert committed_deviations(delta) == pytest.approx((lower, upper), abs=5e-4)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("spread", SPREADS)
def test_sigma_stays_in_the_interval(delta, spread):
    lower, upper = committed_deviations(delta)
    sigma = (0.5 * posterior_of(delta)(outputs(spread)).q.logvar_BZ).exp()
    assert (sigma >= lower * (1 - 1e-12)).all()
    assert (sigma <= upper * (1 + 1e-12)).all()


def test_a_growing_delta_widens_the_interval():
    lower, upper = zip(*(committed_deviations(delta) for delta in DELTAS), strict=True)
    assert sorted(lower, reverse=True) == list(lower)
    assert sorted(upper) == list(upper)
    assert lower[0] < 1 < upper[0]


# --- the KL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("spread", SPREADS)
def test_the_kl_of_every_dimension_is_at_least_delta(delta, spread):
    assert (posterior_of(delta)(outputs(spread)).q.kl_standard() >= delta).all()


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("spread", SPREADS)
def test_in_single_precision_it_is_so_up_to_rounding(delta, spread):
    q = posterior_of(delta).float()(outputs(spread, dtype=torch.float32)).q
    assert (q.kl_standard() >= delta - 5e-7).all()


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("spread", SPREADS)
def test_above_delta_lies_half_of_the_positive_output_whatever_sigma_is(delta, spread):
    gaussian = outputs(spread)
    excess = posterior_of(delta)(gaussian).q.kl_standard() - delta
    torch.testing.assert_close(excess, 0.5 * gaussian.mean_BZ.relu() + 5e-7, rtol=1e-9, atol=1e-12)


def test_towards_a_delta_of_zero_sigma_is_one_and_the_kl_half_of_the_positive_output():
    posterior, gaussian = posterior_of(1e-12), outputs()
    assert committed_deviations(1e-12) == pytest.approx((1, 1), abs=2e-6)
    expected = 0.5 * gaussian.mean_BZ.relu() + 5e-7
    torch.testing.assert_close(posterior(gaussian).q.kl_standard(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("delta", DELTAS)
def test_no_mean_is_negative(delta):
    assert (posterior_of(delta)(outputs(30.0)).q.mean_BZ > 0).all()


@pytest.mark.parametrize("delta", [0.05, 0.1, 10.0])
def test_extreme_outputs_give_finite_values_and_gradients(delta):
    draw = torch.tensor([-100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 100.0])
    a, s = (grid.reshape(-1, 7).clone().requires_grad_() for grid in torch.meshgrid(draw, draw, indexing="ij"))
    q = posterior_of(delta).float()(Gaussian(a, s)).q
    assert (q.mean_BZ >= 1e-4 * (1 - 1e-6)).all()
    gradients = torch.autograd.grad((q.mean_BZ + q.logvar_BZ + q.kl_standard()).sum(), (a, s))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_rounding_at_the_ends_of_the_interval_never_roots_a_negative_number():
    ends = Gaussian(torch.full((2, 5), -1.0), torch.tensor([[-100.0], [100.0]]).expand(2, 5))
    means = torch.stack([posterior_of(step / 10).float()(ends).q.mean_BZ for step in range(1, 101)])
    assert (means >= 1e-4 * (1 - 1e-6)).all()


def test_below_zero_the_mean_moves_with_sigma_alone():
    a, s = torch.tensor([[-1.0, 1.0]], requires_grad=True), torch.tensor([[0.3, 0.3]], requires_grad=True)
    of_a, of_s = torch.autograd.grad(posterior_of().float()(Gaussian(a, s)).q.mean_BZ.sum(), (a, s))
    assert of_a[0, 0] == 0
    assert of_a[0, 1] > 0
    assert (of_s != 0).all()


def test_half_precision_is_widened():
    q = posterior_of().float()(outputs(dtype=torch.bfloat16)).q
    assert q.mean_BZ.dtype == q.logvar_BZ.dtype == torch.float32


# --- in a trial ------------------------------------------------------------------------------------------------------


def test_the_map_is_the_same_in_training_and_evaluation_and_has_no_state():
    posterior, gaussian = posterior_of(), outputs()
    inference = posterior.train()(gaussian)
    assert inference.charged is inference.q
    assert torch.equal(posterior.eval()(gaussian).q.mean_BZ, inference.q.mean_BZ)
    assert not posterior.state_dict()
    assert not posterior.progress()
    assert posterior.accepts(1)


def test_in_evaluation_an_example_does_not_depend_on_its_batch_mates():
    posterior, gaussian = posterior_of().eval(), outputs(batch=33)
    whole = posterior(gaussian).q
    for row in range(33):
        alone = posterior(Gaussian(gaussian.mean_BZ[row : row + 1], gaussian.logvar_BZ[row : row + 1])).q
        torch.testing.assert_close(alone.mean_BZ[0], whole.mean_BZ[row], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.logvar_BZ[0], whole.logvar_BZ[row], rtol=1e-12, atol=1e-12)


def test_a_trained_model_keeps_its_rate_on_the_test_set():
    metrics = run(tiny({"kind": "delta_vae", "delta": 0.15})).metrics
    assert metrics["kl"] >= 2 * 0.15 - 1e-6
    assert metrics["kl_train"] == metrics["kl"]
    assert all(kl >= 0.15 - 5e-7 for kl in metrics["kl_by_dimension"])


@pytest.mark.parametrize("other", ["bn_vae", "du_vae", "scale_vae"])
def test_another_remedy_that_rewrites_the_means_is_refused_by_name(other):
    for stack in (["delta_vae", other], [other, "delta_vae"]):
        with pytest.raises(ConfigError) as caught:
            parse_trial({"strategies": stack})
        assert re.findall(r"\((E[-\w]+)\)", str(caught.value)) == ["E03"]
        assert f"delta_vae and {other} both rewrite the means" in str(caught.value)
