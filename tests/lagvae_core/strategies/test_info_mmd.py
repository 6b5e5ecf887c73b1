import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, tiny, trial_of, updates

from lagvae_core.models.kl import inverse_multiquadratic, mmd, radial
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.info_mmd import InfoMmd

each_divergence = pytest.mark.parametrize("divergence", ["mmd", "kl"])


def info_mmd(**fields):
    return {"kind": "info_mmd", **fields}


@each_divergence
def test_weight_0_of_the_divergence_is_the_plain_vae_and_draws_nothing(divergence):
    neutral = info_mmd(alpha=0, scale=1, divergence=divergence)
    assert_equals_plain_vae(neutral)
    _, _, trial = updates(tiny(neutral), 3)
    assert "auxiliary" not in trial.streams.state_dict()
    assert "auxiliary" in updates(tiny("info_mmd"), 3)[2].streams.state_dict()


@pytest.mark.parametrize("beta", [0.4, 0.1])
def test_alpha_1_minus_beta_and_scale_beta_is_beta_vae(beta):
    losses, parameters, _ = updates(tiny(info_mmd(alpha=1 - beta, scale=beta)), 5)
    expected, of_beta, _ = updates(tiny({"kind": "beta_vae", "beta": beta}), 5)
    assert losses == pytest.approx(expected, rel=1e-13)
    for name, value in parameters.items():
        torch.testing.assert_close(value, of_beta[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("posterior", [(), ("scale_vae",)])
@pytest.mark.parametrize(("kernel", "function"), [("rbf", radial), ("imq", inverse_multiquadratic)])
def test_the_loss_is_that_of_info_vae_for_the_posterior_in_the_objective(posterior, kernel, function):
    config = info_mmd(alpha=0.25, scale=3, kernel=kernel, bandwidth=0.5, mmd_scale=7)
    trial = trial_of(tiny(*posterior, config))
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


def test_the_penalty_samples_the_prior_of_the_model():
    class Far(torch.nn.Module):
        def sample(self, noise_NZ, generator):
            self.arguments = noise_NZ.shape, generator
            return noise_NZ + 100.0

    trial = trial_of(tiny("info_mmd"))
    penalty, model = trial.components.penalties[0], trial.model.train()
    values = []
    for prior in (model.prior, Far()):
        captured = {}
        trial.components.penalties[0].forward = lambda forward, captured=captured: (
            captured.setdefault("forward", forward).rec_B.sum() * 0
        )
        trial.learner.loss(trial.train_batches[0], 1.0)
        model.prior = prior if isinstance(prior, Far) else model.prior
        forward = captured["forward"]
        values.append(float(type(penalty).forward(penalty, forward).detach()))
    assert model.prior.arguments == ((16, 2), trial.streams["auxiliary"])
    assert values[1] > values[0] + 5


@pytest.mark.parametrize("weights", [{"alpha": 1.0, "scale": 1.0}, {"alpha": 0.3, "scale": 4.0}])
def test_divergence_kl_is_agg_kl(weights):
    losses, _, _ = updates(tiny(info_mmd(divergence="kl", **weights)), 3)
    assert losses == updates(tiny({"kind": "agg_kl", **weights}), 3)[0]


def test_alpha_1_removes_the_kl_from_the_gradient():
    gradients = []
    for weight in (0.0, 7.0):
        trial = trial_of(tiny(info_mmd(alpha=1)))
        trial.model.double().train()
        trial.learner.loss(trial.train_batches[0], weight).total.backward()
        gradients.append([parameter.grad for parameter in trial.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# --- incompatibilities and warnings ----------------------------------------------------------------------------------


@each_divergence
def test_a_negative_weight_of_the_divergence_is_rejected(divergence):
    with rejects("strategies") as issues:
        tiny(info_mmd(scale=1e-3, divergence=divergence))
    assert issues[0].code == "E17"
    assert "info_mmd.scale" in str(issues[0])


def test_the_divergence_needs_batches_of_two():
    with rejects("strategies") as issues:
        tiny("info_mmd", training={"batch_size": 1})
    assert issues[0].code == "E12"
    tiny(info_mmd(scale=1), training={"batch_size": 1})
    for divergence in ("mmd", "kl"):
        (penalty,) = InfoMmd(divergence=divergence).build(BuildContext(2, 4))["penalties"]
        assert penalty.least_batch == 2


@pytest.mark.parametrize(("field", "value"), [("kernel", "imq"), ("bandwidth", 2.0), ("mmd_scale", 10.0)])
def test_options_of_mmd_have_no_effect_with_divergence_kl(field, value):
    tiny(info_mmd(**{field: value}))
    with rejects("strategies") as issues:
        tiny(info_mmd(divergence="kl", **{field: value}))
    assert issues[0].code == "E18"
    assert f"info_mmd.{field}" in str(issues[0])


@pytest.mark.parametrize("other", ["mae", "fisher", "multitask_bow"])
def test_several_penalties_give_one_warning(other):
    assert tiny("info_mmd").warnings() == ()
    for stack in (("info_mmd", other), (other, "info_mmd")):
        (warning,) = map(str, tiny(*stack).warnings())
        assert warning.startswith("W6: ")
        assert all(kind in warning for kind in stack)


def test_a_schedule_of_the_kl_weight_without_kl_gives_a_warning():
    assert "kl_cyclical" in str(tiny(info_mmd(alpha=1), "kl_cyclical").warnings()[0])
