import math

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, tiny, trial_of, updates

from lagvae_core.models.gaussian import Gaussian, NormalPrior
from lagvae_core.strategies.agg_kl import AggKl, AggregateKl
from lagvae_core.strategies.base import BuildContext


def agg_kl(**fields):
    return {"kind": "agg_kl", **fields}


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class ForwardOf:
    """The parts of Forward that the penalty uses: the posteriors in the KL, their samples and the prior."""

    def __init__(self, kl_posterior, noise):
        self.inference = self.model = self
        self.kl_posterior, self.prior = kl_posterior, NormalPrior()
        self.kl_posterior_draw = kl_posterior.draw(noise[:, None])


def estimate(q, noise):
    return AggregateKl(1.0)(ForwardOf(q, noise))


def log_density(q, noise):
    """log q_j(z_i) by sample and posterior [B, B], and log p(z_i) [B], both from torch's densities."""
    z = q.mean_BZ + (0.5 * q.logvar_BZ).exp() * noise
    normal = torch.distributions.Normal
    of_posterior = normal(q.mean_BZ, (0.5 * q.logvar_BZ).exp()).log_prob(z[:, None]).sum(2)
    return of_posterior, normal(0.0, 1.0).log_prob(z).sum(1)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_the_estimate_matches_its_definition(batch):
    q, noise = Gaussian(2 * draws(batch, 3), draws(batch, 3, seed=1)), draws(batch, 3, seed=2)
    of_posterior, of_prior = log_density(q, noise)
    expected = (of_posterior.exp().mean(1).log() - of_prior).mean()
    assert float(estimate(q, noise)) == pytest.approx(float(expected), rel=1e-12)
    if batch == 1:
        assert float(expected) == pytest.approx(float(of_posterior[0, 0] - of_prior[0]), rel=1e-12)


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 100.0])
def test_at_most_ln_batch_of_the_kl_is_free(spread):
    q, noise = Gaussian(spread * draws(8, 3), -2 + 0.1 * draws(8, 3, seed=1)), draws(8, 3, seed=2)
    of_posterior, of_prior = log_density(q, noise)
    monte_carlo_kl = float((of_posterior.diagonal() - of_prior).mean())
    free = monte_carlo_kl - float(estimate(q, noise))
    assert free <= math.log(8) + 1e-9
    if spread == 100.0:
        assert free == pytest.approx(math.log(8))


def test_posteriors_equal_to_the_prior_cost_nothing():
    q = Gaussian(torch.zeros(16, 3).double(), torch.zeros(16, 3).double())
    assert float(estimate(q, draws(16, 3))) == pytest.approx(0, abs=1e-12)


def test_the_mean_over_samples_is_the_kl_of_the_mixture():
    """Two posteriors at -1 and 1 and the prior N(0, 1), with the KL integrated on a fine grid."""
    q = Gaussian(torch.tensor([[-1.0], [1.0]]).double(), torch.full((2, 1), 2 * math.log(0.5)).double())
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    mixture = torch.distributions.Normal(q.mean_BZ[:, 0], 0.5).log_prob(grid[:, None]).exp().mean(1)
    exact = (mixture * (mixture.log() - torch.distributions.Normal(0.0, 1.0).log_prob(grid))).sum() * 1e-4
    estimates = torch.stack([estimate(q, draws(2, 1, seed=seed)) for seed in range(2000)])
    assert abs(float(estimates.mean() - exact)) < 4 * float(estimates.std()) / 2000**0.5


# --- in a trial ------------------------------------------------------------------------------------------------------


def test_with_weights_that_cancel_it_is_the_plain_vae():
    assert_equals_plain_vae(agg_kl(alpha=0, scale=1))
    assert AggKl(alpha=-0.4, scale=1.4).divergence_weight == 0 != -0.4 + 1.4 - 1


def test_with_weights_that_cancel_partly_it_is_beta_vae():
    losses, parameters, _ = updates(tiny(agg_kl(alpha=0.75, scale=0.25)), 5)
    expected, of_beta, _ = updates(tiny({"kind": "beta_vae", "beta": 0.25}), 5)
    assert losses == expected
    assert all(torch.equal(value, of_beta[name]) for name, value in parameters.items())


@pytest.mark.parametrize("posterior", [(), ("scale_vae",)])
@pytest.mark.parametrize(("alpha", "scale"), [(1.0, 1.0), (0.4, 3.0)])
def test_the_loss_is_the_info_vae_objective_of_the_posterior_in_the_kl(posterior, alpha, scale):
    trial = trial_of(tiny(*posterior, agg_kl(alpha=alpha, scale=scale)))
    trial.model.double().train()
    batch = trial.train_batches[0]
    state = trial.streams.state_dict()
    loss = trial.learner.loss(batch, 0.5)
    trial.streams.load_state_dict(state)
    inference = trial.model.infer(batch)
    noise = trial.learner.noise(inference.q)[:, 0]
    divergence = estimate(inference.kl_posterior.base, noise)
    expected = (loss.rec_B + (1 - alpha) * 0.5 * loss.kl_BZ.sum(1)).mean() + (alpha + scale - 1) * divergence
    torch.testing.assert_close(loss.total, expected, rtol=1e-9, atol=0)
    assert loss.total.dtype == torch.float64


def test_at_alpha_one_the_kl_has_no_gradient():
    """Loss and gradients are the same for every KL weight."""
    results = []
    for weight in (0.0, 1.0, 7.0):
        trial = trial_of(tiny("agg_kl"))
        trial.model.double().train()
        loss = trial.learner.loss(trial.train_batches[0], weight)
        loss.total.backward()
        results.append([loss.total.detach(), *(parameter.grad for parameter in trial.model.parameters())])
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


def test_in_single_precision_the_loss_stays_in_single_precision():
    trial = trial_of(tiny("agg_kl"))
    trial.model.train()
    assert trial.learner.loss(trial.train_batches[0], 1.0).total.dtype == torch.float32


# --- incompatibilities and warnings ----------------------------------------------------------------------------------


def test_a_negative_weight_of_the_divergence_is_refused():
    with rejects("strategies") as issues:
        tiny(agg_kl(alpha=0.5, scale=0.25))
    assert issues[0].code == "E17"
    assert "raise agg_kl.scale" in issues[0].hint
    with rejects("strategies[0].alpha") as issues:
        tiny(agg_kl(alpha=1.5))
    assert issues[0].value == 1.5


def test_a_mixture_with_a_weight_needs_batches_of_two():
    with rejects("strategies") as issues:
        tiny("agg_kl", training={"batch_size": 1})
    assert issues[0].code == "E12"
    tiny("agg_kl", training={"batch_size": 2})
    tiny(agg_kl(alpha=0, scale=1), training={"batch_size": 1})
    (penalty,) = AggKl().build(BuildContext(2, 4))["penalties"]
    assert penalty.least_batch == 2


@pytest.mark.parametrize("other", ["beta_vae", "mae"])
def test_it_can_be_stacked_with_others(other):
    tiny("agg_kl", other)


def test_two_exchanges_of_the_kl_are_refused():
    for stack in (("agg_kl", "info_mmd"), ("info_mmd", "agg_kl")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == "E-SLOT"
        assert "kl_share" in issues[0].message


def test_a_schedule_of_a_kl_outside_of_the_loss_gives_a_warning():
    schedule = {"kind": "kl_linear_epoch", "warm_up": 1}
    (warning,) = tiny("agg_kl", schedule).warnings()
    assert warning.code is None
    assert "kl_linear_epoch" in warning.message
    assert tiny(agg_kl(alpha=0.5), schedule).warnings() == ()
