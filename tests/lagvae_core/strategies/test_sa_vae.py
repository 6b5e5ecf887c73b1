import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from helpers import assert_equals_plain_vae, run, tiny, trial_of, updates

from lagvae_core.data import History
from lagvae_core.errors import ConfigError
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.strategies import refinement, sa_vae
from lagvae_core.strategies.base import BuildContext, ConfigContext
from lagvae_core.strategies.sa_vae import SaVae
from lagvae_core.strategies.slots import Penalty

STEEP = {"init_range": 0.8}
"""Weights at which the loss depends on z, so that refinement matters."""
NO_DROPOUT = {"dropout_in": 0.0, "dropout_out": 0.0}


def sa(**fields):
    return {"kind": "sa_vae", **fields}


def trial_with(*others, model=STEEP, dtype=torch.float64, **fields):
    """A trial of sa_vae in train mode whose steps are not clipped."""
    trial = trial_of(tiny(sa(**fields), *others, model=model, training={"clip_norm": 1e9}))
    trial.model.to(dtype).train()
    return trial


def gradients_of(trial, weight=0.7, batch=None):
    """The gradients with which the update would step, by name, and its loss."""
    found = {}

    def step(*, encoder, decoder, clip_scope=None):
        assert encoder
        assert decoder
        found.update({name: p.grad.double().clone() for name, p in trial.model.named_parameters()})

    trial.learner.step = step
    loss = trial.components.update(trial.learner, batch or trial.train_batches[0], weight)
    assert loss.total.requires_grad
    return found, loss


def assert_near(found, expected, tolerance):
    """For encoder and decoder: the relative error of their gradients together."""
    for part in ("encoder", "decoder"):
        one, other = (torch.cat([g.flatten() for n, g in s.items() if n.startswith(part)]) for s in (found, expected))
        assert float((one - other).norm()) < tolerance * float(other.norm()), part


def bound(trial, batch, q, noise_BSZ, weight=1.0):
    """The objective of `batch` at q, as the trial's own slot gives it."""
    rec_BS = trial.model.reconstruct(batch, trial.learner.history(batch), q.draw(noise_BSZ).z_BSZ)
    return trial.components.objective(rec_BS.mean(1), q.kl_standard(), weight)


def svi_noise(trial, batch):
    return torch.randn(batch.size, 2, generator=trial.streams["svi"]).double()[:, None]


# --- training ---------------------------------------------------------------------------------------------------------


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
        found, _ = gradients_of(trial_with(rate=0.0, model=STEEP | NO_DROPOUT))
        plain = trial_of(tiny(model=STEEP | NO_DROPOUT))
        plain.model.double().train()
        plain.learner.loss(plain.train_batches[0], 0.7).total.backward()
        assert_near(found, {name: p.grad for name, p in plain.model.named_parameters()}, 1e-9)


class TestGradientThroughTheSteps:
    """Float64, so that only the finite difference itself is in error."""

    @pytest.mark.parametrize("fields", [{"clip": 0.0}, {"clip": 0.05}, {"clip": 0.0, "rate": 5.0, "momentum": 0.9}])
    def test_finite_differences_are_near_double_backward(self, fields):
        exact, loss = gradients_of(trial_with(backward="autograd", **fields))
        found, same = gradients_of(trial_with(**fields))
        without, _ = gradients_of(trial_with(backward="none", **fields))
        assert float(same.total.detach()) == pytest.approx(float(loss.total.detach()), rel=1e-12)
        assert_near(found, exact, 1e-3)
        with pytest.raises(AssertionError):
            assert_near(without, exact, 0.3)  # the terms through the steps are no small part of it

    @pytest.mark.parametrize("step", [1e-3, 1e-4, 1e-5])
    def test_the_error_falls_with_the_difference_step(self, step):
        exact, _ = gradients_of(trial_with(backward="autograd"))
        assert_near(gradients_of(trial_with(difference_step=step))[0], exact, 0.1 * step)

    def test_at_its_default_the_difference_step_serves_float32(self):
        exact, _ = gradients_of(trial_with(backward="autograd"))
        single, published = (
            gradients_of(trial_with(dtype=torch.float32, **fields))[0] for fields in ({}, {"difference_step": 1e-5})
        )
        assert_near(single, exact, 2e-3)
        with pytest.raises(AssertionError):
            assert_near(published, exact, 0.03)

    @pytest.mark.parametrize("backward", ["autograd", "finite_diff"])
    @pytest.mark.parametrize("clip", [0.0, 0.05])
    def test_double_backward_is_the_slope_of_the_whole_update(self, backward, clip):
        """Along a random direction in the space of all parameters; dropout and noise are the same in every trial."""
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
            found, loss = gradients_of(trial)
            losses.append(float(loss.total.detach()))
            if distance == 0.0:
                slope = sum(float((found[name] * direction[name]).sum()) for name in found)
        assert slope == pytest.approx((losses[1] - losses[2]) / 2e-5, rel=1e-5 if backward == "autograd" else 1e-3)

    @pytest.mark.parametrize("other", [{"kind": "beta_vae", "beta": 0.3}, "kl_linear_epoch"])
    def test_the_steps_descend_the_weighted_objective(self, other):
        exact, _ = gradients_of(trial_with(other, backward="autograd"), weight=0.4)
        assert_near(gradients_of(trial_with(other), weight=0.4)[0], exact, 1e-3)

    def test_the_corruption_of_a_step_is_the_same_in_its_perturbed_pass(self):
        def some_unknown(history, generator):
            drop = torch.rand(history.tokens_BT.shape, generator=generator) < 0.3
            return History(history.tokens_BT.masked_fill(drop, 3))

        found = []
        for backward in ("autograd", "finite_diff"):
            trial = trial_with(backward=backward)
            trial.learner.components = dataclasses.replace(trial.components, corrupt=some_unknown)
            found.append((gradients_of(trial)[0], trial.streams["corruption"].get_state()))
        assert_near(found[1][0], found[0][0], 1e-3)
        assert torch.equal(found[0][1], found[1][1])

    @pytest.mark.parametrize("backward", ["autograd", "finite_diff"])
    def test_steps_that_overshoot_do_not_blow_the_gradient_up(self, backward):
        """At such a rate each step back multiplies the gradient; that at the encoder's word is held to a norm of 5."""
        norms = []
        for limit in (0.0, 5.0):
            trial = trial_with(backward=backward, rate=100.0, clip=0.0, refinement_steps=8, backward_clip=limit)
            taught = []
            trial.model.encoder.to_latent.register_full_backward_hook(lambda *given, to=taught: to.append(given[2][0]))
            gradients_of(trial)
            norms.append(math.sqrt(trial.train_batches[0].size / 32) * float(taught[0].norm()))
        assert norms[0] > 50
        assert norms[1] == pytest.approx(5.0, rel=1e-6)

    def test_the_streams_are_left_where_the_unperturbed_passes_left_them(self):
        states = []
        for fields in ({}, {"backward": "autograd"}, {"backward": "none_kl"}):
            trial = trial_with(**fields)
            gradients_of(trial)
            states.append(trial.streams.state_dict())
        assert all(state.keys() == states[0].keys() for state in states)
        for name, state in states[0].items():
            assert all(torch.equal(other[name], state) for other in states), name


def test_a_step_follows_the_weighted_objective_without_penalties():
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
        at_first = getattr(start, name)
        expected = at_first - 4.0 / 32 * batch.size * at_first.grad
        torch.testing.assert_close(getattr(refined[0], name), expected, rtol=1e-9, atol=1e-12)


def test_the_factor_of_the_kl():
    for stack, expected in (((), 0.3), (({"kind": "beta_vae", "beta": 0.4},), 0.12)):
        assert float(trial_of(tiny(*stack)).learner.kl_factor(0.3)) == pytest.approx(expected)


def spelled_out(trial, setting, weight):
    """The published algorithm in plain loops, every pass with its own streams; the gradients by name."""
    model, learner, batch, r = trial.model, trial.learner, trial.train_batches[0], setting.difference_step
    size, reference = batch.size, setting.reference_batch
    encoded = model.infer(batch).q
    decoder = dict(model.decoder.named_parameters())
    noise = [svi_noise(trial, batch) for _ in range(setting.refinement_steps)]
    masks = []

    def clip(tensors, share=()):
        """To a joint norm of `clip`; the first `share` tensors are counted as `reference` examples."""
        square = sum((reference / size if i in share else 1.0) * float(t.square().sum()) for i, t in enumerate(tensors))
        factor = min(1.0, setting.clip / square**0.5)
        return [factor * tensor for tensor in tensors]

    def grads(k, mean, logvar):
        mean, logvar = (t.detach().requires_grad_() for t in (mean, logvar))
        after = trial.streams["dropout"].get_state()
        trial.streams["dropout"].set_state(masks[k])
        loss = bound(trial, batch, Gaussian(mean, logvar), noise[k], weight)
        trial.streams["dropout"].set_state(after)
        found = torch.autograd.grad(loss, [mean, logvar, *decoder.values()])
        return [g * size / reference for g in found[:2]], list(found[2:])

    q, velocity, stored = [encoded.mean_BZ.detach(), encoded.logvar_BZ.detach()], [0.0, 0.0], []
    for k in range(setting.refinement_steps):
        masks.append(trial.streams["dropout"].get_state())
        g, theta = grads(k, *q)
        model.reconstruct(batch, batch.history, Gaussian(*q).rsample(noise[k]))  # the stream goes on
        g = [clip([part], share=(0,))[0] for part in g]
        stored.append((q, g, theta))
        velocity = [setting.momentum * v - part for v, part in zip(velocity, g, strict=True)]
        q = [part + setting.rate * v for part, v in zip(q, velocity, strict=True)]
    q = [part.detach().requires_grad_() for part in q]
    final = Inference.plain(Gaussian(*q))
    outer = torch.autograd.grad(learner.loss_at(batch, final, weight).total, [*q, *decoder.values()])
    outer, total = [g * size / reference for g in outer[:2]], list(outer[2:])
    p = [0.0, 0.0]
    for place, g, theta in reversed(stored):
        k = len(masks) - 1
        p = [one + setting.rate * a for one, a in zip(p, outer, strict=True)]
        g_there, theta_there = grads(k, *(part + r * one for part, one in zip(place, p, strict=True)))
        clipped = clip([*g_there, *theta_there], share=(0, 1))
        products = clip([(one - other) / r for one, other in zip(clipped[2:], theta, strict=True)])
        total = [one - other for one, other in zip(total, products, strict=True)]
        products = [(one - other) / r for one, other in zip(clipped[:2], g, strict=True)]
        outer = clip([a - h for a, h in zip(outer, products, strict=True)], share=(0, 1))
        p = [setting.momentum * one for one in p]
        masks.pop()
    torch.autograd.backward([encoded.mean_BZ, encoded.logvar_BZ], [a * reference / size for a in outer])
    own = {f"encoder.{name}": p.grad for name, p in model.encoder.named_parameters()}
    return own | {f"decoder.{name}": g for name, g in zip(decoder, total, strict=True)}


class TestReferenceClipping:
    def test_where_nothing_clips_it_is_the_consistent_one(self):
        free = {"clip": 1e9, "backward_clip": 0.0, "difference_step": 1e-4}
        expected, _ = gradients_of(trial_with(**free))
        assert_near(gradients_of(trial_with(finite_diff_clip="reference", **free))[0], expected, 1e-7)

    @pytest.mark.parametrize("clip", [0.02, 0.2, 5.0])
    @pytest.mark.parametrize("reference_batch", [16, 32])
    def test_it_is_the_published_algorithm(self, clip, reference_batch):
        fields = {"clip": clip, "backward_clip": clip, "reference_batch": reference_batch, "refinement_steps": 3}
        found, _ = gradients_of(trial_with(finite_diff_clip="reference", **fields))
        setting = SaVae(finite_diff_clip="reference", **fields)
        expected = spelled_out(trial_with(finite_diff_clip="reference", **fields), setting, 0.7)
        assert_near(found, expected, 1e-8)
        if clip < 1:
            with pytest.raises(AssertionError):
                assert_near(found, gradients_of(trial_with(**fields))[0], 0.1)


class TestDescent:
    GRADIENT = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()

    def descent(self, examples, *, alone=False, **fields):
        return refinement.Descent(SaVae(**fields), examples, alone=alone)

    def test_in_a_batch_of_the_reference_size_each_half_is_clipped_by_its_norm(self):
        found = self.descent(5, clip=0.5, reference_batch=5).clipped(self.GRADIENT)
        for half, whole in zip(found, self.GRADIENT, strict=True):
            torch.testing.assert_close(half, whole * 0.5 / whole.norm(), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("examples", [1, 7, 32])
    def test_equal_examples_are_clipped_alike_together_and_alone(self, examples):
        equal = self.GRADIENT[:, :1].expand(-1, examples, -1)
        joint = self.descent(examples, clip=0.5).clipped(equal)
        torch.testing.assert_close(joint, self.descent(examples, clip=0.5, alone=True).clipped(equal))
        assert not torch.equal(joint, equal)

    @pytest.mark.parametrize("alone", [False, True])
    @pytest.mark.parametrize("clip", [0.0, 0.5, 9.0, 1e3])
    def test_the_derivative_of_the_clipping(self, clip, alone):
        descent = self.descent(5, clip=clip, alone=alone)
        gradient, outer = self.GRADIENT.clone().requires_grad_(), self.GRADIENT.flip(1)
        (expected,) = torch.autograd.grad(descent.clipped(gradient), gradient, outer)
        found = descent.clipped_backward(self.GRADIENT, outer)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)

    def test_a_gradient_of_zero_stays_zero(self):
        zero = torch.zeros(2, 5, 3)
        assert torch.equal(self.descent(5).clipped(zero), zero)
        assert torch.equal(self.descent(5).clipped_backward(zero, self.GRADIENT.float()), self.GRADIENT.float())


class TestApart:
    """VAE+SVI, with and without KL; nothing is dropped, so that a pass can be had again."""

    @pytest.fixture(params=["none", "none_kl"])
    def case(self, request):
        """How the encoder learns, the gradients and the refined posterior."""
        trial = trial_with(backward=request.param, refinement_steps=3, model=STEEP | NO_DROPOUT)
        refined, loss_at = [], trial.learner.loss_at
        trial.learner.loss_at = lambda batch, inference, weight: (
            refined.append(inference.q) or loss_at(batch, inference, weight)
        )
        found, _ = gradients_of(trial)
        return request.param, found, refined[0]

    def test_the_decoder_learns_at_the_refined_posterior(self, case):
        _, found, q = case
        trial = trial_with(model=STEEP | NO_DROPOUT)
        trial.learner.loss_at(trial.train_batches[0], Inference.plain(q), 0.7).total.backward()
        assert not q.mean_BZ.requires_grad
        for name, parameter in trial.model.decoder.named_parameters():
            torch.testing.assert_close(found[f"decoder.{name}"], parameter.grad, rtol=1e-9, atol=1e-12)

    def test_the_encoder_learns_at_its_own_posterior_or_towards_the_refined_one(self, case):
        backward, found, refined = case
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
            torch.testing.assert_close(found[f"encoder.{name}"], parameter.grad, rtol=1e-9, atol=1e-12)
            assert float(parameter.grad.abs().max()) > 0


# --- measurement ------------------------------------------------------------------------------------------------------


def refined_of(trial, batch, **fields):
    trial.model.eval()
    with torch.no_grad():
        return SaVae(**fields).build(BuildContext(2, 4))["refine"](trial.model, 7)(batch).q


class TestRefinement:
    @pytest.mark.parametrize("clip", [0.0, 0.05, 5.0])
    def test_an_example_does_not_feel_its_companions(self, clip):
        trial = trial_with()
        batch = trial.validation.batches[0]
        whole = refined_of(trial, batch, clip=clip, rate=10.0)
        assert float((whole.mean_BZ - trial.model.infer(batch).q.mean_BZ).abs().max().detach()) > 0.05
        for rows in ([3], [31, 0, 4, 8], list(range(31, -1, -1))):
            few = dataclasses.replace(batch, tokens_BL=batch.tokens_BL[rows], index_B=batch.index_B[rows])
            alone = refined_of(trial, few, clip=clip, rate=10.0)
            for found, expected in ((alone.mean_BZ, whole.mean_BZ), (alone.logvar_BZ, whole.logvar_BZ)):
                torch.testing.assert_close(found, expected[rows], rtol=1e-9, atol=1e-9)

    def test_its_noise_depends_on_the_seed(self):
        trial = trial_with()
        trial.model.eval()
        refine, batch = trial.components.refine, trial.validation.batches[0]
        one, two, again = (refine(trial.model, seed)(batch).q.mean_BZ for seed in (0, 1, 0))
        assert torch.equal(one, again)
        assert not torch.equal(one, two)

    @pytest.mark.parametrize("rate", [0.1, 1.0])
    def test_small_steps_on_fixed_noise_raise_the_bound_every_time(self, rate, monkeypatch):
        trial = trial_with()
        batch = trial.validation.batches[0]
        fixed = torch.randn(batch.size, 1, 2, generator=torch.Generator().manual_seed(1)).double()
        monkeypatch.setattr(sa_vae, "example_noise", lambda seed, column, index, k, size: fixed.expand(-1, k, -1))
        with torch.no_grad():
            refined = [refined_of(trial, batch, refinement_steps=k, rate=rate) for k in range(9)]
            losses = [float(bound(trial, batch, q, fixed)) for q in refined]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] - losses[-1] > 1e-3

    def test_a_step_is_the_gradient_of_the_bound_over_the_reference_batch(self):
        trial = trial_with()
        batch = trial.validation.batches[0]
        found = refined_of(trial, batch, refinement_steps=1, rate=0.5, reference_batch=10, clip=0.0)
        start = trial.model.infer(batch).q.map(lambda rows: rows.detach().requires_grad_())
        noise = sa_vae.example_noise(7, "svi", batch.index_B, 1, 2).double()
        (bound(trial, batch, start, noise) * batch.size).backward()
        torch.testing.assert_close(found.mean_BZ, start.mean_BZ - 0.05 * start.mean_BZ.grad)
        torch.testing.assert_close(found.logvar_BZ, start.logvar_BZ - 0.05 * start.logvar_BZ.grad)

    def test_it_leaves_no_trace(self):
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

    def test_without_steps_the_encoder_has_the_last_word(self):
        trial = trial_with(refinement_steps=0)
        assert trial.components.refine(trial.model, 0) == trial.model.infer


@pytest.fixture(scope="module")
def trained():
    """A trial at whose end z is used, and what it was measured to be."""
    evaluation = {"iw_samples": 400, "limit": None}
    training = {"epochs": 6, "learning_rate": 0.5}
    trial = trial_of(tiny(sa(rate=5.0), model=STEEP, training=training, evaluation=evaluation))

    class NoKeeper:
        def save(self, record=None):
            pass

        def save_if_due(self):
            pass

    trial.fit(lambda record: "", lambda progress: None, NoKeeper())
    return trial, trial.measure(lambda progress: None)


class TestMeasurement:
    def test_both_proposals_bound_one_likelihood_and_the_refined_one_closer(self, trained):
        trial, metrics = trained
        infer = trial.components.refine(trial.model, trial.config.evaluation.seed)
        assert metrics["kl"] > 0.05
        means = []
        for samples in (2, 400):
            found = [
                importance_weighted(
                    trial.model, trial.dataset.test.batches(32), samples, 0, {"": proposal_weight(trial.model)}, infer=q
                )[""]
                for q in (infer, trial.model.infer)
            ]
            means.append([mean.nll for mean in found])
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

    def test_validation_measures_what_is_refined(self, trained):
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


# --- stacks -----------------------------------------------------------------------------------------------------------


def incompatibilities(other, *slots, **fields):
    """What sa_vae says beside a strategy that may not be built yet."""
    own = SaVae(**fields)
    beside = SimpleNamespace(kind=other, slots=frozenset(slots))
    context = ConfigContext((own, beside), tiny().training, tiny().model, "synthetic")
    return [f"({r.code}) {r.message}" for r in own.incompatibilities(context)], list(own.warnings(context))


@pytest.mark.parametrize("other", ["bn_vae", "du_vae", "delta_vae", "scale_vae"])
def test_another_family_of_posteriors_is_refused(other):
    for stack in (("sa_vae", other), (other, "sa_vae")):
        with pytest.raises(ConfigError, match=rf"\(E04\).*sa_vae leave the .* family of {other}"):
            tiny(*stack)


@pytest.mark.parametrize(
    ("other", "slots", "reason"),
    [
        ("vamp_prior", ["prior"], "not specified for the prior of vamp_prior"),
        ("iaf_posterior", ["posterior"], "flow family of iaf_posterior"),
        ("mae", ["penalties"], "mae regularises a batch"),
        ("agg_kl", ["penalties", "kl_share"], "agg_kl regularises a batch"),
        ("info_mmd", ["penalties", "kl_share"], "info_mmd regularises a batch"),
        ("fisher", ["penalties"], "fisher regularises a batch"),
    ],
)
def test_what_is_undefined_on_refined_posteriors_is_refused(other, slots, reason):
    found, _ = incompatibilities(other, *slots)
    assert len(found) == 1
    assert "(E04)" in found[0]
    assert reason in found[0]
    assert "sa_vae" in found[0]


def test_a_second_remedy_for_the_lag_of_inference_is_refused():
    for stack in (("sa_vae", "aggressive"), ("aggressive", "sa_vae")):
        with pytest.raises(ConfigError, match=r"\(E05\).*sa_vae and aggressive are two remedies") as caught:
            tiny(*stack)
        assert "E-SLOT" not in str(caught.value)


@pytest.mark.parametrize("other", ["free_bits", "soft_free_bits", "mdr"])
def test_another_objective_than_the_weighted_elbo_is_refused(other):
    for stack in (("sa_vae", other), (other, "sa_vae")):
        with pytest.raises(ConfigError, match=rf"\(E16\).*sa_vae are defined on the weighted ELBO, which {other}"):
            tiny(*stack)


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"backward": "autograd", "difference_step": 1e-4}, "difference_step"),
        ({"backward": "none", "backward_clip": 1.0}, "backward_clip"),
        ({"backward": "none", "finite_diff_clip": "reference"}, "finite_diff_clip"),
        ({"clip": 0.0, "finite_diff_clip": "reference"}, "finite_diff_clip"),
    ],
)
def test_an_option_without_effect_is_refused(fields, option):
    with pytest.raises(ConfigError, match=rf"\(E18\).*sa_vae.{option} is an unused option"):
        tiny(sa(**fields))


@pytest.mark.parametrize("other", ["multitask_bow", "fraternal_dropout"])
def test_terms_that_the_steps_do_not_know_are_a_warning(other):
    found, warnings = incompatibilities(other, "penalties")
    assert not found
    assert len(warnings) == 1
    assert warnings[0].startswith(f"W5: {other} counts in the final step of sa_vae only")


@pytest.mark.parametrize("other", ["beta_vae", "kl_linear_epoch", "encoder_lr"])
def test_what_goes_with_it(other):
    assert tiny("sa_vae", other).warnings() == ()
