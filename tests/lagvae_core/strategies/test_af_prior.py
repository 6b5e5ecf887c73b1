import math

import pytest
import torch
from helpers import assert_equals_sampled_vae, rejects, tiny, trial_of
from torch import nn

from lagvae_core.models.gaussian import Gaussian, NormalPrior
from lagvae_core.strategies.af_prior import AfPrior
from lagvae_core.strategies.base import BuildContext


def af_prior(**fields):
    return {"kind": "af_prior", **fields}


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prior_of(latent_dim, spread=0.7, seed=0, **fields):
    """A prior with random parameters, far from its initialisation."""
    prior = AfPrior(**fields).build(BuildContext(latent_dim, 4))["prior"].double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=spread, generator=generator)
    return prior.requires_grad_(False)


def grid(size, reach, points):
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * size).reshape(1, -1, size), (2 * reach / (points - 1)) ** size


# --- the identity ----------------------------------------------------------------------------------------------------


def test_without_blocks_it_is_the_plain_vae_with_a_sampled_kl():
    assert_equals_sampled_vae(af_prior(blocks=0))


def test_a_frozen_identity_flow_is_the_plain_vae_with_a_sampled_kl():
    assert_equals_sampled_vae(af_prior(), lambda trial: trial.model.prior.requires_grad_(False))


@pytest.mark.parametrize("latent_dim", [1, 2, 32])
def test_it_starts_as_the_standard_normal_density(latent_dim):
    prior, z = AfPrior().build(BuildContext(latent_dim, 4))["prior"].double(), draws(5, 3, latent_dim)
    assert torch.equal(prior.log_prob(z), NormalPrior().log_prob(z))


# --- the density -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize(("size", "reach", "points"), [(1, 20, 2001), (2, 20, 321)])
def test_the_density_integrates_to_one(size, reach, points, blocks):
    z, cell = grid(size, reach, points)
    for seed in range(2):
        prior = prior_of(size, 0.4, seed, blocks=blocks)
        assert float(prior.log_prob(z).exp().sum()) * cell == pytest.approx(1, abs=2e-3)
        assert float((prior.log_prob(z) - NormalPrior().log_prob(z)).abs().max()) > 0.1


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_density_matches_the_numerical_jacobian(size, blocks):
    prior = prior_of(size, blocks=blocks)
    for seed in range(3):
        z = draws(size, seed=seed)
        noise = prior.flow(z)[0]
        logdet = torch.linalg.slogdet(torch.autograd.functional.jacobian(lambda z: prior.flow(z)[0], z)).logabsdet
        exact = NormalPrior().log_prob(noise) + logdet
        torch.testing.assert_close(prior.log_prob(z[None, None])[0, 0], exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_sample_is_the_inverse_of_its_noise(size):
    prior, noise = prior_of(size), draws(50, size)
    z = prior.sample(noise, torch.Generator())
    torch.testing.assert_close(prior.flow(z)[0], noise, rtol=1e-8, atol=1e-8)


def test_samples_have_the_moments_of_the_density():
    prior, n = prior_of(2, 0.4), 20_000
    z, cell = grid(2, 20, 321)
    weight = prior.log_prob(z)[0].exp() * cell
    sampled = prior.sample(draws(n, 2), torch.Generator())
    for moment in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z[:, 0] * z[:, 1], lambda z: z.square().sum(1)):
        values = moment(sampled)
        exact = float((weight * moment(z[0])).sum())
        assert float(values.mean()) == pytest.approx(exact, abs=4 * float(values.std()) / math.sqrt(n) + 0.01)


def test_in_one_dimension_it_is_a_gaussian():
    prior = prior_of(1)
    z = torch.tensor([-3.0, -1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    log_p = prior.log_prob(z[None, :, None])[0]
    mean = prior.sample(torch.zeros(1, 1).double(), torch.Generator())
    std = prior.sample(torch.ones(1, 1).double(), torch.Generator()) - mean
    exact = Gaussian(mean, 2 * std.log()).log_prob(z[None, :, None])[0]
    torch.testing.assert_close(log_p, exact, rtol=1e-9, atol=1e-9)


# --- the kl ----------------------------------------------------------------------------------------------------------


def test_the_kl_is_the_mean_log_ratio_with_one_number_per_example():
    prior, n = prior_of(2), 4000
    q = Gaussian(draws(3, 2, seed=1), draws(3, 2, seed=2))
    draw = q.draw(draws(3, n, 2, seed=3))
    ratio = q.log_prob(draw.z_BSZ) - prior.log_prob(draw.z_BSZ)
    kl = prior.kl(q, draw)
    assert kl.shape == (3, 1)
    torch.testing.assert_close(kl[:, 0], ratio.mean(1), rtol=1e-9, atol=1e-9)
    assert bool((kl[:, 0] > -4 * ratio.std(1) / math.sqrt(n)).all())
    assert prior.std() is None
    assert not prior.closed_form(q)


def test_it_is_trained_with_the_decoder_and_fits_the_aggregate_posterior():
    trial = trial_of(tiny("af_prior"))
    trial.model.train()
    learned = set(trial.model.prior.parameters())
    assert learned <= set(trial.model.decoder_parameters())
    assert not learned & set(trial.model.encoder_parameters())
    target = torch.tensor([[2.0, -1.0]])
    prior = AfPrior(blocks=2).build(BuildContext(2, 4))["prior"]
    optimiser = torch.optim.SGD(prior.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(300):
        z = target + 0.5 * torch.randn(32, 1, 2, generator=generator)
        loss = -prior.log_prob(z).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5))
    assert float(torch.stack(losses[-50:]).mean()) == pytest.approx(entropy, abs=0.2)


def test_every_parameter_has_a_gradient_after_one_update():
    trial = trial_of(tiny("af_prior"))
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    trial.learner.loss(trial.train_batches[1], 1.0).total.backward()
    for name, parameter in trial.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


# --- stacks ----------------------------------------------------------------------------------------------------------


def assert_refused(code, *stack):
    for order in (stack, stack[::-1]):
        with rejects("strategies") as issues:
            tiny(*order)
        assert issues[0].code == code


def test_two_parameterisations_of_the_same_model_are_refused():
    assert_refused("E15", "af_prior", "iaf_posterior")


def test_aggressive_training_must_be_allowed_explicitly():
    assert_refused("E13", "af_prior", {"kind": "aggressive", "budget": 2})
    trial = trial_of(tiny("af_prior", {"kind": "aggressive", "budget": 2, "allow_untested": True}))
    trial.model.train()
    before = [parameter.clone() for parameter in trial.model.prior.parameters()]
    with trial.learner.inner_loop(decoder_gradients=False):
        trial.learner.descend(trial.learner.loss(trial.train_batches[0], 1.0), encoder=True, decoder=False)
    assert all(torch.equal(a, b) for a, b in zip(before, trial.model.prior.parameters(), strict=True))
    trial.train_batch(trial.train_batches[0])
    assert any(not torch.equal(a, b) for a, b in zip(before, trial.model.prior.parameters(), strict=True))


def test_a_width_without_a_flow_is_an_unused_option():
    assert_refused("E18", af_prior(blocks=0, hidden=8))


@pytest.mark.parametrize("other", ["vamp_prior", "mog_prior"])
def test_two_priors_cannot_fill_one_slot(other):
    assert_refused("E-SLOT", "af_prior", other)
