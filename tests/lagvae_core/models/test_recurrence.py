import pytest
import torch
from helpers import tiny, trial_of
from torch import nn

from lagvae_core.models import recurrence
from lagvae_core.models.projection import twice_differentiable
from lagvae_core.models.recurrence import lstm_with_constant_input

LEAST = recurrence.LEAST_WEIGHTS
STEPS, ROWS, EMBEDDING, LATENT, HIDDEN = 7, 6, 5, 3, 4


@pytest.fixture(autouse=True)
def use_the_loop_for_any_size(monkeypatch):
    monkeypatch.setattr(recurrence, "LEAST_WEIGHTS", 0)


@pytest.fixture
def loops(monkeypatch):
    """Return a list to which every call of the loop appends its number of steps."""
    calls, forward = [], recurrence._Recurrence.forward
    monkeypatch.setattr(
        recurrence._Recurrence,
        "forward",
        staticmethod(lambda ctx, gates, *rest: calls.append(len(gates)) or forward(ctx, gates, *rest)),
    )
    return calls


def case(dtype, steps=STEPS, rows=ROWS):
    """Return a frozen LSTM, words, the differentiated inputs (z and the state), and an output gradient."""
    draw = torch.Generator().manual_seed(1)
    lstm = nn.LSTM(EMBEDDING + LATENT, HIDDEN).to(dtype).requires_grad_(False)
    for parameter in lstm.parameters():
        parameter.uniform_(-1, 1, generator=draw)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    inputs = [normal(rows, LATENT), normal(rows, HIDDEN), normal(rows, HIDDEN)]
    return lstm, normal(steps, rows, EMBEDDING), inputs, normal(steps, rows, HIDDEN)


def outputs_and_gradients(lstm, words, inputs, outer):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = lstm_with_constant_input(lstm, words, *leaves)
    return [outputs.detach(), *torch.autograd.grad(outputs, leaves, outer)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize(("steps", "rows"), [(STEPS, ROWS), (1, ROWS), (STEPS, 1)])
def test_outputs_and_gradients_equal_those_of_pytorch(dtype, tolerance, steps, rows, loops, monkeypatch):
    results = outputs_and_gradients(*case(dtype, steps, rows))
    assert loops == [steps]
    monkeypatch.setattr(recurrence, "LEAST_WEIGHTS", 1e9)
    expected = outputs_and_gradients(*case(dtype, steps, rows))
    assert loops == [steps]
    for one, other in zip(results, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


def test_the_gradient_equals_finite_differences():
    lstm, words, inputs, _ = case(torch.float64)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda *values: lstm_with_constant_input(lstm, words, *values), leaves)


def test_an_output_gradient_can_be_non_contiguous(loops):
    lstm, words, inputs, outer = case(torch.float64)
    expected = outputs_and_gradients(lstm, words, inputs, outer)
    transposed = outer.transpose(0, 2).contiguous().transpose(0, 2)
    assert not transposed.is_contiguous()
    for one, other in zip(outputs_and_gradients(lstm, words, inputs, transposed), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert len(loops) == 2


class TestPyTorchIsUsed:
    def test_if_a_weight_requires_a_gradient(self, loops):
        lstm, words, inputs, outer = case(torch.float64)
        lstm.bias_hh_l0.requires_grad_()
        outputs_and_gradients(lstm, words, inputs, outer)
        assert not loops

    def test_if_the_words_require_a_gradient(self, loops):
        lstm, words, inputs, outer = case(torch.float64)
        outputs_and_gradients(lstm, words.requires_grad_(), inputs, outer)
        assert not loops

    def test_without_gradients_and_for_second_derivatives(self, loops):
        lstm, words, inputs, _ = case(torch.float64)
        z = inputs[0].requires_grad_()
        with torch.no_grad():
            lstm_with_constant_input(lstm, words, *inputs)
        with twice_differentiable():
            outputs = lstm_with_constant_input(lstm, words, *inputs)
            (gradient,) = torch.autograd.grad(outputs.square().sum(), z, create_graph=True)
            assert torch.autograd.grad(gradient.square().sum(), z)[0].abs().max() > 0
        assert not loops

    def test_if_the_lstm_is_small(self, loops, monkeypatch):
        monkeypatch.setattr(recurrence, "LEAST_WEIGHTS", LEAST)
        outputs_and_gradients(*case(torch.float64))
        assert not loops


@pytest.mark.parametrize("samples", [1, 3])
def test_a_frozen_decoder_gives_the_same_gradient_as_a_trainable_one(samples, loops):
    results = []
    for frozen in (True, False):
        trial = trial_of(tiny(model={"dropout_in": 0.0, "dropout_out": 0.0}))
        model, batch = trial.model.double(), trial.train_batches[0]
        model.decoder.requires_grad_(not frozen)
        draw = torch.Generator().manual_seed(2)
        z = torch.randn(batch.size, samples, 2, generator=draw, dtype=torch.float64).requires_grad_()
        rec = model.reconstruct(batch, batch.history, z)
        results.append((rec.detach(), *torch.autograd.grad(rec.square().sum(), z)))
        assert len(loops) == 1
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
