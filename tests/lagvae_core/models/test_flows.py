import math

import pytest
import torch
from torch import nn

from lagvae_core.models.flows import Flow, FlowProposal, Gated, Made, Standardising
from lagvae_core.models.gaussian import LOG_2PI, Draw, Gaussian, NormalPrior

STEPS = [Gated, Standardising]
SIZES = [1, 2, 3, 7]

each_step = pytest.mark.parametrize("step", STEPS)
each_size = pytest.mark.parametrize("size", SIZES)
either_order = pytest.mark.parametrize("backwards", [False, True])


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(module, spread=1.0, seed=0):
    """Return the module in float64 with random parameters, far from zero and from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=spread, generator=generator)
    return module


def order_of(size, backwards):
    return range(size)[::-1] if backwards else range(size)


def jacobian(function, x):
    return torch.autograd.functional.jacobian(function, x)


# --- the network -----------------------------------------------------------------------------------------------------


@each_size
@either_order
@pytest.mark.parametrize("hidden", [1, 5, 64])
def test_each_output_depends_only_on_previous_dimensions(size, backwards, hidden):
    made = shaken(Made(order_of(size, backwards), hidden, context=3))
    context = draws(3, seed=1)
    position = torch.tensor(list(order_of(size, backwards))).argsort()
    before = position[:, None] > position
    for output in (0, 1):
        slopes = torch.zeros(size, size, dtype=torch.float64)
        for seed in range(20):
            slopes += jacobian(lambda x, o=output: made(x, context)[o], draws(size, seed=seed)).abs()
        assert not (slopes[~before] != 0).any()
        if hidden == 64:
            assert (slopes[before] > 0).all()


@each_size
@either_order
def test_every_output_depends_on_the_context(size, backwards):
    made = shaken(Made(order_of(size, backwards), 64, context=3))
    for output in (0, 1):
        slopes = jacobian(lambda c, o=output: made(draws(size), c)[o], draws(3, seed=1))
        assert (slopes != 0).all()


def test_the_effect_of_an_sgd_step_does_not_grow_with_the_width():
    """The effect of an SGD step on an output is the squared length of its gradient."""
    for width in (16, 64, 256):
        torch.manual_seed(0)
        made = Made(range(4), width).double()
        first, _ = made(draws(4), None)
        gradients = torch.autograd.grad(first.sum(), list(made.parameters()))
        assert 0.01 < sum(float(g.square().sum()) for g in gradients) < 1


# --- one step --------------------------------------------------------------------------------------------------------


@each_step
@each_size
@either_order
def test_the_jacobian_of_a_step_is_triangular_and_its_diagonal_is_the_scale(step, size, backwards):
    order = list(order_of(size, backwards))
    flow, context = shaken(step(order, 32, 3)), draws(3, seed=1)
    for seed in range(5):
        x = draws(size, seed=seed)
        whole = jacobian(lambda x: flow(x, context)[0], x)[order][:, order]
        assert not whole.triu(1).any()
        torch.testing.assert_close(whole.diagonal(), flow(x, context)[1].exp()[order], rtol=1e-10, atol=1e-12)


def test_a_gated_step_equals_the_equations_of_the_paper():
    gated = shaken(Gated(range(3), 32, 2))
    x, context = draws(4, 3), draws(4, 2, seed=1)
    s, m = gated.made(x, context)
    gate = torch.sigmoid(s + 2)
    y, log_scale = gated(x, context)
    torch.testing.assert_close(y, gate * x + (1 - gate) * m, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_scale, gate.log(), rtol=1e-12, atol=1e-12)


def test_gates_are_nearly_open_at_initialisation():
    torch.manual_seed(0)
    _, log_scale = Gated(range(4), 64, 8)(torch.randn(100, 4), torch.randn(100, 8))
    assert ((log_scale.exp() > 0.8) & (log_scale.exp() < 0.95)).all()


def test_a_standardising_step_subtracts_the_mean_and_divides():
    flow = shaken(Standardising(range(3), 32))
    z = draws(4, 3)
    s, m = flow.made(z, None)
    log_s = 3 * (s / 3).tanh()
    e, log_scale = flow(z, None)
    torch.testing.assert_close(e, (z - m) / log_s.exp(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_scale, -log_s, rtol=1e-12, atol=1e-12)


def test_the_scale_does_not_overflow_for_any_parameters():
    flow = shaken(Standardising(range(3), 32), spread=1e3)
    e, log_scale = flow(100 * draws(50, 3), None)
    assert e.isfinite().all()
    assert (log_scale.abs() <= 3).all()


# --- the chain -------------------------------------------------------------------------------------------------------


def flow_of(step, size, steps=3, context=0):
    return shaken(Flow(step, steps, size, 16, context), spread=0.7)


@each_step
@each_size
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_accumulated_log_determinant_is_the_numerical_one(step, size, steps):
    flow, context = flow_of(step, size, steps, 3), draws(3, seed=1)
    for seed in range(3):
        x = draws(size, seed=seed)
        exact = torch.linalg.slogdet(jacobian(lambda x: flow(x, context)[0], x)).logabsdet
        torch.testing.assert_close(flow(x, context)[1].sum(), exact, rtol=1e-8, atol=1e-10)


@each_step
@each_size
def test_the_inverse_has_the_inverse_values_and_the_same_determinant(step, size):
    flow, context = flow_of(step, size, 4, 3), draws(5, 1, 3, seed=1)
    x = draws(5, 6, size)
    y, log_scale = flow(x, context)
    back, inverse_log_scale = flow.inverse(y, context)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_log_scale, log_scale, rtol=1e-8, atol=1e-8)


def test_the_order_alternates_so_that_two_steps_mix_all_dimensions():
    one, two = (shaken(Flow(Gated, steps, 4, 64)) for steps in (1, 2))
    assert (jacobian(lambda x: two(x)[0], draws(4)) != 0).all()
    assert not jacobian(lambda x: one(x)[0], draws(4)).triu(1).any()


def test_a_flow_without_steps_is_the_identity_bit_for_bit():
    x = draws(5, 2, 3)
    y, log_scale = Flow(Gated, 0, 3, 8)(x)
    assert torch.equal(y, x)
    assert not log_scale.any()


def test_a_standardising_flow_is_initially_the_identity_bit_for_bit():
    x = draws(5, 2, 3)
    y, log_scale = Flow(Standardising, 4, 3, 48).double()(x)
    assert torch.equal(y, x)
    assert not log_scale.any()


def test_inputs_are_converted_to_the_precision_of_the_flow_and_back():
    flow = flow_of(Gated, 3, 2, 6).float()
    x, context = draws(5, 3), draws(5, 6, seed=1)
    for run in (flow.forward, flow.inverse):
        wide, narrow = run(x, context), run(x.float(), context.float())
        for one, other in zip(wide, narrow, strict=True):
            assert one.dtype == torch.float64
            assert torch.equal(one, other.double())


def test_extreme_inputs_give_finite_values_and_gradients():
    for step in STEPS:
        torch.manual_seed(0)
        flow = Flow(step, 3, 4, 64, 8)
        x = torch.tensor([[100.0, -100.0, 0.0, 100.0]], requires_grad=True)
        for logvar in (-20.0, 5.0):
            y, log_scale = flow(x, torch.cat([x, torch.full((1, 4), logvar)], 1))
            (gradient,) = torch.autograd.grad((y + log_scale).sum(), x)
            assert y.isfinite().all()
            assert gradient.isfinite().all()


# --- the proposal ----------------------------------------------------------------------------------------------------


def proposal_of(size, steps=3, examples=4):
    source = Gaussian(draws(examples, size, seed=1), 0.5 * draws(examples, size, seed=2))
    return FlowProposal(source, flow_of(Gated, size, steps, 2 * size))


@each_size
def test_the_density_at_own_samples_equals_the_density_by_inversion(size):
    q = proposal_of(size)
    draw = q.draw(draws(4, 6, size, seed=3))
    torch.testing.assert_close(draw.log_q().sum(-1), q.log_prob(draw.z_BSZ), rtol=1e-8, atol=1e-8)


@each_size
def test_the_density_follows_the_change_of_variables_from_the_noise(size):
    q = proposal_of(size)
    for row in range(4):
        alone = q.select(torch.tensor([row]))
        noise = draws(size, seed=row)
        map_of = lambda e, q=alone: q.draw(e[None, None]).z_BSZ[0, 0]  # noqa: E731
        logdet = torch.linalg.slogdet(jacobian(map_of, noise)).logabsdet
        exact = NormalPrior().log_prob(noise) - logdet
        torch.testing.assert_close(alone.log_prob(map_of(noise)[None, None])[0, 0], exact, rtol=1e-8, atol=1e-8)


def grid(size, reach, points):
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * size).reshape(-1, size), (2 * reach / (points - 1)) ** size


@pytest.mark.parametrize(("size", "reach", "points"), [(1, 10, 2001), (2, 10, 251)])
def test_the_density_integrates_to_one(size, reach, points):
    z, cell = grid(size, reach, points)
    for seed in range(3):
        source = Gaussian(0.5 * draws(2, size, seed=seed), 0.3 * draws(2, size, seed=seed + 9))
        q = FlowProposal(source, shaken(Flow(Gated, 2, size, 16, 2 * size), 0.7, seed))
        mass = q.log_prob(z.expand(2, -1, -1)).exp().sum(1) * cell
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=2e-3)


def test_the_density_is_zero_and_not_nan_if_the_inverse_overflows():
    q = FlowProposal(proposal_of(7).base, shaken(Flow(Gated, 4, 7, 16, 14)))
    log_q = q.log_prob(1e3 * draws(4, 50, 7))
    assert bool((log_q == -math.inf).any())
    assert not log_q.isnan().any()


def test_a_proposal_without_steps_is_the_gaussian_bit_for_bit():
    q = proposal_of(3, 0)
    noise = draws(4, 6, 3, seed=3)
    draw, gaussian = q.draw(noise), q.base.draw(noise)
    assert isinstance(draw, Draw)
    assert torch.equal(draw.z_BSZ, gaussian.z_BSZ)
    assert torch.equal(draw.log_q(), gaussian.log_q())
    assert torch.equal(q.log_prob(noise), q.base.log_prob(noise))


def test_select_concatenate_and_map_change_the_gaussian_and_share_the_flow():
    q = proposal_of(3)
    noise = draws(4, 2, 3, seed=3)
    z = q.draw(noise).z_BSZ
    chosen = q.select(torch.tensor([2, 0]))
    assert chosen.size == (2, 3)
    torch.testing.assert_close(chosen.draw(noise[[2, 0]]).z_BSZ, z[[2, 0]])
    joined = chosen.concatenate([q.select(torch.tensor([1])), q.select(torch.tensor([3]))])
    torch.testing.assert_close(joined.draw(noise[[2, 0, 1, 3]]).z_BSZ, z[[2, 0, 1, 3]])
    assert joined.flow is q.flow
    narrow = q.map(lambda rows: rows.float())
    assert narrow.base.mean_BZ.dtype == torch.float32
    torch.testing.assert_close(narrow.draw(noise.float()).z_BSZ.double(), z, rtol=1e-5, atol=1e-5)


def test_the_kl_terms_belong_to_their_dimensions():
    """A flow that acts only on dimension 0 does not change the terms of the other dimensions."""
    flow = flow_of(Gated, 3, 3, 6)
    for step in flow.steps:
        with torch.no_grad():
            step.made.leave.weight.zero_()
            step.made.leave.bias.copy_(torch.tensor([-3.0, 400.0, 400.0, 5.0, 0.0, 0.0]))
    q = FlowProposal(Gaussian(draws(4, 3, seed=1), draws(4, 3, seed=2)), flow)
    noise = draws(4, 200, 3, seed=3)
    kl = NormalPrior().kl(q, q.draw(noise))
    log_p = -0.5 * (q.base.rsample(noise).square() + LOG_2PI)
    plain = (q.base.draw(noise).log_q() - log_p).mean(1)
    torch.testing.assert_close(kl[:, 1:], plain[:, 1:], rtol=1e-9, atol=1e-9)
    assert ((kl[:, 0] - plain[:, 0]).abs() > 0.1).all()
