import dataclasses
import math

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, run, tiny, trial_of, updates

from lagvae_core.data import History
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.strategies import CATALOGUE, refinement, sa_vae
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.rules import Trait
from lagvae_core.strategies.sa_vae import SaVae
from lagvae_core.strategies.slots import Penalty

STEEP = {"init_range": 0.8}
"""Initial weights that make the loss depend on z, so that refinement has an effect."""

NO_DROPOUT = {"dropout_in": 0.0, "dropout_out": 0.0}


def sa(**fields):
    return {"kind": "sa_vae", **fields}


def trial_with(*others, model=STEEP, dtype=torch.float64, **fields):
    """Return a trial of sa_vae in train mode, without clipping of its updates."""
    trial = trial_of(tiny(sa(**fields), *others, model=model, training={"clip_norm": 1e9}))
    trial.model.to(dtype).train()
    return trial


def gradients_of(trial, weight=0.7, batch=None):
    """Return the gradients of one update by parameter name, and its loss."""
    gradients = {}

    def step(*, encoder, decoder, clip_scope=None):
        assert encoder
        assert decoder
        gradients.update({name: p.grad.double().clone() for name, p in trial.model.named_parameters()})

    trial.learner.step = step
    loss = trial.components.update(trial.learner, batch or trial.train_batches[0], weight)
    assert loss.total.requires_grad
    return gradients, loss


def assert_near(actual, expected, tolerance):
    """Compare the gradients of encoder and decoder: relative error of each module's gradient as one vector."""
    for part in ("encoder", "decoder"):
        one, other = (torch.cat([g.flatten() for n, g in s.items() if n.startswith(part)]) for s in (actual, expected))
        assert float((one - other).norm()) < tolerance * float(other.norm()), part


def bound(trial, batch, q, noise_BSZ, weight=1.0):
    """Return the objective of `batch` at q, from the objective slot of the trial."""
    rec_BS = trial.model.reconstruct(batch, trial.learner.history(batch), q.draw(noise_BSZ).z_BSZ)
    return trial.components.objective(rec_BS.mean(1), q.kl_standard(), weight)


def svi_noise(trial, batch):
    return torch.randn(batch.size, 2, generator=trial.streams["svi"]).double()[:, None]


# --- training --------------------------------------------------------------------------------------------------------


class TestNeutral:
    @pytest.mark.parametrize("backward", ["finite_diff", "autograd", "none", "none_kl"])
    def test_no_steps_is_the_plain_vae(self, backward):
        assert_equals_plain_vae(sa(refinement_steps=0, backward=backward))

    @pytest.mark.parametrize("backward", ["finite_diff", "autograd", "none", "none_kl"])
    @pytest.mark.parametrize("steps", [1, 4])
    def test_a_rate_of_zero_gives_the_loss_of_the_plain_vae(self, steps, backward):
        losses, _, _ = updates(tiny(sa(refinement_steps=steps, rate=0.0, backward=backward), model=NO_DROPOUT), 1)
        plain, _, _ = updates(tiny(model=NO_DROPOUT), 1)
        assert losses == plain

    def test_a_rate_of_zero_gives_the_gradients_of_the_plain_vae(self):
        gradients, _ = gradients_of(trial_with(rate=0.0, model=STEEP | NO_DROPOUT))
        plain = trial_of(tiny(model=STEEP | NO_DROPOUT))
        plain.model.double().train()
        plain.learner.loss(plain.train_batches[0], 0.7).total.backward()
        assert_near(gradients, {name: p.grad for name, p in plain.model.named_parameters()}, 1e-9)


class TestGradientThroughTheSteps:
    """In float64, so that the only error is that of the finite difference itself."""

    @pytest.mark.parametrize("fields", [{"clip": 0.0}, {"clip": 0.05}, {"clip": 0.0, "rate": 5.0, "momentum": 0.9}])
    def test_finite_differences_are_near_double_backward(self, fields):
        exact, loss = gradients_of(trial_with(backward="autograd", **fields))
        differences, loss_of_differences = gradients_of(trial_with(**fields))
        detached, _ = gradients_of(trial_with(backward="none", **fields))
        assert float(loss_of_differences.total.detach()) == pytest.approx(float(loss.total.detach()), rel=1e-12)
        assert_near(differences, exact, 1e-3)
        with pytest.raises(AssertionError):
            assert_near(detached, exact, 0.3)  # the terms through the steps are a large part of the gradient

    @pytest.mark.parametrize("step", [1e-3, 1e-4, 1e-5])
    def test_the_error_falls_with_the_difference_step(self, step):
        exact, _ = gradients_of(trial_with(backward="autograd"))
        assert_near(gradients_of(trial_with(difference_step=step))[0], exact, 0.1 * step)

    def test_the_default_difference_step_suits_float32(self):
        exact, _ = gradients_of(trial_with(backward="autograd"))
        single, published = (
            gradients_of(trial_with(dtype=torch.float32, **fields))[0] for fields in ({}, {"difference_step": 1e-5})
        )
        assert_near(single, exact, 2e-3)
        with pytest.raises(AssertionError):
            assert_near(published, exact, 0.03)

    @pytest.mark.parametrize("backward", ["autograd", "finite_diff"])
    @pytest.mark.parametrize("clip", [0.0, 0.05])
    def test_the_gradient_equals_the_slope_of_the_whole_update(self, backward, clip):
        """The slope along a random direction in parameter space; all trials have the same dropout and noise."""
        slope, losses = 0.0, []
        fields = {"backward": backward, "clip": clip, "refinement_steps": 4}
        for distance in (0.0, 1e-5, -1e-5):
            trial = trial_with(**fields)
            draws = torch.Generator().manual_seed(3)
            direction = {
                name: torch.randn(p.shape, generator=draws, dtype=p.dtype) for name, p in trial.model.named_parameters()
            }
            with torch.no_grad():
                for name, parameter in trial.model.named_parameters():
                    parameter.add_(direction[name], alpha=distance)
            gradients, loss = gradients_of(trial)
            losses.append(float(loss.total.detach()))
            if distance == 0.0:
                slope = sum(float((gradients[name] * direction[name]).sum()) for name in gradients)
        assert slope == pytest.approx((losses[1] - losses[2]) / 2e-5, rel=1e-5 if backward == "autograd" else 1e-3)

    @pytest.mark.parametrize("other", [{"kind": "beta_vae", "beta": 0.3}, "kl_linear_epoch"])
    def test_the_steps_descend_the_weighted_objective(self, other):
        exact, _ = gradients_of(trial_with(other, backward="autograd"), weight=0.4)
        assert_near(gradients_of(trial_with(other), weight=0.4)[0], exact, 1e-3)

    def test_the_perturbed_pass_of_a_step_has_the_same_corruption(self):
        def some_unknown(history, generator):
            drop = torch.rand(history.tokens_BT.shape, generator=generator) < 0.3
            return History(history.tokens_BT.masked_fill(drop, 3))

        results = []
        for backward in ("autograd", "finite_diff"):
            trial = trial_with(backward=backward)
            trial.learner.components = dataclasses.replace(trial.components, corrupt=some_unknown)
            results.append((gradients_of(trial)[0], trial.streams["corruption"].get_state()))
        assert_near(results[1][0], results[0][0], 1e-3)
        assert torch.equal(results[0][1], results[1][1])

    @pytest.mark.parametrize("backward", ["autograd", "finite_diff"])
    def test_backward_clip_bounds_the_gradient_of_steps_that_overshoot(self, backward):
        """At this rate each step back multiplies the gradient; at lambda_0 its norm is clipped to 5."""
        norms = []
        for limit in (0.0, 5.0):
            trial = trial_with(backward=backward, rate=100.0, clip=0.0, refinement_steps=8, backward_clip=limit)
            received = []
            trial.model.encoder.to_latent.register_full_backward_hook(
                lambda module, inputs, outputs, to=received: to.append(outputs[0])
            )
            gradients_of(trial)
            norms.append(math.sqrt(trial.train_batches[0].size / 32) * float(received[0].norm()))
        assert norms[0] > 50
        assert norms[1] == pytest.approx(5.0, rel=1e-6)

    def test_perturbed_passes_do_not_advance_the_random_streams(self):
        states = []
        for fields in ({}, {"backward": "autograd"}, {"backward": "none_kl"}):
            trial = trial_with(**fields)
            gradients_of(trial)
            states.append(trial.streams.state_dict())
        assert all(state.keys() == states[0].keys() for state in states)
        for name, state in states[0].items():
            assert all(torch.equal(other[name], state) for other in states), name


def test_a_step_descends_the_weighted_objective_without_penalties():
    class Counted(Penalty):
        calls = 0

        def forward(self, forward):
            self.calls += 1
            return 100.0 * forward.inference.q.base.mean_BZ.square().mean()

    beta = {"kind": "beta_vae", "beta": 0.5}
    trial = trial_with(beta, model=STEEP | NO_DROPOUT, refinement_steps=1, rate=4.0, clip=0.0)
    penalty, refined, loss_at = Counted(), [], trial.learner.loss_at
    trial.learner.components = dataclasses.replace(trial.components, penalties=(penalty,))
    trial.learner.loss_at = lambda batch, inference, weight: (
        refined.append(inference.q) or loss_at(batch, inference, weight)
    )
    gradients_of(trial, weight=0.3)
    assert penalty.calls == 1
    fresh = trial_with(beta, model=STEEP | NO_DROPOUT)
    batch = fresh.train_batches[0]
    start = fresh.model.infer(batch).q.map(lambda rows: rows.detach().requires_grad_())
    bound(fresh, batch, start, svi_noise(fresh, batch), 0.3).backward()
    for name in ("mean_BZ", "logvar_BZ"):
        initial = getattr(start, name)
        expected = initial - 4.0 / 32 * batch.size * initial.grad
        torch.testing.assert_close(getattr(refined[0], name), expected, rtol=1e-9, atol=1e-12)


def test_the_factor_of_the_kl():
    for stack, expected in (((), 0.3), (({"kind": "beta_vae", "beta": 0.4},), 0.12)):
        assert float(trial_of(tiny(*stack)).learner.kl_factor(0.3)) == pytest.approx(expected)


def published_algorithm(trial, config, weight):
    """Return the gradients by name, from the published algorithm in explicit loops."""
    model, learner, batch, r = trial.model, trial.learner, trial.train_batches[0], config.difference_step
    size, reference = batch.size, config.reference_batch
    encoded = model.infer(batch).q
    decoder = dict(model.decoder.named_parameters())
    noise = [svi_noise(trial, batch) for _ in range(config.refinement_steps)]
    masks = []

    def clip(tensors, share=()):
        """Clip to a joint norm of `clip`; the tensors `share` are scaled to `reference` examples."""
        square = sum((reference / size if i in share else 1.0) * float(t.square().sum()) for i, t in enumerate(tensors))
        factor = min(1.0, config.clip / square**0.5)
        return [factor * tensor for tensor in tensors]

    def grads(k, mean, logvar):
        mean, logvar = (t.detach().requires_grad_() for t in (mean, logvar))
        after = trial.streams["dropout"].get_state()
        trial.streams["dropout"].set_state(masks[k])
        loss = bound(trial, batch, Gaussian(mean, logvar), noise[k], weight)
        trial.streams["dropout"].set_state(after)
        gradients = torch.autograd.grad(loss, [mean, logvar, *decoder.values()])
        return [g * size / reference for g in gradients[:2]], list(gradients[2:])

    q, velocity, stored = [encoded.mean_BZ.detach(), encoded.logvar_BZ.detach()], [0.0, 0.0], []
    for k in range(config.refinement_steps):
        masks.append(trial.streams["dropout"].get_state())
        g, theta = grads(k, *q)
        model.reconstruct(batch, batch.history, Gaussian(*q).rsample(noise[k]))  # advances the dropout stream
        g = [clip([part], share=(0,))[0] for part in g]
        stored.append((q, g, theta))
        velocity = [config.momentum * v - part for v, part in zip(velocity, g, strict=True)]
        q = [part + config.rate * v for part, v in zip(q, velocity, strict=True)]
    q = [part.detach().requires_grad_() for part in q]
    final = Inference.plain(Gaussian(*q))
    outer = torch.autograd.grad(learner.loss_at(batch, final, weight).total, [*q, *decoder.values()])
    outer, total = [g * size / reference for g in outer[:2]], list(outer[2:])
    p = [0.0, 0.0]
    for place, g, theta in reversed(stored):
        k = len(masks) - 1
        p = [one + config.rate * a for one, a in zip(p, outer, strict=True)]
        g_there, theta_there = grads(k, *(part + r * one for part, one in zip(place, p, strict=True)))
        clipped = clip([*g_there, *theta_there], share=(0, 1))
        products = clip([(one - other) / r for one, other in zip(clipped[2:], theta, strict=True)])
        total = [one - other for one, other in zip(total, products, strict=True)]
        products = [(one - other) / r for one, other in zip(clipped[:2], g, strict=True)]
        outer = clip([a - h for a, h in zip(outer, products, strict=True)], share=(0, 1))
        p = [config.momentum * one for one in p]
        masks.pop()
    torch.autograd.backward([encoded.mean_BZ, encoded.logvar_BZ], [a * reference / size for a in outer])
    of_encoder = {f"encoder.{name}": p.grad for name, p in model.encoder.named_parameters()}
    return of_encoder | {f"decoder.{name}": g for name, g in zip(decoder, total, strict=True)}


class TestReferenceClipping:
    def test_without_clipping_it_equals_consistent(self):
        free = {"clip": 1e9, "backward_clip": 0.0, "difference_step": 1e-4}
        expected, _ = gradients_of(trial_with(**free))
        assert_near(gradients_of(trial_with(finite_diff_clip="reference", **free))[0], expected, 1e-7)

    @pytest.mark.parametrize("clip", [0.02, 0.2, 5.0])
    @pytest.mark.parametrize("reference_batch", [16, 32])
    def test_it_equals_the_published_algorithm(self, clip, reference_batch):
        fields = {"clip": clip, "backward_clip": clip, "reference_batch": reference_batch, "refinement_steps": 3}
        actual, _ = gradients_of(trial_with(finite_diff_clip="reference", **fields))
        config = SaVae(finite_diff_clip="reference", **fields)
        expected = published_algorithm(trial_with(finite_diff_clip="reference", **fields), config, 0.7)
        assert_near(actual, expected, 1e-8)
        if clip < 1:
            with pytest.raises(AssertionError):
                assert_near(actual, gradients_of(trial_with(**fields))[0], 0.1)


class TestDescent:
    GRADIENT = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()

    def descent(self, examples, *, alone=False, **fields):
        return refinement.Descent(SaVae(**fields), examples, alone=alone)

    def test_means_and_log_variances_are_clipped_separately(self):
        clipped = self.descent(5, clip=0.5, reference_batch=5).clipped(self.GRADIENT)
        for half, whole in zip(clipped, self.GRADIENT, strict=True):
            torch.testing.assert_close(half, whole * 0.5 / whole.norm(), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("examples", [1, 7, 32])
    def test_equal_examples_are_clipped_equally_together_and_alone(self, examples):
        equal = self.GRADIENT[:, :1].expand(-1, examples, -1)
        joint = self.descent(examples, clip=0.5).clipped(equal)
        torch.testing.assert_close(joint, self.descent(examples, clip=0.5, alone=True).clipped(equal))
        assert not torch.equal(joint, equal)

    @pytest.mark.parametrize("alone", [False, True])
    @pytest.mark.parametrize("clip", [0.0, 0.5, 9.0, 1e3])
    def test_the_derivative_of_the_clipping_equals_autograd(self, clip, alone):
        descent = self.descent(5, clip=clip, alone=alone)
        gradient, outer = self.GRADIENT.clone().requires_grad_(), self.GRADIENT.flip(1)
        (expected,) = torch.autograd.grad(descent.clipped(gradient), gradient, outer)
        actual = descent.clipped_backward(self.GRADIENT, outer)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)

    def test_a_gradient_of_zero_stays_zero(self):
        zero = torch.zeros(2, 5, 3)
        assert torch.equal(self.descent(5).clipped(zero), zero)
        assert torch.equal(self.descent(5).clipped_backward(zero, self.GRADIENT.float()), self.GRADIENT.float())


class TestDetachedGradient:
    """VAE+SVI, with and without KL. Without dropout, so that a pass can be repeated."""

    @pytest.fixture(params=["none", "none_kl"])
    def case(self, request):
        """Return the mode, the gradients and the refined posterior."""
        trial = trial_with(backward=request.param, refinement_steps=3, model=STEEP | NO_DROPOUT)
        refined, loss_at = [], trial.learner.loss_at
        trial.learner.loss_at = lambda batch, inference, weight: (
            refined.append(inference.q) or loss_at(batch, inference, weight)
        )
        gradients, _ = gradients_of(trial)
        return request.param, gradients, refined[0]

    def test_the_decoder_is_trained_at_the_refined_posterior(self, case):
        _, gradients, q = case
        trial = trial_with(model=STEEP | NO_DROPOUT)
        trial.learner.loss_at(trial.train_batches[0], Inference.plain(q), 0.7).total.backward()
        assert not q.mean_BZ.requires_grad
        for name, parameter in trial.model.decoder.named_parameters():
            torch.testing.assert_close(gradients[f"decoder.{name}"], parameter.grad, rtol=1e-9, atol=1e-12)

    def test_the_encoder_is_trained_at_its_own_posterior_or_towards_the_refined_one(self, case):
        backward, gradients, refined = case
        trial = trial_with(model=STEEP | NO_DROPOUT)
        batch = trial.train_batches[0]
        start = trial.model.infer(batch).q
        if backward == "none_kl":
            one, two = (torch.distributions.Normal(q.mean_BZ, (0.5 * q.logvar_BZ).exp()) for q in (start, refined))
            loss = torch.distributions.kl_divergence(one, two).sum(1).mean()
        else:
            noise = [svi_noise(trial, batch) for _ in range(4)][-1]
            loss = bound(trial, batch, start, noise, 0.7)
        loss.backward()
        for name, parameter in trial.model.encoder.named_parameters():
            torch.testing.assert_close(gradients[f"encoder.{name}"], parameter.grad, rtol=1e-9, atol=1e-12)
            assert float(parameter.grad.abs().max()) > 0


# --- measurement -----------------------------------------------------------------------------------------------------


def refined_of(trial, batch, **fields):
    trial.model.eval()
    with torch.no_grad():
        return SaVae(**fields).build(BuildContext(2, 4))["refine"](trial.model, 7)(batch).q


class TestRefinement:
    @pytest.mark.parametrize("clip", [0.0, 0.05, 5.0])
    def test_an_example_does_not_depend_on_its_batch(self, clip):
        trial = trial_with()
        batch = trial.validation.batches[0]
        whole = refined_of(trial, batch, clip=clip, rate=10.0)
        assert float((whole.mean_BZ - trial.model.infer(batch).q.mean_BZ).abs().max().detach()) > 0.05
        for rows in ([3], [31, 0, 4, 8], list(range(31, -1, -1))):
            few = dataclasses.replace(batch, tokens_BL=batch.tokens_BL[rows], index_B=batch.index_B[rows])
            alone = refined_of(trial, few, clip=clip, rate=10.0)
            for actual, expected in ((alone.mean_BZ, whole.mean_BZ), (alone.logvar_BZ, whole.logvar_BZ)):
                torch.testing.assert_close(actual, expected[rows], rtol=1e-9, atol=1e-9)

    def test_its_noise_depends_on_the_seed(self):
        trial = trial_with()
        trial.model.eval()
        refine, batch = trial.components.refine, trial.validation.batches[0]
        one, two, again = (refine(trial.model, seed)(batch).q.mean_BZ for seed in (0, 1, 0))
        assert torch.equal(one, again)
        assert not torch.equal(one, two)

    @pytest.mark.parametrize("rate", [0.1, 1.0])
    def test_each_small_step_on_fixed_noise_improves_the_bound(self, rate, monkeypatch):
        trial = trial_with()
        batch = trial.validation.batches[0]
        fixed = torch.randn(batch.size, 1, 2, generator=torch.Generator().manual_seed(1)).double()
        monkeypatch.setattr(sa_vae, "example_noise", lambda seed, column, index, k, size: fixed.expand(-1, k, -1))
        with torch.no_grad():
            refined = [refined_of(trial, batch, refinement_steps=k, rate=rate) for k in range(9)]
            losses = [float(bound(trial, batch, q, fixed)) for q in refined]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] - losses[-1] > 1e-3

    def test_a_step_follows_the_gradient_of_the_bound_over_the_reference_batch(self):
        trial = trial_with()
        batch = trial.validation.batches[0]
        refined = refined_of(trial, batch, refinement_steps=1, rate=0.5, reference_batch=10, clip=0.0)
        start = trial.model.infer(batch).q.map(lambda rows: rows.detach().requires_grad_())
        noise = sa_vae.example_noise(7, "svi", batch.index_B, 1, 2).double()
        (bound(trial, batch, start, noise) * batch.size).backward()
        torch.testing.assert_close(refined.mean_BZ, start.mean_BZ - 0.05 * start.mean_BZ.grad)
        torch.testing.assert_close(refined.logvar_BZ, start.logvar_BZ - 0.05 * start.logvar_BZ.grad)

    def test_it_has_no_side_effects(self):
        trial = trial_with()
        trial.model.decoder.output.weight.requires_grad_(False)
        flags = {name: p.requires_grad for name, p in trial.model.named_parameters()}
        streams, seed = trial.streams.state_dict(), torch.random.get_rng_state()
        q = refined_of(trial, trial.validation.batches[0])
        assert not q.mean_BZ.requires_grad
        assert not q.logvar_BZ.requires_grad
        assert all(p.grad is None for p in trial.model.parameters())
        assert {name: p.requires_grad for name, p in trial.model.named_parameters()} == flags
        assert torch.equal(torch.random.get_rng_state(), seed)
        after = trial.streams.state_dict()
        assert after.keys() == streams.keys()
        assert all(torch.equal(after[name], state) for name, state in streams.items())

    def test_without_steps_the_encoder_is_used_unrefined(self):
        trial = trial_with(refinement_steps=0)
        assert trial.components.refine(trial.model, 0) == trial.model.infer


@pytest.fixture(scope="module")
def trained():
    """Return a trained trial that uses z, and its metrics."""
    evaluation = {"iw_samples": 400, "limit": None}
    training = {"epochs": 6, "learning_rate": 0.5}
    trial = trial_of(tiny(sa(rate=5.0), model=STEEP, training=training, evaluation=evaluation))
    trial.fit()
    return trial, trial.measure()


class TestMeasurement:
    def test_both_proposals_bound_the_likelihood_and_the_refined_bound_is_tighter(self, trained):
        trial, metrics = trained
        infer = trial.components.refine(trial.model, trial.config.evaluation.seed)
        assert metrics["kl"] > 0.05
        means = []
        for samples in (2, 400):
            estimates = [
                importance_weighted(
                    trial.model, trial.dataset.test.batches(32), samples, 0, {"": proposal_weight(trial.model)}, infer=q
                )[""]
                for q in (infer, trial.model.infer)
            ]
            means.append([estimate.nll for estimate in estimates])
        assert means[0][0] < means[0][1]
        assert means[1][0] == pytest.approx(means[1][1], abs=0.02)
        assert metrics["nll_iw"] == pytest.approx(metrics["nll_iw_init"], abs=0.02)
        assert metrics["nll_iw"] != metrics["nll_iw_init"]

    def test_the_refined_posteriors_give_every_default_column(self, trained):
        trial, metrics = trained
        batches, seed = trial.dataset.test.batches(32), trial.config.evaluation.seed
        refined = encode_split(trial.model, batches, seed, infer=trial.components.refine(trial.model, seed))
        initial = encode_split(trial.model, batches, seed)
        assert metrics["kl"] == pytest.approx(metrics["kl_train"])
        assert metrics["kl"] == pytest.approx(float(refined.kl_ND.sum(1).mean()))
        assert metrics["kl_init"] == pytest.approx(float(initial.kl_ND.sum(1).mean()))
        assert metrics["kl_init"] != pytest.approx(metrics["kl"], rel=1e-3)
        assert metrics["rec"] == pytest.approx(float(refined.rec_N.mean()))

    def test_validation_measures_the_refined_posteriors(self, trained):
        trial, _ = trained
        record, seed = trial.validate(), trial.config.evaluation.seed
        batches = trial.dataset.valid.batches(32)
        refined, initial = (
            encode_split(trial.model, batches, seed, infer=infer)
            for infer in (trial.components.refine(trial.model, seed), None)
        )
        assert record["valid_kl"] == pytest.approx(float(refined.kl_ND.sum(1).mean()))
        assert record["valid_kl"] != pytest.approx(float(initial.kl_ND.sum(1).mean()), rel=1e-3)

    @pytest.mark.parametrize("fields", [{"backward": "none"}, {"backward": "none_kl"}, {"backward": "autograd"}])
    def test_every_mode_trains_to_finite_numbers(self, fields):
        record = run(tiny(sa(**fields)))
        assert record.status == "finished"
        assert all(math.isfinite(record.metrics[column.name]) for column in SaVae.columns)


# --- stacks ----------------------------------------------------------------------------------------------------------


def assert_rejected(code, other):
    for stack in (("sa_vae", other), (other, "sa_vae")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == code


UNDEFINED_ON_REFINED = [
    kind
    for kind, strategy in CATALOGUE.items()
    if strategy.slots & {"prior", "posterior"} or Trait.REGULARISES_BATCH in strategy.traits
]


@pytest.mark.parametrize("other", UNDEFINED_ON_REFINED)
def test_strategies_that_are_undefined_on_refined_posteriors_are_rejected(other):
    assert_rejected("E04", other)


def test_a_second_strategy_against_the_lag_of_inference_is_rejected():
    assert_rejected("E05", "aggressive")


@pytest.mark.parametrize("other", ["free_bits", "soft_free_bits", "mdr"])
def test_an_objective_other_than_the_weighted_elbo_is_rejected(other):
    assert_rejected("E16", other)


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"backward": "autograd", "difference_step": 1e-4}, "difference_step"),
        ({"backward": "none", "backward_clip": 1.0}, "backward_clip"),
        ({"backward": "none", "finite_diff_clip": "reference"}, "finite_diff_clip"),
        ({"clip": 0.0, "finite_diff_clip": "reference"}, "finite_diff_clip"),
    ],
)
def test_an_option_without_effect_is_rejected(fields, option):
    with rejects("strategies") as issues:
        tiny(sa(**fields))
    assert issues[0].code == "E18"
    assert f"sa_vae.{option}" in str(issues[0])


@pytest.mark.parametrize("other", ["multitask_bow", "fraternal_dropout"])
def test_terms_that_the_steps_leave_out_give_a_warning(other):
    (warning,) = map(str, tiny("sa_vae", other).warnings())
    assert warning.startswith("W5: ")
    assert other in warning


@pytest.mark.parametrize("other", ["beta_vae", {"kind": "kl_linear_epoch", "warm_up": 1}, "encoder_lr"])
def test_compatible_strategies_give_no_warning(other):
    assert tiny("sa_vae", other).warnings() == ()
