import math

import pytest
import torch
from helpers import assert_equals_sampled_vae, rejects, tiny, tiny_images, trial_of

from lagvae_core.data import BOS, EOS, PAD, TokenBatch, TokenSplit
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.lstm import LstmEncoder, LstmModel
from lagvae_core.models.vae import Posterior
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.vamp_prior import VampPrior, mean_length, sentences_near


def vamp_prior(**fields):
    return {"kind": "vamp_prior", **fields}


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trial_with(*others, **fields):
    trial = trial_of(tiny(vamp_prior(components=7, init_std=1.0, **fields), *others))
    trial.model.double()
    return trial


def sentences(*lengths):
    """Return batches of sentences with these numbers of tokens; each sentence repeats a different word."""
    rows = [[BOS, *[4 + number] * (length - 2), EOS] for number, length in enumerate(lengths)]
    return TokenSplit.of(rows).batches(4)


# --- the density -----------------------------------------------------------------------------------------------------


def test_one_standard_normal_component_is_the_plain_vae_with_a_sampled_kl():
    def set_standard_normal(trial):
        zero = torch.zeros(1, 2, dtype=torch.float64)
        trial.model.prior.components = lambda: Gaussian(zero, zero)

    assert_equals_sampled_vae(vamp_prior(components=1), set_standard_normal, tolerance=1e-10)


def test_the_density_is_the_mean_over_the_posteriors_of_the_pseudo_inputs():
    trial = trial_with()
    prior, z = trial.model.prior, 2 * draws(3, 4, 2)
    log_p_BS = prior.log_prob(z)
    for b in range(3):
        for s in range(4):
            total = 0.0
            for c in range(7):
                words = prior.pseudo_LCE[:, c : c + 1]
                total += (
                    trial.model.posterior(trial.model.encoder.read(words)).q.log_prob(z[b : b + 1, s : s + 1]).exp()
                )
            assert float(log_p_BS[b, s].detach()) == pytest.approx(math.log(float(total.detach()) / 7), rel=1e-9)


def test_the_density_integrates_to_one_in_one_dimension():
    trial = trial_of(tiny(vamp_prior(components=7, init_std=2.0), model={"latent_dim": 1, "init_range": 1.0}))
    trial.model.double().eval()
    axis = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    mass = float(trial.model.prior.log_prob(axis[None, :, None]).exp().sum()) * 0.01
    assert mass == pytest.approx(1, abs=1e-6)


def test_the_kl_is_the_mean_log_ratio_with_all_constants():
    trial = trial_with()
    prior = trial.model.eval().prior
    q = Gaussian(draws(3, 2, seed=1), draws(3, 2, seed=2))
    draw = q.draw(draws(3, 50, 2, seed=3))
    ratio = q.log_prob(draw.z_BSZ) - prior.log_prob(draw.z_BSZ)
    torch.testing.assert_close(prior.kl(q, draw), ratio.mean(1, keepdim=True), rtol=1e-9, atol=1e-9)
    one = trial_of(tiny(vamp_prior(components=1))).model.double().eval().prior
    component = one.components()
    assert float(one.kl(component, component.draw(draws(1, 20, 2))).abs().max()) < 1e-9


def test_samples_come_from_random_components():
    trial = trial_with()
    prior, n = trial.model.eval().prior, 20_000
    with torch.no_grad():
        prior.pseudo_LCE.mul_(3.0)
    trial.model.eval()
    components = prior.components()
    z = prior.sample(torch.zeros(n, 2).double(), torch.Generator().manual_seed(0))
    counts = (z[:, None] == components.mean_BZ).all(2).sum(0)
    assert int(counts.sum()) == n
    assert ((counts - n / 7).abs() < 4 * math.sqrt(n / 7)).all()
    noise = draws(n, 2)
    moved = prior.sample(noise, torch.Generator().manual_seed(0))
    chosen = (z[:, None] == components.mean_BZ).all(2).double().argmax(1)
    torch.testing.assert_close(moved, z + (0.5 * components.logvar_BZ[chosen]).exp() * noise)


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_in_evaluation_the_components_are_computed_once():
    trial = trial_with()
    prior, z, calls = trial.model.eval().prior, draws(3, 4, 2), []
    read = trial.model.encoder.read
    trial.model.encoder.read = lambda *arguments: calls.append(arguments) or read(*arguments)
    first = prior.log_prob(z)
    assert torch.equal(prior.log_prob(z), first)
    assert len(calls) == 1
    assert not first.requires_grad
    trial.model.eval()
    assert torch.equal(prior.log_prob(z), first)


def test_training_or_loading_weights_discards_the_cached_components():
    trial = trial_with()
    z = draws(3, 4, 2)
    first = trial.model.eval().prior.log_prob(z)
    weights = {name: value.clone() for name, value in trial.model.state_dict().items()}
    trial.model.train()
    for batch in trial.train_batches[:2]:
        trial.train_batch(batch)
    assert not torch.equal(trial.model.eval().prior.log_prob(z), first)
    trial.model.load_state_dict(weights)
    assert torch.equal(trial.model.eval().prior.log_prob(z), first)


@pytest.mark.parametrize("other", ["bn_vae", {"kind": "du_vae", "regularise_from": "start"}])
def test_pseudo_inputs_do_not_change_batch_statistics(other):
    trial = trial_with(other)
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    posterior = trial.model.posterior
    before = {name: value.clone() for name, value in posterior.state_dict().items()}
    streams = {name: value.clone() for name, value in trial.streams.state_dict().items()}
    in_training = trial.model.prior.components()
    assert all(torch.equal(value, before[name]) for name, value in posterior.state_dict().items())
    assert all(torch.equal(value, streams[name]) for name, value in trial.streams.state_dict().items())
    assert all(module.training for module in trial.model.modules())
    in_evaluation = trial.model.eval().prior.components()
    torch.testing.assert_close(in_training.mean_BZ, in_evaluation.mean_BZ)
    torch.testing.assert_close(in_training.logvar_BZ, in_evaluation.logvar_BZ)


# --- learning --------------------------------------------------------------------------------------------------------


def test_the_prior_has_gradients_in_the_pseudo_inputs_and_the_encoder():
    trial = trial_with()
    prior, model = trial.model.train().prior, trial.model
    gradients = torch.autograd.grad(
        prior.log_prob(draws(3, 1, 2)).sum(), [prior.pseudo_LCE, *model.encoder.parameters()], allow_unused=True
    )
    named = dict(zip(["pseudo", *dict(model.encoder.named_parameters())], gradients, strict=True))
    assert named.pop("embedding.weight") is None
    assert all(float(gradient.abs().max()) > 0 for gradient in named.values())
    assert (named["pseudo"].abs().amax((0, 2)) > 0).all()


def test_the_gradient_of_the_pseudo_inputs_equals_finite_differences():
    trial = trial_with(length=2)
    prior, z, nudge = trial.model.train().prior, draws(3, 1, 2), 1e-5
    (gradient,) = torch.autograd.grad(prior.log_prob(z).sum(), prior.pseudo_LCE)
    for place in ((0, 0, 0), (1, 3, 2), (0, 6, 7)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                prior.pseudo_LCE[place] += sign * nudge
                values.append(float(prior.log_prob(z).sum()))
                prior.pseudo_LCE[place] -= sign * nudge
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / (2 * nudge), rel=1e-5, abs=1e-9)


def test_encoder_and_posterior_are_in_the_model_once_and_the_pseudo_inputs_are_trained_with_the_decoder():
    trial, plain = trial_with("bn_vae"), trial_of(tiny("bn_vae"))
    assert set(trial.model.state_dict()) == {*plain.model.state_dict(), "prior.pseudo_LCE"}
    assert any(p is trial.model.prior.pseudo_LCE for p in trial.model.decoder_parameters())
    assert all(p is not trial.model.prior.pseudo_LCE for p in trial.model.encoder_parameters())
    for name, value in plain.model.named_parameters():
        assert torch.equal(trial.model.get_parameter(name), value.double()), name


# --- the start -------------------------------------------------------------------------------------------------------


def test_pseudo_inputs_start_from_a_narrow_normal_density():
    trial = trial_of(tiny(vamp_prior(components=500)))
    start = trial.model.prior.pseudo_LCE.detach()
    assert start.shape == (7, 500, 8)
    n = start.numel()
    assert float(start.mean()) == pytest.approx(-0.05, abs=4 * 0.01 / math.sqrt(n))
    assert float(start.std()) == pytest.approx(0.01, abs=4 * 0.01 / math.sqrt(2 * n))


def test_the_default_length_is_the_mean_length_of_the_sentences():
    assert mean_length(sentences(3, 3, 4, 9)) == 5
    assert mean_length(()) == 1
    assert trial_with(length=3).model.prior.pseudo_LCE.shape == (3, 7, 8)
    context = BuildContext(2, 4, model=LstmModel(embedding=6), train_batches=sentences(3, 3, 4, 9))
    assert VampPrior(components=2).build(context)["prior"].pseudo_LCE.shape == (5, 2, 6)


def test_the_sentences_nearest_in_length_are_cut_or_padded():
    nearest = sentences_near(4, 4, sentences(3, 4, 9, 4)).tolist()
    assert nearest == [[BOS, 5, 5, EOS], [BOS, 7, 7, EOS], [BOS, 4, EOS, EOS], [BOS, 6, 6, 6]]
    assert sentences_near(4, 6, sentences(4, 4)).tolist() == [[BOS, 4, 4, EOS], [BOS, 5, 5, EOS]] * 3


def test_padding_is_not_part_of_a_sentence():
    rows = [[BOS, 4, EOS, PAD, PAD], [BOS, 5, 5, 5, EOS], [BOS, 6, 6, EOS, PAD]]
    batch = TokenBatch(torch.tensor(rows), torch.arange(3), torch.tensor([3, 5, 4]))
    assert mean_length([batch]) == 4
    assert sentences_near(4, 3, [batch]).tolist() == [[BOS, 6, 6, EOS], [BOS, 4, EOS, EOS], [BOS, 5, 5, 5]]


@pytest.mark.parametrize("other", [[], ["bn_vae"]])
def test_init_from_data_starts_as_embedded_sentences(other):
    """The embeddings are those of the encoder under the whole stack: bn_vae initialises it again."""
    trial = trial_of(tiny(vamp_prior(components=20, init_from_data=True, init_std=0.0), *other))
    tokens = torch.cat([batch.tokens_BL for batch in trial.train_batches])[:20]
    embedded = trial.model.encoder.embedding(tokens.T)
    assert torch.equal(trial.model.prior.pseudo_LCE, embedded)
    noisy = trial_of(tiny(vamp_prior(components=20, init_from_data=True, init_std=0.1), *other)).model.prior
    difference = (noisy.pseudo_LCE - embedded).detach()
    assert float(difference.std()) == pytest.approx(0.1, abs=4 * 0.1 / math.sqrt(2 * difference.numel()))
    z = embedded.new_zeros(1, 1, 2)
    q = trial.model.eval().infer(trial.train_batches[0]).q
    assert torch.allclose(trial.model.prior.components().mean_BZ[:16], q.mean_BZ, atol=1e-6)
    assert trial.model.prior.log_prob(z).isfinite().all()


def test_the_start_of_encoder_and_decoder_does_not_depend_on_the_prior():
    models = [trial_of(tiny(vamp_prior(components=3, init_from_data=from_data))).model for from_data in (False, True)]
    plain = trial_of(tiny()).model
    for name, value in plain.named_parameters():
        for model in models:
            assert torch.equal(model.get_parameter(name), value), name


# --- stacks ----------------------------------------------------------------------------------------------------------


def assert_rejected(code, *stack):
    for order in (stack, stack[::-1]):
        with rejects("strategies") as issues:
            tiny(*order)
        assert issues[0].code == code


def test_aggressive_training_needs_allow_untested():
    assert_rejected("E13", "vamp_prior", "aggressive")
    trial = trial_of(tiny("vamp_prior", {"kind": "aggressive", "budget": 2, "allow_untested": True}))
    trial.model.train()
    before = trial.model.prior.pseudo_LCE.clone()
    with trial.learner.inner_loop(decoder_gradients=True):
        trial.learner.descend(trial.learner.loss(trial.train_batches[0], 1.0), encoder=True, decoder=False)
    assert torch.equal(trial.model.prior.pseudo_LCE, before)
    trial.train_batch(trial.train_batches[0])
    assert not torch.equal(trial.model.prior.pseudo_LCE, before)


def test_flow_posteriors_are_rejected():
    assert_rejected("E14", "vamp_prior", "iaf_posterior")


@pytest.mark.parametrize(("other", "code"), [("scale_vae", "E08"), ("delta_vae", "E06"), ("af_prior", "E-SLOT")])
def test_another_strategy_that_sets_the_prior_is_rejected(other, code):
    assert_rejected(code, "vamp_prior", other)


def test_an_encoder_that_also_reads_words_is_rejected():
    assert_rejected("E-PSEUDO", "vamp_prior", "multitask_bow")
    tiny("vamp_prior", {"kind": "multitask_bow", "bow_input": False})


def test_init_mean_has_no_effect_with_init_from_data():
    with rejects("strategies") as issues:
        tiny(vamp_prior(init_from_data=True, init_mean=0.0))
    assert issues[0].code == "E18"
    assert "vamp_prior.init_mean" in str(issues[0])


def test_it_needs_an_encoder_and_gaussian_posteriors():
    prior = VampPrior(components=2).build(BuildContext(2, 4))["prior"]
    with pytest.raises(AssertionError, match="bind"):
        prior.components()

    class NotGaussian(Posterior):
        def forward(self, encoded):
            return Inference.plain(object())

    prior.bind(LstmEncoder(LstmModel(latent_dim=2, hidden=4), 20), NotGaussian())
    with pytest.raises(AssertionError, match="Gaussians"):
        prior.components()


# --- images ----------------------------------------------------------------------------------------------------------


def images_with(*others, **fields):
    trial = trial_of(tiny_images(vamp_prior(components=7, init_std=1.0, **fields), *others))
    trial.model.double()
    return trial


def test_the_density_of_images_is_the_mean_over_the_posteriors_of_the_pseudo_inputs():
    trial = images_with("bn_vae")
    model, z = trial.model.eval(), 2 * draws(3, 4, 2)
    q = model.posterior(model.encoder.read(model.prior.pseudo_CHW.sigmoid())).q
    mixture = torch.stack([q.select(torch.tensor([c])).log_prob(z.view(1, 12, 2))[0] for c in range(7)])
    expected = (mixture.logsumexp(0) - math.log(7)).view(3, 4).detach()
    torch.testing.assert_close(model.prior.log_prob(z).detach(), expected, rtol=1e-9, atol=1e-9)


def test_pseudo_images_have_gradients_and_do_not_change_batch_statistics():
    trial = images_with()
    trial.model.train()
    trial.train_batch(trial.learner.observed(trial.train_batches[0]))
    before = {name: value.clone() for name, value in trial.model.encoder.state_dict().items()}
    trial.model.prior.log_prob(draws(3, 4, 2)).sum().backward()
    assert trial.model.prior.pseudo_CHW.grad.abs().min() > 0
    assert all(p.grad is not None for p in trial.model.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in trial.model.encoder.state_dict().items())
    assert all(module.training for module in trial.model.modules())


def test_pseudo_images_start_grey_or_as_training_images():
    start = trial_of(tiny_images(vamp_prior(components=7))).model.prior.pseudo_CHW.detach()
    assert start.shape == (7, 6, 6)
    assert float(start.mean()) == pytest.approx(-0.05, abs=0.01)
    trial = trial_of(tiny_images(vamp_prior(components=70, init_std=0.0, init_from_data=True)))
    start = trial.model.prior.pseudo_CHW.detach().sigmoid()
    grey = torch.cat([batch.pixels_BHW for batch in trial.train_batches])
    torch.testing.assert_close(start[:64], grey.clamp(0.02, 0.98))
    torch.testing.assert_close(start[64:], start[:6])


def test_a_length_has_no_effect_on_images():
    with rejects("strategies") as issues:
        tiny_images(vamp_prior(length=3))
    assert issues[0].code == "E18"
    assert "vamp_prior.length" in str(issues[0])
