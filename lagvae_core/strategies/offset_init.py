"""A start away from the origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from lagvae_core.models.lstm import start_between
from lagvae_core.models.model_config import TokenModel
from lagvae_core.models.normalisation import start_by_default
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy, without_effect
from lagvae_core.strategies.slots import Side

__all__ = ["OffsetInit"]

LARGEST_START = 10.0
"""Of a log-variance, beyond which the warning is due: a KL of 11,000 nats in its dimension."""


class OffsetInit(Strategy):
    """Parameters start positive, so that every posterior mean starts positive, nearly equal and away from the origin.

    Source: He et al. 2019, Appendix G: weights from U(low, high), embeddings from U(embedding_low, embedding_high), in
    place of intervals around 0. The basic VAE returns to the origin from there and collapses; with aggressive training
    it does not. `scope` `all` is encoder and decoder, `encoder` the first alone; what other strategies add to the model
    keeps its start. With the intervals of the model, -init_range to init_range and likewise for the embeddings, it is
    the plain VAE.

    - The paper's intervals are U(0.04, 0.06) and U(0, 0.2) as we remember them; the defaults are these.
    - On images every parameter is a weight, those of batch normalisation too.
    - Log-variances start as large as the means. The paper has 50 hidden units; with many more, narrow the intervals.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"initialise"})
    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Appendix G"
    latent: ClassVar[bool] = False

    kind: Literal["offset_init"] = "offset_init"
    low: Annotated[float, Field(description="lower end of the start of all weights")] = 0.04
    high: Annotated[float, Field(description="upper end of the start of all weights"), Tunable(0.05, 0.1)] = 0.06
    embedding_low: Annotated[float, Field(description="lower end of the start of embeddings")] = 0.0
    embedding_high: Annotated[float, Field(description="upper end of the start of embeddings")] = 0.2
    scope: Annotated[Literal["encoder", "all"], Field(description="what starts so")] = "all"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"initialise": self.initialise}

    def initialise(self, module: nn.Module, side: Side) -> None:
        """Start `module` anew, by the draws of a model's own start: each layer's default first, then uniform ones."""
        if side == "encoder" or self.scope == "all":
            start_by_default(module)
            start_between(module, (self.low, self.high), (self.embedding_low, self.embedding_high))

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if context.data_kind == "images":
            yield from without_effect(self, "on images", "embedding_low", "embedding_high")
        for name, low, high in (("", self.low, self.high), ("embedding_", self.embedding_low, self.embedding_high)):
            if low >= high:
                yield Incompatibility(
                    "E-RANGE", f"offset_init: {name}low < {name}high must hold, but got {low} and {high}; exchange them"
                )

    def warnings(self, context: ConfigContext) -> Iterator[str]:
        summed = context.model.hidden if isinstance(context.model, TokenModel) else 0
        start = summed * (self.low + self.high) / 2
        if start > LARGEST_START:
            yield (
                f"offset_init: log-variances may start near model.hidden * (low + high) / 2 = {start:g}, their KL near "
                "the exponential of that; lower offset_init.low and offset_init.high."
            )
        for other in context.strategies:
            if other.kind in {"bn_vae", "du_vae"}:
                yield (
                    f"offset_init replaces the start that {other.kind} gives the encoder: means that start nearly "
                    "equal are divided by the root of epsilon rather than by their deviation."
                )
