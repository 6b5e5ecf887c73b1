"""Further paths of z through the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.models.decoder import Skip
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy

__all__ = ["SkipVae"]


class SkipVae(Strategy):
    """z also enters the decoder's output layer, and each layer before it, so that no layer can lose it on the way.

    Source: Dieng et al. 2019, whose form is `add` (as recalled); `concat` to the output is that of DG-VAE's code.

    With h_t what the output layer W reads, `path` `concat` gives the logits W [h_t; z], at the price of Z * V weights;
    `add`, W (h_t + U z). Where the plain decoder reads z, it still does. Dropout falls on h_t alone, never on z.

    - `to` `all` reaches the layers between too. The LSTM has one layer, whose steps all read z already, so that `all`
      is `output` there. In `cnn_decoder` each block reads z: [x; z] under `concat`, x + U z under `add`.
    - In a decoder of images the maps of z, projected, are added to what a layer reads; `concat` is refused there.
    - `add` has no function around the sum; the LSTM's h_t is itself the output of one.
    - The published code leaves the skip out where it generates text. Here it is part of the model.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"skip"})
    paper: ClassVar[str] = "Dieng et al. 2019, Avoiding Latent Variable Collapse with Generative Skip Models"

    kind: Literal["skip_vae"] = "skip_vae"
    path: Annotated[
        Literal["concat", "add"],
        Field(description="z beside what a layer reads, or a linear map of it added"),
        Tunable(choices=("concat", "add")),
    ] = "concat"
    to: Annotated[
        Literal["output", "all"], Field(description="whether the layers between read z too; the LSTM has none")
    ] = "all"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"skip": Skip(self.path, everywhere=self.to == "all")}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if context.data_kind == "images" and self.path == "concat":
            yield Incompatibility(
                "E09", "skip_vae.path = concat is a layout of decoders of words; on images set skip_vae.path = add"
            )
