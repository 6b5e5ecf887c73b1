import math

import pytest
import torch
from helpers import assert_equals_sampled_vae, dataset_of, rejects, run, tiny, trial_of
from torch import nn

from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.metrics.active_units import active_units
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.metrics.information import mutual_information_within, pairwise_information
from lagvae_core.models.flows import FlowProposal, Gated
from lagvae_core.models.gaussian import Gaussian, NormalPrior
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.iaf_posterior import IafPosterior

OTHER_POSTERIORS = [
    kind for kind, strategy in CATALOGUE.items() if "posterior" in strategy.slots and kind != "iaf_posterior"
]


def iaf(**fields):
    return {"kind": "iaf_posterior", **fields}


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_random_weights(posterior, spread=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in posterior.double().parameters():
        nn.init.normal_(parameter, std=spread, generator=generator)
    return posterior


def posterior_of(latent_dim=3, **fields):
    return with_random_weights(IafPosterior(**fields).build(BuildContext(latent_dim, 4))["posterior"])


def encoded(examples=4, latent_dim=3):
    return Gaussian(draws(examples, latent_dim, seed=1), 0.5 * draws(examples, latent_dim, seed=2))


# --- the posterior ---------------------------------------------------------------------------------------------------


def test_depth_0_is_the_plain_vae_with_a_sampled_kl():
    assert_equals_sampled_vae(iaf(depth=0), by_dimension=True)


def test_the_encoders_gaussian_is_input_and_context_of_the_flow():
    posterior, gaussian = posterior_of(), encoded()
    inference = posterior(gaussian)
    assert inference.kl_posterior is inference.q
    assert inference.q.base is gaussian
    context = torch.cat([gaussian.mean_BZ, gaussian.logvar_BZ], 1)[:, None]
    noise = draws(4, 5, 3, seed=3)
    draw = inference.q.draw(noise)
    z, log_scale = posterior.flow(gaussian.rsample(noise), context)
    assert torch.equal(draw.z_BSZ, z)
    exact = gaussian.log_prob(gaussian.rsample(noise)) - log_scale.sum(-1)
    torch.testing.assert_close(draw.log_q().sum(-1), exact, rtol=1e-10, atol=1e-10)


def test_depth_and_width_set_the_size_of_the_flow():
    flow = IafPosterior(depth=3).build(BuildContext(5, 4))["posterior"].flow
    assert [type(step) for step in flow.steps] == [Gated] * 3
    assert {step.made.cross.in_features for step in flow.steps} == {80}
    assert [step.order[0] for step in flow.steps] == [0, 4, 0]
    narrow = IafPosterior(width=7).build(BuildContext(5, 4))["posterior"].flow
    assert {step.made.cross.in_features for step in narrow.steps} == {7}


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_the_kl_is_the_mean_log_ratio_and_its_terms_add_up_to_it(latent_dim):
    q, n = posterior_of(latent_dim)(encoded(latent_dim=latent_dim)).q, 4000
    draw = q.draw(draws(4, n, latent_dim, seed=3))
    kl_BZ = NormalPrior().kl(q, draw)
    ratio = draw.log_q().sum(-1) - NormalPrior().log_prob(draw.z_BSZ)
    assert kl_BZ.shape == (4, latent_dim)
    torch.testing.assert_close(kl_BZ.sum(1), ratio.mean(1), rtol=1e-9, atol=1e-9)
    assert (kl_BZ.sum(1) > -4 * ratio.std(1) / math.sqrt(n)).all()
    assert not NormalPrior().closed_form(q)


def test_every_parameter_learns_with_the_encoder():
    trial = trial_of(tiny("iaf_posterior"))
    trial.model.train()
    flow = set(trial.model.posterior.parameters())
    assert flow <= set(trial.model.encoder_parameters())
    assert not flow & set(trial.model.decoder_parameters())
    trial.learner.loss(trial.train_batches[0], 1.0).total.backward()
    for name, parameter in trial.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_gradient_of_the_loss_equals_finite_differences():
    trial = trial_of(tiny("iaf_posterior"))
    model, batch = trial.model.double().train(), trial.train_batches[0]
    noise = draws(batch.size, 1, 2)

    def loss():
        inference = model.infer(batch)
        draw = inference.q.draw(noise)
        model.eval()
        rec = model.reconstruct(batch, batch.history, draw.z_BSZ).mean()
        model.train()
        return rec + model.prior.kl(inference.kl_posterior, draw).sum(1).mean()

    step = model.posterior.flow.steps[0].made
    chosen = [
        step.enter.weight,
        step.context.weight,
        step.cross.weight,
        step.leave.bias,
        model.encoder.to_latent.weight,
    ]
    nudge = 1e-6
    for parameter, gradient in zip(chosen, torch.autograd.grad(loss(), chosen), strict=True):
        place = divmod(int(gradient.abs().argmax()), gradient.shape[-1]) if gradient.dim() == 2 else (0,)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * nudge
                values.append(float(loss()))
                parameter[place] -= sign * nudge
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / (2 * nudge), rel=1e-4, abs=1e-8)


# --- measurement -----------------------------------------------------------------------------------------------------


def encoded_trial(**fields):
    trial = trial_of(tiny(iaf(**fields)))
    with_random_weights(trial.model.posterior)
    trial.model.float().eval()
    return trial, encode_split(trial.model, trial.validation.batches, 0)


def test_the_encoded_split_keeps_the_flow_and_evaluates_its_density():
    trial, split = encoded_trial()
    assert isinstance(split.q, FlowProposal)
    assert split.q.base.mean_BZ.dtype == torch.float64
    log_q_N = split.q.log_prob(split.z_NZ[:, None])[:, 0]
    torch.testing.assert_close(log_q_N, split.log_q_N, rtol=1e-4, atol=1e-4)
    again = split.infer(trial.validation.batches[0])
    assert again.q.base.mean_BZ.dtype == torch.float32
    assert again.q.flow is trial.model.posterior.flow


def test_information_within_groups_equals_a_loop_over_pairs():
    _, split = encoded_trial()
    groups = [torch.arange(0, 5), torch.arange(5, 9)]
    information = pairwise_information(split.q, split.z_NZ, split.log_q_N, groups)
    terms = []
    for group in groups:
        for i in group.tolist():
            with torch.no_grad():
                densities = [split.q.select(torch.tensor([j])).log_prob(split.z_NZ[i][None, None]) for j in group]
            mean = math.log(sum(math.exp(float(density)) for density in densities) / len(group))
            terms.append(float(split.log_q_N[i]) - mean)
    assert information.value == pytest.approx(sum(terms) / len(terms), abs=1e-5)


def test_depth_0_gives_the_information_of_the_gaussians():
    _, split = encoded_trial(depth=0)
    groups = [torch.arange(0, 16), torch.arange(16, 32)]
    information = pairwise_information(split.q, split.z_NZ, split.log_q_N, groups)
    exact = mutual_information_within(split.q.base, split.noise_NZ, groups)
    assert information.value == pytest.approx(exact.value, abs=1e-6)
    assert information.ceiling == exact.ceiling


def test_the_sampling_error_of_the_means_is_estimated():
    trial, split = encoded_trial()
    batch = trial.validation.batches[0]
    with torch.no_grad():
        q = trial.model.infer(batch).q
        exact = q.draw(draws(batch.size, 20_000, 2).float()).z_BSZ.mean(1).double()
    error = split.mean_NZ[batch.index_B] - exact
    assert float(error.square().mean()) == pytest.approx(float(split.mean_noise_Z.mean()), rel=0.6)


def test_au_base_is_a_column_and_mi_is_not_measured():
    config = tiny("iaf_posterior", model={"init_range": 3.0})
    trial = trial_of(config)
    with_random_weights(trial.model.posterior)
    trial.model.float()
    split = dataset_of(config.data).test
    metrics = evaluate(trial.model, trial.components, trial.dataset, split, config.evaluation, torch.device("cpu"))
    with torch.no_grad():
        base = torch.cat([trial.model.infer(batch).q.base.mean_BZ for batch in split.limit(16).batches(16)])
    assert metrics["au_base"] == active_units(base).count == 2
    assert metrics["mi"] is None
    assert 0 <= metrics["mi_batch"] <= metrics["mi_batch_cap"]
    assert math.isfinite(metrics["kl"])


def test_a_run_finishes_without_mi():
    record = run(tiny("iaf_posterior", {"kind": "aggressive", "budget": 2}))
    assert record.status == "finished"
    assert [epoch["valid_mi"] for epoch in record.curve] == [None, None]
    assert all(math.isfinite(epoch["valid_mi_batch"]) for epoch in record.curve)


# --- stacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", OTHER_POSTERIORS)
def test_a_second_posterior_is_rejected(other):
    for stack in (("iaf_posterior", other), (other, "iaf_posterior")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == "E-SLOT"
        assert "posterior" in issues[0].message


def test_a_regulariser_over_pairs_of_posteriors_is_rejected():
    for stack in (("iaf_posterior", "agg_kl"), ("agg_kl", "iaf_posterior")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == "E14"


def test_a_width_has_no_effect_without_a_flow():
    with rejects("strategies") as issues:
        tiny(iaf(depth=0, width=8))
    assert issues[0].code == "E18"
    assert "iaf_posterior.width" in str(issues[0])
