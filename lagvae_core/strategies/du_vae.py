"""Posterior means normalised over the batch, and variances with dropout and a floor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.columns import Column
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.normalisation import MeanNormalisation, start_by_default
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, needs_batch_statistics
from lagvae_core.strategies.normalised_means import NORMALISED_SHARE, NormalisationMetrics, weak_normalisation
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait

__all__ = ["DuPosterior", "DuVae"]

FULL_WEIGHT = 1.0 - 1e-9


class DuVae(Strategy):
    """Means are normalised to standard deviations with a root mean square of `gamma`; variances are dropped at random.

    Source: Shen et al. 2021, with the constants of their published code.

    Means are normalised as in bn_vae, with a learned standard deviation for each dimension. Every forward pass rescales
    these standard deviations to a root mean square of `gamma`. A variance exp(logvar) is set to 0 with probability
    `dropout`, drawn separately for each example and dimension, and is otherwise divided by 1 - dropout. Then the floor
    delta_rate / (2 pi e) is added, which at `delta_rate` 1 keeps the entropy of every dimension at 0 or more.
    Evaluation uses running averages and the floor, but no dropout. The encoder is initialised with PyTorch's defaults,
    for the reason given in bn_vae.

    - Floor and dropout begin with the first update at which the KL weight is 1, as in the code (`regularise_from`
      `full_weight`), or with the first update (`start`). Once they have begun, they stay on; the code would switch them
      off again under a cyclical weight. The floor is part of q(z|x) and is stored with the model weights: weights from
      an epoch before the floor began are measured without it.
    - The code also rescales the stored standard deviations in evaluation; in this implementation evaluation rescales a
      copy and stores nothing.
    - Batches smaller than `min_batch` are skipped, as in the code; this removes small length buckets from training.
    - `epsilon` is 1e-12, for the reason given in bn_vae; the published code has PyTorch's 1e-5.
    - The running averages start as plain means (see bn_vae). A `gamma` of 0, which selects another encoder in the code,
      is not allowed; use the plain VAE instead.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior", "extra_metrics"})
    paper: ClassVar[str] = (
        "Shen et al. 2021, Regularizing Variational Autoencoder with Diversity and Uncertainty Awareness"
    )
    columns: ClassVar[tuple[Column, ...]] = (NORMALISED_SHARE,)
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.BATCH_STATISTICS, Trait.NORMALISES_MEANS})

    kind: Literal["du_vae"] = "du_vae"
    gamma: Annotated[
        float, Field(gt=0, description="root mean square of the standard deviations of the means"), Tunable(0.4, 0.8)
    ] = 0.5
    learn_gamma: Annotated[bool, Field(description="whether each dimension learns its own standard deviation")] = True
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="probability that a variance is dropped"), Tunable(0.1, 0.3)
    ] = 0.2
    delta_rate: Annotated[float, Field(ge=0, description="2 pi e times the floor of the variance")] = 1.0
    regularise_from: Annotated[
        Literal["full_weight", "start"], Field(description="when the floor and the dropout of the variances begin")
    ] = "full_weight"
    epsilon: Annotated[
        float, Field(gt=0, description="constant added to the variance of the batch; 1e-5 in the published code")
    ] = 1e-12
    momentum: Annotated[float, Field(gt=0, le=1, description="weight of each new batch in the running averages")] = 0.1
    min_batch: Annotated[
        int, Field(ge=2, description="smallest batch that is used for training; smaller ones are skipped")
    ] = 16

    def build(self, context: BuildContext) -> dict[str, Any]:
        masks = context.streams["variance_dropout"]
        return {
            "posterior": DuPosterior(self, context.latent_dim, masks),
            "extra_metrics": (NormalisationMetrics(),),
        }

    def settled_epoch(self, context: ConfigContext) -> int:
        """Return the first epoch that is trained with floor and dropout throughout, as far as the curve shows it."""
        scheduled = [other for other in context.filling("kl_weight") if other.final_kl_weight >= FULL_WEIGHT]
        if self.regularise_from == "start" or not scheduled:
            return 1
        full = (number for number, epoch in enumerate(context.curve) if (epoch["kl_weight"] or 0) >= FULL_WEIGHT)
        return next(full, context.epochs - 1) + 2

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.NORMALISES_MEANS):
            if other.kind != self.kind:
                yield Incompatibility(
                    "E03",
                    f"{other.kind} and du_vae both normalise the posterior means over the batch; remove "
                    f"{other.kind} or du_vae",
                )
        for other in context.with_trait(Trait.SCALES_MEANS):
            yield Incompatibility(
                "E03",
                "du_vae already sets the standard deviations of the posterior means, which the scale factors of "
                f"{other.kind} would undo; remove du_vae or {other.kind}",
            )
        yield from needs_batch_statistics("du_vae", "min_batch", self.min_batch, context)
        if self.dropout > 0 and self.delta_rate == 0:
            yield Incompatibility(
                "E-RANGE",
                f"du_vae.delta_rate must be greater than 0 with du_vae.dropout = {self.dropout}, because otherwise "
                "dropped variances are 0 and the KL is infinite; raise du_vae.delta_rate or set du_vae.dropout = 0",
            )

    def result_warnings(self, metrics: Mapping[str, Any]) -> Iterator[ConfigWarning]:
        yield from super().result_warnings(metrics)
        yield from weak_normalisation("du_vae", self.epsilon, metrics)

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        for other in context.strategies:
            if other.final_kl_weight < FULL_WEIGHT and self.regularise_from == "full_weight":
                yield ConfigWarning(
                    None,
                    f"du_vae: the KL weight of {other.kind} ends at {other.final_kl_weight} and never reaches 1, so "
                    "the floor and the dropout of the variances never begin; set du_vae.regularise_from = start to "
                    "enable them.",
                )


class DuPosterior(Posterior):
    """N(gamma_d * normalised mu + beta, dropped variance + floor).

    The logarithm of the floor is a buffer, so that the stored model weights of an epoch include the floor of that
    epoch; it is -inf before the floor begins. Whether the floor has begun is part of the training progress, which is
    not reset when earlier weights are restored.
    """

    gamma: Tensor
    log_floor: Tensor

    def __init__(self, config: DuVae, latent_dim: int, masks: torch.Generator) -> None:
        super().__init__()
        self._config, self._masks = config, masks
        self.normalise = MeanNormalisation(latent_dim, config.epsilon, config.momentum)
        if config.learn_gamma:
            self.gamma = nn.Parameter(torch.full((latent_dim,), config.gamma))
        self.beta = nn.Parameter(torch.zeros(latent_dim))
        self.register_buffer("log_floor", torch.tensor(-math.inf))
        self._begun = False
        if config.regularise_from == "start":
            self._begin()

    def forward(self, encoded: Gaussian) -> Inference:
        wide = encoded.at_least_float32()
        mean = self._stds() * self.normalise(wide.mean_BZ) + self.beta
        return Inference.plain(Gaussian(mean, self._floored(wide.logvar_BZ)))

    def _stds(self) -> Tensor | float:
        """Return the standard deviation of each dimension. Training also rescales the stored values against drift."""
        if not self._config.learn_gamma:
            return self._config.gamma
        factor = self._config.gamma / self.gamma.detach().square().mean().sqrt()
        if not self.training:
            return self.gamma * factor
        with torch.no_grad():
            self.gamma.mul_(factor)
        return self.gamma.clone()

    def _floored(self, logvar_BZ: Tensor) -> Tensor:
        """Return log(dropped variance + floor); without floor and dropout this is `logvar_BZ`, bit for bit."""
        rate = self._config.dropout
        if self.training and self._begun and rate > 0:
            draws = torch.rand(logvar_BZ.shape, generator=self._masks, device=logvar_BZ.device)
            logvar_BZ = (logvar_BZ - math.log1p(-rate)).masked_fill(draws < rate, -math.inf)
        return torch.logaddexp(logvar_BZ, self.log_floor)

    def _begin(self) -> None:
        rate = self._config.delta_rate
        self._begun = True
        self.log_floor.fill_(math.log(rate / (2.0 * math.pi * math.e)) if rate > 0 else -math.inf)

    def start(self, encoder: nn.Module) -> None:
        start_by_default(encoder)

    def accepts(self, batch_size: int) -> bool:
        return batch_size >= self._config.min_batch

    def before_step(self, weight: float) -> None:
        if self._begun or weight >= FULL_WEIGHT:
            self._begin()

    def progress(self) -> dict[str, Any]:
        return {"begun": self._begun}

    def load_progress(self, state: dict[str, Any]) -> None:
        self._begun = state["begun"]
