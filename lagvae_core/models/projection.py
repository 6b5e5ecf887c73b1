"""Memory-efficient softmax output layer: -log softmax(h W)[target] without a second copy of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["fused", "token_nll", "twice_differentiable"]

BLOCK_ROWS = 512
"""Number of rows of logits computed at a time on a CPU: enough for a fast product, few enough for the CPU's cache."""


_TWICE = ContextVar("twice", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Context manager within which models can be differentiated twice.

    It disables fused kernels, because their gradients are not differentiable.
    """
    token = _TWICE.set(True)
    libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    previous = [library.enabled for library in libraries]
    try:
        for library in libraries:
            library.enabled = False
        yield
    finally:
        for library, enabled in zip(libraries, previous, strict=True):
            library.enabled = enabled
        _TWICE.reset(token)


def fused() -> bool:
    """Return whether fused operations, which can be differentiated only once, are allowed."""
    return not _TWICE.get()


class _TokenNll(torch.autograd.Function):
    """-log softmax at the targets. The exponentials, and later the gradient, overwrite the logits in place."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = hidden_NH @ weight_VH.T
        shifted_NV = logits_NV.sub_(logits_NV.amax(1, keepdim=True))
        chosen_N = shifted_NV.gather(1, targets_N[:, None])[:, 0]
        unnormalised_NV = shifted_NV.exp_()
        total_N = unnormalised_NV.sum(1)
        ctx.save_for_backward(hidden_NH, weight_VH, targets_N, unnormalised_NV, total_N)
        return total_N.log() - chosen_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_NH, weight_VH, targets_N, grad_NV, total_N = ctx.saved_tensors
        grad_NV.mul_((grad_N / total_N)[:, None])
        grad_NV.scatter_add_(1, targets_N[:, None], -grad_N[:, None])
        grad_hidden = grad_NV @ weight_VH if ctx.needs_input_grad[0] else None
        grad_weight = grad_NV.T @ hidden_NH if ctx.needs_input_grad[1] else None
        return grad_hidden, grad_weight, None


def token_nll(hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor) -> Tensor:
    """Return -log softmax(hidden @ weight.T) at the targets, [N] [nats], for a bias-free output layer.

    The result can be differentiated once, or twice within `twice_differentiable`. Without gradients the logits are
    computed in blocks of rows and discarded.
    """
    if torch.is_grad_enabled() and (hidden_NH.requires_grad or weight_VH.requires_grad):
        if not fused():
            return functional.cross_entropy(hidden_NH @ weight_VH.T, targets_N, reduction="none")
        return _TokenNll.apply(hidden_NH, weight_VH, targets_N)  # type: ignore[no-any-return, no-untyped-call]
    return _streamed_nll(hidden_NH, weight_VH, targets_N)


def _streamed_nll(hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor) -> Tensor:
    rows, vocabulary = len(hidden_NH), len(weight_VH)
    on_cpu = hidden_NH.device.type == "cpu"
    block = BLOCK_ROWS if on_cpu else max(rows, 1)
    bounded = on_cpu and _logits_are_bounded(hidden_NH, weight_VH)
    logits = hidden_NH.new_empty(min(block, rows), vocabulary)
    pieces = []
    for hidden, targets in zip(torch.split(hidden_NH, block), torch.split(targets_N, block), strict=True):
        logits = torch.mm(hidden, weight_VH.T, out=logits[: len(hidden)])
        chosen = logits.gather(1, targets[:, None])[:, 0]
        log_z = logits.exp_().sum(1).log_() if bounded else logits.logsumexp(1)
        pieces.append(log_z - chosen)
    return torch.cat(pieces)


def _logits_are_bounded(hidden_NH: Tensor, weight_VH: Tensor) -> bool:
    """Return whether all logits are in [-60, 60] by Cauchy-Schwarz; if so, no maximum has to be subtracted."""
    if not len(hidden_NH):
        return False
    return bool(hidden_NH.norm(dim=1).max() * weight_VH.norm(dim=1).max() < 60.0)
