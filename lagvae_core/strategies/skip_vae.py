"""Additional paths of z into the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.models.decoder import Skip
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility

__all__ = ["SkipVae"]


class SkipVae(Strategy):
    """z also enters the decoder's output layer, and each layer before it, so that no layer can discard it.

    Source: Dieng et al. 2019, in the form `add` (as recalled); `concat` to the output is the form of DG-VAE's code.

    With h_t the input of the output layer W, `path` `concat` gives the logits W [h_t; z], at the cost of Z * V weights;
    `add` gives W (h_t + U z). The paths of z in the plain decoder remain. Dropout applies to h_t alone, never to z.

    - `to` `all` also reaches the layers in between. The LSTM has one layer, and all its steps already read z, so for
      the LSTM `all` equals `output`. In `cnn_decoder` each block reads z: [x; z] under `concat`, x + U z under `add`.
    - In a decoder of images, projected maps of z are added to the input of a layer; `concat` is rejected for images.
    - `add` applies no nonlinearity to the sum, because the h_t of the LSTM already is the output of a nonlinearity.
    - The published code leaves the skip connection out when it generates text. In this implementation generation
      includes it.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"skip"})
    paper: ClassVar[str] = "Dieng et al. 2019, Avoiding Latent Variable Collapse with Generative Skip Models"

    kind: Literal["skip_vae"] = "skip_vae"
    path: Annotated[
        Literal["concat", "add"],
        Field(description="path of z into a layer: concatenation, or addition of a linear map of z"),
        Tunable(choices=("concat", "add")),
    ] = "concat"
    to: Annotated[
        Literal["output", "all"],
        Field(description="layers that read z: the output layer, or all layers; equal for the LSTM"),
    ] = "all"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"skip": Skip(self.path, everywhere=self.to == "all")}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if context.data_kind == "images" and self.path == "concat":
            yield Incompatibility(
                "E09", "skip_vae.path = concat exists only in decoders of words; on images set skip_vae.path = add"
            )
