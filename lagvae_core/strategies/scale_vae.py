"""Posterior means that are scaled to a target spread before they enter the decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.columns import Column
from lagvae_core.metrics.active_units import active_units
from lagvae_core.metrics.encoding import EncodedSplit
from lagvae_core.metrics.information import mutual_information
from lagvae_core.metrics.likelihood import LogWeight
from lagvae_core.models.gaussian import Draw, Gaussian, Inference, NormalPrior, Prior
from lagvae_core.models.normalisation import start_by_default
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import AddedField, Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, needs_batch_statistics
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait
from lagvae_core.strategies.slots import ExtraMetrics, Measurement

__all__ = ["ScalePosterior", "ScaleVae"]


class ScaleVae(Strategy):
    """The decoder reads u = f * mu + sigma * eps, where f scales the means of a batch to standard deviation `des_std`.

    Source: Song et al. 2024, Scale-VAE, Algorithm 1. In the first `f_epo` epochs f is computed from the batch as
    des_std / std(mu); in later epochs f is f_bar, the average of the f recorded in the previous epoch. The KL in the
    objective is that of the *unscaled* N(mu, sigma^2), so the training objective is not a bound on log p(x); see
    docs/results.md. The default columns measure the generator that the paper samples from: u ~ N(0, f_bar^2), with
    proposal N(f_bar * mu, sigma^2).

    Departures. Batches smaller than `min_f_batch` do not use or record an f of their own, because small batches
    dominate the mean of 1 / std, which is 13 % too high at batch size 8 and infinite at 2. In the first `f_epo` epochs
    these batches use the average of the f recorded so far in the epoch, and are skipped until one has been recorded.
    With `f_average` `pooled`, f_bar is des_std divided by the pooled standard deviation instead of the paper's
    `arithmetic` mean of f. With `objective` `valid`, the KL is that of the scaled posterior to N(0, f^2), which makes
    the objective a bound. `detach_f` stops the gradient through the standard deviation of the batch (the paper does not
    stop it). Only outer updates (steps on the main objective) record f. The standard deviation of a batch is at least
    `std_floor`, so that f is at most des_std / std_floor; the column `f_at_bound` and a warning (W9) show when f has
    reached this bound.

    The paper does not describe the start of the encoder. With `start` `default`, all its weights, embeddings included,
    have PyTorch's default initialisation, as in the code of BN-VAE, whose options are the baselines of the paper. With
    `model` they have that of the model. For the LSTM this is U(-0.01, 0.01), where the means of a batch differ by only
    about 1e-5: f is then tens of thousands and grows until it reaches its bound, at a learning rate of 1.0 as well as
    0.5. A learning rate of 1.0 makes f run away from PyTorch's start, too; the code of BN-VAE uses 0.5
    (docs/measurements.md compares both).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior", "extra_metrics"})
    paper: ClassVar[str] = "Song et al. 2024, Scale-VAE: Preventing Posterior Collapse, Algorithm 1"
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "nll_iw_unit",
            "float",
            "NLL of the generator u ~ N(0, I), same samples [nats]; valid, for a different model",
        ),
        Column(
            "nll_iw_mm",
            "float",
            "NLL of the generator u ~ moment-matched N(m, s^2) [nats]; valid, for a different model",
        ),
        Column(
            "nll_iw_paper",
            "float",
            "mixed weights of the paper's protocol [nats]; a likelihood only with objective valid",
        ),
        Column(
            "nll_elbo_paper",
            "float",
            "rec + kl_train [nats], the negative objective; a bound only with objective valid",
        ),
        Column("mi_q", "float", "MI under the posterior of kl_train, whole split [nats]; at most kl_train"),
        Column("au_hat", "int", "units whose scaled mean has variance >= 0.01; all units by construction"),
        Column(
            "std_fmu_split",
            "floats",
            "standard deviation of f_bar * mu over the split, by dimension; compare with des_std",
        ),
        Column("f_bar_median", "float", "median of f_bar over dimensions"),
        Column(
            "f_at_bound",
            "int",
            "dimensions whose f_bar is at least half of des_std / std_floor, its upper bound: their means do not vary, "
            "and kl follows from std_floor alone",
        ),
    )
    traits: ClassVar[frozenset[Trait]] = frozenset(
        {Trait.BATCH_STATISTICS, Trait.SCALES_MEANS, Trait.UNTESTED_WITH_INNER_LOOP}
    )

    kind: Literal["scale_vae"] = "scale_vae"
    des_std: Annotated[
        float, Field(gt=0, description="target standard deviation of the scaled means"), Tunable(0.3, 1.5)
    ] = 0.7
    f_epo: Annotated[
        int, Field(ge=1, description="number of initial epochs that use the factor of the batch"), Tunable(1, 7)
    ] = 1
    f_average: Annotated[Literal["arithmetic", "pooled"], Field(description="how f is averaged to f_bar")] = (
        "arithmetic"
    )
    min_f_batch: Annotated[int, Field(ge=2, description="smallest batch that is scaled by its own factor")] = 8
    std_floor: Annotated[
        float, Field(gt=0, description="lower bound on the standard deviation of the means of a batch")
    ] = 1e-6
    detach_f: Annotated[bool, Field(description="whether gradients through the factor of the batch are stopped")] = (
        False
    )
    objective: Annotated[
        Literal["paper", "valid"],
        Field(description="KL in the objective: of the unscaled posterior, or of the scaled posterior to N(0, f^2)"),
    ] = "paper"
    start: Annotated[
        Literal["default", "model"],
        Field(description="initial weights of the encoder: PyTorch's defaults, or those of the model"),
        AddedField(before="model"),
    ] = "default"

    def build(self, context: BuildContext) -> dict[str, Any]:
        posterior = ScalePosterior(self, context.latent_dim)
        return {"posterior": posterior, "extra_metrics": (_PaperMetrics(self.des_std / self.std_floor),)}

    def settled_epoch(self, context: ConfigContext) -> int:
        """Return the first epoch with the factor f_bar."""
        return min(self.f_epo, context.epochs) + 1

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        yield from needs_batch_statistics("scale_vae", "min_f_batch", self.min_f_batch, context)
        for other in context.strategies:
            if "prior" in other.slots and "posterior" not in other.slots:
                yield Incompatibility(
                    "E08",
                    f"scale_vae is defined only for the prior N(0, I), which {other.kind} replaces; remove scale_vae "
                    f"or {other.kind}",
                )

    def result_warnings(self, metrics: Mapping[str, Any]) -> Iterator[ConfigWarning]:
        yield from super().result_warnings(metrics)
        if count := metrics.get("f_at_bound"):
            yield ConfigWarning(
                "W9",
                f"scale_vae: the factor of {count} dimensions has reached its bound des_std / std_floor = "
                f"{self.des_std / self.std_floor:g}, so their means have collapsed, and nll_iw and kl depend on "
                "scale_vae.std_floor; set scale_vae.start = default and a lower training.learning_rate, such as 0.5.",
            )


class ScalePosterior(Posterior):
    """u ~ N(f * mu, sigma^2), with the KL of N(mu, sigma^2). `f_bar` is a buffer, so it is stored with the weights."""

    f_bar: Tensor

    def __init__(self, config: ScaleVae, latent_dim: int) -> None:
        super().__init__()
        self._config = config
        self.register_buffer("f_bar", torch.ones(latent_dim))
        self._epoch = 1
        self._sum = torch.zeros(latent_dim)
        self._count = 0
        self._last: Tensor | None = None

    def forward(self, encoded: Gaussian) -> Inference:
        mean, logvar = encoded.mean_BZ, encoded.logvar_BZ
        f = self._training_factor(mean) if self.training else self.f_bar
        q = Gaussian(f * mean, logvar)
        if self._config.objective == "valid":
            return Inference(q, Gaussian(mean, logvar - 2.0 * f.log()))
        return Inference(q, encoded)

    def _training_factor(self, mean_BZ: Tensor) -> Tensor:
        config = self._config
        batch_factor = None
        if len(mean_BZ) >= config.min_f_batch:
            batch_factor = config.des_std / mean_BZ.std(0, correction=1).clamp(min=config.std_floor)
        self._last = None if batch_factor is None else batch_factor.detach()
        if self._epoch > config.f_epo:
            return self.f_bar
        if batch_factor is None:
            return self._average()
        return batch_factor.detach() if config.detach_f else batch_factor

    def _average(self) -> Tensor:
        assert self._count > 0, "a small batch before any factor was recorded; check accepts() first"
        mean = (self._sum / self._count).to(self.f_bar)
        return mean if self._config.f_average == "arithmetic" else self._config.des_std / mean.sqrt()

    def accepts(self, batch_size: int) -> bool:
        no_factor = batch_size < self._config.min_f_batch and self._count == 0
        return not (no_factor and self._epoch <= self._config.f_epo)

    def after_step(self) -> None:
        if self._last is None:
            return
        arithmetic = self._config.f_average == "arithmetic"
        term = self._last if arithmetic else (self._config.des_std / self._last).square()
        self._sum = self._sum.to(term) + term
        self._count += 1
        self._last = None

    def after_epoch(self) -> None:
        if self._count:
            self.f_bar.copy_(self._average())
        self._sum = torch.zeros_like(self._sum)
        self._count = 0
        self._epoch += 1

    def start(self, encoder: nn.Module) -> None:
        if self._config.start == "default":
            start_by_default(encoder)

    def generative_prior(self, prior: Prior) -> Prior:
        return NormalPrior(self.f_bar)

    def progress(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "sum": self._sum.cpu(), "count": self._count}

    def load_progress(self, state: dict[str, Any]) -> None:
        self._epoch, self._count = state["epoch"], state["count"]
        self._sum = state["sum"].clone()


class _PaperMetrics(ExtraMetrics):
    """Columns computed by the paper's protocol, and valid likelihoods of two related generators.

    Args:
        bound: Upper bound of the factor f.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def log_weights(self, encoded_train: Callable[[], EncodedSplit]) -> dict[str, LogWeight]:
        unit = NormalPrior()
        train = encoded_train()
        mean_NZ, variance_Z = train.q.base.mean_BZ, train.q.base.logvar_BZ.exp().mean(0)
        centre, matched = mean_NZ.mean(0), NormalPrior((mean_NZ.var(0) + variance_Z).sqrt())

        def under(generator: Callable[[Tensor], Tensor]) -> LogWeight:
            return lambda inference, draw: generator(draw.z_BSZ) - draw.log_q().sum(-1)

        def mixed(inference: Inference, draw: Draw) -> Tensor:
            z = inference.kl_posterior.draw(draw.noise_BSZ)
            return unit.log_prob(z.z_BSZ) - z.log_q().sum(-1)

        return {
            "nll_iw_unit": under(unit.log_prob),
            "nll_iw_mm": under(lambda u: matched.log_prob(u - centre.to(u))),
            "nll_iw_paper": mixed,
        }

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        encoded, posterior = measurement.encoded, measurement.model.posterior
        assert isinstance(posterior, ScalePosterior)
        return {
            "nll_elbo_paper": float((encoded.rec_N + encoded.kl_train_N).mean()),
            "mi_q": mutual_information(encoded.kl_posterior.base, encoded.noise_NZ).value,
            "au_hat": active_units(encoded.mean_NZ).count,
            "std_fmu_split": encoded.mean_NZ.std(0).tolist(),
            "f_bar_median": float(posterior.f_bar.median()),
            "f_at_bound": int((posterior.f_bar >= 0.5 * self._bound).sum()),
        }
