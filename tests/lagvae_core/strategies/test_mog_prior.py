import math

import pytest
import torch
from helpers import assert_equals_sampled_vae, rejects, tiny, trial_of
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from lagvae_core.models.gaussian import Gaussian, NormalPrior
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.mog_prior import MogPrior


def mog_prior(**fields):
    return {"kind": "mog_prior", **fields}


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prior_of(latent_dim=2, components=5, **fields):
    """Return a frozen prior with random variances and weights."""
    torch.manual_seed(0)
    prior = MogPrior(components=components, **fields).build(BuildContext(latent_dim, 4))["prior"].double()
    with torch.no_grad():
        prior.logvar_CZ.copy_(draws(components, latent_dim, seed=8))
        prior.logit_C.copy_(draws(components, seed=9))
    return prior.requires_grad_(False)


def reference(prior):
    components = Independent(Normal(prior.mean_CZ, (0.5 * prior.logvar_CZ).exp()), 1)
    return MixtureSameFamily(Categorical(logits=prior.logit_C), components)


def test_one_fixed_standard_normal_component_is_the_plain_vae_with_a_sampled_kl():
    assert_equals_sampled_vae(
        mog_prior(components=1, init_spread=0.0),
        lambda trial: trial.model.prior.requires_grad_(False),
        tolerance=1e-10,
    )


def test_one_component_without_spread_starts_as_the_standard_normal_density():
    prior = MogPrior(components=1, init_spread=0).build(BuildContext(3, 4))["prior"].double()
    z = draws(5, 7, 3)
    torch.testing.assert_close(prior.log_prob(z), NormalPrior().log_prob(z), rtol=1e-12, atol=1e-12)


def test_the_density_equals_a_reference_mixture():
    prior, z = prior_of(), 3 * draws(5, 7, 2)
    torch.testing.assert_close(prior.log_prob(z), reference(prior).log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "points"), [(1, 4001), (2, 401)])
def test_the_density_integrates_to_one(size, points):
    axis = torch.linspace(-15, 15, points, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * size).reshape(1, -1, size)
    mass = float(prior_of(size).log_prob(z).exp().sum()) * (30 / (points - 1)) ** size
    assert mass == pytest.approx(1, abs=1e-4)


def test_samples_come_from_components_drawn_by_weight():
    prior, n = prior_of(), 40_000
    z = prior.sample(draws(n, 2), torch.Generator().manual_seed(0))
    exact = reference(prior)
    error = exact.variance.sqrt() / math.sqrt(n)
    assert ((z.mean(0) - exact.mean).abs() < 4 * error).all()
    for component in range(5):
        nearest = reference(prior).component_distribution.log_prob(z[:, None]).argmax(1) == component
        again = reference(prior).sample((n,))
        expected = (reference(prior).component_distribution.log_prob(again[:, None]).argmax(1) == component).double()
        assert float(nearest.double().mean() - expected.mean()) == pytest.approx(0, abs=4 * math.sqrt(0.5 / n))


def test_the_kl_is_the_mean_log_ratio_with_one_number_per_example():
    prior, n = prior_of(), 4000
    q = Gaussian(draws(3, 2, seed=1), draws(3, 2, seed=2))
    draw = q.draw(draws(3, n, 2, seed=3))
    ratio = q.log_prob(draw.z_BSZ) - reference(prior).log_prob(draw.z_BSZ)
    kl_B1 = prior.kl(q, draw)
    torch.testing.assert_close(kl_B1, ratio.mean(1, keepdim=True), rtol=1e-9, atol=1e-9)
    assert bool((kl_B1[:, 0] > -4 * ratio.std(1) / math.sqrt(n)).all())
    assert not prior.closed_form(q)


def test_its_gradients_equal_those_of_a_reference_mixture():
    prior, z = prior_of().requires_grad_(True), draws(4, 3, 2)
    ours = torch.autograd.grad(prior.log_prob(z).sum(), list(prior.parameters()))
    exact = torch.autograd.grad(reference(prior).log_prob(z).sum(), list(prior.parameters()))
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_the_components_start_apart_and_are_trained_with_the_decoder():
    trial = trial_of(tiny(mog_prior(components=400, init_spread=0.5)))
    prior = trial.model.prior
    assert float(prior.mean_CZ.detach().std()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(1600))
    assert not prior.logvar_CZ.any()
    assert not prior.logit_C.any()
    assert set(prior.parameters()) <= set(trial.model.decoder_parameters())
    assert not set(prior.parameters()) & set(trial.model.encoder_parameters())
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    assert all(not torch.equal(value, before[name]) for name, value in prior.state_dict().items())


def test_the_loss_keeps_the_precision_of_the_model():
    trial = trial_of(tiny("mog_prior"))
    assert trial.learner.loss(trial.train_batches[0], 1.0).total.dtype == torch.float32


@pytest.mark.parametrize(("other", "code"), [("vamp_prior", "E-SLOT"), ("scale_vae", "E08"), ("delta_vae", "E06")])
def test_another_strategy_that_sets_the_prior_is_rejected(other, code):
    for stack in (("mog_prior", other), (other, "mog_prior")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == code
