"""Another dropout on the decoder's embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.models.decoder import RowDropout, UnitDropout
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy, text_only

__all__ = ["EmbeddingDropout"]


class EmbeddingDropout(Strategy):
    """In training the embeddings that the decoder reads are dropped at `rate`, in place of `model.dropout_in`.

    Source: the blog post "Posterior collapse and the strong generator problem", section 4.1, which found no benefit;
    Gal & Ghahramani 2016 for whole rows. What is kept is divided by 1 - rate, so that its mean stays; evaluation drops
    nothing. `scope` says what has a draw of its own: `unit`, each unit of each token read; `row`, each word of the
    vocabulary in each pass of the decoder, so that a dropped word is missing wherever it stands in the batch.

    The base recipe (He et al. 2019) has dropout of scope `unit` at a rate of 0.5 already. Hence this strategy replaces
    `model.dropout_in` and does not stack on it: with the same rate and scope `unit` it is the plain VAE.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"input_dropout"})
    paper: ClassVar[str] = (
        "Gal & Ghahramani 2016, A Theoretically Grounded Application of Dropout in Recurrent Networks"
    )
    latent: ClassVar[bool] = False

    kind: Literal["embedding_dropout"] = "embedding_dropout"
    rate: Annotated[float, Field(ge=0, lt=1, description="share of units or rows dropped"), Tunable(0.1, 0.8)] = 0.5
    scope: Annotated[Literal["unit", "row"], Field(description="what is dropped as a whole")] = "unit"

    def build(self, context: BuildContext) -> dict[str, Any]:
        dropout = UnitDropout if self.scope == "unit" else RowDropout
        return {"input_dropout": dropout(self.rate)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from text_only("embedding_dropout", context)

    def warnings(self, context: ConfigContext) -> Iterator[str]:
        model = context.token_model
        chosen, usual = model.dropout_in, type(model).model_fields["dropout_in"].default
        if chosen != usual and (chosen, "unit") != (self.rate, self.scope):
            yield (
                f"embedding_dropout drops {self.scope}s at a rate of {self.rate} in place of model.dropout_in = "
                f"{chosen}, which has no effect."
            )
