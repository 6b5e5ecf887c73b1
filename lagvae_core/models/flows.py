"""Autoregressive flows: invertible maps of z whose Jacobian is triangular. Shapes: Z dimensions, H hidden units.

Tensors are [..., Z]; a context, where there is one, is [..., C] with leading axes that fit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.models.gaussian import Draw, Gaussian, Proposal

__all__ = ["Autoregressive", "Flow", "FlowProposal", "Gated", "Made", "Standardising"]

OPEN = 2.0
"""Added to the gate's input, so that a gate is nearly open, sigmoid(2) = 0.88, before it has learned anything."""

LARGEST = 3.0
"""Bound of log s in one standardising step: deviations from e^-3 to e^3, so that no rate of learning overflows."""


class Masked(nn.Linear):
    """A linear layer in which an output sees just the inputs that `sees` [outputs, inputs] names."""

    sees: Tensor

    def __init__(self, sees: Tensor) -> None:
        super().__init__(sees.shape[1], sees.shape[0])
        self.register_buffer("sees", sees.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.sees, self.bias)


class Made(nn.Module):
    """Two numbers for each dimension, functions of the dimensions before it in `order` and of the context alone.

    Source: Germain et al. 2015. Two hidden layers of `hidden` ReLU units. A unit of rank k sees the first k
    dimensions; ranks go from 0 to Z - 1 evenly. Units of rank 0 carry the context to the first dimension, and make the
    network of a single dimension a function of the context alone. The output is divided by the root of `hidden`, so
    that a step of SGD moves it by about as much whatever the width; undivided, a learning rate of 1.0 overshoots.
    """

    def __init__(self, order: Sequence[int], hidden: int, context: int = 0) -> None:
        super().__init__()
        size = len(order)
        place_Z = torch.tensor(order).argsort()
        rank_H = torch.arange(hidden) * size // hidden
        self.enter = Masked(rank_H[:, None] > place_Z)
        self.context = nn.Linear(context, hidden, bias=False) if context else None
        self.cross = Masked(rank_H[:, None] >= rank_H)
        self.leave = Masked((place_Z[:, None] >= rank_H).repeat(2, 1))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        entered = self.enter(x)
        if self.context is not None:
            entered = entered + self.context(context)
        left = self.leave(self.cross(entered.relu()).relu()) / math.sqrt(self.cross.in_features)
        first, second = left.chunk(2, -1)
        return first, second


class Autoregressive(nn.Module, ABC):
    """y_d = exp(log_scale_d) x_d + shift_d, where both depend on the dimensions before d in `order` alone.

    Forward all dimensions go at once; the inverse is found one dimension at a time.
    """

    def __init__(self, order: Sequence[int], hidden: int, context: int = 0) -> None:
        super().__init__()
        self.order = tuple(order)
        self.made = Made(order, hidden, context)

    @abstractmethod
    def affine(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """`log_scale` and `shift` at x."""

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """y, and log |dy_d / dx_d| by dimension."""
        log_scale, shift = self.affine(x, context)
        return log_scale.exp() * x + shift, log_scale

    def inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """x, and log |dy_d / dx_d| there."""
        log_scale, found = torch.zeros_like(y), list(torch.zeros_like(y).unbind(-1))
        for d in self.order:
            log_scale, shift = self.affine(torch.stack(found, -1), context)
            found[d] = (y[..., d] - shift[..., d]) * (-log_scale[..., d]).exp()
        return torch.stack(found, -1), log_scale


class Gated(Autoregressive):
    """y = g x + (1 - g) m with a gate g = sigmoid(s + 2) (Kingma et al. 2016, equations 11 to 14)."""

    def affine(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self.made(x, context)
        return functional.logsigmoid(s + OPEN), (-s - OPEN).sigmoid() * m


class Standardising(Autoregressive):
    """y = (x - m) / s, where log s is held in (-3, 3); the identity at the start, to the last bit."""

    def __init__(self, order: Sequence[int], hidden: int, context: int = 0) -> None:
        super().__init__(order, hidden, context)
        nn.init.zeros_(self.made.leave.weight)
        nn.init.zeros_(self.made.leave.bias)

    def affine(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self.made(x, context)
        log_scale = -LARGEST * (s / LARGEST).tanh()
        return log_scale, -m * log_scale.exp()


class Flow(nn.Module):
    """Steps one after the other, in turn from the first dimension to the last and from the last to the first.

    Dimension d stays dimension d throughout; only the order of dependence turns. Tensors of another device or
    precision than the flow's own are taken to it and back.
    """

    def __init__(
        self,
        step: Callable[[Sequence[int], int, int], Autoregressive],
        steps: int,
        size: int,
        hidden: int,
        context: int = 0,
    ) -> None:
        super().__init__()
        orders = (range(size), range(size)[::-1])
        self.steps = nn.ModuleList(step(orders[number % 2], hidden, context) for number in range(steps))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y, and log |det dy/dx| as a sum over steps and not yet over dimensions, both like x."""
        return self._chain((step.forward for step in self._steps()), x, context)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x, and log |det dy/dx| there, likewise. As many passes a step as there are dimensions."""
        return self._chain((step.inverse for step in reversed(self._steps())), y, context)

    def _steps(self) -> list[Autoregressive]:
        return list(self.steps)  # type: ignore[arg-type]

    def _chain(
        self,
        maps: Iterable[Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]],
        x: Tensor,
        context: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        own = next(self.parameters(), x)
        value, total = x.to(own), torch.zeros_like(x, dtype=own.dtype, device=own.device)
        context = None if context is None else context.to(own)
        for transform in maps:
            value, log_scale = transform(value, context)
            total = total + log_scale
        return value.to(x), total.to(x)


@dataclass(frozen=True)
class FlowProposal(Proposal):
    """q(z|x): a diagonal Gaussian carried through a flow whose context is that Gaussian's mean and log-variance.

    Its density is cheap at its own samples; at any other z it needs the inverse.
    """

    source: Gaussian
    flow: Flow

    @property
    def base(self) -> Gaussian:
        return self.source

    @property
    def _context_B1C(self) -> Tensor:
        return torch.cat([self.source.mean_BZ, self.source.logvar_BZ], 1)[:, None]

    def draw(self, noise_BSZ: Tensor) -> Draw:
        source = self.source.draw(noise_BSZ)
        z, log_scale = self.flow(source.z_BSZ, self._context_B1C)
        return Draw(z, noise_BSZ, source.log_scale_BSZ + log_scale)

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        source_BSZ, log_scale = self.flow.inverse(z_BSZ, self._context_B1C)
        log_q = self.source.log_prob(source_BSZ) - log_scale.sum(-1)
        return log_q.masked_fill(log_q.isnan(), -math.inf)  # z so far off that its inverse overflows

    def map(self, change: Callable[[Tensor], Tensor]) -> FlowProposal:
        return FlowProposal(self.source.map(change), self.flow)

    def beside(self, others: Sequence[FlowProposal]) -> FlowProposal:
        return FlowProposal(self.source.beside([q.source for q in others]), self.flow)
