"""What a model of images draws: from its prior, of an image, with another image's z, and between two images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import ValidationIssue
from lagvae_core.models.pixel_decoder import PixelDecoder
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.base import Findings, Study, needs_z, straight_line
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Drawings"]


class Drawings(Study):
    """Images drawn pixel by pixel: samples, reconstructions, the same with the z of another image, interpolations.

    Samples decode z from the prior that the model is sampled from. A reconstruction decodes the posterior mean of one
    of the first `examples` images of the measured split; beside it stands what the z of the next image gives. If that
    is as near, z says nothing of the image, however good both look. An interpolation decodes z_a = (1 - a) z_1 + a z_2
    between the means of an image and the next. Under `bernoulli` each pixel is drawn with its probability, from the
    same draws for every kind of drawing and step, so that what differs is z's doing; `threshold` sets it where that is
    above 1/2, and many models then draw blanks.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("drawing_error", "float", "share of pixels in which reconstructions differ from their images", "min"),
        Column("drawing_error_swapped", "float", "the same with another image's z; where both are near, z is unused"),
    )
    tables: ClassVar = {
        "drawings": "one row a drawing: `what` it is (image, reconstruction, swapped, sample, interpolation), the "
        "`example` in the split or the number of the sample, `a` between this image and the next, and its `pixels`, "
        "0 or 1, row after row of `width`"
    }
    data_kinds: ClassVar[frozenset[str]] = frozenset({"images"})

    kind: Literal["drawings"] = "drawings"
    examples: int = Field(16, ge=2, le=10_000, description="images reconstructed, and samples drawn")
    paths: int = Field(4, ge=1, le=1_000, description="interpolations, at most one less than images")
    steps: int = Field(5, ge=1, le=100, description="equal steps from one image to the next")
    pixels: Literal["bernoulli", "threshold"] = Field("bernoulli", description="drawn, or set above 1/2")
    seed: int = Field(0, ge=0, description="of the draws")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)

    def measure(self, trained: TrainedModel, progress: Callable[[str, int, int], None]) -> Findings:
        split = trained.split.limit(self.examples)
        (batch,) = split.batches(self.examples)
        image_NHW, mean_NZ, examples = batch.targets, trained.means(split), len(split)
        a_A, between_PAZ = straight_line(mean_NZ[:-1][: self.paths], mean_NZ[1:][: self.paths], self.steps)
        wanted = {
            "reconstruction": mean_NZ,
            "swapped": mean_NZ.roll(-1, 0),
            "sample": trained.from_prior(examples, self.seed, "drawings"),
        }
        total = len(wanted) + len(a_A)
        drawn: dict[str, Tensor] = {"image": image_NHW}
        for what, z_NZ in wanted.items():
            drawn[what] = self._draw(trained, z_NZ)
            progress("draw", len(drawn) - 1, total)
        path: list[Tensor] = []
        for z_PZ in between_PAZ.unbind(1):
            path.append(self._draw(trained, z_PZ))
            progress("draw", len(wanted) + len(path), total)
        drawn["interpolation"] = torch.stack(path, 1).flatten(0, 1)
        errors = {what: float((drawn[what] - image_NHW).abs().mean()) for what in ("reconstruction", "swapped")}
        values = {"drawing_error": errors["reconstruction"], "drawing_error_swapped": errors["swapped"]}
        return Findings(values, {"drawings": _table(drawn, a_A)})

    def _draw(self, trained: TrainedModel, z_NZ: Tensor) -> Tensor:
        decoder = trained.model.decoder
        assert isinstance(decoder, PixelDecoder), "a decoder of pixels"
        draws_NHW = None
        if self.pixels == "bernoulli":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "drawings"))
            draws_NHW = torch.rand(len(z_NZ), *decoder.size, generator=generator)
        return decoder.sample(z_NZ.to(next(decoder.parameters())), draws_NHW).cpu()


def _table(drawn: dict[str, Tensor], a_A: Tensor) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {"what": [], "example": [], "a": [], "width": [], "pixels": []}
    for what, image_NHW in drawn.items():
        steps = len(a_A) if what == "interpolation" else 1
        for number, image_HW in enumerate(image_NHW):
            table["what"].append(what)
            table["example"].append(number // steps)
            table["a"].append(float(a_A[number % steps]) if what == "interpolation" else None)
            table["width"].append(image_HW.shape[1])
            table["pixels"].append(image_HW.flatten().int().tolist())
    return table
