"""Inference that starts with the encoder and is finished by gradient steps on each example's own posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data import TokenBatch
from lagvae_core.metrics.encoding import Infer
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.projection import twice_differentiable
from lagvae_core.models.vae import Vae, frozen
from lagvae_core.randomness import example_noise
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import (
    Loss,
    Measurement,
    Protocol,
    Refusal,
    Setup,
    Strategy,
    Surroundings,
    Trainer,
    Update,
)

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
    - `none`: not at all. The decoder learns at the refined posterior, the encoder from the loss at its own one, or with
      `train_kl` from KL(encoder's || refined): the paper's VAE+SVI and VAE+SVI+KL.

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
        Literal["finite_diff", "autograd", "none"], Field(description="how training differentiates the steps")
    ] = "finite_diff"
    difference_step: Annotated[
        float, Field(gt=0, le=1, description="length of a finite difference, in refinement steps")
    ] = 0.003
    finite_diff_clip: Annotated[
        Literal["consistent", "reference"], Field(description="differences as derived, or clipped as in the code")
    ] = "consistent"
    train_kl: Annotated[bool, Field(description="with backward none: fit the encoder to the refined posterior")] = False

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
            ("train_kl", self.train_kl and self.backward != "none"),
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
        norm = (self._share * gradient.square().sum(self._axes, keepdim=True)).sqrt()
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


def _gaussian(parameters: Tensor) -> Gaussian:
    return Gaussian(parameters[0], parameters[1])


def _refined(setting: SaVae, descent: _Descent, start: Tensor, gradient: Callable[[int, Tensor], Tensor]) -> Tensor:
    """lambda after all steps from `start`; `gradient(k, lambda)` is that of step k."""
    parameters, velocity = start, torch.zeros_like(start)
    for k in range(setting.refinement_steps):
        velocity = descent.velocity(velocity, gradient(k, parameters))
        parameters = parameters + setting.rate * velocity
    return parameters


# --- training ---------------------------------------------------------------------------------------------------------


class _Passes:
    """The losses L_k of one update, batch means; each has noise, corruption and dropout masks that can be had again."""

    def __init__(self, trainer: Trainer, batch: TokenBatch, weight: float, steps: int, like: Tensor) -> None:
        self._trainer, self._batch, self._weight = trainer, batch, weight
        self._histories = [trainer.history(batch) for _ in range(steps)]
        size = (steps, like.shape[1], 1, like.shape[2])
        draws = torch.randn(size, generator=trainer.streams["svi"], device=like.device)
        self._noise = draws.to(like.dtype)
        self._dropout = trainer.streams["dropout"]
        self._states: list[Tensor] = []

    def first(self, k: int, parameters: Tensor) -> Tensor:
        """L_k with fresh masks, which are remembered."""
        self._states.append(self._dropout.get_state())
        return self._loss(k, parameters)

    def again(self, k: int, parameters: Tensor) -> Tensor:
        """L_k with the masks of its first pass; the stream is left as it was found."""
        found = self._dropout.get_state()
        self._dropout.set_state(self._states[k])
        loss = self._loss(k, parameters)
        self._dropout.set_state(found)
        return loss

    def _loss(self, k: int, parameters: Tensor) -> Tensor:
        return self._trainer.bound(self._batch, self._histories[k], _gaussian(parameters), self._noise[k], self._weight)


class SemiAmortised(Update):
    """Encoder, refinement, objective at the refined posterior; then one step of encoder and decoder. No state."""

    def __init__(self, setting: SaVae) -> None:
        self._setting = setting

    def __call__(self, trainer: Trainer, batch: TokenBatch, weight: float) -> Loss:
        setting = self._setting
        if setting.refinement_steps == 0:
            return super().__call__(trainer, batch, weight)
        encoded = trainer.model.infer(batch).q.base
        start = torch.stack([encoded.mean_BZ, encoded.logvar_BZ])
        passes = _Passes(trainer, batch, weight, setting.refinement_steps, start)
        descent = _Descent(setting, batch.size, alone=False)
        if setting.backward == "none":
            loss = self._apart(trainer, batch, weight, start, passes, descent)
        elif setting.backward == "autograd":
            loss = self._by_autograd(trainer, batch, weight, start, passes, descent)
        else:
            loss = self._by_differences(trainer, batch, weight, start, passes, descent)
        trainer.step(encoder=True, decoder=True)
        return loss

    def _apart(
        self, trainer: Trainer, batch: TokenBatch, weight: float, start: Tensor, passes: _Passes, descent: _Descent
    ) -> Loss:
        """The gradients of VAE+SVI: the decoder's at the refined posterior, the encoder's at its own."""
        unit = batch.size / self._setting.reference_batch

        def gradient(k: int, parameters: Tensor) -> Tensor:
            leaf = _leaf(parameters)
            (found,) = torch.autograd.grad(passes.first(k, leaf), leaf)
            return unit * found

        with trainer.inner_loop(decoder_gradients=False):
            refined = _gaussian(_refined(self._setting, descent, start.detach(), gradient))
            if self._setting.train_kl:
                teaching = _kl(_gaussian(start), refined)
            else:
                own = _Passes(trainer, batch, weight, 1, start)
                teaching = own.first(0, start)
        loss = trainer.loss_at(batch, Inference.plain(refined), weight)
        (loss.total + teaching).backward()  # type: ignore[no-untyped-call]
        return loss

    def _by_autograd(
        self, trainer: Trainer, batch: TokenBatch, weight: float, start: Tensor, passes: _Passes, descent: _Descent
    ) -> Loss:
        """All gradients through the steps, exactly."""
        unit = batch.size / self._setting.reference_batch

        def gradient(k: int, parameters: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(passes.first(k, parameters), parameters, create_graph=True)
            return unit * found

        with twice_differentiable():
            refined = _refined(self._setting, descent, start, gradient)
            loss = trainer.loss_at(batch, Inference.plain(_gaussian(refined)), weight)
            loss.total.backward()  # type: ignore[no-untyped-call]
        return loss

    def _by_differences(
        self, trainer: Trainer, batch: TokenBatch, weight: float, start: Tensor, passes: _Passes, descent: _Descent
    ) -> Loss:
        """All gradients through the steps. What a step k adds to those of the decoder is a difference over r too:

        minus 1/r times the gradient at lambda_k + r d, plus 1/r times that at lambda_k. Both are added to the
        parameters' gradients as they come, so that no copy of the decoder is ever kept.
        """
        setting = self._setting
        consistent = setting.finite_diff_clip == "consistent"
        r = setting.difference_step
        unit = batch.size / setting.reference_batch
        places: list[Tensor] = []
        gradients: list[Tensor] = []

        def gradient(k: int, parameters: Tensor) -> Tensor:
            places.append(parameters)
            leaf = _leaf(parameters)
            if consistent:
                found = r * _backward(passes.first(k, leaf) / r, leaf)
            else:
                with trainer.inner_loop(decoder_gradients=False):
                    found = _backward(passes.first(k, leaf), leaf)
            gradients.append(unit * found)
            return gradients[-1]

        refined = _leaf(_refined(setting, descent, start.detach(), gradient))
        loss = trainer.loss_at(batch, Inference.plain(_gaussian(refined)), weight)
        outer = unit * _backward(loss.total, refined)
        ahead = torch.zeros_like(outer)
        for k in reversed(range(setting.refinement_steps)):
            ahead = setting.momentum * ahead + setting.rate * outer
            if consistent:
                direction = descent.clipped_backward(gradients[k], ahead)
                moved = _leaf(places[k] + r * direction)
                found = -r * _backward(-passes.again(k, moved) / r, moved)
                outer = outer - (unit * found - gradients[k]) / r
            else:
                outer = self._as_published(trainer, passes, descent, k, places[k], gradients[k], ahead, outer)
        torch.autograd.backward([start], [outer / unit])
        return loss

    def _as_published(
        self,
        trainer: Trainer,
        passes: _Passes,
        descent: _Descent,
        k: int,
        place: Tensor,
        gradient: Tensor,
        ahead: Tensor,
        outer: Tensor,
    ) -> Tensor:
        """The backward of step k with the clippings of the code; what `outer` becomes."""
        r, limit = self._setting.difference_step, self._setting.clip
        unit = place.shape[1] / self._setting.reference_batch
        weights = list(trainer.model.decoder.parameters())
        here = torch.autograd.grad(passes.again(k, place), weights, materialize_grads=True)
        moved = _leaf(place + r * ahead)
        found, *there = torch.autograd.grad(passes.again(k, moved), [moved, *weights], materialize_grads=True)
        found = unit * found
        shrink = _limit(limit, descent.joint_norm(found), *there)
        products = [(shrink * one - other) / r for one, other in zip(there, here, strict=True)]
        product = (shrink * found - descent.clipped(gradient)) / r
        shrink = _limit(limit, *products)
        for weight, value in zip(weights, products, strict=True):
            assert weight.grad is not None, "the final step has reached every weight of the decoder"
            weight.grad.sub_(shrink * value)
        outer = outer - product
        return outer * _limit(limit, descent.joint_norm(outer))


def _leaf(parameters: Tensor) -> Tensor:
    return parameters.detach().requires_grad_()


def _backward(loss: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of `loss` at `leaf`; those of the parameters are added to what these hold."""
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


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
        def infer(batch: TokenBatch) -> Inference:
            with frozen(model.parameters()):
                encoded = model.infer(batch).q.base
                start = torch.stack([encoded.mean_BZ, encoded.logvar_BZ])
                noise_BKZ = example_noise(seed, "svi", batch.index_B, steps, start.shape[2]).to(start)

                def gradient(k: int, parameters: Tensor) -> Tensor:
                    leaf = _leaf(parameters)
                    q = _gaussian(leaf)
                    draw = q.draw(noise_BKZ[:, k : k + 1])
                    loss_B = model.reconstruct(batch, batch.history, draw.z_BSZ)[:, 0] + model.prior.kl(q, draw).sum(1)
                    (found,) = torch.autograd.grad(loss_B.sum(), leaf)
                    return found / self.setting.reference_batch

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
