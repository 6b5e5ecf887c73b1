"""Gradient steps that refine each posterior in `sa_vae`, and the ways to differentiate through these steps.

lambda [2, B, Z] contains the means and log-variances of the posteriors of B examples; lambda_0 is the encoder's output,
lambda_k is lambda after k steps, and g is the gradient that a step uses.
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
    """The fields of `sa_vae` that define the steps."""

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
    """Momentum steps on lambda [2, B, Z] with clipped gradients.

    The gradient of each example's loss is divided by `reference_batch`. The norms for clipping are computed separately
    for means and log-variances, and are scaled to a batch of `reference_batch` examples.

    Args:
        config: The fields that define the steps.
        examples: Number of examples in the batch.
        alone: Whether the norm is computed for each example separately, as if the reference batch consisted of copies
            of this example; otherwise it is computed for the whole batch.
    """

    def __init__(self, config: Steps, examples: int, *, alone: bool) -> None:
        self._config = config
        self._axes = (2,) if alone else (1, 2)
        self._share = config.reference_batch / (1 if alone else examples)

    def factor(self, gradient: Tensor) -> Tensor:
        """Return the factor by which clipping multiplies the gradient."""
        norm: Tensor = self._share**0.5 * torch.linalg.vector_norm(gradient, dim=self._axes, keepdim=True)
        return self._config.clip / norm.clamp(min=self._config.clip)

    def joint_norm(self, gradient: Tensor) -> Tensor:
        """Return the joint norm of the gradients of means and log-variances."""
        return (self._share * gradient.square().sum()).sqrt()

    def clipped(self, gradient: Tensor) -> Tensor:
        """Return the clipped gradient."""
        return gradient * self.factor(gradient) if self._config.clip else gradient

    def clipped_backward(self, gradient: Tensor, outer: Tensor) -> Tensor:
        """Return the derivative of `clipped` at `gradient`, a symmetric matrix, times the vector `outer`."""
        if not self._config.clip:
            return outer
        factor = self.factor(gradient)
        square = gradient.square().sum(self._axes, keepdim=True).clamp(min=1e-30)
        parallel = gradient * (gradient * outer).sum(self._axes, keepdim=True) / square
        return factor * torch.where(factor < 1.0, outer - parallel, outer)

    def clipped_to_backward_clip(self, outer: Tensor) -> Tensor:
        """Return `outer`, the gradient of the loss with respect to some lambda_k, clipped to the norm `backward_clip`.

        If steps overshoot, this gradient grows from step to step in the backward pass, and an update with the resulting
        gradient destroys the model.
        """
        limit = self._config.backward_clip
        return outer * _clip_factor(limit, self.joint_norm(outer)) if limit else outer

    def velocity(self, last: Tensor, gradient: Tensor) -> Tensor:
        """Return the velocity of the next step, given the velocity `last` of the previous step."""
        return self._config.momentum * last - self.clipped(gradient)


RecGradient = Callable[[Tensor], Tensor]
"""Maps z [B, Z] to the gradient [B, Z] of each example's rec with respect to its z."""


def gradient_of(parameters: Tensor, noise_BZ: Tensor, kl_factor: Tensor | float, z_gradient: RecGradient) -> Tensor:
    """Return the gradient of each example's rec + kl_factor * KL with respect to lambda, for the prior N(0, I).

    Args:
        parameters: lambda [2, B, Z].
        noise_BZ: Standard normal noise of the sample z.
        kl_factor: Weight of the KL.
        z_gradient: Function that returns the gradient of rec with respect to z.
    """
    mean, logvar = parameters
    offset_BZ = (0.5 * logvar).exp() * noise_BZ
    rec_BZ = z_gradient(mean + offset_BZ)
    return torch.stack([rec_BZ + kl_factor * mean, 0.5 * (rec_BZ * offset_BZ + kl_factor * (logvar.exp() - 1.0))])


def gaussian_of(parameters: Tensor) -> Gaussian:
    """Return the Gaussian posteriors with the means and log-variances in `parameters`, a lambda."""
    return Gaussian(parameters[0], parameters[1])


def refined_from(config: Steps, descent: Descent, start: Tensor, gradient: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return lambda after all steps from `start`; `gradient(k, lambda)` is the unclipped g of step k."""
    parameters, velocity = start, torch.zeros_like(start)
    for k in range(config.refinement_steps):
        velocity = descent.velocity(velocity, gradient(k, parameters))
        parameters = parameters + config.rate * velocity
    return parameters


Differentiate = Callable[[Tensor, Tensor], Tensor]
"""Maps (rec [B], z [B, Z]) to the gradient [B, Z] of the sum of rec with respect to z."""


class SviGradient(ABC):
    """The loss of one batch at the refined posterior, with gradients for encoder and decoder.

    The steps start at the encoder's posterior. Each of the K steps has its own noise and dropout masks.
    """

    def __init__(self, config: Steps, trainer: Trainer, batch: Batch, weight: float) -> None:
        self.config, self.trainer, self.batch, self.weight = config, trainer, batch, weight
        encoded = trainer.model.infer(batch).q.base
        self.start = torch.stack([encoded.mean_BZ, encoded.logvar_BZ])
        self.descent = Descent(config, batch.size, alone=False)
        self.kl_factor = trainer.kl_factor(weight).to(self.start)
        steps = config.refinement_steps
        self._histories = [trainer.history(batch) for _ in range(steps)]
        self._noise = [self.noise() for _ in range(steps)]
        self._dropout = trainer.streams["dropout"]
        self._states: list[Tensor] = []

    def noise(self) -> Tensor:
        """Draw standard normal noise [B, Z] from the stream of the refinement."""
        size, stream = self.start.shape[1:], self.trainer.streams["svi"]
        return torch.randn(size, generator=stream, device=self.start.device).to(self.start)

    @abstractmethod
    def backward(self) -> Loss:
        """Return the loss at the refined posterior, and add its gradients to those of the model's parameters."""

    def rec(self, k: int, z_BZ: Tensor) -> Tensor:
        """Return rec [B] of step k. The first pass of step k draws dropout masks; later passes reuse the masks."""
        state = self._dropout.get_state()
        again = k < len(self._states)
        if again:
            self._dropout.set_state(self._states[k])
        else:
            self._states.append(state)
        rec_B = self.trainer.model.reconstruct(self.batch, self._histories[k], z_BZ[:, None])[:, 0]
        if again:
            self._dropout.set_state(state)
        return rec_B

    def gradient(self, k: int, parameters: Tensor, differentiate: Differentiate) -> Tensor:
        """Return the unclipped g of step k at `parameters`, a lambda."""

        def rec_gradient_at(z_BZ: Tensor) -> Tensor:
            z_BZ.requires_grad_()
            return differentiate(self.rec(k, z_BZ), z_BZ)

        gradient = gradient_of(parameters, self._noise[k], self.kl_factor, rec_gradient_at)
        return gradient / self.config.reference_batch

    def refined(self, start: Tensor, differentiate: Differentiate) -> Tensor:
        """Return lambda after all steps from `start`."""
        return refined_from(self.config, self.descent, start, lambda k, at: self.gradient(k, at, differentiate))

    def loss(self, refined: Tensor) -> Loss:
        """Return the training objective at the posterior with parameters `refined`."""
        return self.trainer.loss_at(self.batch, Inference.plain(gaussian_of(refined)), self.weight)

    def final(self, refined: Tensor) -> tuple[Loss, Tensor]:
        """Return the loss and its gradient at lambda_K, scaled like g; accumulate the gradients of the decoder."""
        leaf = refined.requires_grad_()
        loss = self.loss(leaf)
        loss.total.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return loss, leaf.grad * (self.batch.size / self.config.reference_batch)

    def add_encoder_gradients(self, outer: Tensor) -> None:
        """Backpropagate `outer`, the gradient of the loss at lambda_0 scaled like g, through the encoder."""
        torch.autograd.backward([self.start], [outer * (self.config.reference_batch / self.batch.size)])


def rec_gradient(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
    """Return the gradient [B, Z] of the sum of `rec_B` with respect to z."""
    return torch.autograd.grad(rec_B.sum(), z_BZ)[0]


def _with_graph(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
    return torch.autograd.grad(rec_B.sum(), z_BZ, create_graph=True)[0]


class DetachedGradient(SviGradient):
    """VAE+SVI: training does not differentiate through the steps.

    The decoder is trained at the refined posterior. The encoder is trained on the loss at its own posterior, or on the
    KL from its own posterior to the refined posterior.
    """

    def backward(self) -> Loss:
        with self.trainer.inner_loop(decoder_gradients=False):
            refined = self.refined(self.start.detach(), rec_gradient)
            encoded = gaussian_of(self.start)
            towards_refined = self.config.backward == "none_kl"
            encoder_loss = _kl(encoded, gaussian_of(refined)) if towards_refined else self._encoder_loss(encoded)
        loss = self.loss(refined)
        (loss.total + encoder_loss).backward()  # type: ignore[no-untyped-call]
        return loss

    def _encoder_loss(self, q: Gaussian) -> Tensor:
        """Return the objective at the encoder's posterior, with the noise and masks of an additional pass."""
        z_BSZ = q.rsample(self.noise()[:, None])
        rec_B = self.trainer.model.reconstruct(self.batch, self.trainer.history(self.batch), z_BSZ)[:, 0]
        return (rec_B + self.kl_factor * q.kl_standard().sum(1)).mean()


class ExactGradient(SviGradient):
    """Training differentiates through the steps exactly, with second derivatives."""

    def backward(self) -> Loss:
        scale = self.batch.size / self.config.reference_batch
        clip = self.descent.clipped_to_backward_clip

        def step(k: int, parameters: Tensor) -> Tensor:
            parameters.register_hook(lambda outer: clip(outer * scale) / scale)  # type: ignore[no-untyped-call]
            return self.gradient(k, parameters, _with_graph)

        with twice_differentiable():
            loss = self.loss(refined_from(self.config, self.descent, self.start, step))
            loss.total.backward()  # type: ignore[no-untyped-call]
        return loss


class FiniteDifferenceGradient(SviGradient):
    """Training differentiates through the steps, with Hessian-vector products approximated by finite differences.

    With r = `difference_step`, step k contributes -(grad(lambda_k + r d) - grad(lambda_k)) / r to the decoder's
    gradient, where grad(lambda) is the decoder's gradient of the step's loss at lambda. Both terms are added to the
    gradients of the parameters as soon as they are computed, so that no copy of the decoder's gradients is stored.
    """

    def backward(self) -> Loss:
        config, r = self.config, self.config.difference_step
        lambdas: list[Tensor] = []
        gradients: list[Tensor] = []

        def step(k: int, parameters: Tensor) -> Tensor:
            lambdas.append(parameters)
            gradients.append(self.gradient(k, parameters, self._adding_to_decoder(1.0 / r)))
            return gradients[-1]

        loss, outer = self.final(refined_from(config, self.descent, self.start.detach(), step))
        velocity = torch.zeros_like(outer)  # the gradient with respect to the velocity of step k
        for k in reversed(range(config.refinement_steps)):
            velocity = config.momentum * velocity + config.rate * outer
            direction = self.descent.clipped_backward(gradients[k], velocity)
            shifted = self.gradient(k, lambdas[k] + r * direction, self._adding_to_decoder(-1.0 / r))
            outer = self.descent.clipped_to_backward_clip(outer - (shifted - gradients[k]) / r)
        self.add_encoder_gradients(outer)
        return loss

    def _adding_to_decoder(self, factor: float) -> Differentiate:
        """Return a function that differentiates rec and adds `factor` * d mean(rec) / dw to each weight's gradient."""
        scale = factor / self.batch.size

        def differentiate(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
            rec_B.backward(torch.full_like(rec_B, scale))  # type: ignore[no-untyped-call]
            assert z_BZ.grad is not None
            return z_BZ.grad / scale

        return differentiate


class PublishedGradient(SviGradient):
    """Finite differences as in FiniteDifferenceGradient, but clipped as in the published code."""

    def backward(self) -> Loss:
        config = self.config
        lambdas: list[Tensor] = []
        gradients: list[Tensor] = []

        def step(k: int, parameters: Tensor) -> Tensor:
            lambdas.append(parameters)
            gradients.append(self.gradient(k, parameters, rec_gradient))
            return gradients[-1]

        with self.trainer.inner_loop(decoder_gradients=False):
            refined = refined_from(config, self.descent, self.start.detach(), step)
        loss, outer = self.final(refined)
        velocity = torch.zeros_like(outer)  # the gradient with respect to the velocity of step k
        for k in reversed(range(config.refinement_steps)):
            velocity = config.momentum * velocity + config.rate * outer
            product = self._product(k, lambdas[k], self.descent.clipped(gradients[k]), velocity)
            outer = self.descent.clipped_to_backward_clip(outer - product)
        self.add_encoder_gradients(outer)
        return loss

    def _product(self, k: int, parameters: Tensor, gradient: Tensor, direction: Tensor) -> Tensor:
        """Return the difference quotient of g along `direction`; subtract the decoder's quotient from its gradients."""
        r, limit = self.config.difference_step, self.config.clip
        weights = list(self.trainer.model.decoder.parameters())
        at_lambda, at_shifted = (_WeightGradients(weights, self.batch.size) for _ in range(2))
        self.gradient(k, parameters, at_lambda)
        shifted = self.gradient(k, parameters + r * direction, at_shifted)
        shrink = _clip_factor(limit, self.descent.joint_norm(shifted), *at_shifted.gradients)
        pairs = zip(at_shifted.gradients, at_lambda.gradients, strict=True)
        quotients = [(shrink * one - other) / r for one, other in pairs]
        clipped = torch._foreach_mul(quotients, _clip_factor(limit, *quotients))
        for weight, quotient in zip(weights, clipped, strict=True):
            assert weight.grad is not None, "the final step reaches every weight of the decoder"
            weight.grad.sub_(quotient)
        return (shrink * shifted - gradient) / r


class _WeightGradients:
    """Differentiates rec with respect to z, and stores the gradients of its batch mean for `weights` in `gradients`."""

    def __init__(self, weights: list[nn.Parameter], examples: int) -> None:
        self._weights, self._examples = weights, examples
        self.gradients: list[Tensor] = []

    def __call__(self, rec_B: Tensor, z_BZ: Tensor) -> Tensor:
        z_gradient, *sums = torch.autograd.grad(rec_B.sum(), [z_BZ, *self._weights], materialize_grads=True)
        self.gradients = [gradient / self._examples for gradient in sums]
        return z_gradient


def _clip_factor(limit: float, *tensors: Tensor) -> Tensor:
    """Return the factor that scales `tensors` to a joint norm of at most `limit`."""
    norm: Tensor = torch.stack(torch._foreach_norm(tensors)).norm()
    return limit / norm.clamp(min=limit)


def _kl(q: Gaussian, p: Gaussian) -> Tensor:
    """Return the batch mean of KL(q || p)."""
    square = (q.mean_BZ - p.mean_BZ).square() + q.logvar_BZ.exp()
    return 0.5 * (p.logvar_BZ - q.logvar_BZ + square / p.logvar_BZ.exp() - 1.0).sum(1).mean()
