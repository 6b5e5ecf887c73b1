"""Images of the user's own: one file with three arrays, train, valid and test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lagvae_core.data.base import Partition
from lagvae_core.data.images.arrays import ImageBatch, ImageDataset, ImageSplit, fixed_bits, pieces
from lagvae_core.data.images.files import SPLITS, read_images
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import FrozenConfig

__all__ = ["ImageData"]


class ImageData(FrozenConfig):
    """Grey or black and white images, which the model sees as black and white ones.

    The file is an .npz with the arrays `train`, `valid` and `test`, each [N, 1, H, W] or [N, H, W], of bytes from 0 to
    255, of booleans, or of floats from 0 to 1; or a .pt or .pth file of torch that holds three such tensors, as a list
    in this order or by name. Where there are labels, the arrays `train_labels`, `valid_labels` and `test_labels` give
    one for each image. Nothing in a file is ever unpickled into an object.

    A grey level is the probability that its pixel is 1. Under `dynamic` binarisation training sees a fresh draw of an
    image at every use, those of inner loops among them; under `fixed`, and wherever anything is measured, each image is
    drawn once from `binarisation_seed`, its split and its number. NLLs compare where the bits do: the report holds
    their SHA-256. Floats that are all multiples of 1/255 are kept as bytes, others as float32.

    `partition` is that of the training images alone: `resplit_random` shuffles them before each epoch, `fixed_random`
    once, `fixed_by_group` fills each batch from one label.
    """

    kind: Literal["images"] = "images"
    path: str = Field(min_length=1, description=".npz or torch file with train, valid and test")
    limit: int | None = Field(None, ge=1, description="use only the first `limit` training images")
    binarisation: Literal["dynamic", "fixed"] = Field(
        "dynamic", description="whether training sees fresh draws of the pixels or the fixed ones"
    )
    binarisation_seed: int = Field(0, ge=0, description="of the fixed draws; not the trial's seed")
    partition: Partition = Field("resplit_random", description="how training images are cut into batches")

    def load(self) -> ImageDataset:
        """Read and check the file.

        Raises DataError, with all mistakes of all arrays, where the file is missing, unreadable or not what the class
        says.
        """
        images = read_images(Path(self.path).expanduser())
        if self.partition == "fixed_by_group" and images.labels is None:
            message = "must be fixed_random or resplit_random where the images have no labels"
            raise DataError(
                [ValidationIssue("data.partition", message, "Or add the arrays of labels to the file.", self.partition)]
            )
        splits = []
        for name in SPLITS:
            cut = slice(self.limit) if name == "train" else slice(None)
            grey = images.levels[name][cut]
            labels = images.labels[name][cut] if images.labels is not None else None
            splits.append(ImageSplit(grey, fixed_bits(grey, self.binarisation_seed, name), labels))
        return ImageDataset.of(*splits)

    def train_batches(self, train: ImageSplit, batch_size: int, seed: int, epoch: int) -> list[ImageBatch]:
        """The batches of `epoch` (from 0) in a trial of that `seed`, on the CPU; as many in every epoch."""
        shuffle = derive_seed(seed, "partition", epoch if self.partition == "resplit_random" else 0)
        groups = train.order(by_label=self.partition == "fixed_by_group", seed=shuffle)
        make = train.grey if self.binarisation == "dynamic" else train.binarised
        return [make(index) for group in groups for index in pieces(group, batch_size)]
