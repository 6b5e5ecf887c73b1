"""A Gaussian posterior transformed by an inverse autoregressive flow."""

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
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import ExtraMetrics, Measurement

__all__ = ["IafPosterior", "InverseFlow"]


class IafPosterior(Strategy):
    """The posterior is a diagonal Gaussian transformed by an inverse autoregressive flow.

    Source: Kingma et al. 2016, section 4 and equations 11 to 14. The constants are from the code of Shen et al. 2021.

    z = flow(mean + sigma * eps). The flow has `depth` steps z' = g z + (1 - g) m with g = sigmoid(s + 2), where m and s
    at dimension d are functions of the dimensions before d and of a context. Successive steps read the dimensions in
    opposite orders. log q(z|x) is the log-density of the Gaussian minus the sum of log g; it is cheap to compute only
    at samples drawn through the flow itself. The KL is estimated by Monte Carlo, in training at the decoded sample and
    in evaluation at 100 samples. The KL is the sum of one term per dimension, each of which can be negative. `depth` 0
    is the plain VAE with a KL estimated in this way. The parameters of the flow are trained with the encoder.

    E[z|x] is estimated by the mean of 100 samples; `au` is corrected for the sampling error of this mean. `mi_batch`
    needs q(z|x_j) at samples of other examples, which requires inverting the flow one dimension at a time, and is
    therefore computed on 512 examples. `mi`, which is computed over all pairs of examples, is not measured; the mutual
    information of the Gaussian before the flow would be a different quantity.

    Departures. The context is the encoder's mean and log-variance; the code has additional encoder outputs for the
    context. sigma is exp(logvar / 2), as in all other posteriors of this package; the code uses a softplus. In the code
    each step reverses the dimensions themselves, which mixes the KL terms of the dimensions that free bits compare; in
    this implementation the dimensions keep their positions. In the code the context does not affect the first
    dimension; in this implementation it does. The hidden layers have 60 units per latent dimension in the code and by
    default 16 in this implementation, which also divides the outputs of the networks by the square root of the layer
    width (see af_prior).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior", "extra_metrics"})
    paper: ClassVar[str] = "Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("au_base", "int", "units whose mean before the flow has variance >= 0.01, as in the published code"),
    )
    unmeasured: ClassVar[frozenset[str]] = frozenset({"mi", "mi_se", "mi_cap", "kl_agg", "valid_mi"})
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.FLOW_POSTERIOR, Trait.KL_SAMPLED})

    kind: Literal["iaf_posterior"] = "iaf_posterior"
    depth: Annotated[int, Field(ge=0, description="number of steps of the flow"), Tunable(1, 4)] = 2
    width: Annotated[int | None, Field(ge=1, description="units of a hidden layer; null: 16 per latent dimension")] = (
        None
    )

    def build(self, context: BuildContext) -> dict[str, Any]:
        size = context.latent_dim
        flow = Flow(Gated, self.depth, size, self.width or 16 * size, context=2 * size)
        return {"posterior": InverseFlow(flow), "extra_metrics": (_BaseUnits(),)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.depth == 0 and self.width is not None:
            yield Incompatibility("E18", "iaf_posterior.width has no effect with depth = 0; leave it out")


class InverseFlow(Posterior):
    """The encoder's Gaussian, transformed by the flow."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, encoded: Gaussian) -> Inference:
        return Inference.plain(FlowProposal(encoded, self.flow))


class _BaseUnits(ExtraMetrics):
    """`au_base`: active units of the means before the flow."""

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        return {"au_base": active_units(measurement.encoded.q.base.mean_BZ).count}
