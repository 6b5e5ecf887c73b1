"""Initial parameters away from the origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from lagvae_core.models.lstm import start_between
from lagvae_core.models.model_config import TokenModel
from lagvae_core.models.normalisation import start_by_default
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, without_effect
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait
from lagvae_core.strategies.slots import Side

__all__ = ["OffsetInit"]

MAX_INITIAL_LOGVAR = 10.0
"""Initial log-variance above which a warning is given; at this value the KL of a dimension is 11,000 nats."""


class OffsetInit(Strategy):
    """All parameters start positive, so that the posterior means start nearly equal and away from the origin.

    Source: He et al. 2019, Appendix G: weights from U(low, high) and embeddings from U(embedding_low, embedding_high)
    instead of intervals around 0. From this start the basic VAE returns to the origin and collapses; with aggressive
    training it does not. `scope` `all` initialises encoder and decoder in this way, and `encoder` only the encoder;
    parameters that other strategies add to the model keep their own initial values. With the intervals of the plain
    model, -init_range to init_range and the corresponding interval for the embeddings, this is the plain VAE.

    - The defaults are the paper's intervals, U(0.04, 0.06) and U(0, 0.2), as recalled from memory.
    - For images and vectors, every parameter is drawn from U(low, high), including those of batch normalisation.
    - Log-variances start as large as the means, and both grow with the number of hidden units. The paper has 50 units;
      with many more, choose smaller `low` and `high`.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"initialise"})
    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Appendix G"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.WORKS_WITHOUT_Z})

    kind: Literal["offset_init"] = "offset_init"
    low: Annotated[float, Field(description="lower bound of the initial weights")] = 0.04
    high: Annotated[float, Field(description="upper bound of the initial weights"), Tunable(0.05, 0.1)] = 0.06
    embedding_low: Annotated[float, Field(description="lower bound of the initial embeddings")] = 0.0
    embedding_high: Annotated[float, Field(description="upper bound of the initial embeddings")] = 0.2
    scope: Annotated[Literal["encoder", "all"], Field(description="modules that are initialised in this way")] = "all"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"initialise": self.initialise}

    def initialise(self, module: nn.Module, side: Side) -> None:
        """Initialise `module` again with the draws of the model's own initialisation: layer defaults, then uniform."""
        if side == "encoder" or self.scope == "all":
            start_by_default(module)
            start_between(module, (self.low, self.high), (self.embedding_low, self.embedding_high))

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if context.unit != "word":
            yield from without_effect(self, f"on {context.data_kind} data", "embedding_low", "embedding_high")
        for name, low, high in (("", self.low, self.high), ("embedding_", self.embedding_low, self.embedding_high)):
            if low >= high:
                yield Incompatibility(
                    "E-RANGE",
                    f"offset_init.{name}low must be less than offset_init.{name}high, but {low} >= {high}; lower "
                    f"{name}low or raise {name}high",
                )

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        inputs = context.model.state_size if isinstance(context.model, TokenModel) else 0
        start = inputs * (self.low + self.high) / 2
        if start > MAX_INITIAL_LOGVAR:
            yield ConfigWarning(
                None,
                f"offset_init: initial log-variances can be near model.hidden * (low + high) / 2 = {start:g}, and the "
                "initial KL grows exponentially with them; lower offset_init.low and offset_init.high.",
            )
        for other in context.with_trait(Trait.NORMALISES_MEANS):
            yield ConfigWarning(
                None,
                f"offset_init replaces the initial encoder weights of {other.kind}, so the posterior means start "
                f"nearly equal, with a variance far below {other.kind}.epsilon, and the normalisation cannot spread "
                "them to the intended standard deviation at first; remove offset_init unless this is intended.",
            )
