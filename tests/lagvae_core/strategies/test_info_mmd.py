import pytest
import torch
from helpers import assert_equals_plain_vae, tiny, trial_of, updates

from lagvae_core.errors import ConfigError
from lagvae_core.models.kl import inverse_multiquadratic, mmd, radial
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.info_mmd import InfoMmd

each_divergence = pytest.mark.parametrize("divergence", ["mmd", "kl"])


def info_mmd(**fields):
    return {"kind": "info_mmd", **fields}


@each_divergence
def test_with_weights_that_cancel_it_is_the_plain_vae_and_draws_nothing(divergence):
    neutral = info_mmd(alpha=0, scale=1, divergence=divergence)
    assert_equals_plain_vae(neutral)
    _, _, trial = updates(tiny(neutral), 3)
    assert "auxiliary" not in trial.streams.state_dict()
    assert "auxiliary" in updates(tiny("info_mmd"), 3)[2].streams.state_dict()


@pytest.mark.parametrize("beta", [0.4, 0.1])
def test_with_weights_that_cancel_in_part_it_is_beta_vae(beta):
    losses, parameters, _ = updates(tiny(info_mmd(alpha=1 - beta, scale=beta)), 5)
    expected, of_beta, _ = updates(tiny({"kind": "beta_vae", "beta": beta}), 5)
    assert losses == pytest.approx(expected, rel=1e-13)
    for name, value in parameters.items():
        torch.testing.assert_close(value, of_beta[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("posterior", [(), ("scale_vae",)])
@pytest.mark.parametrize(("kernel", "function"), [("rbf", radial), ("imq", inverse_multiquadratic)])
def test_the_loss_is_that_of_info_vae_for_the_density_that_is_charged(posterior, kernel, function):
    setting = info_mmd(alpha=0.25, scale=3, kernel=kernel, bandwidth=0.5, mmd_scale=7)
    trial = trial_of(tiny(*posterior, setting))
    trial.model.double().train()
    batch = trial.train_batches[0]
    state = trial.streams.state_dict()
    loss = trial.learner.loss(batch, 0.5)
    trial.streams.load_state_dict(state)
    inference = trial.model.infer(batch)
    z = inference.kl_posterior.draw(trial.learner.noise(inference.q)).z_BSZ[:, 0]
    prior = torch.randn(z.shape, generator=trial.streams["auxiliary"], dtype=z.dtype)
    divergence = 7 * mmd(z, prior, function(2 * 2 * 0.5**2))
    expected = (loss.rec_B + 0.75 * 0.5 * loss.kl_BZ.sum(1)).mean() + 2.25 * divergence
    torch.testing.assert_close(loss.total, expected, rtol=1e-9, atol=0)


def test_the_samples_of_the_prior_are_those_of_the_models_prior():
    class Far(torch.nn.Module):
        def sample(self, noise_NZ, generator):
            self.asked = noise_NZ.shape, generator
            return noise_NZ + 100.0

    trial = trial_of(tiny("info_mmd"))
    penalty, model = trial.components.penalties[0], trial.model.train()
    found = []
    for prior in (model.prior, Far()):
        seen = {}
        trial.components.penalties[0].forward = lambda forward, seen=seen: (
            seen.setdefault("it", forward).rec_B.sum() * 0
        )
        trial.learner.loss(trial.train_batches[0], 1.0)
        model.prior = prior if isinstance(prior, Far) else model.prior
        forward = seen["it"]
        found.append(float(type(penalty).forward(penalty, forward).detach()))
    assert model.prior.asked == ((16, 2), trial.streams["auxiliary"])
    assert found[1] > found[0] + 5


@pytest.mark.parametrize("weights", [{"alpha": 1.0, "scale": 1.0}, {"alpha": 0.3, "scale": 4.0}])
def test_with_the_divergence_of_agg_kl_it_is_agg_kl(weights):
    losses, _, _ = updates(tiny(info_mmd(divergence="kl", **weights)), 3)
    assert losses == updates(tiny({"kind": "agg_kl", **weights}), 3)[0]


def test_a_whole_share_takes_the_kl_out_of_the_gradient():
    found = []
    for weight in (0.0, 7.0):
        trial = trial_of(tiny(info_mmd(alpha=1)))
        trial.model.double().train()
        trial.learner.loss(trial.train_batches[0], weight).total.backward()
        found.append([parameter.grad for parameter in trial.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


# --- refusals and warnings -------------------------------------------------------------------------------------------


@each_divergence
def test_a_negative_weight_of_the_divergence_is_refused(divergence):
    with pytest.raises(
        ConfigError, match=r"\(E17\).*alpha \+ scale >= 1 must hold, but got 0.0 \+ 0.001; raise info_mmd"
    ):
        tiny(info_mmd(scale=1e-3, divergence=divergence))


def test_a_sample_needs_companions_where_it_counts():
    with pytest.raises(ConfigError, match=r"\(E12\).*info_mmd needs the statistics of batches of at least 2, but"):
        tiny("info_mmd", training={"batch_size": 1})
    tiny(info_mmd(scale=1), training={"batch_size": 1})
    for divergence in ("mmd", "kl"):
        (penalty,) = InfoMmd(divergence=divergence).build(BuildContext(2, 4))["penalties"]
        assert penalty.least_batch == 2


@pytest.mark.parametrize(("field", "value"), [("kernel", "imq"), ("bandwidth", 2.0), ("mmd_scale", 10.0)])
def test_an_option_of_the_discrepancy_alone_is_refused_with_the_kl(field, value):
    tiny(info_mmd(**{field: value}))
    with pytest.raises(ConfigError, match=rf"\(E18\).*info_mmd.{field} is an unused option of divergence mmd alone"):
        tiny(info_mmd(divergence="kl", **{field: value}))


@pytest.mark.parametrize("other", ["mae", "fisher", "multitask_bow"])
def test_weights_that_nobody_balanced_are_warned_of_once(other):
    assert tiny("info_mmd").warnings() == ()
    for stack in (("info_mmd", other), (other, "info_mmd")):
        (warning,) = tiny(*stack).warnings()
        assert warning.startswith(f"W6: {' and '.join(sorted(stack))} each add to the loss")


def test_a_schedule_of_a_weight_that_nothing_has_is_warned_of():
    assert "the weight of kl_cyclical changes nothing" in tiny(info_mmd(alpha=1), "kl_cyclical").warnings()[0]
