"""A posterior that an inverse autoregressive flow bends away from a Gaussian."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.metrics.active_units import active_units
from lagvae_core.models.flows import Flow, FlowProposal, Gated
from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy
from lagvae_core.strategies.slots import ExtraMetrics, Measurement

__all__ = ["IafPosterior", "InverseFlow"]


class IafPosterior(Strategy):
    """The posterior is a diagonal Gaussian carried through an inverse autoregressive flow.

    Source: Kingma et al. 2016, section 4 and equations 11 to 14; constants of the published code of Shen et al. 2021.

    z = flow(mean + sigma * eps), `depth` steps of z' = g z + (1 - g) m, where g = sigmoid(s + 2), and m and s at d are
    functions of the dimensions before d and of a context; the steps read the dimensions in turn from either end.
    log q(z|x) is the log-density of the Gaussian less the sum of log g, and is cheap at the flow's own samples alone.
    The KL is by Monte Carlo at the sample that is decoded, and in evaluation at 100; its terms by dimension add up to
    it, but each may be negative. `depth` 0 is the plain VAE with that KL. The flow learns with the encoder.

    E[z|x] comes from 100 samples, whose error is taken off in `au`. `mi_batch` needs q(z|x_j) at foreign z, an
    inversion one dimension at a time, and is taken over 512 examples; `mi`, over all pairs, is not measured. The mutual
    information of the Gaussian before the flow would be another number.

    Departures. The context is the encoder's mean and log-variance; the code has further outputs of the encoder for it.
    sigma is exp(logvar / 2), as in every other posterior here, where the code has a softplus. Each step there reverses
    the dimensions themselves, which mixes up the terms by dimension that free bits compare; here dimension d stays
    dimension d. Nor does the context reach the first dimension there. The hidden layers there are 60 units a latent
    dimension, here 16 by default, and what the networks give is divided by the root of that width (see af_prior).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior", "extra_metrics"})
    paper: ClassVar[str] = "Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("au_base", "int", "units whose mean before the flow has variance >= 0.01; what published code counts"),
    )
    unmeasured: ClassVar[frozenset[str]] = frozenset({"mi", "mi_se", "mi_cap", "kl_agg", "valid_mi"})

    kind: Literal["iaf_posterior"] = "iaf_posterior"
    depth: Annotated[int, Field(ge=0, description="steps of the flow"), Tunable(1, 4)] = 2
    width: Annotated[int | None, Field(ge=1, description="units of a hidden layer; null: 16 a latent dimension")] = None

    def build(self, context: BuildContext) -> dict[str, Any]:
        size = context.latent_dim
        flow = Flow(Gated, self.depth, size, self.width or 16 * size, context=2 * size)
        return {"posterior": InverseFlow(flow), "extra_metrics": (_BaseUnits(),)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if other.kind == "agg_kl":
                yield Incompatibility(
                    "E14",
                    "agg_kl needs q(z|x) at the samples of other examples, which under iaf_posterior costs an "
                    "inversion for each pair; remove one of the two",
                )
        if self.depth == 0 and self.width is not None:
            yield Incompatibility("E18", "iaf_posterior.width is an unused option with depth = 0; leave it out")


class InverseFlow(Posterior):
    """The encoder's Gaussian, carried through the flow."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, encoded: Gaussian) -> Inference:
        return Inference.plain(FlowProposal(encoded, self.flow))


class _BaseUnits(ExtraMetrics):
    """Active units of the means before the flow."""

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        return {"au_base": active_units(measurement.encoded.q.base.mean_BZ).count}
