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
    def test_against_cross_entropy(self, with_gradient, dtype, tolerance):
        """Logits of size 10 carry a rounding error of ten units in the last place."""
        hidden, weight, targets = case(dtype)
        found = token_nll(hidden.requires_grad_(with_gradient), weight, targets)
        assert found.dtype == dtype
        assert found.requires_grad == with_gradient
        torch.testing.assert_close(found.double(), direct(hidden, weight, targets), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("scale", [8.0, 30.0, 1e3, 1e5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_extreme_logits(self, with_gradient, scale, dtype):
        hidden, weight, targets = case(dtype, scale)
        found = token_nll(hidden.requires_grad_(with_gradient), weight, targets)
        assert bool(found.isfinite().all())
        logits = hidden.detach().double() @ weight.double().T
        tolerance = 16 * torch.finfo(dtype).eps * float(logits.abs().max())
        torch.testing.assert_close(found.double(), direct(hidden, weight, targets), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("level", [-5000.0, -100.0, -59.0, 59.0, 100.0, 5000.0])
    def test_equal_logits_are_uniform_at_any_level(self, with_gradient, level):
        hidden = torch.tensor([[level]]).requires_grad_(with_gradient)
        found = token_nll(hidden, torch.ones(VOCABULARY, 1), torch.tensor([4]))
        exact = torch.tensor([float(VOCABULARY)]).log()
        torch.testing.assert_close(found.detach(), exact, rtol=0, atol=1e-7 * abs(level) + 1e-6)

    def test_a_nan_is_passed_on(self, with_gradient):
        hidden, weight, targets = case()
        hidden[3, 1] = torch.nan
        found = token_nll(hidden.requires_grad_(with_gradient), weight, targets)
        assert found.isnan().nonzero().tolist() == [[3]]

    def test_no_rows(self, with_gradient):
        hidden, weight, targets = case(rows=0)
        assert token_nll(hidden.requires_grad_(with_gradient), weight, targets).shape == (0,)


class TestGradient:
    @pytest.mark.parametrize("scale", [1.0, 1e3])
    def test_against_autograd(self, scale):
        hidden, weight, targets = case(scale=scale)
        upstream = torch.linspace(-1, 2, ROWS).double()
        inputs = hidden.requires_grad_(), weight.requires_grad_()
        found = torch.autograd.grad(token_nll(*inputs, targets), inputs, upstream)
        exact = torch.autograd.grad(direct(*inputs, targets), inputs, upstream)
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)

    @pytest.mark.parametrize("which", [0, 1])
    def test_of_one_input_only(self, which):
        inputs = case()[:2]
        targets = case()[2]
        inputs[which].requires_grad_()
        (found,) = torch.autograd.grad(token_nll(*inputs, targets).sum(), inputs[which])
        (exact,) = torch.autograd.grad(direct(*inputs, targets).sum(), inputs[which])
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)

    def test_a_second_pass_over_the_same_graph_is_refused(self):
        """The saved exponentials become the gradient, so they are gone after the first."""
        hidden, weight, targets = case()
        total = token_nll(hidden.requires_grad_(), weight, targets).sum()
        total.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


class TestWithoutGradient:
    @pytest.mark.parametrize("scale", [1.0, 30.0])
    def test_it_equals_the_path_with_gradients(self, scale):
        hidden, weight, targets = case(scale=scale)
        with_gradient = token_nll(hidden.requires_grad_(), weight.requires_grad_(), targets)
        with torch.no_grad():
            without = token_nll(hidden, weight, targets)
        assert not without.requires_grad
        torch.testing.assert_close(without, with_gradient.detach(), rtol=0, atol=1e-12 * scale)

    @pytest.mark.parametrize("rows", [1, 7, 22, 23, 24])
    @pytest.mark.parametrize("scale", [1.0, 30.0])
    def test_blocks_do_not_matter(self, monkeypatch, rows, scale):
        """Neither in the product nor in the buffer that the blocks share; 7 does not divide 23."""
        hidden, weight, targets = case(scale=scale)
        monkeypatch.setattr(projection, "BLOCK_ROWS", rows)
        found = token_nll(hidden, weight, targets)
        torch.testing.assert_close(found, direct(hidden, weight, targets), rtol=0, atol=1e-12 * scale)

    def test_the_inputs_stay_as_they_were(self):
        hidden, weight, targets = case()
        token_nll(hidden, weight, targets)
        for one, other in zip((hidden, weight, targets), case(), strict=True):
            assert torch.equal(one, other)


class TestTwice:
    def test_it_has_a_second_gradient_in_the_block_and_the_same_value(self):
        hidden, weight, targets = case()
        hidden.requires_grad_()
        weight.requires_grad_()
        with twice_differentiable():
            torch.testing.assert_close(token_nll(hidden, weight, targets), direct(hidden, weight, targets))
            assert torch.autograd.gradgradcheck(lambda h, w: token_nll(h, w, targets), (hidden, weight))

    def test_elsewhere_a_second_gradient_is_an_error(self):
        hidden, weight, targets = case()
        hidden.requires_grad_()
        value = token_nll(hidden, weight, targets).square().sum()
        (gradient,) = torch.autograd.grad(value, hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    def test_no_fused_kernels_in_the_block_and_all_is_restored_after_it(self):
        libraries = (torch.backends.mkldnn, torch.backends.cudnn)
        before = [library.enabled for library in libraries]
        within = []
        with contextlib.suppress(KeyError), twice_differentiable():
            within += [library.enabled for library in libraries]
            raise KeyError
        assert within == [False, False]
        assert [library.enabled for library in libraries] == before
        assert any(before)
