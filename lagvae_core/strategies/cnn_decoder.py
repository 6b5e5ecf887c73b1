"""A convolutional decoder with a bounded receptive field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from lagvae_core.data import TextDomain
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.dilated_cnn import DilatedCnn
from lagvae_core.models.lstm import LstmModel
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["SIZES", "CnnDecoder"]

Dilation = Annotated[int, Field(ge=1)]

SIZES: dict[str, tuple[int, ...]] = {
    "scnn": (1, 2, 4),
    "mcnn": (1, 2, 4, 8, 16),
    "lcnn": 2 * (1, 2, 4, 8, 16),
    "vlcnn": 3 * (1, 2, 4, 8, 16),
}
"""The dilations of each published size."""


class CnnDecoder(Strategy):
    """The decoder, a stack of dilated causal convolutions, sees only recent words and needs z for earlier ones.

    Source: Yang et al. 2017. Sizes and layers are quoted from memory; they were not checked against the paper.

    At each position x starts as conv1x1([embedding; z]). Each dilation adds a residual block: x becomes x +
    conv1x1(relu(convolution(relu(conv1x1(x))))). Dropout and the output layer follow. The number of words that the
    decoder sees is 1 + (kernel - 1) * sum(dilations): `scnn` 15, `mcnn` 63, `lcnn` 125, `vlcnn` 187. If a sentence is
    shorter, the decoder sees all previous words and does not need z. With `size` null, `dilations` can be chosen
    freely; with `kernel` 1 the decoder sees only the last word.

    - The number of channels between and within the blocks is `channels`, by default `model.hidden`; the paper has 512
      (recalled, not checked against the paper).
    - `dropout` applies to the output of a block before it is added to x, not to the sum. Dropout of 0.5 on the sum
      leaves almost nothing of the input after 5 to 15 blocks; with it, `mcnn` hardly learned and `vlcnn` diverged.
      `model.dropout_in` applies to the embeddings, `model.dropout_out` to the input of the output layer.
    - The layers are initialised with PyTorch's defaults, and the embeddings with `model.init_embedding`. With initial
      weights from `model.init_range`, the blocks would contribute almost nothing for a long time.
    - z enters at the first layer; with `skip_vae` it can also enter every block and the output layer.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"decoder"})
    paper: ClassVar[str] = (
        "Yang et al. 2017, Improved Variational Autoencoders for Text Modeling using Dilated Convolutions"
    )
    traits: ClassVar[frozenset[Trait]] = frozenset(
        {
            Trait.BOUNDED_RECEPTIVE_FIELD,
            Trait.TEXT_ONLY,
            Trait.WORKS_WITHOUT_Z,
        }
    )

    models: ClassVar[frozenset[str]] = frozenset({"lstm"})

    kind: Literal["cnn_decoder"] = "cnn_decoder"
    size: Annotated[
        Literal["scnn", "mcnn", "lcnn", "vlcnn"] | None,
        Field(description="published size of the decoder; null: `dilations` sets the size"),
        Tunable(choices=tuple(SIZES)),
    ] = "mcnn"
    dilations: Annotated[
        tuple[Dilation, ...] | None, Field(min_length=1, description="dilation of each block, if `size` is null")
    ] = None
    kernel: Annotated[int, Field(ge=1, description="width of a convolution [words]")] = 3
    channels: Annotated[int | None, Field(ge=1, description="channels of all blocks; null: model.hidden")] = None
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout rate on the output of each block")] = 0.5

    @property
    def dropout_rates(self) -> Mapping[str, float]:
        return {"cnn_decoder.dropout": self.dropout}

    @property
    def stack(self) -> tuple[int, ...]:
        """The dilation of each block."""
        return self.dilations or SIZES[str(self.size)]

    def build(self, context: BuildContext) -> dict[str, Any]:
        channels = self.channels or context.token_model.state_size

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
        yield from super().incompatibilities(context)
        if self.size is not None and self.dilations is not None:
            yield Incompatibility(
                "E18",
                f"cnn_decoder.size = {self.size} has no effect with cnn_decoder.dilations; set cnn_decoder.size = null "
                "or leave cnn_decoder.dilations out",
            )
        if self.size is None and self.dilations is None:
            yield Incompatibility(
                "E-RANGE", "cnn_decoder needs either size or dilations, but both are null; set one of these fields"
            )
