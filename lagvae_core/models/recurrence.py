"""LSTM that reads words and a vector that is constant over time. On a CPU, it is faster while its weights are frozen.

Shape suffixes: T tokens, R sequences, E embedding, Z latent dimensions, H hidden units, G = 4 H gates in PyTorch's
order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lagvae_core.models.projection import fused

__all__ = ["lstm_with_constant_input"]

LEAST_WEIGHTS = 2**18
"""Minimum number of recurrent weights at which the loop below is faster than oneDNN on a CPU. With fewer weights, call
overhead dominates."""


def lstm_with_constant_input(
    lstm: nn.LSTM, words_TRE: Tensor, z_RZ: Tensor, hidden_RH: Tensor, cell_RH: Tensor
) -> Tensor:
    """Return the outputs [T, R, H] of a one-layer LSTM that reads [words; z] at each step.

    oneDNN computes the gradients of all weights, even of frozen ones. If the LSTM and the words are frozen, the loop
    below computes only the gradients of z and of the initial state.

    Args:
        lstm: A one-layer LSTM.
        words_TRE: Word embeddings.
        z_RZ: The input that is the same at every step.
        hidden_RH: Initial hidden state.
        cell_RH: Initial cell state.
    """
    if _is_frozen(lstm, words_TRE, z_RZ):
        weight_GI, weight_GH, input_bias_G, hidden_bias_G = lstm.all_weights[0]
        inputs_GE, inputs_GZ = torch.split(weight_GI, [words_TRE.shape[2], z_RZ.shape[1]], 1)
        constant_GR = torch.addmm((input_bias_G + hidden_bias_G)[:, None], inputs_GZ, z_RZ.T)
        steps = len(words_TRE)
        gates_TGR = torch.baddbmm(constant_GR.expand(steps, -1, -1), inputs_GE.expand(steps, -1, -1), words_TRE.mT)
        return _Recurrence.apply(gates_TGR, weight_GH, hidden_RH, cell_RH)  # type: ignore[no-any-return, no-untyped-call]
    inputs_TRI = torch.cat([words_TRE, z_RZ.expand(len(words_TRE), -1, -1)], 2)
    outputs_TRH: Tensor = lstm(inputs_TRI, (hidden_RH[None], cell_RH[None]))[0]
    return outputs_TRH


def _is_frozen(lstm: nn.LSTM, words_TRE: Tensor, z_RZ: Tensor) -> bool:
    large = lstm.all_weights[0][1].numel() >= LEAST_WEIGHTS and z_RZ.device.type == "cpu"
    differentiated = torch.is_grad_enabled() and z_RZ.requires_grad and fused()
    frozen = not words_TRE.requires_grad and not any(p.requires_grad for p in lstm.parameters())
    return large and differentiated and frozen


class _Recurrence(torch.autograd.Function):
    """h_t = o tanh(c_t), c_t = f c_{t-1} + i g, with the gates i, f, g, o of `gates_TGR` + W h_{t-1}.

    Sequences are the last dimension, because this makes the matrix products of a step fastest. The computation
    overwrites `gates_TGR`.
    """

    @staticmethod
    def forward(ctx: Any, gates_TGR: Tensor, weight_GH: Tensor, hidden_RH: Tensor, cell_RH: Tensor) -> Tensor:
        steps, size, rows = len(gates_TGR), weight_GH.shape[1], gates_TGR.shape[2]
        hidden, cells = (gates_TGR.new_empty(steps + 1, size, rows) for _ in range(2))
        bounded = gates_TGR.new_empty(steps, size, rows)
        hidden[0], cells[0] = hidden_RH.T, cell_RH.T
        h, c = hidden[0], cells[0]
        for gates, h_next, c_next, tanh_c in zip(gates_TGR, hidden[1:], cells[1:], bounded, strict=True):
            gates.addmm_(weight_GH, h)
            gates[: 2 * size].sigmoid_()
            i, f, g, o = gates.chunk(4)
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, c, out=c_next).addcmul_(i, g)
            torch.tanh(c_next, out=tanh_c)
            torch.mul(o, tanh_c, out=h_next)
            h, c = h_next, c_next
        ctx.save_for_backward(gates_TGR, cells, bounded, weight_GH)
        return hidden[1:].mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TRH: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        gates_TGR, cells, tanh_c, weight_GH = ctx.saved_tensors
        steps, rows = len(gates_TGR), gates_TGR.shape[2]
        i, f, g, o = gates_TGR.view(steps, 4, -1, rows).unbind(1)
        # Gradient with respect to the input of each gate, divided by the gradient with respect to c (h for the last
        # gate): the slope of the gate times the factor that the gate multiplies.
        of_gates = torch.stack([(i - i * i) * g, (f - f * f) * cells[:-1], i - i * g * g, (o - o * o) * tanh_c], 1)
        of_cells = o - o * tanh_c * tanh_c
        weight_HG = weight_GH.T.contiguous()
        grad_c = torch.zeros_like(cells[0])
        later: Tensor | None = None
        for t in reversed(range(steps)):
            grad_h = grad_TRH[t].T if later is None else torch.addmm(grad_TRH[t].T, weight_HG, later)
            grad_c.addcmul_(grad_h, of_cells[t])
            of_gates[t, :3].mul_(grad_c)
            of_gates[t, 3].mul_(grad_h)
            grad_c.mul_(f[t])
            later = of_gates[t].flatten(0, 1)
        assert later is not None
        return of_gates.flatten(1, 2), None, (weight_HG @ later).T, grad_c.T
