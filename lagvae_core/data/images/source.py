"""Images in the user's own file, which has one array for each split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lagvae_core.data.base import Batching, Partition
from lagvae_core.data.images.arrays import ImageBatch, ImageDataset, ImageSplit, cut, fixed_bits
from lagvae_core.data.images.files import SPLITS, read_images
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import FrozenConfig

__all__ = ["ImageData"]


class ImageData(FrozenConfig):
    """Images, either grey or black and white. The model always sees black and white images.

    The file is an .npz file with the arrays `train`, `valid` and `test`, each [N, 1, H, W] or [N, H, W], of bytes from
    0 to 255, of booleans, or of floats from 0 to 1. It may also be a .pt or .pth file written by torch.save, with three
    such tensors in a list (in this order) or in a dictionary. Labels, if any, are in the arrays `train_labels`,
    `valid_labels` and `test_labels`, one per image. Python objects in a file are never unpickled.

    A grey level is the probability that its pixel is 1. With `dynamic` binarisation, training sees a new draw of an
    image at every use, including the uses in inner loops. With `fixed` binarisation, and in every measurement, each
    image has one fixed draw, which depends only on `binarisation_seed`, the split and the index of the image. NLLs are
    comparable only if these draws are equal; to compare them, the report contains their SHA-256. Floats are stored as
    bytes if all of them are multiples of 1/255, otherwise as float32.

    `partition` applies to the training images only: `resplit_random` shuffles them before each epoch, `fixed_random`
    once, and `fixed_by_group` fills each batch from one label.
    """

    batching: ClassVar[Batching | None] = None

    kind: Literal["images"] = "images"
    path: str = Field(min_length=1, description=".npz or torch file with the arrays train, valid and test")
    limit: int | None = Field(None, ge=1, description="number of leading training images to use; null: all")
    binarisation: Literal["dynamic", "fixed"] = Field(
        "dynamic", description="pixels in training: a new random draw at every use (dynamic), or one fixed draw (fixed)"
    )
    binarisation_seed: int = Field(0, ge=0, description="seed of the fixed draws; independent of the trial's seed")
    partition: Partition = Field("resplit_random", description="division of the training images into batches")

    def load(self) -> ImageDataset:
        """Read and check the file.

        Raises:
            DataError: The file is missing, unreadable or not in the format described above, or `fixed_by_group` is used
                without labels. The error carries all issues found in the arrays.
        """
        images = read_images(Path(self.path).expanduser())
        if self.partition == "fixed_by_group" and images.labels is None:
            message = "must be fixed_random or resplit_random for images without labels"
            hint = "To use fixed_by_group, add train_labels, valid_labels and test_labels to the file."
            raise DataError([ValidationIssue("data.partition", message, hint, self.partition)])
        splits = []
        for name in SPLITS:
            examples = slice(self.limit) if name == "train" else slice(None)
            grey = images.levels[name][examples]
            labels = images.labels[name][examples] if images.labels is not None else None
            splits.append(ImageSplit(grey, fixed_bits(grey, self.binarisation_seed, name), labels))
        return ImageDataset.of(*splits)

    def fingerprint(self) -> str:
        """Return the fingerprint of the data; see `DataSource.fingerprint`."""
        return self.load().fingerprint

    def train_batches(self, train: ImageSplit, batch_size: int, seed: int, epoch: int) -> list[ImageBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        shuffle = derive_seed(seed, "partition", epoch if self.partition == "resplit_random" else 0)
        groups = train.order(by_label=self.partition == "fixed_by_group", seed=shuffle)
        batch = train.grey if self.binarisation == "dynamic" else train.binarised
        return [batch(index) for group in groups for index in cut(group, batch_size)]
