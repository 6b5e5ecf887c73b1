import math

import pytest
import torch
from helpers import MemoryCheckpoint, assert_equals_plain_vae, cycle, rejects, run, tiny, trial_of
from linear_gaussian import LinearGaussian, batches

from lagvae_core.metrics.encoding import encode_split
from lagvae_core.metrics.information import mutual_information
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.models.gaussian import Gaussian, NormalPrior
from lagvae_core.settings import EvaluationConfig
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.scale_vae import ScalePosterior, ScaleVae
from lagvae_core.strategies.slots import Measurement
from lagvae_core.training import checkpoint as checkpoints


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoded(batch, seed=0, dimensions=3):
    scale = 10.0 ** -torch.arange(dimensions).double()
    return Gaussian(draws(batch, dimensions, seed=seed) * scale + 2.0, draws(batch, dimensions, seed=seed + 100))


def posterior(dimensions=3, f_bar=None, **fields):
    built = ScaleVae(**fields).build(BuildContext(dimensions, 10))["posterior"].double()
    if f_bar is not None:
        built.f_bar.copy_(torch.tensor(f_bar))
    return built


def extra_metrics(**fields):
    return ScaleVae(**fields).build(BuildContext(1, 10))["extra_metrics"][0]


def outer_step(module, batch, seed=0):
    """Run one outer update of a batch and return the factor that it used, [Z]."""
    q = encoded(batch, seed)
    inference = module(q)
    module.after_step()
    return (inference.q.mean_BZ / q.mean_BZ)[0]


def batch_factor(batch, seed=0, des_std=0.7):
    return des_std / encoded(batch, seed).mean_BZ.std(0)


def assert_close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- with a factor of one --------------------------------------------------------------------------------------------


class TestFactorOne:
    @pytest.fixture(autouse=True)
    def forced(self, monkeypatch):
        monkeypatch.setattr(ScalePosterior, "_training_factor", lambda self, mean_BZ: torch.ones_like(mean_BZ[0]))

    @pytest.mark.parametrize("objective", ["paper", "valid"])
    def test_it_is_the_plain_vae(self, objective):
        assert_equals_plain_vae({"kind": "scale_vae", "start": "model", "objective": objective})

    def test_the_gradients_equal_those_of_the_plain_vae(self):
        gradients = []
        for stack in (({"kind": "scale_vae", "start": "model"},), ()):
            trial = trial_of(tiny(*stack))
            trial.model.double().train()
            trial.learner.loss(trial.train_batches[0], 0.3).total.backward()
            gradients.append([parameter.grad for parameter in trial.model.parameters()])
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))

    def test_the_default_columns_equal_those_of_the_plain_vae(self):
        """f_bar stays 1 because no factor is recorded."""
        scaled, plain = run(tiny({"kind": "scale_vae", "start": "model"})).metrics, run(tiny()).metrics
        for name, value in plain.items():
            assert scaled[name] == (None if value is None else pytest.approx(value, rel=1e-9)), name
        for name in ("nll_iw_unit", "nll_iw_paper"):
            assert scaled[name] == pytest.approx(plain["nll_iw"], rel=1e-6)
        assert scaled["nll_elbo_paper"] == pytest.approx(plain["nll_elbo"], rel=1e-12)
        assert scaled["mi_q"] == plain["mi"]
        assert scaled["au_hat"] == plain["au"]


# --- the factor in training ------------------------------------------------------------------------------------------


class TestTrainingFactor:
    @pytest.mark.parametrize("des_std", [0.3, 0.7, 1.5])
    @pytest.mark.parametrize("batch", [8, 32])
    def test_the_scaled_means_have_the_target_standard_deviation(self, des_std, batch):
        inference = posterior(des_std=des_std)(encoded(batch))
        assert_close(inference.q.mean_BZ.std(0, correction=1), torch.full((3,), des_std).double(), 1e-6)

    def test_only_the_mean_is_scaled_and_the_objective_uses_the_unscaled_posterior(self):
        q = encoded(16)
        inference = posterior()(q)
        assert_close(inference.q.mean_BZ, batch_factor(16) * q.mean_BZ)
        assert torch.equal(inference.q.logvar_BZ, q.logvar_BZ)
        assert torch.equal(inference.kl_posterior.mean_BZ, q.mean_BZ)
        assert torch.equal(inference.kl_posterior.logvar_BZ, q.logvar_BZ)

    def test_the_scale_of_the_encoder_cancels(self):
        q = encoded(16)
        once = posterior()(q).q.mean_BZ
        for c in (1e-3, 0.5, 1e3):
            assert_close(posterior()(Gaussian(c * q.mean_BZ, q.logvar_BZ)).q.mean_BZ, once)

    def test_equal_means_use_std_floor(self):
        q = Gaussian(torch.ones(8, 3).double(), torch.zeros(8, 3).double())
        assert_close(posterior(des_std=0.5, std_floor=0.01)(q).q.mean_BZ, torch.full((8, 3), 50.0).double())

    def test_the_gradient_passes_through_the_standard_deviation_unless_detached(self):
        """Without detach_f the standard deviation of the scaled means is constant, so its gradient is 0."""
        for detach, expectation in ((False, 0.0), (True, 1.0)):
            mean = encoded(16).mean_BZ.requires_grad_()
            scaled = posterior(detach_f=detach)(Gaussian(mean, torch.zeros_like(mean))).q.mean_BZ
            (gradient,) = torch.autograd.grad(scaled.std(0).log().sum(), mean)
            (plain,) = torch.autograd.grad(mean.std(0).log().sum(), mean)
            torch.testing.assert_close(gradient, expectation * plain, rtol=1e-9, atol=1e-9)

    def test_in_eval_mode_an_example_does_not_depend_on_its_batch(self):
        module, q = posterior(f_bar=[2.0, 3.0, 4.0]).eval(), encoded(16)
        whole = module(q).q.mean_BZ
        assert torch.equal(whole, q.mean_BZ * torch.tensor([2.0, 3.0, 4.0]).double())
        assert torch.equal(module(Gaussian(q.mean_BZ[:1], q.logvar_BZ[:1])).q.mean_BZ, whole[:1])
        module.after_step()
        module.after_epoch()
        assert module.f_bar.tolist() == [2.0, 3.0, 4.0]  # evaluation records nothing

    def test_an_inner_step_is_not_recorded(self):
        module = posterior()
        module(encoded(8, seed=1))
        outer_step(module, 8, seed=2)
        module.after_epoch()
        assert_close(module.f_bar, batch_factor(8, 2))

    def test_the_factor_of_an_inner_step_is_not_used_for_a_small_outer_batch(self):
        module = posterior()
        outer_step(module, 8, seed=1)
        module(encoded(8, seed=2))
        outer_step(module, 3, seed=3)
        module.after_epoch()
        assert_close(module.f_bar, batch_factor(8, 1))


class TestAverage:
    def test_arithmetic(self):
        module = posterior()
        used = [outer_step(module, batch, seed) for seed, batch in enumerate((8, 20, 16))]
        module.after_epoch()
        assert_close(module.f_bar, torch.stack(used).mean(0))
        assert_close(used[1], batch_factor(20, 1))

    def test_pooled(self):
        module = posterior(f_average="pooled", des_std=0.9)
        for seed, batch in enumerate((8, 20, 16)):
            outer_step(module, batch, seed)
        module.after_epoch()
        variance = torch.stack([encoded(batch, seed).mean_BZ.var(0) for seed, batch in enumerate((8, 20, 16))])
        assert_close(module.f_bar, 0.9 / variance.mean(0).sqrt())

    def test_the_pooled_average_is_below_the_arithmetic_one(self):
        averages = {}
        for average in ("arithmetic", "pooled"):
            module = posterior(f_average=average)
            for seed in range(50):
                outer_step(module, 8, seed)
            module.after_epoch()
            averages[average] = module.f_bar
        assert bool((averages["pooled"] < averages["arithmetic"]).all())

    def test_later_epochs_use_the_average_of_the_previous_epoch(self):
        module = posterior(f_epo=2)
        assert_close(outer_step(module, 8, 1), batch_factor(8, 1))
        module.after_epoch()
        assert_close(outer_step(module, 8, 2), batch_factor(8, 2))  # still the factor of the batch: epoch 2 of 2
        assert_close(outer_step(module, 8, 3), batch_factor(8, 3))
        module.after_epoch()
        average = (batch_factor(8, 2) + batch_factor(8, 3)) / 2
        assert_close(outer_step(module, 8, 4), average)
        assert_close(outer_step(module, 8, 5), average)
        module.after_epoch()  # factors are recorded in later epochs too
        assert_close(module.f_bar, (batch_factor(8, 4) + batch_factor(8, 5)) / 2)

    def test_the_average_carries_no_gradient(self):
        module = posterior()
        q = encoded(8)
        module(Gaussian(q.mean_BZ.requires_grad_(), q.logvar_BZ))
        module.after_step()
        module.after_epoch()
        assert not module.f_bar.requires_grad

    def test_an_epoch_without_a_factor_keeps_the_average(self):
        module = posterior()
        outer_step(module, 8)
        module.after_epoch()
        before = module.f_bar.clone()
        outer_step(module, 3)
        module.after_epoch()
        assert torch.equal(module.f_bar, before)


class TestSmallBatches:
    def test_they_use_the_average_so_far_and_are_not_recorded(self):
        for average in ("arithmetic", "pooled"):
            module = posterior(f_average=average)
            outer_step(module, 8, 1)
            outer_step(module, 9, 2)
            small = outer_step(module, 7, 3)
            module.after_epoch()
            assert_close(small, module.f_bar)
            if average == "arithmetic":
                assert_close(small, (batch_factor(8, 1) + batch_factor(9, 2)) / 2)

    def test_one_example_is_enough_once_there_is_an_average(self):
        module = posterior()
        outer_step(module, 8, 1)
        assert_close(outer_step(module, 1, 2), batch_factor(8, 1))

    def test_they_are_not_accepted_while_nothing_is_recorded(self):
        module = posterior(f_epo=2, min_f_batch=5)
        for _epoch in range(2):
            assert not module.accepts(4)
            assert module.accepts(5)
            outer_step(module, 5)
            assert module.accepts(1)
            module.after_epoch()
        assert module.accepts(1)  # from here on f_bar is used
        with pytest.raises(AssertionError, match="accepts"):
            posterior()(encoded(7))

    def test_a_smaller_batch_size_is_rejected(self):
        with rejects("strategies") as issues:
            tiny({"kind": "scale_vae", "min_f_batch": 17})
        assert issues[0].code == "E12"
        tiny({"kind": "scale_vae", "min_f_batch": 16})

    def test_the_trial_skips_them(self):
        """65 lines in batches of 16 leave a batch of one; it is skipped exactly if it comes first."""
        outcomes = set()
        for seed in range(12):
            trial = trial_of(tiny("scale_vae", seed=seed, data={"examples": 65}, training={"epochs": 1}))
            assert trial.fit() == ""
            single_first = trial.train_batches[trial.order[0]].size == 1
            assert trial.skipped == int(single_first)
            assert trial.step == 5 - trial.skipped
            outcomes.add(single_first)
        assert outcomes == {True, False}


# --- the KL in the objective -----------------------------------------------------------------------------------------


class TestObjective:
    f = torch.tensor([3.0, 0.5, 1.0], dtype=torch.float64)

    @pytest.mark.parametrize("training", [True, False])
    def test_valid_uses_the_kl_of_the_scaled_posterior_to_the_scaled_prior(self, training):
        module = posterior(objective="valid", f_bar=self.f.tolist()).train(training)
        q = encoded(16)
        inference = module(q)
        factor = batch_factor(16) if training else self.f
        exact = torch.distributions.kl_divergence(
            torch.distributions.Normal(factor * q.mean_BZ, (0.5 * q.logvar_BZ).exp()),
            torch.distributions.Normal(0.0, factor),
        )
        assert_close(NormalPrior().kl(inference.kl_posterior, inference.q.mean_BZ[:, None]), exact, 1e-10)
        if not training:
            assert_close(module.generative_prior(NormalPrior()).kl(inference.q, None), exact, 1e-12)

    def test_the_difference_of_kl_and_kl_train_has_a_closed_form(self):
        """sum_d [log f_d - 0.5 sigma_d^2 (1 - 1 / f_d^2)]."""
        fixture = LinearGaussian(draws(6, 3))
        variance = torch.tensor([0.9, 0.2, 1.7], dtype=torch.float64)
        model = fixture.vae(variance_Z=variance, posterior=posterior(f_bar=self.f.tolist()))
        encoded = encode_split(model, batches(fixture.draw(50)), 0)
        difference = encoded.kl_ND - encoded.kl_posterior.kl_standard()
        exact = self.f.log() - 0.5 * variance * (1 - self.f.square().reciprocal())
        assert_close(difference, exact.expand(50, 3))
        assert_close(encoded.kl_ND.sum(1) - encoded.kl_train_N, exact.sum().expand(50))
        assert difference[0, 2].item() == pytest.approx(0.0, abs=1e-15)
        # a factor of 3 hides 0.70 nats in each dimension whose variance is 0.9
        assert difference[0, 0].item() == pytest.approx(0.70, abs=0.005)

    def test_valid_has_the_same_kl_in_objective_and_metrics(self):
        fixture = LinearGaussian(draws(6, 3))
        model = fixture.vae(posterior=posterior(objective="valid", f_bar=self.f.tolist()))
        encoded = encode_split(model, batches(fixture.draw(50)), 0)
        assert_close(encoded.kl_ND.sum(1), encoded.kl_train_N)

    def test_the_generator_draws_from_the_scaled_prior(self):
        prior = posterior(f_bar=self.f.tolist()).generative_prior(NormalPrior())
        assert torch.equal(prior.std(), self.f)


# --- the likelihoods -------------------------------------------------------------------------------------------------


class LinearModel:
    """x = 1.5 u + N(0, 0.5), trained at u ~ N(0, 1): the encoder gives a third of the posterior mean, and f is 3.

    The decoder then reads draws of the exact posterior N(m(x), S) of the *unscaled* prior, but the method samples from
    the generator u ~ N(0, 9).
    """

    f = 3.0

    def __init__(self, examples=1000, **fields):
        self.unit = LinearGaussian(torch.tensor([[1.5]]))
        self.scaled = LinearGaussian(torch.tensor([[1.5]]), prior_std=self.f)
        self.x = self.unit.draw(examples)
        self.variance = self.unit.covariance_ZZ[0]
        self.module = posterior(1, f_bar=[self.f], **fields)
        self.model = self.unit.vae(lambda x: self.unit.mean(x) / self.f, self.variance, self.module)
        self.extra_metrics = extra_metrics(**fields)
        self.encoded = encode_split(self.model, batches(self.x), 0)

    def measured(self):
        return self.extra_metrics.measure(Measurement(self.model, (), self.encoded, lambda: self.encoded, None))

    def log_means(self, samples):
        weights = {"nll_iw": proposal_weight(self.model)} | self.extra_metrics.log_weights(lambda: self.encoded)
        return importance_weighted(self.model, batches(self.x), samples, 0, weights)

    def expectation(self, kl):
        """Return the exact -E[rec + kl] over x ~ the unit generator. At the unit prior kl is 0.852, this log p(x)."""
        kl_unit = 0.5 * (1.0 - 1.0 - float(self.variance.log()))
        return -0.5 * (math.log(2 * math.pi * 2.75) + 1) + kl_unit - kl


def standard_error(values):
    return float(values.std()) / math.sqrt(len(values))


@pytest.fixture(scope="module")
def linear():
    return LinearModel()


class TestLikelihoods:
    def test_the_known_values(self, linear):
        """Two valid likelihoods, the bound on the second, and the trained objective, which is above them all."""
        s, spread = float(linear.variance), float(1 - linear.variance)
        elbo_unit = linear.expectation(0.5 * (spread + s - 1 - math.log(s)))
        log_p_scaled = -0.5 * (math.log(2 * math.pi * 20.75) + 2.75 / 20.75)
        elbo_scaled = linear.expectation(0.5 * ((spread + s) / 9 - math.log(s / 9) - 1))
        mixed = linear.expectation(0.5 * (spread / 9 + s - math.log(s) - 1))
        assert elbo_unit == pytest.approx(-1.925, abs=5e-4)
        assert log_p_scaled == pytest.approx(-2.5015, abs=5e-4)
        assert elbo_scaled == pytest.approx(-2.579, abs=5e-4)
        assert mixed == pytest.approx(-1.561, abs=5e-4)
        assert elbo_scaled < log_p_scaled < elbo_unit < mixed

        rec, kl_posterior = linear.encoded.rec_N, linear.encoded.kl_train_N
        log_p = linear.unit.log_marginal(linear.x).mean(), linear.scaled.log_marginal(linear.x).mean()
        noise = 4 * standard_error(linear.unit.log_marginal(linear.x))  # error of a mean over 1,000 draws of x
        assert float(log_p[0]) == pytest.approx(elbo_unit, abs=noise)
        assert float(log_p[1]) == pytest.approx(log_p_scaled, abs=noise)
        bound, objective = rec + linear.encoded.kl_ND.sum(1), rec + kl_posterior
        assert -float(bound.mean()) == pytest.approx(elbo_scaled, abs=4 * standard_error(bound))
        assert -float(objective.mean()) == pytest.approx(mixed, abs=4 * standard_error(objective))

    def test_nll_iw_is_exact_for_the_scaled_generator(self, linear):
        estimate = linear.log_means(500)["nll_iw"]
        exact = linear.scaled.log_marginal(linear.x)
        assert estimate.nll == pytest.approx(-float(exact.mean()), abs=4 * estimate.mc_se + 1e-3)
        assert estimate.mc_se < 2e-3

    def test_nll_iw_unit_is_exact_for_the_unscaled_generator(self, linear):
        """Here q is the exact posterior of that generator, so every weight equals the likelihood."""
        assert_close(linear.log_means(3)["nll_iw_unit"].value_N, linear.unit.log_marginal(linear.x))

    def test_nll_iw_mm_is_exact_for_the_generator_matched_to_the_training_split(self):
        linear = LinearModel()
        linear.encoded = encode_split(linear.model, batches(1.2 * linear.x + 1.0), 0)
        centre = linear.encoded.q.mean_BZ.mean()
        assert float(centre) > 0.4
        spread = linear.encoded.q.mean_BZ.var() + linear.variance
        exact = torch.distributions.Normal(1.5 * centre, (2.25 * spread + 0.5).sqrt()).log_prob(linear.x[:, 0])
        estimate = linear.log_means(500)["nll_iw_mm"]
        error = (estimate.ess_N.reciprocal() - 1 / 500).clamp(min=0).sqrt()
        assert bool(((estimate.value_N - exact).abs() < 5 * error + 1e-3).all())
        assert float(error.median()) < 0.02

    def test_the_papers_weights_overestimate_the_likelihood(self, linear):
        estimates, exact = linear.log_means(500), linear.scaled.log_marginal(linear.x)
        assert estimates["nll_iw_paper"].nll < -float(exact.mean()) - 0.5
        assert estimates["nll_iw_paper"].nll < estimates["nll_iw"].nll - 0.5
        # It is even below the entropy of the data, the lower bound of every mean NLL.
        assert estimates["nll_iw_paper"].nll < 0.5 * (math.log(2 * math.pi * 2.75) + 1) - 0.1

    def test_the_papers_weights_are_no_density(self):
        """They tend to N(x - 1.5 (f - 1) mu(x); 0, 2.75) with the integral 1 / (1 - 1.5 * 2 * 0.5454 / 3) = 2.2."""
        linear = LinearModel(examples=2)
        step = 0.1
        linear.x = torch.arange(-15, 15, step, dtype=torch.float64)[:, None]
        log_weights_N = linear.log_means(500)["nll_iw_paper"].value_N
        slope = float(linear.unit.covariance_ZZ) * 1.5 / 0.5 / 3
        limit = torch.distributions.Normal(0.0, math.sqrt(2.75)).log_prob((1 - 3 * slope) * linear.x[:, 0])
        middle = linear.x[:, 0].abs() < 3
        torch.testing.assert_close(log_weights_N[middle], limit[middle], rtol=0, atol=0.3)
        assert float(limit.exp().sum() * step) == pytest.approx(2.2, abs=0.01)
        assert float(log_weights_N.exp().sum() * step) == pytest.approx(2.2, abs=0.1)

    def test_one_sample_of_the_papers_weights_equals_the_trained_objective_on_average(self, linear):
        nll_N = -linear.log_means(1)["nll_iw_paper"].value_N
        exact = linear.unit.expected_rec(linear.x, linear.encoded.q) + linear.encoded.kl_train_N
        difference = nll_N - exact
        assert float(difference.mean()) == pytest.approx(0.0, abs=4 * standard_error(difference))
        assert 4 * standard_error(difference) < 0.2
        measured = linear.measured()["nll_elbo_paper"]
        noise = linear.encoded.rec_N - linear.unit.expected_rec(linear.x, linear.encoded.q)
        assert measured == pytest.approx(float(exact.mean()), abs=4 * standard_error(noise))
        assert measured == pytest.approx(float((linear.encoded.rec_N + linear.encoded.kl_train_N).mean()), abs=1e-12)

    def test_rescaling_to_the_unscaled_prior_does_not_change_the_likelihood(self):
        """With v = u / f the proposal is N(mu, sigma^2 / f^2), the prior N(0, I), and the decoder reads f v."""
        fixture, f = LinearGaussian(draws(6, 2), bias=0.3), torch.tensor([3.0, 0.5]).double()
        x = fixture.draw(40)
        variance = 1.5 * fixture.variance_Z
        in_u = fixture.vae(lambda x: fixture.mean(x) / f, variance, posterior(2, f_bar=f.tolist()))
        other = LinearGaussian(fixture.weight_DZ * f, bias=0.3)
        in_v = other.vae(lambda x: fixture.mean(x) / f, variance / f.square())
        estimates = [
            importance_weighted(model, batches(x), 50, 0, {"nll_iw": proposal_weight(model)})["nll_iw"]
            for model in (in_u, in_v)
        ]
        assert_close(estimates[0].value_N, estimates[1].value_N, 1e-10)
        one, two = (encode_split(model, batches(x), 0) for model in (in_u, in_v))
        assert_close(one.kl_ND, two.kl_ND)
        assert_close(one.rec_N, two.rec_N)
        noise = one.noise_NZ
        assert mutual_information(one.q, noise).value == pytest.approx(mutual_information(two.q, noise).value, abs=1e-9)


class TestMeasure:
    def test_the_columns(self, linear):
        metrics = linear.measured()
        mean = linear.encoded.q.mean_BZ[:, 0]
        assert metrics["std_fmu_split"] == pytest.approx([float(mean.std())])
        assert metrics["std_fmu_split"][0] == pytest.approx(math.sqrt(1 - float(linear.variance)), rel=0.1)
        assert metrics["au_hat"] == 1

    def test_the_information_of_the_unscaled_posterior_is_less_than_kl_train(self, linear):
        """Exactly 0.5 ln(1 + Var(mu) / S), because the means are Gaussian."""
        unscaled = mutual_information(linear.encoded.kl_posterior, linear.encoded.noise_NZ)
        scaled = mutual_information(linear.encoded.q, linear.encoded.noise_NZ)
        mi_q = linear.measured()["mi_q"]
        spread, s = float(1 - linear.variance) / 9, float(linear.variance)
        assert mi_q == unscaled.value
        assert mi_q == pytest.approx(0.5 * math.log(1 + spread / s), abs=5 * unscaled.se)
        assert mi_q <= float(linear.encoded.kl_train_N.mean()) + 3 * unscaled.se
        assert scaled.value > float(linear.encoded.kl_train_N.mean()) + 3 * scaled.se  # as in the published tables


# --- whole trials ----------------------------------------------------------------------------------------------------


def test_batches_of_one_group_give_a_warning():
    (warning,) = map(str, tiny("scale_vae", data={"partition": "fixed_by_group"}).warnings())
    assert warning.startswith("W4: ")
    assert tiny("scale_vae").warnings() == ()


class TestTrial:
    @pytest.mark.parametrize("fields", [{}, {"f_average": "pooled"}, {"objective": "valid"}, {"detach_f": True}])
    def test_every_declared_column_is_present_and_finite(self, fields):
        record = run(tiny({"kind": "scale_vae", **fields}))
        assert record.status == "finished"
        for column in ScaleVae.columns:
            value = record.metrics[column.name]
            values = value if column.kind == "floats" else [value]
            assert all(isinstance(number, int if column.kind == "int" else float) for number in values), column.name
            assert all(math.isfinite(number) for number in values), column.name
        assert len(record.metrics["std_fmu_split"]) == 2

    def test_the_columns_agree_with_each_other(self):
        trial = trial_of(tiny("scale_vae", evaluation={"limit": None}))
        assert trial.fit() == ""
        metrics = trial.measure()
        f_bar = trial.model.posterior.f_bar.double()
        assert float((f_bar.log().abs()).min()) > 0.01  # otherwise nothing below could fail
        split = encode_split(trial.model, trial.dataset.test.batches(32), EvaluationConfig().seed)
        variance = split.q.logvar_BZ.exp()
        difference = (f_bar.log() - 0.5 * variance * (1 - f_bar.square().reciprocal())).sum(1).mean()
        # float32 sums of a few numbers of size 1 to 100
        assert metrics["kl"] - metrics["kl_train"] == pytest.approx(float(difference), abs=1e-4)
        assert metrics["mi_q"] <= metrics["kl_train"] + 3 * mutual_information(split.kl_posterior, split.noise_NZ).se
        assert metrics["mi"] <= metrics["kl"] + 3 * metrics["mi_se"]
        assert metrics["nll_elbo_paper"] == pytest.approx(metrics["rec"] + metrics["kl_train"], abs=1e-9)
        assert metrics["nll_elbo"] == pytest.approx(metrics["rec"] + metrics["kl"], abs=1e-9)
        expected = (split.q.mean_BZ / f_bar).var(0).tolist()
        assert metrics["mean_variance"] == pytest.approx(expected, rel=1e-5)

    def test_the_valid_objective_has_equal_kl_and_nll_columns(self):
        metrics = run(tiny({"kind": "scale_vae", "objective": "valid"})).metrics
        assert metrics["kl"] == pytest.approx(metrics["kl_train"], abs=1e-4)
        assert metrics["nll_iw_paper"] == pytest.approx(metrics["nll_iw"], abs=1e-4)

    def test_f_bar_after_an_epoch_is_the_mean_of_its_factors(self, monkeypatch):
        factors = []
        forward = ScalePosterior.forward

        def record_factor(self, q):
            if self.training:
                factors.append(0.7 / q.mean_BZ.detach().std(0))
            return forward(self, q)

        monkeypatch.setattr(ScalePosterior, "forward", record_factor)
        trial = trial_of(tiny("scale_vae", training={"epochs": 3}))
        expected = []

        def check(record):
            expected.append(torch.stack(factors).mean(0))
            assert len(factors) == 4
            factors.clear()
            torch.testing.assert_close(trial.model.posterior.f_bar, expected[-1], rtol=1e-6, atol=0)

        trial.fit(check)
        assert len(expected) == 3

    @pytest.mark.parametrize("average", ["arithmetic", "pooled"])
    @pytest.mark.parametrize("epochs", [0, 1])
    def test_an_interruption_within_an_epoch_does_not_change_the_average(self, average, epochs):
        """Save after two of four batches, in the first phase or after it, and resume in another trial."""
        config = tiny({"kind": "scale_vae", "f_average": average})

        def steps(trial, count):
            for batch in cycle(trial.train_batches, count):
                trial.components.update(trial.learner, batch, 1.0)
                trial.model.posterior.after_step()

        whole = trial_of(config)
        whole.model.train()
        for _ in range(epochs):
            steps(whole, 4)
            whole.model.posterior.after_epoch()
        steps(whole, 2)
        store = MemoryCheckpoint()
        store.save(checkpoints.encode(whole.state_dict()))
        resumed = trial_of(config)
        resumed.load_state_dict(checkpoints.decode(store.load(), resumed.run_id))
        for trial in (whole, resumed):
            trial.model.train()
            steps(trial, 2)
            trial.model.posterior.after_epoch()
        assert torch.equal(resumed.model.posterior.f_bar, whole.model.posterior.f_bar)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name

    def test_restoring_the_best_weights_restores_f_bar_but_not_the_epoch(self):
        trial = trial_of(tiny("scale_vae"))
        trial.fit()
        module = trial.model.posterior
        progress = module.progress()
        module.f_bar.fill_(123.0)
        trial.model.load_state_dict(trial.best.weights)
        assert 123.0 not in module.f_bar.tolist()
        assert module.progress()["epoch"] == progress["epoch"] == 3


@pytest.mark.parametrize("other", ["af_prior", "mog_prior", "vamp_prior"])
def test_another_prior_is_rejected(other):
    for stack in (("scale_vae", other), (other, "scale_vae")):
        with rejects("strategies") as issues:
            tiny(*stack)
        assert issues[0].code == "E08"


# --- start and bound of the factor -----------------------------------------------------------------------------------


def test_the_encoder_starts_with_the_default_initialisation_of_torch_unless_told_otherwise():
    started = trial_of(tiny({"kind": "scale_vae"})).model.encoder.embedding.weight.detach()
    assert float(started.std()) == pytest.approx(1.0, abs=0.2)  # torch draws embeddings from N(0, 1)
    plain = trial_of(tiny()).model.encoder.state_dict()
    kept = trial_of(tiny({"kind": "scale_vae", "start": "model"})).model.encoder.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in plain.items())


def test_columns_and_a_warning_show_that_the_factor_is_at_its_bound():
    """Under a floor above every standard deviation, f is des_std / std_floor in all dimensions."""
    fields = {"kind": "scale_vae", "des_std": 0.9, "std_floor": 50.0}
    record = run(tiny(fields))
    assert record.metrics["f_at_bound"] == record.config.model.latent_dim
    assert record.metrics["f_bar_median"] == pytest.approx(0.9 / 50)
    assert "W9" in [text.partition(":")[0] for text in record.warnings]
    free = run(tiny("scale_vae"))
    assert free.metrics["f_at_bound"] == 0
    assert "W9" not in [text.partition(":")[0] for text in free.warnings]


def test_it_settles_with_the_first_epoch_of_the_average_factor():
    assert tiny({"kind": "scale_vae", "f_epo": 3}, training={"epochs": 9}).settled_epoch() == 4
    assert tiny({"kind": "scale_vae", "f_epo": 30}, training={"epochs": 9}).settled_epoch() == 10
