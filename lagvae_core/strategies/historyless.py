"""A decoder that does not read the previous words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["Historyless"]


class Historyless(Strategy):
    """The decoder never reads previous words, so only z can explain what the words of a sentence have in common.

    Source: Semeniuta et al. 2017; the blog post "Posterior collapse and the strong generator problem".

    p(x|z) = prod_t p(x_t | z, t) over the words and the final `</s>`: given z the words are independent, and the only
    task of the LSTM is to count positions. `variant` selects what the decoder reads instead of words: `unk`, the
    embedding of `<unk>` at every step including the first; `notoken`, one learned vector, in a decoder without word
    embeddings. `model.dropout_in` applies to both inputs as it does to embeddings. Both variants define the same family
    of distributions.

    Unlike a corruption of the training input, this is part of the model: evaluation and sampling use the same decoder
    as training, so p(x|z) is a proper density. Although z is the only source of information, training does not
    necessarily learn to use z: while inference lags, as it does with SGD and the small initial weights of
    `model.init_range`, z carries as little information as with the plain decoder. Expect a far worse `nll_iw` if z has
    too few dimensions to replace the previous words.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"past"})
    paper: ClassVar[str] = "Semeniuta et al. 2017, A Hybrid Convolutional Variational Autoencoder for Text Generation"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.TEXT_ONLY, Trait.WORKS_WITHOUT_Z})

    kind: Literal["historyless"] = "historyless"
    variant: Annotated[
        Literal["unk", "notoken"],
        Field(description="input of the decoder instead of words: `<unk>`, or a learned vector"),
        Tunable(choices=("unk", "notoken")),
    ] = "unk"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"past": "unknown" if self.variant == "unk" else "absent"}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.strategies:
            if "corrupt" in other.slots:
                yield Incompatibility(
                    "E09",
                    f"historyless has a decoder that reads no words, so {other.kind} has no words to drop; remove "
                    f"historyless or {other.kind}",
                )
            elif other.has(Trait.BOUNDED_RECEPTIVE_FIELD):
                yield Incompatibility(
                    "E09",
                    f"historyless removes the previous words that the decoder of {other.kind} reads, and without them "
                    f"convolutions cannot distinguish positions; remove {other.kind}, or remove historyless and "
                    f"shorten the receptive field of {other.kind}",
                )
