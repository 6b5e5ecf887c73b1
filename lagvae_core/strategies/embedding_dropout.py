"""Dropout on the decoder's input embeddings that replaces `model.dropout_in`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.models.decoder import RowDropout, UnitDropout
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import ConfigWarning, Trait

__all__ = ["EmbeddingDropout"]


class EmbeddingDropout(Strategy):
    """In training, the embeddings that the decoder reads are dropped at `rate` instead of at `model.dropout_in`.

    Source: the blog post "Posterior collapse and the strong generator problem", section 4.1, which found no benefit;
    Gal & Ghahramani 2016 for whole rows. The remaining values are divided by 1 - rate, so that the mean is unchanged;
    evaluation drops nothing. `scope` selects what is dropped. `unit`: each unit of the embedding of each input token is
    dropped independently. `row`: whole words of the vocabulary are dropped; they are drawn once per pass of the
    decoder, so that a dropped word is missing at all its positions in the batch.

    The base recipe (He et al. 2019) already has dropout of scope `unit` at a rate of 0.5. Hence the dropout of this
    strategy replaces `model.dropout_in` instead of being added to it: with the same rate and scope `unit`, training is
    the same as for the plain VAE.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"input_dropout"})
    paper: ClassVar[str] = (
        "Gal & Ghahramani 2016, A Theoretically Grounded Application of Dropout in Recurrent Networks"
    )
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.TEXT_ONLY, Trait.WORKS_WITHOUT_Z})

    kind: Literal["embedding_dropout"] = "embedding_dropout"
    rate: Annotated[
        float, Field(ge=0, lt=1, description="probability that a unit or row is dropped"), Tunable(0.1, 0.8)
    ] = 0.5
    scope: Annotated[
        Literal["unit", "row"], Field(description="what is dropped: single units of embeddings, or whole rows (words)")
    ] = "unit"

    @property
    def dropout_rates(self) -> Mapping[str, float]:
        return {"dropout_in": self.rate}

    def build(self, context: BuildContext) -> dict[str, Any]:
        dropout = UnitDropout if self.scope == "unit" else RowDropout
        return {"input_dropout": dropout(self.rate)}

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        model = context.token_model
        replaced, default = model.dropout_in, type(model).model_fields["dropout_in"].default
        if replaced != default and (replaced, "unit") != (self.rate, self.scope):
            yield ConfigWarning(
                None,
                f"embedding_dropout drops {self.scope}s at a rate of {self.rate} and replaces model.dropout_in = "
                f"{replaced}, which has no effect; leave model.dropout_in out.",
            )
