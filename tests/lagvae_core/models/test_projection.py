import contextlib

import pytest
import torch
from torch.nn.functional import cross_entropy

from lagvae_core.models import projection
from lagvae_core.models.projection import token_nll, twice_differentiable

ROWS, HIDDEN, VOCABULARY = 23, 5, 11


def case(dtype=torch.float64, scale=1.0, rows=ROWS):
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(rows, HIDDEN, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (rows,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), targets


def direct(hidden, weight, targets):
    return cross_entropy(hidden.double() @ weight.double().T, targets, reduction="none")


@pytest.mark.parametrize("with_gradient", [False, True])
class TestValue:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_it_equals_cross_entropy(self, with_gradient, dtype, tolerance):
        """Logits of size 10 have a rounding error of ten units in the last place."""
        hidden, weight, targets = case(dtype)
        result = token_nll(hidden.requires_grad_(with_gradient), weight, targets)
        assert result.dtype == dtype
        assert result.requires_grad == with_gradient
        torch.testing.assert_close(result.double(), direct(hidden, weight, targets), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("scale", [8.0, 30.0, 1e3, 1e5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_extreme_logits_are_finite_and_accurate(self, with_gradient, scale, dtype):
        hidden, weight, targets = case(dtype, scale)
        result = token_nll(hidden.requires_grad_(with_gradient), weight, targets)
        assert bool(result.isfinite().all())
        logits = hidden.detach().double() @ weight.double().T
        tolerance = 16 * torch.finfo(dtype).eps * float(logits.abs().max())
        torch.testing.assert_close(result.double(), direct(hidden, weight, targets), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("level", [-5000.0, -100.0, -59.0, 59.0, 100.0, 5000.0])
    def test_equal_logits_are_uniform_at_any_offset(self, with_gradient, level):
        hidden = torch.tensor([[level]]).requires_grad_(with_gradient)
        result = token_nll(hidden, torch.ones(VOCABULARY, 1), torch.tensor([4]))
        exact = torch.tensor([float(VOCABULARY)]).log()
        torch.testing.assert_close(result.detach(), exact, rtol=0, atol=1e-7 * abs(level) + 1e-6)

    def test_a_nan_propagates(self, with_gradient):
        hidden, weight, targets = case()
        hidden[3, 1] = torch.nan
        result = token_nll(hidden.requires_grad_(with_gradient), weight, targets)
        assert result.isnan().nonzero().tolist() == [[3]]

    def test_no_rows(self, with_gradient):
        hidden, weight, targets = case(rows=0)
        assert token_nll(hidden.requires_grad_(with_gradient), weight, targets).shape == (0,)


class TestGradient:
    @pytest.mark.parametrize("scale", [1.0, 1e3])
    def test_it_equals_autograd(self, scale):
        hidden, weight, targets = case(scale=scale)
        upstream = torch.linspace(-1, 2, ROWS).double()
        inputs = hidden.requires_grad_(), weight.requires_grad_()
        gradients = torch.autograd.grad(token_nll(*inputs, targets), inputs, upstream)
        exact = torch.autograd.grad(direct(*inputs, targets), inputs, upstream)
        for one, other in zip(gradients, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_single_input_can_require_a_gradient(self, which):
        inputs = case()[:2]
        targets = case()[2]
        inputs[which].requires_grad_()
        (gradient,) = torch.autograd.grad(token_nll(*inputs, targets).sum(), inputs[which])
        (exact,) = torch.autograd.grad(direct(*inputs, targets).sum(), inputs[which])
        torch.testing.assert_close(gradient, exact, rtol=0, atol=1e-12)

    def test_a_second_backward_pass_over_the_same_graph_fails(self):
        """The first pass overwrites the saved exponentials with the gradient."""
        hidden, weight, targets = case()
        total = token_nll(hidden.requires_grad_(), weight, targets).sum()
        total.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


class TestWithoutGradient:
    @pytest.mark.parametrize("scale", [1.0, 30.0])
    def test_it_equals_the_value_with_gradients(self, scale):
        hidden, weight, targets = case(scale=scale)
        with_gradient = token_nll(hidden.requires_grad_(), weight.requires_grad_(), targets)
        with torch.no_grad():
            without = token_nll(hidden, weight, targets)
        assert not without.requires_grad
        torch.testing.assert_close(without, with_gradient.detach(), rtol=0, atol=1e-12 * scale)

    @pytest.mark.parametrize("rows", [1, 7, 22, 23, 24])
    @pytest.mark.parametrize("scale", [1.0, 30.0])
    def test_blocks_do_not_matter(self, monkeypatch, rows, scale):
        """Blocks share one buffer; 7 does not divide 23."""
        hidden, weight, targets = case(scale=scale)
        monkeypatch.setattr(projection, "BLOCK_ROWS", rows)
        result = token_nll(hidden, weight, targets)
        torch.testing.assert_close(result, direct(hidden, weight, targets), rtol=0, atol=1e-12 * scale)

    def test_the_inputs_do_not_change(self):
        hidden, weight, targets = case()
        token_nll(hidden, weight, targets)
        for one, other in zip((hidden, weight, targets), case(), strict=True):
            assert torch.equal(one, other)


class TestTwiceDifferentiable:
    def test_within_the_block_the_value_is_the_same_and_has_second_derivatives(self):
        hidden, weight, targets = case()
        hidden.requires_grad_()
        weight.requires_grad_()
        with twice_differentiable():
            torch.testing.assert_close(token_nll(hidden, weight, targets), direct(hidden, weight, targets))
            assert torch.autograd.gradgradcheck(lambda h, w: token_nll(h, w, targets), (hidden, weight))

    def test_outside_the_block_a_second_derivative_is_an_error(self):
        hidden, weight, targets = case()
        hidden.requires_grad_()
        value = token_nll(hidden, weight, targets).square().sum()
        (gradient,) = torch.autograd.grad(value, hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    def test_fused_kernels_are_disabled_within_the_block_and_restored_after_it(self):
        libraries = (torch.backends.mkldnn, torch.backends.cudnn)
        before = [library.enabled for library in libraries]
        within = []
        with contextlib.suppress(KeyError), twice_differentiable():
            within += [library.enabled for library in libraries]
            raise KeyError
        assert within == [False, False]
        assert [library.enabled for library in libraries] == before
        assert any(before)
