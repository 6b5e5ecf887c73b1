import math

import pytest
import torch
from helpers import rejects, run, tiny, trial_of
from torch import nn

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import DataError
from lagvae_core.metrics.information import mutual_information
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.normalisation import MeanNormalisation, start_by_default
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.bn_vae import BnVae

TEXT = {"data": {"kind": "text", "path": "somewhere"}}


def posterior_of(latent_dim=5, **fields):
    return BnVae(**fields).build(BuildContext(latent_dim, 4))["posterior"].double()


def encoded(batch=16, latent_dim=5, spread=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mean, logvar, centre = (torch.randn(n, latent_dim, generator=draw, dtype=torch.float64) for n in (batch, batch, 1))
    return Gaussian(spread * (mean + 3 * centre), logvar)


def with_shift(posterior):
    nn.init.uniform_(posterior.beta, -2, 2, generator=torch.Generator().manual_seed(7))
    return posterior


def kl_floor(posterior, gaussian):
    """The lower bound of the paper, with the epsilon term."""
    config = posterior._config
    variance = gaussian.mean_BZ.var(0, correction=0)
    return 0.5 * (config.gamma**2 * variance / (variance + config.epsilon) + posterior.beta.detach() ** 2).sum()


# --- train mode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [1e-4, 3e-3, 1.0, 100.0])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 2.0])
def test_the_mean_kl_of_a_batch_is_above_its_lower_bound(gamma, spread, seed):
    posterior, gaussian = with_shift(posterior_of(gamma=gamma)), encoded(spread=spread, seed=seed)
    floor = kl_floor(posterior, gaussian)
    assert posterior(gaussian).q.kl_standard().sum(1).mean() >= floor
    unit = Gaussian(gaussian.mean_BZ, torch.zeros_like(gaussian.logvar_BZ))
    torch.testing.assert_close(posterior(unit).q.kl_standard().sum(1).mean(), floor)


def test_without_epsilon_and_shift_the_bound_is_n_gamma_squared_over_two():
    posterior, gaussian = posterior_of(32, epsilon=1e-300), encoded(latent_dim=32)
    assert float(kl_floor(posterior, gaussian)) == pytest.approx(32 * 0.6**2 / 2) == pytest.approx(5.76)


@pytest.mark.parametrize("batch", [2, 3, 33])
@pytest.mark.parametrize("spread", [3e-3, 1.0])
def test_the_means_of_a_batch_have_mean_beta_and_standard_deviation_gamma(batch, spread):
    posterior, gaussian = with_shift(posterior_of(gamma=0.7)), encoded(batch, spread=spread)
    mean = posterior(gaussian).q.mean_BZ
    variance = gaussian.mean_BZ.var(0, correction=0)
    torch.testing.assert_close(mean.mean(0), posterior.beta.data)
    torch.testing.assert_close(mean.std(0, correction=0), 0.7 * (variance / (variance + 1e-12)).sqrt())


@pytest.mark.parametrize("factor", [1e-6, 0.1, 17.0, 1e6])
def test_a_scaled_encoder_gives_the_same_means(factor):
    posterior, gaussian = with_shift(posterior_of(epsilon=1e-300)), encoded()
    scaled = Gaussian(factor * gaussian.mean_BZ, gaussian.logvar_BZ)
    torch.testing.assert_close(posterior(scaled).q.mean_BZ, posterior(gaussian).q.mean_BZ)


def test_the_log_variance_is_unchanged_and_the_kl_is_of_the_sampled_posterior():
    gaussian = encoded()
    inference = posterior_of()(gaussian)
    assert torch.equal(inference.q.logvar_BZ, gaussian.logvar_BZ)
    assert inference.kl_posterior is inference.q


def test_a_batch_of_one_is_the_centre_and_does_not_enter_the_averages():
    posterior = with_shift(posterior_of())
    assert torch.equal(posterior(encoded(1)).q.mean_BZ[0], posterior.beta)
    assert int(posterior.normalise.count) == 0
    assert torch.equal(posterior.normalise.running_var, torch.ones(5, dtype=torch.float64))


def test_statistics_of_half_precision_are_computed_in_single_precision():
    posterior, gaussian = posterior_of().float(), encoded()
    half = Gaussian(gaussian.mean_BZ.bfloat16(), gaussian.logvar_BZ.bfloat16())
    single = Gaussian(half.mean_BZ.float(), half.logvar_BZ.float())
    assert posterior(half).q.mean_BZ.dtype == posterior(half).q.logvar_BZ.dtype == torch.float32
    assert torch.equal(posterior(half).q.mean_BZ, posterior(single).q.mean_BZ)


def test_extreme_parameters_give_finite_values_and_gradients():
    posterior = posterior_of().float()
    mean = torch.tensor([[100.0] * 5, [-100.0] * 5, [100.0] * 5], requires_grad=True)
    for logvar in (-20.0, 5.0):
        loss = posterior(Gaussian(mean, torch.full((3, 5), logvar))).q.kl_standard().sum()
        (gradient,) = torch.autograd.grad(loss, mean)
        assert loss.isfinite()
        assert gradient.isfinite().all()


# --- evaluation ------------------------------------------------------------------------------------------------------


def trained(**fields):
    posterior = with_shift(posterior_of(**fields))
    for seed in range(4):
        posterior(encoded(seed=seed))
    return posterior.eval()


def test_in_evaluation_an_example_does_not_depend_on_its_batch():
    posterior, gaussian = trained(), encoded(33, seed=9)
    whole = posterior(gaussian).q
    for row in range(33):
        alone = posterior(Gaussian(gaussian.mean_BZ[row : row + 1], gaussian.logvar_BZ[row : row + 1])).q
        assert torch.equal(alone.mean_BZ[0], whole.mean_BZ[row])
        assert torch.equal(alone.logvar_BZ[0], whole.logvar_BZ[row])


def test_evaluation_changes_no_state():
    posterior, gaussian = trained(), encoded(seed=9)
    before = {name: value.clone() for name, value in posterior.state_dict().items()}
    first = posterior(gaussian).q.mean_BZ
    posterior.train()
    assert torch.equal(posterior.eval()(gaussian).q.mean_BZ, first)
    assert all(torch.equal(value, before[name]) for name, value in posterior.state_dict().items())


def test_the_averages_are_first_plain_means_and_then_those_of_torch():
    ours, torchs = MeanNormalisation(5, 1e-5, 0.1).double(), nn.BatchNorm1d(5, momentum=None, affine=False).double()
    for step in range(30):
        if step == 10:
            torchs.momentum = 0.1
        mean = encoded(seed=step).mean_BZ
        torch.testing.assert_close(ours(mean), torchs(mean))
        torch.testing.assert_close(ours.running_mean, torchs.running_mean)
        torch.testing.assert_close(ours.running_var, torchs.running_var)
    mean = encoded(seed=99).mean_BZ
    torch.testing.assert_close(ours.eval()(mean), torchs.eval()(mean))


def test_gamma_zero_with_a_fixed_centre_has_a_kl_and_no_information():
    record = run(tiny({"kind": "bn_vae", "gamma": 0, "beta": 0.7, "learn_beta": False}))
    metrics = record.metrics
    assert metrics["kl"] >= 2 * 0.7**2 / 2 - 1e-6
    assert metrics["au"] == 0
    assert max(metrics["mean_variance"]) == 0

    posterior, gaussian = posterior_of(gamma=0, beta=0.7, learn_beta=False), encoded()
    q = posterior(gaussian).q
    of_variance = 0.5 * (gaussian.logvar_BZ.exp() - gaussian.logvar_BZ - 1)
    torch.testing.assert_close(q.kl_standard(), 0.7**2 / 2 + of_variance)
    unit = Gaussian(gaussian.mean_BZ, torch.zeros_like(gaussian.logvar_BZ))
    noise = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mutual_information(posterior(unit).q, noise).value == pytest.approx(0, abs=1e-12)


# --- in a trial ------------------------------------------------------------------------------------------------------


def test_the_centre_is_trained_with_the_encoder_unless_it_is_fixed():
    for learned in (True, False):
        trial = trial_of(tiny({"kind": "bn_vae", "beta": 0.5, "learn_beta": learned}))
        trial.model.train()
        assert any(p is trial.model.posterior.beta for p in trial.model.encoder_parameters()) == learned
        trial.train_batch(trial.train_batches[0])
        assert bool((trial.model.posterior.beta == 0.5).any()) != learned
        assert "posterior.beta" in trial.model.state_dict()


def test_the_encoder_is_initialised_by_torch_and_the_decoder_by_the_model():
    small = {"init_range": 0.01, "init_embedding": 0.1, "hidden": 32, "embedding": 16}
    plain, model = (trial_of(tiny(*stack, model=small)).model for stack in ((), ("bn_vae",)))
    bound = 1 / math.sqrt(32)
    for name, value in model.encoder.named_parameters():
        if "embedding" in name:
            assert float(value.detach().std()) == pytest.approx(1, abs=0.15)
        else:
            assert 0.8 * bound < float(value.detach().abs().max()) <= bound
    for name, value in plain.decoder.named_parameters():
        assert torch.equal(model.decoder.get_parameter(name), value)


def test_with_this_initialisation_the_standard_deviation_of_the_means_is_nearly_gamma():
    trial = trial_of(tiny("bn_vae", model={"init_range": 0.01, "hidden": 32, "embedding": 16}))
    mean = trial.model.train().infer(trial.train_batches[0]).q.mean_BZ
    assert (mean.std(0, correction=0) > 0.97 * 0.6).all()


def test_every_layer_of_an_encoder_is_initialised():
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Linear(4, 4)), nn.ReLU())
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    start_by_default(model.encoder)
    assert all((parameter != 0).all() for parameter in model.parameters())


def test_restored_weights_include_the_averages():
    trial = trial_of(tiny("bn_vae"))
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    best = {name: value.clone() for name, value in trial.model.state_dict().items()}
    trial.train_batch(trial.train_batches[1])
    normalise = trial.model.posterior.normalise
    assert int(normalise.count) == 2
    trial.model.load_state_dict(best)
    assert int(normalise.count) == 1
    assert torch.equal(normalise.running_mean, best["posterior.normalise.running_mean"])


def test_batches_below_min_batch_are_skipped():
    strategy = {"kind": "bn_vae", "min_batch": 10}
    record = run(tiny(strategy, data={"examples": 40}))
    assert [epoch["skipped_batches"] for epoch in record.curve] == [1, 1]
    with pytest.raises(DataError) as caught:
        run(tiny(strategy, data={"examples": 9}))
    assert [issue.value for issue in caught.value.issues] == [9]


# --- incompatibilities and warnings ----------------------------------------------------------------------------------


def test_another_strategy_that_sets_the_spread_is_refused_by_name():
    for stack in (["bn_vae", "scale_vae"], ["scale_vae", "bn_vae"]):
        with rejects("strategies") as issues:
            parse_trial({"strategies": stack})
        assert issues[0].code == "E03"
        assert "bn_vae" in issues[0].hint
        assert "scale_vae" in issues[0].hint


def test_the_batch_size_must_reach_min_batch():
    with rejects("strategies") as issues:
        parse_trial({"strategies": ["bn_vae"], "training": {"batch_size": 1}})
    assert issues[0].code == "E12"
    assert issues[0].hint == (
        "bn_vae needs batches of at least 2 examples (bn_vae.min_batch) for its batch statistics, but "
        "training.batch_size is 1; raise training.batch_size or lower bn_vae.min_batch."
    )
    parse_trial({"strategies": ["bn_vae"], "training": {"batch_size": 2}})
    with rejects("strategies[0].min_batch") as issues:
        parse_trial({"strategies": [{"kind": "bn_vae", "min_batch": 1}]})
    assert issues[0].value == 1


def test_batches_of_one_group_give_a_warning():
    (warning,) = parse_trial({**TEXT, "strategies": ["bn_vae"]}).warnings()
    assert warning.code == "W4"
    assert "bn_vae" in warning.message
    assert parse_trial({"strategies": ["bn_vae"]}).warnings() == ()


def test_it_can_be_stacked_with_annealing_and_aggressive_training():
    trial = trial_of(tiny("bn_vae", "kl_linear_epoch", {"kind": "aggressive", "budget": 2}))
    trial.model.train()
    for batch in trial.train_batches[:2]:
        trial.train_batch(batch)
    assert torch.stack(trial.history).isfinite().all()


# --- where the guarantee ends ----------------------------------------------------------------------------------------


def kl_of_scaled_means(scale, **fields):
    """Return the mean KL of a batch whose means have variance scale^2, with unit variances of q."""
    posterior = posterior_of(2, **fields).train()
    mean = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = (mean - mean.mean(0)) / mean.std(0, correction=0)
    with torch.no_grad():
        q = posterior(Gaussian(scale * mean, torch.zeros_like(mean))).q
    return float((q.mean_BZ**2).sum(1).mean()) / 2, posterior.normalise.share_Z()


@pytest.mark.parametrize("ratio", [1e-4, 0.1, 1.0, 10.0, 1e4])
def test_with_the_published_epsilon_the_kl_vanishes_with_the_variance(ratio):
    kl, share = kl_of_scaled_means((1e-5 * ratio) ** 0.5, gamma=0.6, epsilon=1e-5)
    assert kl == pytest.approx(0.36 * ratio / (ratio + 1))
    unbiased = 64 / 63 * ratio
    assert share.tolist() == pytest.approx([unbiased / (unbiased + 1)] * 2)


@pytest.mark.parametrize("variance", [1e-10, 1e-7, 1e-5, 1.0])
def test_with_the_default_epsilon_the_kl_is_the_promised_one_at_any_variance_above_rounding(variance):
    kl, share = kl_of_scaled_means(variance**0.5, gamma=0.6)
    assert kl == pytest.approx(0.36, rel=0.02)
    assert float(share.min()) > 0.98


@pytest.mark.parametrize(("epsilon", "shrinks"), [(1e-5, True), (1e-12, False)])
def test_the_gradient_of_the_kl_shrinks_the_means_only_with_the_published_epsilon(epsilon, shrinks):
    scale = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    mean = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = posterior_of(2, epsilon=epsilon).train()
    (posterior(Gaussian(scale * mean, torch.zeros_like(mean))).q.mean_BZ ** 2).sum(1).mean().backward()
    relative = float(scale.grad * scale.detach())
    assert relative > 0.01 if shrinks else relative < 1e-6


def test_a_warning_says_when_epsilon_weakens_the_guarantee():
    strategy = BnVae(epsilon=1e-5)
    assert [warning.code for warning in strategy.result_warnings({"normalised_share": 0.5})] == ["W8"]
    assert [*strategy.result_warnings({"normalised_share": 0.99})] == [*strategy.result_warnings({})] == []
