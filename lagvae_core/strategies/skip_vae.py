"""Additional paths of z into the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.models.decoder import Skip
from lagvae_core.models.mlp import MlpModel
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility

__all__ = ["SkipVae"]


class SkipVae(Strategy):
    """z also enters the decoder's output layer and every layer before it, so that no layer can discard z.

    Source: Dieng et al. 2019. `concat` is the form of their published code for text; `add` is the form of the paper, as
    recalled from memory.

    With h_t the input of the output layer W, `path` `concat` gives the logits W [h_t; z], at the cost of Z * V weights
    for V words; `add` gives W (h_t + U z). The paths of z in the plain decoder remain. Dropout applies to h_t alone,
    never to z.

    - With `to` `all`, z also enters the layers before the output layer. The LSTM has one layer, and all its steps
      already read z, so for the LSTM `all` equals `output`. In `cnn_decoder` each block reads [x; z] with `concat` and
      x + U z with `add`.
    - In the fully connected decoder of vectors, `all` are the layers after the first, which reads z anyway.
    - In a decoder of images, projections of the same maps of z are added to the input of each layer. In the published
      code each layer, and the layer before the output, has a linear map of z of its own, which is concatenated to its
      input. `concat` is not available for images here.
    - `add` applies no nonlinearity to the sum, because the h_t of the LSTM is already the output of a nonlinearity.
    - Generation includes the skip connection, as in the published code; the code of DG-VAE leaves it out there.
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
        if context.unit == "pixel" and self.path == "concat":
            yield Incompatibility("E09", "skip_vae.path = concat is not available for images; set skip_vae.path = add")
        if isinstance(context.model, MlpModel) and context.model.layers == 0:
            yield Incompatibility(
                "E18", "skip_vae has no effect with model.layers = 0, a decoder with one layer; raise model.layers"
            )
