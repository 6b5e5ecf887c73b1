"""Images from a model: samples, reconstructions, reconstructions with the z of another image, and interpolations."""

from __future__ import annotations

from collections.abc import Iterator
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
from lagvae_core.studies.base import Findings, Study, StudyProgress, needs_z, straight_line
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Drawings"]


class Drawings(Study):
    """Images drawn pixel by pixel: samples, reconstructions, reconstructions with a swapped z, and interpolations.

    A sample is decoded from a z drawn from the generative prior. A reconstruction is decoded from the posterior mean of
    one of the first `examples` images of the measured split. A swapped reconstruction is decoded from the posterior
    mean of the next image. If a swapped reconstruction is as close to the image as the reconstruction, z carries no
    information about the image, however good both look. An interpolation is decoded from points
    z_a = (1 - a) z_1 + a z_2 between the posterior means of an image and the next.

    With `bernoulli`, each pixel is set with its probability. All kinds of drawings and all steps use the same random
    draws, so every difference comes from z. With `threshold`, a pixel is set if its probability exceeds 1/2; many
    models then draw blank images.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("drawing_error", "float", "fraction of pixels in which reconstructions differ from their images", "min"),
        Column(
            "drawing_error_swapped",
            "float",
            "drawing_error with the z of a different image; z is unused if the two errors are close",
        ),
    )
    tables: ClassVar = {
        "drawings": "one row per drawing: its kind `what` (image, reconstruction, swapped, sample, interpolation), the "
        "index `example` in the split or among the samples, the position `a` between this image and the next, and its "
        "`pixels`, 0 or 1, in rows of length `width`"
    }
    data_kinds: ClassVar[frozenset[str]] = frozenset({"images"})

    kind: Literal["drawings"] = "drawings"
    examples: int = Field(16, ge=2, le=10_000, description="number of reconstructed images, and number of samples")
    paths: int = Field(4, ge=1, le=1_000, description="number of interpolations; at most `examples` - 1 are drawn")
    steps: int = Field(5, ge=1, le=100, description="number of equal steps from one image to the next")
    pixels: Literal["bernoulli", "threshold"] = Field(
        "bernoulli",
        description="how pixels are set: at random with their probability, or if their probability exceeds 1/2",
    )
    seed: int = Field(0, ge=0, description="seed of the random draws")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        split = trained.split.limit(self.examples)
        (batch,) = split.batches(self.examples)
        image_NHW, mean_NZ, examples = batch.targets, trained.means(split), len(split)
        a_A, between_PAZ = straight_line(mean_NZ[:-1][: self.paths], mean_NZ[1:][: self.paths], self.steps)
        codes = {
            "reconstruction": mean_NZ,
            "swapped": mean_NZ.roll(-1, 0),
            "sample": trained.from_prior(examples, self.seed, "drawings"),
        }
        total = len(codes) + len(a_A)
        drawn = {"image": image_NHW}
        for what, z_NZ in codes.items():
            drawn[what] = self._draw(trained, z_NZ)
            progress("draw", len(drawn) - 1, total)
        path: list[Tensor] = []
        for z_PZ in between_PAZ.unbind(1):
            path.append(self._draw(trained, z_PZ))
            progress("draw", len(codes) + len(path), total)
        drawn["interpolation"] = torch.stack(path, 1).flatten(0, 1)
        errors = {what: float((drawn[what] - image_NHW).abs().mean()) for what in ("reconstruction", "swapped")}
        values = {"drawing_error": errors["reconstruction"], "drawing_error_swapped": errors["swapped"]}
        return Findings(values, {"drawings": _table(drawn, a_A)})

    def _draw(self, trained: TrainedModel, z_NZ: Tensor) -> Tensor:
        decoder = trained.model.decoder
        assert isinstance(decoder, PixelDecoder), "this study needs a model of images"
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
