"""A decoder whose view of the past is bounded by construction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from lagvae_core.data import TextDomain
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.dilated_cnn import DilatedCnn
from lagvae_core.models.lstm import LstmModel
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy, lstm_only, text_only

__all__ = ["SIZES", "CnnDecoder"]

Dilation = Annotated[int, Field(ge=1)]

SIZES: dict[str, tuple[int, ...]] = {
    "scnn": (1, 2, 4),
    "mcnn": (1, 2, 4, 8, 16),
    "lcnn": 2 * (1, 2, 4, 8, 16),
    "vlcnn": 3 * (1, 2, 4, 8, 16),
}
"""The dilations of the published sizes."""


class CnnDecoder(Strategy):
    """The decoder is a stack of dilated causal convolutions, which sees the last words only and needs z for the rest.

    Source: Yang et al. 2017; sizes and layers as recalled, the paper was not re-read.

    x = 1x1([embedding; z]) at each position, then for each dilation x + 1x1(relu(convolution(relu(1x1(x))))), then
    dropout and the output layer. The decoder sees the last 1 + (kernel - 1) * sum(dilations) words: `scnn` 15, `mcnn`
    63, `lcnn` 125, `vlcnn` 187. A sentence shorter than that is seen whole, and then nothing asks for z. With `size`
    null, `dilations` are one's own; `kernel` 1 sees one word.

    - Channels between and within the blocks are `channels`, by default `model.hidden`; 512 is the size recalled.
    - `dropout` falls on what a block adds and not on the sum, because after 5 to 15 halvings nothing is left of what
      entered: tried so, `mcnn` hardly learned and `vlcnn` diverged. `model.dropout_in` holds for the embeddings,
      `model.dropout_out` for what the output layer reads.
    - The layers start as torch's do, embeddings as `model.init_embedding` says. From `model.init_range` what the blocks
      add would be next to nothing for long.
    - z enters at the first layer; `skip_vae` brings it to every block and to the output.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"decoder"})
    paper: ClassVar[str] = (
        "Yang et al. 2017, Improved Variational Autoencoders for Text Modeling using Dilated Convolutions"
    )
    latent: ClassVar[bool] = False

    kind: Literal["cnn_decoder"] = "cnn_decoder"
    size: Annotated[
        Literal["scnn", "mcnn", "lcnn", "vlcnn"] | None,
        Field(description="a published size; null: `dilations` says it"),
        Tunable(choices=tuple(SIZES)),
    ] = "mcnn"
    dilations: Annotated[
        tuple[Dilation, ...] | None, Field(min_length=1, description="one block for each; with `size` null")
    ] = None
    kernel: Annotated[int, Field(ge=1, description="words that a convolution reads at once")] = 3
    channels: Annotated[int | None, Field(ge=1, description="of all blocks; null: model.hidden")] = None
    dropout: Annotated[float, Field(ge=0, lt=1, description="on what each block adds")] = 0.5

    @property
    def stack(self) -> tuple[int, ...]:
        """The dilation of each block."""
        return self.dilations or SIZES[str(self.size)]

    def build(self, context: BuildContext) -> dict[str, Any]:
        channels = self.channels or context.token_model.hidden

        def decoder(
            model: LstmModel, domain: TextDomain, stream: torch.Generator, options: DecoderOptions
        ) -> DilatedCnn:
            return DilatedCnn(
                model,
                domain.vocabulary,
                stream,
                options,
                dilations=self.stack,
                kernel=self.kernel,
                channels=channels,
                rate=self.dropout,
            )

        return {"decoder": decoder}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if self.size is not None and self.dilations is not None:
            yield Incompatibility(
                "E18",
                f"cnn_decoder.size = {self.size} is an unused option beside cnn_decoder.dilations; set size to null, "
                "or leave dilations out",
            )
        if self.size is None and self.dilations is None:
            yield Incompatibility(
                "E-RANGE", "cnn_decoder needs a size or dilations, but both are null; give one of the two"
            )
        yield from text_only("cnn_decoder", context)
        yield from lstm_only("cnn_decoder", context)
