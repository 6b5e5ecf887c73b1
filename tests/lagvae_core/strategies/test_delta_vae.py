import math

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, run, tiny, trial_of
from scipy.special import lambertw
from torch.distributions import MultivariateNormal, kl_divergence

from lagvae_core.config.trial import parse_trial
from lagvae_core.models.gaussian import Gaussian, NormalPrior
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.delta_vae import Ar1Prior, DeltaVae, committed_rate, committed_stds

DELTAS = [1e-9, 1e-4, 0.05, 0.1, 0.15, 1.0, 10.0]
SPREADS = [0.1, 3.0, 30.0]


def posterior_of(delta=0.1):
    return DeltaVae(delta=delta).build(BuildContext(5, 4))["posterior"].double()


def outputs(spread=3.0, batch=64, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    a, s = (spread * torch.randn(batch, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    return Gaussian(a.to(dtype), s.to(dtype))


# --- the interval of sigma -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", DELTAS)
def test_the_roots_satisfy_the_equation(delta):
    for sigma in committed_stds(delta):
        y = 2 * math.log(sigma)
        assert math.expm1(y) - y == pytest.approx(2 * delta, rel=1e-6)
        assert math.log(sigma**2) - sigma**2 + 2 * delta + 1 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("delta", DELTAS[2:])
def test_the_roots_match_the_lambert_function(delta):
    for sigma, branch in zip(committed_stds(delta), (0, -1), strict=True):
        assert sigma**2 == pytest.approx(float(-lambertw(-math.exp(-(2 * delta + 1)), branch).real), rel=1e-9)


@pytest.mark.parametrize(("delta", "lower", "upper"), [(0.1, 0.702, 1.331), (0.15, 0.641, 1.409)])
def test_the_interval_has_its_known_ends(delta, lower, upper):
    assert committed_stds(delta) == pytest.approx((lower, upper), abs=5e-4)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("spread", SPREADS)
def test_sigma_is_in_the_interval(delta, spread):
    lower, upper = committed_stds(delta)
    sigma = (0.5 * posterior_of(delta)(outputs(spread)).q.logvar_BZ).exp()
    assert (sigma >= lower * (1 - 1e-12)).all()
    assert (sigma <= upper * (1 + 1e-12)).all()


def test_a_larger_delta_gives_a_wider_interval():
    lower, upper = zip(*(committed_stds(delta) for delta in DELTAS), strict=True)
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
def test_in_single_precision_the_kl_is_at_least_delta_up_to_rounding(delta, spread):
    q = posterior_of(delta).float()(outputs(spread, dtype=torch.float32)).q
    assert (q.kl_standard() >= delta - 5e-7).all()


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("spread", SPREADS)
def test_the_kl_above_delta_is_half_of_the_positive_output_for_every_sigma(delta, spread):
    gaussian = outputs(spread)
    excess = posterior_of(delta)(gaussian).q.kl_standard() - delta
    torch.testing.assert_close(excess, 0.5 * gaussian.mean_BZ.relu() + 5e-7, rtol=1e-9, atol=1e-12)


def test_near_a_delta_of_zero_sigma_is_one_and_the_kl_half_of_the_positive_output():
    posterior, gaussian = posterior_of(1e-12), outputs()
    assert committed_stds(1e-12) == pytest.approx((1, 1), abs=2e-6)
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


def test_rounding_at_the_ends_of_the_interval_gives_no_root_of_a_negative_number():
    ends = Gaussian(torch.full((2, 5), -1.0), torch.tensor([[-100.0], [100.0]]).expand(2, 5))
    means = torch.stack([posterior_of(step / 10).float()(ends).q.mean_BZ for step in range(1, 101)])
    assert (means >= 1e-4 * (1 - 1e-6)).all()


def test_below_zero_the_mean_depends_on_sigma_alone():
    a, s = torch.tensor([[-1.0, 1.0]], requires_grad=True), torch.tensor([[0.3, 0.3]], requires_grad=True)
    of_a, of_s = torch.autograd.grad(posterior_of().float()(Gaussian(a, s)).q.mean_BZ.sum(), (a, s))
    assert of_a[0, 0] == 0
    assert of_a[0, 1] > 0
    assert (of_s != 0).all()


def test_half_precision_is_converted_to_single_precision():
    q = posterior_of().float()(outputs(dtype=torch.bfloat16)).q
    assert q.mean_BZ.dtype == q.logvar_BZ.dtype == torch.float32


# --- in a trial ------------------------------------------------------------------------------------------------------


def test_the_map_is_the_same_in_training_and_evaluation_and_has_no_state():
    posterior, gaussian = posterior_of(), outputs()
    inference = posterior.train()(gaussian)
    assert inference.kl_posterior is inference.q
    assert torch.equal(posterior.eval()(gaussian).q.mean_BZ, inference.q.mean_BZ)
    assert not posterior.state_dict()
    assert not posterior.progress()
    assert posterior.accepts(1)


def test_in_evaluation_an_example_does_not_depend_on_its_batch():
    posterior, gaussian = posterior_of().eval(), outputs(batch=33)
    whole = posterior(gaussian).q
    for row in range(33):
        alone = posterior(Gaussian(gaussian.mean_BZ[row : row + 1], gaussian.logvar_BZ[row : row + 1])).q
        torch.testing.assert_close(alone.mean_BZ[0], whole.mean_BZ[row], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.logvar_BZ[0], whole.logvar_BZ[row], rtol=1e-12, atol=1e-12)


def test_a_trained_model_has_the_minimum_kl_on_the_test_set():
    metrics = run(tiny({"kind": "delta_vae", "delta": 0.15})).metrics
    assert metrics["kl"] >= 2 * 0.15 - 1e-6
    assert metrics["kl_train"] == metrics["kl"]
    assert all(kl >= 0.15 - 5e-7 for kl in metrics["kl_by_dimension"])


@pytest.mark.parametrize("other", ["bn_vae", "du_vae", "scale_vae"])
def test_another_strategy_that_changes_the_means_is_refused_by_name(other):
    for stack in (["delta_vae", other], [other, "delta_vae"]):
        with rejects("strategies") as issues:
            parse_trial({"strategies": stack})
        assert issues[0].code == "E03"
        assert all(kind in issues[0].hint for kind in stack)


# --- the autoregressive prior ----------------------------------------------------------------------------------------

SEQUENCES = [(2, 1), (2, 3), (3, 2), (6, 1)]

each_sequence = pytest.mark.parametrize(("steps", "k"), SEQUENCES)


def ar1(**fields):
    return {"kind": "delta_vae", "prior": "ar1", **fields}


def joint(steps, k, correlation):
    """N(0, C) of the whole sequence, with correlation^|s - t| between equal dimensions of steps s and t."""
    time = torch.arange(steps * k) // k
    channel = torch.arange(steps * k) % k
    covariance = correlation ** (time[:, None] - time).abs().double() * (channel[:, None] == channel)
    return MultivariateNormal(torch.zeros(steps * k).double(), covariance)


def some_q(size, examples=5):
    draw = torch.Generator().manual_seed(0)
    mean, logvar = (torch.randn(examples, size, generator=draw, dtype=torch.float64) for _ in range(2))
    return Gaussian(mean, logvar)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_correlation_it_is_the_plain_vae():
    assert_equals_plain_vae(ar1(correlation=0.0))


@each_sequence
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9, 0.999])
def test_the_density_matches_the_joint_gaussian(steps, k, correlation):
    z = draws(4, 3, steps * k)
    log_p = Ar1Prior(steps, correlation).log_prob(z)
    torch.testing.assert_close(log_p, joint(steps, k, correlation).log_prob(z), rtol=1e-9, atol=1e-9)


@each_sequence
def test_samples_have_the_covariance_of_the_joint_gaussian(steps, k):
    prior, n = Ar1Prior(steps, 0.8), 100_000
    z = prior.sample(draws(n, steps * k), torch.Generator())
    covariance = z.T @ z / n
    torch.testing.assert_close(covariance, joint(steps, k, 0.8).covariance_matrix, rtol=0, atol=4 * math.sqrt(2 / n))


@each_sequence
@pytest.mark.parametrize("correlation", [0.3, 0.9, 0.999])
def test_the_kl_is_exact_and_its_terms_are_never_negative(steps, k, correlation):
    q, prior = some_q(steps * k), Ar1Prior(steps, correlation)
    kl = prior.kl(q, q.draw(draws(5, 1, steps * k)))
    whole = MultivariateNormal(q.mean_BZ, q.logvar_BZ.exp().diag_embed())
    exact = kl_divergence(whole, joint(steps, k, correlation).expand((5,)))
    torch.testing.assert_close(kl.sum(1), exact, rtol=1e-9, atol=1e-9)
    assert kl.shape == (5, steps * k)
    assert (kl >= 0).all()
    assert prior.closed_form(q)
    assert prior.std() is None


def test_a_term_is_the_expected_kl_of_a_step_given_the_previous_step():
    q, prior, n = some_q(2, 1), Ar1Prior(2, 0.9), 200_000
    z = q.rsample(draws(1, n, 2))[0]
    given = Gaussian(q.mean_BZ[:, 1:].expand(n, 1) - 0.9 * z[:, :1], q.logvar_BZ[:, 1:].expand(n, 1))
    conditional = NormalPrior(torch.tensor([math.sqrt(1 - 0.81)]).double()).kl(given, given.draw(draws(n, 1, 1)))
    kl = prior.kl(q, q.draw(draws(1, 1, 2)))
    torch.testing.assert_close(kl[0, 0], q.kl_standard()[0, 0])
    error = float(conditional.std()) / math.sqrt(n)
    assert float(kl[0, 1]) == pytest.approx(float(conditional.mean()), abs=4 * error)


@each_sequence
@pytest.mark.parametrize("correlation", [0.3, 0.9, 0.99])
def test_the_committed_rate_is_the_minimum_of_the_kl(steps, k, correlation):
    """The minimum over diagonal Gaussians, by an independent quasi-Newton optimiser."""
    size, prior = steps * k, Ar1Prior(steps, correlation)
    start = torch.cat([0.5 * draws(size), 0.1 * draws(size, seed=1)]).requires_grad_()
    optimiser = torch.optim.LBFGS([start], max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def kl():
        q = Gaussian(start[None, :size], start[None, size:])
        return prior.kl(q, q.draw(torch.zeros(1, 1, size))).sum()

    def closure():
        optimiser.zero_grad()
        value = kl()
        value.backward()
        return value

    optimiser.step(closure)
    rate = committed_rate(steps, k, correlation)
    assert float(kl().detach()) == pytest.approx(rate, rel=1e-7)
    for seed in range(20):
        q = Gaussian(
            0.3 * draws(1, size, seed=seed), start.detach()[None, size:] + 0.3 * draws(1, size, seed=seed + 99)
        )
        assert float(prior.kl(q, q.draw(torch.zeros(1, 1, size))).sum()) > rate


def test_a_trained_model_has_the_committed_rate():
    metrics = run(tiny(ar1(correlation=0.8))).metrics
    rate = committed_rate(2, 1, 0.8)
    assert rate == pytest.approx(-0.5 * math.log(1 - 0.64))
    assert metrics["kl"] >= rate - 1e-6
    assert sum(metrics["kl_by_dimension"]) == pytest.approx(metrics["kl"])
    assert metrics["nll_iw"] <= metrics["nll_elbo"] + 0.5


def test_the_latent_vector_is_divided_into_the_given_number_of_steps():
    wide = {"latent_dim": 6}
    assert trial_of(tiny(ar1(), model=wide)).model.prior._steps == 6
    assert trial_of(tiny(ar1(steps=3), model=wide)).model.prior._steps == 3
    prior = Ar1Prior(3, 0.5)
    z = torch.arange(6.0)[None, None]
    assert prior._before(z).tolist() == [[[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]]]


@pytest.mark.parametrize(("steps", "size"), [(4, 6), (None, 1), (7, 6)])
def test_steps_must_divide_the_dimensions(steps, size):
    with rejects("strategies") as issues:
        tiny(ar1(steps=steps), model={"latent_dim": size})
    assert issues[0].code == "E-RANGE"
    assert "delta_vae.steps" in issues[0].hint


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prior": "ar1", "delta": 0.2}, "delta"),
        ({"steps": 2}, "steps"),
        ({"correlation": 0.5}, "correlation"),
    ],
)
def test_an_option_of_the_other_prior_is_unused(fields, name):
    with rejects("strategies") as issues:
        tiny({"kind": "delta_vae", **fields})
    assert issues[0].code == "E18"
    assert f"delta_vae.{name}" in issues[0].hint


@pytest.mark.parametrize("other", ["vamp_prior", "mog_prior", "af_prior"])
@pytest.mark.parametrize("delta_vae", ["delta_vae", ar1()])
def test_another_prior_is_refused(delta_vae, other):
    for stack in ([delta_vae, other], [other, delta_vae]):
        with rejects("strategies") as issues:
            parse_trial({"strategies": stack, "model": {"latent_dim": 2}})
        assert issues[0].code == "E06"
        assert other in issues[0].hint


def test_free_bits_up_to_delta_are_refused():
    for floor in (0.05, 0.1):
        free = {"kind": "free_bits", "floor": floor}
        for stack in ([free, "delta_vae"], ["delta_vae", free]):
            with rejects("strategies") as issues:
                tiny(*stack)
            assert issues[0].code == "E06"
            assert "free_bits" in issues[0].hint
        tiny(free, ar1())
    tiny({"kind": "free_bits", "floor": 0.11}, "delta_vae")


@pytest.mark.parametrize("other", ["bn_vae", "scale_vae", "iaf_posterior"])
def test_a_second_posterior_is_refused_with_the_autoregressive_prior(other):
    with rejects("strategies") as issues:
        tiny(ar1(), other)
    assert issues[0].code == "E-SLOT"
