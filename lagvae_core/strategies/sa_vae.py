"""Semi-amortised inference: gradient steps refine each example's posterior, starting from the encoder's output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data import Batch
from lagvae_core.metrics.encoding import Infer
from lagvae_core.models.gaussian import Inference
from lagvae_core.models.vae import Vae, frozen
from lagvae_core.randomness import example_noise
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.refinement import (
    Descent,
    DetachedGradient,
    ExactGradient,
    FiniteDifferenceGradient,
    PublishedGradient,
    SviGradient,
    gaussian_of,
    gradient_of,
    rec_gradient,
    refined_from,
)
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait
from lagvae_core.strategies.slots import ExtraMetrics, Loss, Measurement, Trainer, Update

__all__ = ["SaVae"]


class SaVae(Strategy):
    """Gradient steps (`refinement_steps`) refine the encoder's posterior, and training differentiates through them.

    Source: Kim et al. 2018, section 3; He et al. 2019 compare their method with SA-VAE at 10 steps.

    lambda_0 = (mean, log-variance) comes from the encoder. Step k is a gradient step on the loss L_k, computed with
    fresh noise and new dropout masks:

        g = d L_k(lambda_k) / d lambda, clipped;  v = momentum * v - g;  lambda_{k+1} = lambda_k + rate * v,

    and the model is trained on the objective at the last lambda; the gradient for decoder and encoder includes the
    effect of all steps. Validation and measurement refine each example separately in eval mode, with KL weight 1 and
    noise that depends only on the seed and the example; `nll_iw_init` and `kl_init` measure the encoder alone.

    `backward` selects how training differentiates through the steps:

    - `finite_diff`, as published: the product of the Hessian of L_k and a vector d is approximated by the gradient at
      lambda_k + difference_step * d minus the gradient at lambda_k, divided by `difference_step`, with the same noise
      and masks;
    - `autograd`: the exact second derivatives; this keeps all passes in memory and uses no fused kernels;
    - `none`: training does not differentiate through the steps. The decoder is trained at the refined posterior, and
      the encoder on the loss at its own posterior (the paper's VAE+SVI);
    - `none_kl`: as `none`, but the encoder is trained on the KL from its own posterior to the refined posterior
      (VAE+SVI+KL, `train_kl` in the published code).

    Departures from the published code ("the code"), with the reasons:

    - The code uses the gradient of the batch mean, so the steps of an example grow as its batch gets smaller, and
      clipping couples the examples. In this implementation the gradient of each example is divided by
      `reference_batch`, and the norm for clipping is scaled to `reference_batch` examples: in training, examples like
      those of the batch; in measurement, copies of the single example. With the default `reference_batch` and a batch
      size of 32, the training steps equal those of the code.
    - In the code each step seeds the global generator with one of 3435 seeds. In this implementation the noise has its
      own random stream, and the state of the dropout stream is restored for the perturbed pass.
    - In the code the refinement in validation uses the annealed KL weight; in this implementation it uses weight 1, as
      all measurements do.
    - With `finite_diff_clip` `consistent`, the differences are taken between unclipped gradients, and the derivative of
      the clipping is computed exactly. For the decoder's weights, the code (`reference`) subtracts the unclipped
      gradient from the clipped gradient of the perturbed pass and clips the result again; if clipping takes effect, the
      result is not the derivative of any function.
    - As in the code, the gradient of the loss at each lambda_k is clipped in the backward pass (`backward_clip`; the
      code uses the value of `clip`). Without this clipping, if steps overshoot, the gradient grows from step to step:
      on the synthetic data all three runs with ten steps reached a gradient norm of several thousand and diverged.
    - `difference_step` is 1e-5 in the code. A direction d has the size of a refinement step, so in float32 a tenth of
      the difference at 1e-5 is rounding error. At 0.003, rounding and curvature contribute equally to the error, and
      the relative error of the gradient is 1e-3.
    - The SA-VAE rows of He et al. 2019 come from a script in the history of their repository: 10 steps with rates of 1
      and momentum 0.5, gradients clipped to norm 5, encoder and decoder in one SGD, and importance sampling with the
      refined posterior as proposal. Here `momentum`, `clip` and the two optimisers are those of this strategy and of
      `training`.
    - The additional loss terms of multitask_bow and fraternal_dropout are not part of the refinement steps; they apply
      only at the refined posterior (W5).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"update", "refine", "extra_metrics"})
    paper: ClassVar[str] = "Kim et al. 2018, Semi-Amortized Variational Autoencoders, section 3"
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "nll_iw_init",
            "float",
            "nll_iw with the encoder's unrefined q as proposal [nats]; a valid bound, often looser",
        ),
        Column("kl_init", "float", "mean KL(q(z|x) || p(z)) of the encoder's unrefined q [nats]"),
    )

    kind: Literal["sa_vae"] = "sa_vae"
    refinement_steps: Annotated[
        int, Field(ge=0, le=1000, description="gradient steps on each posterior; 0 is the plain VAE"), Tunable(2, 20)
    ] = 10
    rate: Annotated[
        float,
        Field(ge=0, description="learning rate of the refinement steps, scaled to `reference_batch`"),
        Tunable(0.1, 2, log=True),
    ] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of the refinement steps")] = 0.5
    clip: Annotated[float, Field(ge=0, description="largest gradient norm of a step; 0 disables clipping")] = 5.0
    backward_clip: Annotated[
        float, Field(ge=0, description="largest norm of the loss gradient at each lambda_k; 0 disables clipping")
    ] = 5.0
    reference_batch: Annotated[
        int, Field(ge=1, description="batch size by which the gradient of each example is divided")
    ] = 32
    backward: Annotated[
        Literal["finite_diff", "autograd", "none", "none_kl"],
        Field(description="how training differentiates through the steps"),
    ] = "finite_diff"
    difference_step: Annotated[
        float, Field(gt=0, le=1, description="length of a finite difference, relative to a refinement step")
    ] = 0.003
    finite_diff_clip: Annotated[
        Literal["consistent", "reference"],
        Field(
            description="clipping of finite differences: with the derivative of clipping, or as in the published code"
        ),
    ] = "consistent"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"update": SemiAmortised(self), "refine": _Refine(self), "extra_metrics": (_Unrefined(),)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.strategies:
            if other.has(Trait.REGULARISES_BATCH):
                message = (
                    f"{other.kind} regularises a batch of posteriors, but sa_vae refines each posterior separately"
                )
                yield Incompatibility("E04", f"{message}; remove sa_vae or {other.kind}")
            elif "posterior" in other.slots:
                message = f"sa_vae takes refinement steps that would leave the posterior family of {other.kind}"
                yield Incompatibility("E04", f"{message}; remove sa_vae or {other.kind}")
            elif "prior" in other.slots:
                message = f"sa_vae takes refinement steps that are not defined for the prior of {other.kind}"
                yield Incompatibility("E04", f"{message}; remove sa_vae or {other.kind}")
            elif other.has(Trait.INNER_LOOP):
                message = f"sa_vae and {other.kind} are both remedies for the lag of the inference network"
                yield Incompatibility("E05", f"{message}; remove sa_vae or {other.kind}")
            elif "objective" in other.slots and not other.has(Trait.FIXED_KL_WEIGHT):
                message = f"sa_vae takes refinement steps on the weighted ELBO, which {other.kind} replaces"
                hint = f"remove sa_vae or {other.kind}, or use beta_vae to control the KL"
                yield Incompatibility("E16", f"{message}; {hint}")
        yield from self._unused_options()

    def _unused_options(self) -> Iterator[Incompatibility]:
        differences = self.backward == "finite_diff"
        default = {name: field.default for name, field in type(self).model_fields.items()}
        differentiated = differences or self.backward == "autograd"
        for field, unused in (
            ("difference_step", not differences and self.difference_step != default["difference_step"]),
            ("backward_clip", not differentiated and self.backward_clip != default["backward_clip"]),
            ("finite_diff_clip", self.finite_diff_clip == "reference" and not (differences and self.clip)),
        ):
            if unused:
                mode = f"backward = {self.backward} and clip = {self.clip}"
                yield Incompatibility("E18", f"sa_vae.{field} has no effect with {mode}; leave it out")

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        for other in context.filling("penalties", "decode"):
            if not other.has(Trait.REGULARISES_BATCH):
                yield ConfigWarning(
                    "W5",
                    f"The loss term of {other.kind} is not part of the refinement steps of sa_vae, which optimise the "
                    "ELBO; it applies only at the refined posterior.",
                )


class SemiAmortised(Update):
    """One update: encode, refine, evaluate the objective at the refined posterior, and step encoder and decoder."""

    def __init__(self, config: SaVae) -> None:
        self._config = config
        differences = FiniteDifferenceGradient if config.finite_diff_clip == "consistent" else PublishedGradient
        gradients: dict[str, type[SviGradient]] = {
            "finite_diff": differences,
            "autograd": ExactGradient,
            "none": DetachedGradient,
            "none_kl": DetachedGradient,
        }
        self._svi_gradient = gradients[config.backward]

    def __call__(self, trainer: Trainer, batch: Batch, weight: float) -> Loss:
        if self._config.refinement_steps == 0:
            return super().__call__(trainer, batch, weight)
        loss = self._svi_gradient(self._config, trainer, batch, weight).backward()
        trainer.step(encoder=True, decoder=True)
        return loss


@dataclass(frozen=True)
class _Refine:
    """Refinement of posteriors with a model in eval mode; the noise depends only on the seed and the example."""

    config: SaVae

    def __call__(self, model: Vae, seed: int) -> Infer:
        steps = self.config.refinement_steps
        if steps == 0:
            return model.infer

        @torch.enable_grad()
        def infer(batch: Batch) -> Inference:
            with frozen(model.parameters()):
                encoded = model.infer(batch).q.base
                start = torch.stack([encoded.mean_BZ, encoded.logvar_BZ])
                noise_BKZ = example_noise(seed, "svi", batch.index_B, steps, start.shape[2]).to(start)

                def gradient_at(z_BZ: Tensor) -> Tensor:
                    z_BZ.requires_grad_()
                    return rec_gradient(model.reconstruct(batch, batch.history, z_BZ[:, None])[:, 0], z_BZ)

                def gradient(k: int, parameters: Tensor) -> Tensor:
                    return gradient_of(parameters, noise_BKZ[:, k], 1.0, gradient_at) / self.config.reference_batch

                descent = Descent(self.config, batch.size, alone=True)
                return Inference.plain(gaussian_of(refined_from(self.config, descent, start, gradient)))

        return infer


class _Unrefined(ExtraMetrics):
    """`nll_iw_init` and `kl_init`, which measure the encoder without refinement."""

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        model = measurement.model
        with torch.no_grad():
            kl = [model.infer(batch).q.base.kl_standard().sum(1) for batch in measurement.batches]
        bound = measurement.importance_weighted(model.infer)
        return {"nll_iw_init": bound.nll, "kl_init": float(torch.cat(kl).double().mean())}
