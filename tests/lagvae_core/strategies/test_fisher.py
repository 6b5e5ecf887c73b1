import math

import pytest
import torch
from helpers import assert_equals_plain_vae, rejects, run, tiny, trial_of

from lagvae_core.models.gaussian import Gaussian
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.fisher import Fisher, fisher_information

each_mode = pytest.mark.parametrize("mode", ["floor", "target", "code"])


def fisher(**fields):
    return {"kind": "fisher", **fields}


class ForwardOf:
    """A `Forward` with nothing but `inference.kl_posterior`."""

    def __init__(self, mean, logvar):
        self.inference = self
        self.kl_posterior = Gaussian(mean, logvar)


def penalty(logvar, mean=None, **fields):
    (module,) = Fisher(**fields).build(BuildContext(2, 4))["penalties"]
    logvar = torch.as_tensor(logvar, dtype=torch.float64)
    return module(ForwardOf(torch.zeros_like(logvar) if mean is None else mean, logvar))


def logvars(batch=6, dimensions=3, seed=0):
    return torch.randn(batch, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_mode
def test_weight_0_is_the_plain_vae(mode):
    assert_equals_plain_vae(fisher(mode=mode, weight=0))


def test_a_standard_deviation_of_one_has_an_information_of_three_halves():
    assert float(fisher_information(torch.zeros(4, 2)).exp()) == pytest.approx(1.5)
    assert float(penalty(torch.zeros(4, 2), mode="code")) == 0
    assert float(penalty(torch.zeros(4, 2), mode="floor", level=5, weight=2)) == pytest.approx(2 * math.log(5 / 1.5))
    assert float(penalty(torch.zeros(4, 2), mode="target", level=1.5)) == pytest.approx(0, abs=1e-12)


def test_the_information_equals_explicit_loops():
    logvar = logvars()
    terms = [1 / v + 1 / (2 * v**2) for v in logvar.exp().flatten().tolist()]
    information = sum(terms) / len(terms)
    assert float(fisher_information(logvar).exp()) == pytest.approx(information, rel=1e-12)
    for level in (0.5, 5.0, 50.0):
        shortfall = math.log(level) - math.log(information)
        assert float(penalty(logvar, mode="floor", level=level)) == pytest.approx(0.1 * max(0.0, shortfall), abs=1e-12)
        assert float(penalty(logvar, mode="target", level=level)) == pytest.approx(0.1 * abs(shortfall))


def test_the_published_term_equals_explicit_loops():
    logvar = torch.cat((logvars(), torch.tensor([[-29.0, -30.0, -60.0], [5.0, 0.0, -0.1]], dtype=torch.float64)))
    terms = [max(0.0, 1 - math.exp(v)) / 3 * min(-3 * v, 88.0) for v in logvar.flatten().tolist()]
    assert float(penalty(logvar, mode="code", weight=2.0)) == pytest.approx(-2 * sum(terms) / len(terms), rel=1e-12)


@each_mode
def test_gradients_equal_finite_differences_and_do_not_reach_the_means(mode):
    logvar, mean = logvars().requires_grad_(), logvars(seed=1).requires_grad_()
    fields = {"mode": mode, "weight": 3.0} | ({} if mode == "code" else {"level": 50.0})
    assert torch.autograd.gradcheck(lambda v: penalty(v, mean, **fields), (logvar,))
    value = penalty(logvar, mean, **fields)
    assert float(value.detach()) != 0
    assert torch.autograd.grad(value, mean, allow_unused=True) == (None,)


def test_enough_information_has_no_penalty():
    logvar = torch.full((4, 2), -3.0, dtype=torch.float64, requires_grad=True)
    value = penalty(logvar, mode="floor", level=5.0)
    assert float(value.detach()) == 0
    assert torch.equal(torch.autograd.grad(value, logvar)[0], torch.zeros(4, 2).double())


@each_mode
@pytest.mark.parametrize("logvar", [-1000.0, -60.0, -20.0, 5.0, 60.0])
def test_extreme_variances_have_finite_gradients_in_single_precision(mode, logvar):
    (module,) = Fisher(mode=mode).build(BuildContext(2, 4))["penalties"]
    logvars = torch.full((3, 2), logvar, requires_grad=True)
    value = module(ForwardOf(torch.zeros(3, 2), logvars))
    assert value.isfinite()
    assert torch.autograd.grad(value, logvars)[0].isfinite().all()


def test_half_precision_is_widened():
    (module,) = Fisher().build(BuildContext(2, 4))["penalties"]
    half = torch.zeros(3, 2, dtype=torch.bfloat16)
    assert module(ForwardOf(half, half)).dtype == torch.float32


@pytest.mark.parametrize("posterior", [(), ("scale_vae",)])
def test_the_loss_includes_the_penalty_on_the_posteriors_in_the_objective(posterior):
    losses = []
    for stack in ((*posterior, fisher(weight=2.0)), posterior):
        trial = trial_of(tiny(*stack))
        trial.model.double().train()
        batch = trial.train_batches[0]
        losses.append(trial.learner.loss(batch, 0.5).total)
    kl_posterior = trial.model.infer(batch).kl_posterior.base
    expected = penalty(kl_posterior.logvar_BZ, weight=2.0)
    torch.testing.assert_close(losses[0] - losses[1], expected, rtol=1e-9, atol=1e-12)


def test_it_raises_the_kl_but_z_stays_unused():
    plain, small = (run(tiny(*stack, training={"epochs": 6})).metrics for stack in ((), (fisher(weight=10.0),)))
    assert small["kl"] > plain["kl"] + 0.3
    assert small["mi"] < 0.1


def test_a_level_without_effect_is_rejected():
    with rejects("strategies") as issues:
        tiny(fisher(mode="code", level=7.0))
    assert issues[0].code == "E18"
    assert "fisher.level" in str(issues[0])
    tiny(fisher(mode="code"))
    tiny(fisher(mode="target", level=7.0))


@pytest.mark.parametrize("other", ["mae", "info_mmd", "multitask_bow"])
def test_several_penalties_give_one_warning(other):
    assert tiny("fisher").warnings() == ()
    for stack in (("fisher", other), (other, "fisher")):
        (warning,) = map(str, tiny(*stack).warnings())
        assert warning.startswith("W6: ")
        assert all(kind in warning for kind in stack)
