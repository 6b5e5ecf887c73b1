"""Inference that starts with the encoder and is finished by gradient steps on each example's own posterior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.columns import Column
from lagvae_core.data import Batch
from lagvae_core.metrics.encoding import Infer
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.projection import twice_differentiable
from lagvae_core.models.vae import Vae, frozen
from lagvae_core.randomness import example_noise
from lagvae_core.settings import Tunable
from lagvae_core.slots import Loss, Measurement, Protocol, Trainer, Update
from lagvae_core.strategies.base import Refusal, Setup, Strategy, Surroundings

__all__ = ["SaVae"]

BATCH_REGULARISERS = frozenset({"agg_kl", "fisher", "info_mmd", "mae"})
FINAL_STEP_ONLY = frozenset({"fraternal_dropout", "multitask_bow"})


class SaVae(Strategy):
    """The encoder's posterior is refined by `refinement_steps` gradient steps, and training differentiates these steps.

    Source: Kim et al. 2018, section 3; He et al. 2019 compare with 10 steps.

    With lambda_0 = (mean, log-variance) from the encoder, step k descends the loss L_k of fresh noise and dropout,

        g = d L_k(lambda_k) / d lambda, clipped;  v = momentum * v - g;  lambda_{k+1} = lambda_k + rate * v,

    and the model learns from the objective at the last lambda: decoder and encoder by its gradient through all steps.
    Validation and measurement refine each example by itself in eval mode, with weight 1 and noise that is the
    example's own; `nll_iw_init` and `kl_init` measure what the encoder alone says.

    `backward` says how training passes the steps:

    - `finite_diff`, as published: a product of the Hessian of L_k with a vector d is the difference of two gradients,
      at lambda_k and lambda_k + difference_step * d, over `difference_step`, with the same noise and masks;
    - `autograd`: exactly, by differentiating twice; keeps all passes in memory, without fused kernels;
    - `none`: not at all. The decoder learns at the refined posterior, the encoder from the loss at its own one (the
      paper's VAE+SVI);
    - `none_kl`: the same, but the encoder learns from KL(encoder's || refined) (VAE+SVI+KL, `train_kl` in the code).

    Departures from the published code, with the reason.

    - There the gradient is that of the batch mean, so that the steps of an example grow as its batch gets smaller, and
      clipping joins examples. Here an example's own gradient is divided by `reference_batch`, and the clipped norm is
      that of `reference_batch` examples such as these: of the whole batch in training, of the example alone in
      measurement. At batches of 32 the training steps are those of the code.
    - There the global generator is set to one of 3435 seeds at each step. Here the noise has its own stream, and the
      perturbed pass gets the states of the dropout stream back.
    - There validation refines with the annealed weight; here with 1, as everything is measured.
    - `finite_diff_clip` `consistent` differences unclipped gradients and passes the clipped steps by their own
      derivative. The code (`reference`) takes the clipped gradient of the perturbed pass from the unclipped one, and
      clips the result and the gradient of each lambda_k again; where that clips, it is no derivative of anything.
    - `difference_step` is 1e-5 there. A direction d has the size of a refinement step, so that in float32 a tenth of
      that difference is rounding; at 0.003 rounding and curvature weigh the same, and 1e-3 of the gradient is wrong.
    - The further terms of multitask_bow and fraternal_dropout count in the final step only (W5).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"update", "refine", "protocols"})
    paper: ClassVar[str] = "Kim et al. 2018, Semi-Amortized Variational Autoencoders, section 3"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("nll_iw_init", "float", "nll_iw with the encoder's unrefined q as proposal [nats]; valid, often looser"),
        Column("kl_init", "float", "mean KL(q(z|x) || p(z)) of the encoder's unrefined q [nats]"),
    )

    kind: Literal["sa_vae"] = "sa_vae"
    refinement_steps: Annotated[
        int, Field(ge=0, le=1000, description="gradient steps on each posterior; 0 is the plain VAE"), Tunable(2, 20)
    ] = 10
    rate: Annotated[
        float, Field(ge=0, description="learning rate of these steps at the reference batch"), Tunable(0.1, 2, log=True)
    ] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="share of the last step that is kept")] = 0.5
    clip: Annotated[float, Field(ge=0, description="largest norm of a step's gradient; 0 is none")] = 5.0
    reference_batch: Annotated[int, Field(ge=1, description="examples whose mean loss the steps descend")] = 32
    backward: Annotated[
        Literal["finite_diff", "autograd", "none", "none_kl"],
        Field(description="how training differentiates the steps"),
    ] = "finite_diff"
    difference_step: Annotated[
        float, Field(gt=0, le=1, description="length of a finite difference, in refinement steps")
    ] = 0.003
    finite_diff_clip: Annotated[
        Literal["consistent", "reference"], Field(description="differences as derived, or clipped as in the code")
    ] = "consistent"

    def parts(self, surroundings: Surroundings) -> dict[str, Any]:
        return {"update": SemiAmortised(self), "refine": _Refine(self), "protocols": (_Unrefined(),)}

    def refusals(self, setup: Setup) -> Iterator[Refusal]:
        for other in setup.strategies:
            if other.kind in BATCH_REGULARISERS:
                law = f"{other.kind} regularises a batch of posteriors, which is undefined on those refined by sa_vae"
                yield Refusal("E04", f"{law}; remove one of the two")
            elif "posterior" in other.slots:
                law = f"the steps of sa_vae leave the constrained, scaled or flow family of {other.kind}"
                yield Refusal("E04", f"{law}; remove one of the two")
            elif "prior" in other.slots:
                yield Refusal("E04", f"the steps of sa_vae are not specified for the prior of {other.kind}; remove one")
            elif other.kind == "aggressive":
                law = "sa_vae and aggressive are two remedies for one lag of inference"
                yield Refusal("E05", f"{law}; choose one")
            elif "objective" in other.slots and other.kind != "beta_vae":
                law = f"the steps of sa_vae are defined on the weighted ELBO, which {other.kind} replaces"
                yield Refusal("E16", f"{law}; remove one, or set the rate by beta_vae")
        yield from self._unused_options()

    def _unused_options(self) -> Iterator[Refusal]:
        differences = self.backward == "finite_diff"
        default = type(self).model_fields["difference_step"].default
        for field, unused in (
            ("difference_step", not differences and self.difference_step != default),
            ("finite_diff_clip", self.finite_diff_clip == "reference" and not (differences and self.clip)),
        ):
            if unused:
                mode = f"backward {self.backward} and clip {self.clip}"
                yield Refusal("E18", f"sa_vae.{field} is an unused option with {mode}; leave it out")

    def warnings(self, setup: Setup) -> Iterator[str]:
        for other in setup.strategies:
            if other.kind in FINAL_STEP_ONLY:
                yield f"W5: {other.kind} counts in the final step of sa_vae only; the refinement descends the ELBO."


class _Descent:
    """The steps on lambda [2, B, Z], the means and log-variances of B examples.

    A gradient is that of an example's own loss over `reference_batch`. Its norm, for means and log-variances apart, is
    that of `reference_batch` examples such as these: all of the batch, or each by itself if `alone`.
    """

    def __init__(self, setting: SaVae, examples: int, *, alone: bool) -> None:
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

    def velocity(self, last: Tensor, gradient: Tensor) -> Tensor:
        return self._setting.momentum * last - self.clipped(gradient)


OfRec = Callable[[Tensor], Tensor]
"""z [B, Z] -> the gradient [B, Z] of each example's rec at its z."""


def _gradient(parameters: Tensor, noise_BZ: Tensor, kl_factor: Tensor | float, of_rec: OfRec) -> Tensor:
    """The gradient at lambda of each example's rec + kl_factor * KL, with z from `noise_BZ`; prior N(0, I)."""
    mean, logvar = parameters
    apart = (0.5 * logvar).exp() * noise_BZ
    of_z = of_rec(mean + apart)
    return torch.stack([of_z + kl_factor * mean, 0.5 * (of_z * apart + kl_factor * (logvar.exp() - 1.0))])


def _gaussian(parameters: Tensor) -> Gaussian:
    return Gaussian(parameters[0], parameters[1])


def _refined(setting: SaVae, descent: _Descent, start: Tensor, gradient: Callable[[int, Tensor], Tensor]) -> Tensor:
    """lambda after all steps from `start`; `gradient(k, lambda)` is g of step k, unclipped."""
    parameters, velocity = start, torch.zeros_like(start)
    for k in range(setting.refinement_steps):
        velocity = descent.velocity(velocity, gradient(k, parameters))
        parameters = parameters + setting.rate * velocity
    return parameters


# --- training ---------------------------------------------------------------------------------------------------------


class SemiAmortised(Update):
    """Encoder, refinement, objective at the refined posterior; then one step of encoder and decoder. No state."""

    def __init__(self, setting: SaVae) -> None:
        self._setting = setting
        differences = _ByDifferences if setting.finite_diff_clip == "consistent" else _AsPublished
        ways = {"finite_diff": differences, "autograd": _Exactly, "none": _Apart, "none_kl": _Apart}
        self._way = ways[setting.backward]

    def __call__(self, trainer: Trainer, batch: Batch, weight: float) -> Loss:
        if self._setting.refinement_steps == 0:
            return super().__call__(trainer, batch, weight)
        loss = self._way(self._setting, trainer, batch, weight).backward()
        trainer.step(encoder=True, decoder=True)
        return loss


class _Training(ABC):
    """One update of a batch: its start at the encoder, and K decoder passes with noise and masks of their own."""

    def __init__(self, setting: SaVae, trainer: Trainer, batch: Batch, weight: float) -> None:
        self.setting, self.trainer, self.batch, self.weight = setting, trainer, batch, weight
        encoded = trainer.model.infer(batch).q.base
        self.start = torch.stack([encoded.mean_BZ, encoded.logvar_BZ])
        self.descent = _Descent(setting, batch.size, alone=False)
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

        found = _gradient(parameters, self._noise[k], self.kl_factor, of_rec)
        return found / self.setting.reference_batch

    def refined(self, start: Tensor, of_sum: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """lambda after all steps from `start`."""
        return _refined(self.setting, self.descent, start, lambda k, at: self.gradient(k, at, of_sum))

    def loss(self, refined: Tensor) -> Loss:
        return self.trainer.loss_at(self.batch, Inference.plain(_gaussian(refined)), self.weight)

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


def _grad(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
    return torch.autograd.grad(rec_B.sum(), z_BZ)[0]


def _grad_with_graph(rec_B: Tensor, z_BZ: Tensor) -> Tensor:
    return torch.autograd.grad(rec_B.sum(), z_BZ, create_graph=True)[0]


class _Apart(_Training):
    """VAE+SVI: the decoder learns at the refined posterior, the encoder at its own or towards the refined one."""

    def backward(self) -> Loss:
        with self.trainer.inner_loop(decoder_gradients=False):
            refined = self.refined(self.start.detach(), _grad)
            own = _gaussian(self.start)
            towards = self.setting.backward == "none_kl"
            teaching = _kl(own, _gaussian(refined)) if towards else self._at_its_own(own)
        loss = self.loss(refined)
        (loss.total + teaching).backward()  # type: ignore[no-untyped-call]
        return loss

    def _at_its_own(self, q: Gaussian) -> Tensor:
        """The objective at the encoder's posterior, from noise and masks of one pass more."""
        z_BSZ = q.rsample(self.noise()[:, None])
        rec_B = self.trainer.model.reconstruct(self.batch, self.trainer.history(self.batch), z_BSZ)[:, 0]
        return (rec_B + self.kl_factor * q.kl_standard().sum(1)).mean()


class _Exactly(_Training):
    """All gradients through the steps, by differentiating twice."""

    def backward(self) -> Loss:
        with twice_differentiable():
            loss = self.loss(self.refined(self.start, _grad_with_graph))
            loss.total.backward()  # type: ignore[no-untyped-call]
        return loss


class _ByDifferences(_Training):
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

        loss, outer = self.final(_refined(setting, self.descent, self.start.detach(), step))
        ahead = torch.zeros_like(outer)
        for k in reversed(range(setting.refinement_steps)):
            ahead = setting.momentum * ahead + setting.rate * outer
            direction = self.descent.clipped_backward(gradients[k], ahead)
            there = self.gradient(k, places[k] + r * direction, self._adding(-1.0 / r))
            outer = outer - (there - gradients[k]) / r
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


class _AsPublished(_Training):
    """The same differences with the clippings of the published code."""

    def backward(self) -> Loss:
        setting = self.setting
        places: list[Tensor] = []
        gradients: list[Tensor] = []

        def step(k: int, parameters: Tensor) -> Tensor:
            places.append(parameters)
            gradients.append(self.gradient(k, parameters, _grad))
            return gradients[-1]

        with self.trainer.inner_loop(decoder_gradients=False):
            refined = _refined(setting, self.descent, self.start.detach(), step)
        loss, outer = self.final(refined)
        ahead = torch.zeros_like(outer)
        for k in reversed(range(setting.refinement_steps)):
            ahead = setting.momentum * ahead + setting.rate * outer
            product = self._product(k, places[k], self.descent.clipped(gradients[k]), ahead)
            outer = outer - product
            outer = outer * _limit(setting.clip, self.descent.joint_norm(outer))
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


# --- measurement ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Refine:
    """The refinement of a model in eval mode; its noise belongs to the example."""

    setting: SaVae

    def __call__(self, model: Vae, seed: int) -> Infer:
        steps = self.setting.refinement_steps
        if steps == 0:
            return model.infer

        @torch.enable_grad()
        def infer(batch: Batch) -> Inference:
            with frozen(model.parameters()):
                encoded = model.infer(batch).q.base
                start = torch.stack([encoded.mean_BZ, encoded.logvar_BZ])
                noise_BKZ = example_noise(seed, "svi", batch.index_B, steps, start.shape[2]).to(start)

                def of_rec(z_BZ: Tensor) -> Tensor:
                    z_BZ.requires_grad_()
                    return _grad(model.reconstruct(batch, batch.history, z_BZ[:, None])[:, 0], z_BZ)

                def gradient(k: int, parameters: Tensor) -> Tensor:
                    return _gradient(parameters, noise_BKZ[:, k], 1.0, of_rec) / self.setting.reference_batch

                descent = _Descent(self.setting, batch.size, alone=True)
                return Inference.plain(_gaussian(_refined(self.setting, descent, start, gradient)))

        return infer


class _Unrefined(Protocol):
    """What the encoder alone is worth."""

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        model = measurement.model
        with torch.no_grad():
            kl = [model.infer(batch).q.base.kl_standard().sum(1) for batch in measurement.batches]
        bound = measurement.importance_weighted(model.infer)
        return {"nll_iw_init": bound.nll, "kl_init": float(torch.cat(kl).double().mean())}
