"""Means normalised to a shared spread, variances dropped out above a floor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.normalisation import MeanNormalisation, start_by_default
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import (
    BuildContext,
    ConfigContext,
    Incompatibility,
    Strategy,
    grouped_batches,
    needs_batch_statistics,
)

__all__ = ["DuPosterior", "DuVae"]

FULL_WEIGHT = 1.0 - 1e-9


class DuVae(Strategy):
    """Means normalised over the batch, their deviations of root mean square `gamma`; variances dropped above a floor.

    Source: Shen et al. 2021, with the constants of their published code.

    Means are normalised as in bn_vae, with a learned spread for each dimension that is rescaled in every forward pass
    to a root mean square of `gamma`. A variance exp(logvar) is dropped with probability `dropout`, one draw for each
    example and dimension, else divided by 1 - dropout; then the floor delta_rate / (2 pi e) is added, which at
    `delta_rate` 1 keeps the entropy of every dimension at 0 or more. Evaluation uses running averages, keeps the floor
    and drops nothing. The encoder starts as torch initialises its layers, for the reason given in bn_vae.

    - Floor and dropout begin with the first update of KL weight 1, as in the code (`regularise_from` `full_weight`),
      or at once (`start`). Once begun they stay: the code would switch them off again under a cyclical weight. The
      floor is part of q(z|x), so it belongs to the weights: those of an epoch before it are measured without it.
    - The code rescales the stored spreads in evaluation too; here evaluation rescales what it uses and stores nothing.
    - Batches below `min_batch` are skipped, as in the code, which takes short length buckets out of training.
    - The running averages start as plain means (see bn_vae). A `gamma` of 0, which switches the code to another
      encoder, is not allowed; use the plain VAE.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior"})
    paper: ClassVar[str] = (
        "Shen et al. 2021, Regularizing Variational Autoencoder with Diversity and Uncertainty Awareness"
    )

    kind: Literal["du_vae"] = "du_vae"
    gamma: Annotated[
        float, Field(gt=0, description="root mean square of the deviations of the means"), Tunable(0.4, 0.8)
    ] = 0.5
    learn_gamma: Annotated[bool, Field(description="whether dimensions learn to share the spread unequally")] = True
    dropout: Annotated[float, Field(ge=0, lt=1, description="share of variances dropped"), Tunable(0.1, 0.3)] = 0.2
    delta_rate: Annotated[float, Field(ge=0, description="floor of the variance, times 2 pi e")] = 1.0
    regularise_from: Annotated[
        Literal["full_weight", "start"], Field(description="when floor and dropout of the variance begin")
    ] = "full_weight"
    epsilon: Annotated[float, Field(gt=0, description="added to the variance of the batch")] = 1e-5
    momentum: Annotated[float, Field(gt=0, le=1, description="weight of a batch in the running averages")] = 0.1
    min_batch: Annotated[int, Field(ge=2, description="smaller batches are skipped")] = 16

    def build(self, context: BuildContext) -> dict[str, Any]:
        masks = context.streams["variance_dropout"]
        return {"posterior": DuPosterior(self, context.latent_dim, masks)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if other.kind == "bn_vae":
                yield Incompatibility(
                    "E03", "bn_vae and du_vae both normalise the means over the batch; remove one of the two"
                )
            if other.kind == "scale_vae":
                yield Incompatibility(
                    "E03",
                    "du_vae already fixes the deviations of the means that scale_vae would set, whose factors would "
                    "only undo the learned spreads; remove one of the two",
                )
        yield from needs_batch_statistics("du_vae", "min_batch", self.min_batch, context)
        if self.dropout > 0 and self.delta_rate == 0:
            yield Incompatibility(
                "E-RANGE",
                f"delta_rate > 0 must hold where variances are dropped, but got dropout = {self.dropout} and "
                "delta_rate = 0: a dropped variance would be 0 and its KL infinite",
            )

    def warnings(self, context: ConfigContext) -> Iterator[str]:
        yield from grouped_batches("du_vae", context)
        for other in context.strategies:
            final = other.model_dump().get("w_end", 1.0)
            if "kl_weight" in other.slots and final < FULL_WEIGHT and self.regularise_from == "full_weight":
                yield (
                    f"du_vae: the weight of {other.kind} ends at {final} and never reaches 1, so that floor and "
                    "dropout of the variances never begin; set du_vae.regularise_from = start to have them."
                )


class DuPosterior(Posterior):
    """N(gamma_d * normalised mu + beta, dropped variance + floor).

    The floor is a buffer, its logarithm -inf as long as there is none: the weights of an epoch carry their own floor.
    That it has once begun is progress, which a return to earlier weights does not undo.
    """

    gamma: Tensor
    log_floor: Tensor

    def __init__(self, setting: DuVae, latent_dim: int, masks: torch.Generator) -> None:
        super().__init__()
        self._setting, self._masks = setting, masks
        self.normalise = MeanNormalisation(latent_dim, setting.epsilon, setting.momentum)
        if setting.learn_gamma:
            self.gamma = nn.Parameter(torch.full((latent_dim,), setting.gamma))
        self.beta = nn.Parameter(torch.zeros(latent_dim))
        self.register_buffer("log_floor", torch.tensor(-math.inf))
        self._begun = False
        if setting.regularise_from == "start":
            self._begin()

    def forward(self, encoded: Gaussian) -> Inference:
        wide = encoded.at_least_float32()
        mean = self._spread() * self.normalise(wide.mean_BZ) + self.beta
        return Inference.plain(Gaussian(mean, self._floored(wide.logvar_BZ)))

    def _spread(self) -> Tensor | float:
        """The deviation of each dimension; training also rescales the stored ones, so that their size never drifts."""
        if not self._setting.learn_gamma:
            return self._setting.gamma
        factor = self._setting.gamma / self.gamma.detach().square().mean().sqrt()
        if not self.training:
            return self.gamma * factor
        with torch.no_grad():
            self.gamma.mul_(factor)
        return self.gamma.clone()

    def _floored(self, logvar_BZ: Tensor) -> Tensor:
        """log(dropped variance + floor); without floor and dropout `logvar_BZ`, bit for bit."""
        rate = self._setting.dropout
        if self.training and self._begun and rate > 0:
            draws = torch.rand(logvar_BZ.shape, generator=self._masks, device=logvar_BZ.device)
            logvar_BZ = (logvar_BZ - math.log1p(-rate)).masked_fill(draws < rate, -math.inf)
        return torch.logaddexp(logvar_BZ, self.log_floor)

    def _begin(self) -> None:
        rate = self._setting.delta_rate
        self._begun = True
        self.log_floor.fill_(math.log(rate / (2.0 * math.pi * math.e)) if rate > 0 else -math.inf)

    def start(self, encoder: nn.Module) -> None:
        start_by_default(encoder)

    def accepts(self, batch_size: int) -> bool:
        return batch_size >= self._setting.min_batch

    def before_step(self, weight: float) -> None:
        if self._begun or weight >= FULL_WEIGHT:
            self._begin()

    def progress(self) -> dict[str, Any]:
        return {"begun": self._begun}

    def load_progress(self, state: dict[str, Any]) -> None:
        self._begun = state["begun"]
