"""Autoregressive flows: invertible maps of z with a triangular Jacobian.

Shape suffixes: Z dimensions, H hidden units. Tensors are [..., Z]; an optional context is [..., C] with leading axes
that broadcast.
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

GATE_BIAS = 2.0
"""Constant added to the gate's input, so that gates are nearly open at initialisation: sigmoid(2) = 0.88."""

MAX_LOG_SCALE = 3.0
"""Bound on |log s| in a standardising step: s is between e^-3 and e^3, so it cannot overflow at any learning rate."""


class Masked(nn.Linear):
    """Linear layer in which each output depends only on the inputs selected by `mask` [outputs, inputs]."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


class Made(nn.Module):
    """MADE network: two outputs per dimension that depend only on the previous dimensions in `order` and the context.

    Source: Germain et al. 2015. The network has two hidden layers of `hidden` ReLU units. A unit of rank k depends on
    the first k dimensions; ranks are spread evenly from 0 to Z - 1. Units of rank 0 carry the context to the first
    dimension, so that with a single dimension the network depends on the context alone. The output is divided by
    sqrt(hidden), so that an SGD step changes it by about the same amount for any width. Without the division, a
    learning rate of 1.0 overshoots.

    Args:
        order: Order of dependence of the dimensions.
        hidden: Units per hidden layer.
        context: Size of the context; 0 for none.
    """

    def __init__(self, order: Sequence[int], hidden: int, context: int = 0) -> None:
        super().__init__()
        size = len(order)
        position_Z = torch.tensor(order).argsort()
        rank_H = torch.arange(hidden) * size // hidden
        self.enter = Masked(rank_H[:, None] > position_Z)
        self.context = nn.Linear(context, hidden, bias=False) if context else None
        self.cross = Masked(rank_H[:, None] >= rank_H)
        self.leave = Masked((position_Z[:, None] >= rank_H).repeat(2, 1))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = self.enter(x)
        if self.context is not None:
            hidden = hidden + self.context(context)
        output = self.leave(self.cross(hidden.relu()).relu()) / math.sqrt(self.cross.in_features)
        first, second = output.chunk(2, -1)
        return first, second


class Autoregressive(nn.Module, ABC):
    """y_d = exp(log_scale_d) x_d + shift_d, where scale and shift depend only on the dimensions before d in `order`.

    The forward map computes all dimensions at once; the inverse needs one pass per dimension.
    """

    def __init__(self, order: Sequence[int], hidden: int, context: int = 0) -> None:
        super().__init__()
        self.order = tuple(order)
        self.made = Made(order, hidden, context)

    @abstractmethod
    def affine(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `log_scale` and `shift` at x."""

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return y, and log |dy_d / dx_d| for each dimension d."""
        log_scale, shift = self.affine(x, context)
        return log_scale.exp() * x + shift, log_scale

    def inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return x, and log |dy_d / dx_d| at x for each dimension d."""
        log_scale, x_by_dimension = torch.zeros_like(y), list(torch.zeros_like(y).unbind(-1))
        for d in self.order:
            log_scale, shift = self.affine(torch.stack(x_by_dimension, -1), context)
            x_by_dimension[d] = (y[..., d] - shift[..., d]) * (-log_scale[..., d]).exp()
        return torch.stack(x_by_dimension, -1), log_scale


class Gated(Autoregressive):
    """Gated step: y = g x + (1 - g) m with the gate g = sigmoid(s + 2) (Kingma et al. 2016, equations 11 to 14)."""

    def affine(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self.made(x, context)
        return functional.logsigmoid(s + GATE_BIAS), (-s - GATE_BIAS).sigmoid() * m


class Standardising(Autoregressive):
    """Standardising step: y = (x - m) / s with log s bounded to (-3, 3).

    At initialisation the step is the identity, bit for bit.
    """

    def __init__(self, order: Sequence[int], hidden: int, context: int = 0) -> None:
        super().__init__(order, hidden, context)
        nn.init.zeros_(self.made.leave.weight)
        nn.init.zeros_(self.made.leave.bias)

    def affine(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self.made(x, context)
        log_scale = -MAX_LOG_SCALE * (s / MAX_LOG_SCALE).tanh()
        return log_scale, -m * log_scale.exp()


class Flow(nn.Module):
    """Composition of autoregressive steps that alternate between ascending and descending order of dependence.

    Dimensions are not permuted. Inputs whose device or precision differs from that of the flow's parameters
    are converted, and the results are converted back.

    Args:
        step: Constructor of a step, called with order, hidden and context.
        steps: Number of steps.
        size: Number of dimensions.
        hidden: Units per hidden layer of each step.
        context: Size of the context; 0 for none.
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
        """Return y, and the term of each dimension in log |det dy/dx|, summed over steps. Both have the shape of x."""
        return self._chain((step.forward for step in self._steps()), x, context)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x, and the term of each dimension in log |det dy/dx| at x, summed over steps.

        Each step needs as many passes as there are dimensions.
        """
        return self._chain((step.inverse for step in reversed(self._steps())), y, context)

    def _steps(self) -> list[Autoregressive]:
        return list(self.steps)  # type: ignore[arg-type]

    def _chain(
        self,
        maps: Iterable[Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]],
        x: Tensor,
        context: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        parameter = next(self.parameters(), x)
        value, total = x.to(parameter), torch.zeros_like(x, dtype=parameter.dtype, device=parameter.device)
        context = None if context is None else context.to(parameter)
        for transform in maps:
            value, log_scale = transform(value, context)
            total = total + log_scale
        return value.to(x), total.to(x)


@dataclass(frozen=True)
class FlowProposal(Proposal):
    """q(z|x) as a diagonal Gaussian transformed by a flow, whose context is the Gaussian's mean and log-variance.

    The density is cheap at the proposal's own samples; at any other z it requires inverting the flow.
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
        return log_q.masked_fill(log_q.isnan(), -math.inf)  # the inverse overflows at z far from the mean

    def map(self, change: Callable[[Tensor], Tensor]) -> FlowProposal:
        return FlowProposal(self.source.map(change), self.flow)

    def concatenate(self, others: Sequence[FlowProposal]) -> FlowProposal:
        return FlowProposal(self.source.concatenate([q.source for q in others]), self.flow)
