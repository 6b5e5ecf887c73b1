"""Gradient steps on each example's own posterior, and five ways to learn through them.

lambda [2, B, Z] are the means and log-variances of B examples; lambda_0 is the encoder's word. `sa_vae` trains so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from lagvae_core.data import Batch
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.projection import twice_differentiable
from lagvae_core.strategies.slots import Loss, Trainer

__all__ = [
    "Descent",
    "DetachedGradient",
    "ExactGradient",
    "FiniteDifferenceGradient",
    "PublishedGradient",
    "Steps",
    "SviGradient",
    "gaussian_of",
    "gradient_of",
    "rec_gradient",
    "refined_from",
]


class Steps(Interface):
    """How the steps are taken: the fields of `sa_vae` that say so."""

    @property
    def refinement_steps(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def backward_clip(self) -> float: ...
    @property
    def reference_batch(self) -> int: ...
    @property
    def difference_step(self) -> float: ...
    @property
    def backward(self) -> str: ...


class Descent:
    """The steps on lambda [2, B, Z], the means and log-variances of B examples.

    A gradient is that of an example's own loss over `reference_batch`. Its norm, for means and log-variances apart, is
    that of `reference_batch` examples such as these: all of the batch, or each by itself if `alone`.
    """

    def __init__(self, setting: Steps, examples: int, *, alone: bool) -> None:
        self._setting = setting
        self._axes = (2,) if alone else (1, 2)
        self._share = setting.reference_batch / (1 if alone else examples)

    def factor(self, gradient: Tensor) -> Tensor:
        """What clipping multiplies the gradient by."""
        norm: Tensor = self._share**0.5 * torch.linalg.vector_norm(gradient, dim=self._axes, keepdim=True)
        return self._setting.clip / norm.clamp(min=self._setting.clip)

    def joint_norm(self, gradient: Tensor) -> Tensor:
        """The norm of means and log-variances together."""
        return (self._share * gradient.square().sum()).sqrt()

    def clipped(self, gradient: Tensor) -> Tensor:
        return gradient * self.factor(gradient) if self._setting.clip else gradient

    def clipped_backward(self, gradient: Tensor, outer: Tensor) -> Tensor:
        """The product of `outer` with the derivative of `clipped`, which is symmetric."""
        if not self._setting.clip:
            return outer
        factor = self.factor(gradient)
        square = gradient.square().sum(self._axes, keepdim=True).clamp(min=1e-30)
        along = gradient * (gradient * outer).sum(self._axes, keepdim=True) / square
        return factor * torch.where(factor < 1.0, outer - along, outer)

    def held(self, outer: Tensor) -> Tensor:
        """`outer`, a gradient of the loss at some lambda_k, held to `backward_clip`.

        Steps that overshoot multiply it from step to step, and an update in whatever direction that has is ruinous.
        """
        limit = self._setting.backward_clip
        return outer * _limit(limit, self.joint_norm(outer)) if limit else outer

    def velocity(self, last: Tensor, gradient: Tensor) -> Tensor:
        return self._setting.momentum * last - self.clipped(gradient)


OfRec = Callable[[Tensor], Tensor]
"""z [B, Z] -> the gradient [B, Z] of each example's rec at its z."""


def gradient_of(parameters: Tensor, noise_BZ: Tensor, kl_factor: Tensor | float, of_rec: OfRec) -> Tensor:
    """The gradient at lambda of each example's rec + kl_factor * KL, with z from `noise_BZ`; prior N(0, I)."""
    mean, logvar = parameters
    apart = (0.5 * logvar).exp() * noise_BZ
    of_z = of_rec(mean + apart)
    return torch.stack([of_z + kl_factor * mean, 0.5 * (of_z * apart + kl_factor * (logvar.exp() - 1.0))])


def gaussian_of(parameters: Tensor) -> Gaussian:
    return Gaussian(parameters[0], parameters[1])


def refined_from(setting: Steps, descent: Descent, start: Tensor, gradient: Callable[[int, Tensor], Tensor]) -> Tensor:
    """lambda after all steps from `start`; `gradient(k, lambda)` is g of step k, unclipped."""
    parameters, velocity = start, torch.zeros_like(start)
    for k in range(setting.refinement_steps):
        velocity = descent.velocity(velocity, gradient(k, parameters))
        parameters = parameters + setting.rate * velocity
    return parameters


class SviGradient(ABC):
    """One update of a batch: its start at the encoder, and K decoder passes with noise and masks of their own."""

    def __init__(self, setting: Steps, trainer: Trainer, batch: Batch, weight: float) -> None:
        self.setting, self.trainer, self.batch, self.weight = setting, trainer, batch, weight
        encoded = trainer.model.infer(batch).q.base
        self.start = torch.stack([encoded.mean_BZ, encoded.logvar_BZ])
        self.descent = Descent(setting, batch.size, alone=False)
        self.kl_factor = trainer.kl_factor(weight).to(self.start)
        steps = setting.refinement_steps
        self._histories = [trainer.history(batch) for _ in range(steps)]
        self._noise = [self.noise() for _ in range(steps)]
        self._dropout = trainer.streams["dropout"]
        self._states: list[Tensor] = []

    def noise(self) -> Tensor:
        """Standard normal noise [B, Z] from a stream of the refinement's own."""
        size, stream = self.start.shape[1:], self.trainer.streams["svi"]
        return torch.randn(size, generator=stream, device=self.start.device).to(self.start)

    @abstractmethod
    def backward(self) -> Loss:
        """The loss at the refined posterior; the gradients are added to those of the parameters."""

    def rec(self, k: int, z_BZ: Tensor) -> Tensor:
        """rec [B] of step k. Its first pass draws its masks; a later one has the same, and leaves the stream alone."""
        found = self._dropout.get_state()
        again = k < len(self._states)
        if again:
            self._dropout.set_state(self._states[k])
        else:
            self._states.append(found)
        rec_B = self.trainer.model.reconstruct(self.batch, self._histories[k], z_BZ[:, None])[:, 0]
        if again:
            self._dropout.set_state(found)
        return rec_B

    def gradient(self, k: int, parameters: Tensor, of_sum: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """g of step k at lambda, unclipped. `of_sum(rec_B, z)` is the gradient of the sum of `rec_B` at z."""

        def of_rec(z_BZ: Tensor) -> Tensor:
            z_BZ.requires_grad_()
            return of_sum(self.rec(k, z_BZ), z_BZ)

        found = gradient_of(parameters, self._noise[k], self.kl_factor, of_rec)
        return found / self.setting.reference_batch

    def refined(self, start: Tensor, of_sum: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """lambda after all steps from `start`."""
        return refined_from(self.setting, self.descent, start, lambda k, at: self.gradient(k, at, of_sum))

    def loss(self, refined: Tensor) -> Loss:
        return self.trainer.loss_at(self.batch, Inference.plain(gaussian_of(refined)), self.weight)

    def final(self, refined: Tensor) -> tuple[Loss, Tensor]:
        """The loss at lambda_K, its gradients added to the decoder's, and its gradient there, scaled as g is."""
        leaf = refined.requires_grad_()
        loss = self.loss(leaf)
        loss.total.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return loss, leaf.grad * (self.batch.size / self.setting.reference_batch)

    def teach_encoder(self, outer: Tensor) -> None:
        """Add the gradients of the encoder, given that of the loss at lambda_0, scaled as g is."""
        torch.autograd.backward([self.start], [outer * (self.setting.reference_batch / self.batch.size)])


def rec_gradient(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
    return torch.autograd.grad(rec_B.sum(), z_BZ)[0]


def _with_graph(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
    return torch.autograd.grad(rec_B.sum(), z_BZ, create_graph=True)[0]


class DetachedGradient(SviGradient):
    """VAE+SVI: the decoder learns at the refined posterior, the encoder at its own or towards the refined one."""

    def backward(self) -> Loss:
        with self.trainer.inner_loop(decoder_gradients=False):
            refined = self.refined(self.start.detach(), rec_gradient)
            own = gaussian_of(self.start)
            towards = self.setting.backward == "none_kl"
            teaching = _kl(own, gaussian_of(refined)) if towards else self._at_its_own(own)
        loss = self.loss(refined)
        (loss.total + teaching).backward()  # type: ignore[no-untyped-call]
        return loss

    def _at_its_own(self, q: Gaussian) -> Tensor:
        """The objective at the encoder's posterior, from noise and masks of one pass more."""
        z_BSZ = q.rsample(self.noise()[:, None])
        rec_B = self.trainer.model.reconstruct(self.batch, self.trainer.history(self.batch), z_BSZ)[:, 0]
        return (rec_B + self.kl_factor * q.kl_standard().sum(1)).mean()


class ExactGradient(SviGradient):
    """All gradients through the steps, by differentiating twice."""

    def backward(self) -> Loss:
        scale = self.batch.size / self.setting.reference_batch

        def step(k: int, parameters: Tensor) -> Tensor:
            parameters.register_hook(lambda outer: self.descent.held(outer * scale) / scale)  # type: ignore[no-untyped-call]
            return self.gradient(k, parameters, _with_graph)

        with twice_differentiable():
            loss = self.loss(refined_from(self.setting, self.descent, self.start, step))
            loss.total.backward()  # type: ignore[no-untyped-call]
        return loss


class FiniteDifferenceGradient(SviGradient):
    """All gradients through the steps. What step k adds to the decoder's is a difference over r = difference_step too:

    minus 1/r times the gradient at lambda_k + r d, plus 1/r times that at lambda_k. Both are added to the parameters'
    gradients as they come, so that no copy of the decoder is ever kept.
    """

    def backward(self) -> Loss:
        setting, r = self.setting, self.setting.difference_step
        places: list[Tensor] = []
        gradients: list[Tensor] = []

        def step(k: int, parameters: Tensor) -> Tensor:
            places.append(parameters)
            gradients.append(self.gradient(k, parameters, self._adding(1.0 / r)))
            return gradients[-1]

        loss, outer = self.final(refined_from(setting, self.descent, self.start.detach(), step))
        ahead = torch.zeros_like(outer)
        for k in reversed(range(setting.refinement_steps)):
            ahead = setting.momentum * ahead + setting.rate * outer
            direction = self.descent.clipped_backward(gradients[k], ahead)
            there = self.gradient(k, places[k] + r * direction, self._adding(-1.0 / r))
            outer = self.descent.held(outer - (there - gradients[k]) / r)
        self.teach_encoder(outer)
        return loss

    def _adding(self, factor: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The gradient at z; `factor` times that of the batch mean is added to the gradients of the decoder."""
        scale = factor / self.batch.size

        def of_sum(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
            rec_B.backward(torch.full_like(rec_B, scale))  # type: ignore[no-untyped-call]
            assert z_BZ.grad is not None
            return z_BZ.grad / scale

        return of_sum


class PublishedGradient(SviGradient):
    """The same differences with the clippings of the published code."""

    def backward(self) -> Loss:
        setting = self.setting
        places: list[Tensor] = []
        gradients: list[Tensor] = []

        def step(k: int, parameters: Tensor) -> Tensor:
            places.append(parameters)
            gradients.append(self.gradient(k, parameters, rec_gradient))
            return gradients[-1]

        with self.trainer.inner_loop(decoder_gradients=False):
            refined = refined_from(setting, self.descent, self.start.detach(), step)
        loss, outer = self.final(refined)
        ahead = torch.zeros_like(outer)
        for k in reversed(range(setting.refinement_steps)):
            ahead = setting.momentum * ahead + setting.rate * outer
            product = self._product(k, places[k], self.descent.clipped(gradients[k]), ahead)
            outer = self.descent.held(outer - product)
        self.teach_encoder(outer)
        return loss

    def _product(self, k: int, place: Tensor, gradient: Tensor, direction: Tensor) -> Tensor:
        """The difference quotient of g at lambda_k along `direction`; that of the decoder is taken off its gradient."""
        r, limit = self.setting.difference_step, self.setting.clip
        weights = list(self.trainer.model.decoder.parameters())
        here, there = (_Kept(weights, self.batch.size) for _ in range(2))
        self.gradient(k, place, here)
        found = self.gradient(k, place + r * direction, there)
        shrink = _limit(limit, self.descent.joint_norm(found), *there.of_weights)
        pairs = zip(there.of_weights, here.of_weights, strict=True)
        quotients = [(shrink * one - other) / r for one, other in pairs]
        for weight, quotient in zip(weights, torch._foreach_mul(quotients, _limit(limit, *quotients)), strict=True):
            assert weight.grad is not None, "the final step has reached every weight of the decoder"
            weight.grad.sub_(quotient)
        return (shrink * found - gradient) / r


class _Kept:
    """The gradient at z; that of the batch mean at `weights` is kept in `of_weights`."""

    def __init__(self, weights: list[nn.Parameter], examples: int) -> None:
        self._weights, self._examples = weights, examples
        self.of_weights: list[Tensor] = []

    def __call__(self, rec_B: Tensor, z_BZ: Tensor) -> Tensor:
        of_z, *found = torch.autograd.grad(rec_B.sum(), [z_BZ, *self._weights], materialize_grads=True)
        self.of_weights = [gradient / self._examples for gradient in found]
        return of_z


def _limit(limit: float, *tensors: Tensor) -> Tensor:
    """What scales `tensors` to a joint norm of at most `limit`."""
    norm: Tensor = torch.stack(torch._foreach_norm(tensors)).norm()
    return limit / norm.clamp(min=limit)


def _kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p), the mean over the batch."""
    apart = (q.mean_BZ - p.mean_BZ).square() + q.logvar_BZ.exp()
    return 0.5 * (p.logvar_BZ - q.logvar_BZ + apart / p.logvar_BZ.exp() - 1.0).sum(1).mean()
