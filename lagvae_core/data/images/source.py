"""Images in the user's own file or folder, which has one array or subfolder for each split."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.data.base import Batching, Partition, SplitLimits, Unit
from lagvae_core.data.files import data_file
from lagvae_core.data.held_out import HeldOut
from lagvae_core.data.images.arrays import ImageBatch, ImageDataset, ImageSplit, fixed_bits
from lagvae_core.data.images.files import Images, read_images, take_images
from lagvae_core.data.memory import splits_of
from lagvae_core.data.order import cut
from lagvae_core.data.raw import SPLITS
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import AddedField

__all__ = ["ImageData"]


class ImageData(SplitLimits, HeldOut):
    """Images, either grey or black and white. The model always sees black and white images.

    The data are a file or a folder:

    - An .npz file with the arrays `train`, `valid` and `test`, each [N, H, W] or with a dimension of channels in second
      or last place, of bytes from 0 to 255, of booleans, or of floats from 0 to 1. Labels, if any, are in the arrays
      `train_labels`, `valid_labels` and `test_labels`, one per image.
    - A file written by torch.save, with three such tensors in a list (in this order) or in a dictionary.
    - A folder with the subfolders `train`, `valid` (or validation, val, dev) and `test` of pictures in PNG, JPEG or
      another common format. If the pictures of a split lie in subfolders, the names of these are the labels. Pictures
      are sorted by their paths. 16-bit pictures keep their precision.

    The content of a file decides about its format, not its name. Python objects in a file are never unpickled. Channels
    that are all equal count as grey, and an alpha channel must be opaque. Colour is an error unless `colour` is `grey`;
    then it becomes the luminance 0.299 R + 0.587 G + 0.114 B. If valid or test is missing, `held_out` takes that split
    from train at random.

    A grey level is the probability that its pixel is 1. With `dynamic` binarisation, training sees a new draw of an
    image at every use, including the uses in inner loops. With `fixed` binarisation, and in every measurement, each
    image has one fixed draw, which depends only on `binarisation_seed`, the split and the index of the image. NLLs are
    comparable only if these draws are equal; to compare them, the report contains their SHA-256. Floats are stored as
    bytes if all of them are multiples of 1/255, otherwise as float32.

    `partition` applies to the training images only: `resplit_random` shuffles them before each epoch, `fixed_random`
    once, and `fixed_by_group` fills each batch from one label.
    """

    batching: ClassVar[Batching | None] = None
    unit: ClassVar[Unit] = "pixel"

    kind: Literal["images"] = "images"
    path: str = Field(min_length=1, description=".npz or torch file, or folder of pictures, with train, valid and test")
    colour: Annotated[
        Literal["refuse", "grey"],
        Field(description="colour images: refuse them, or turn them into grey by their luminance"),
        AddedField(),
    ] = "refuse"
    labels: Annotated[
        Literal["auto", "drop"],
        Field(description="labels: used if there are any (auto), or ignored (drop)"),
        AddedField(),
    ] = "auto"
    binarisation: Literal["dynamic", "fixed"] = Field(
        "dynamic", description="pixels in training: a new random draw at every use (dynamic), or one fixed draw (fixed)"
    )
    binarisation_seed: int = Field(0, ge=0, description="seed of the fixed draws; independent of the trial's seed")
    partition: Partition = Field("resplit_random", description="division of the training images into batches")

    def load(self) -> ImageDataset:
        """Read and check the images.

        Raises:
            DataError: The file or folder is missing, unreadable or not in the format described above, or
                `fixed_by_group` is used without labels. The error carries all issues found.
        """
        path = data_file(self.path, or_folder=True)
        return self._dataset(read_images(path, self, luminance=self.colour == "grey", labels=self.labels == "auto"))

    def from_memory(self, train: Any, valid: Any = None, test: Any = None) -> ImageDataset:
        """Return the data set of images that are already in memory; see `DataSource.from_memory`.

        Images are arrays, tensors or pictures of PIL, in the shapes and types of an .npz file. In a pandas frame or a
        Hugging Face data set, the columns are `image` and `label`.
        """
        given = splits_of(train, valid, test)
        return self._dataset(take_images(given, self, luminance=self.colour == "grey", labels=self.labels == "auto"))

    def _dataset(self, images: Images) -> ImageDataset:
        if self.partition == "fixed_by_group" and images.labels is None:
            message = "must be fixed_random or resplit_random for images without labels"
            hint = "To use fixed_by_group, add train_labels, valid_labels and test_labels to the file."
            raise DataError([ValidationIssue("data.partition", message, hint, self.partition)])
        splits = []
        for name in SPLITS:
            examples = slice(self.limits[name])
            grey = images.levels[name][examples]
            labels = images.labels[name][examples] if images.labels is not None else None
            splits.append(ImageSplit(grey, fixed_bits(grey, self.binarisation_seed, name), labels))
        return ImageDataset.of(*splits, remarks=[*images.remarks, *self.limit_remarks()])

    def fingerprint(self) -> str:
        """Return the fingerprint of the data; see `DataSource.fingerprint`."""
        return self.load().fingerprint

    def train_batches(self, train: ImageSplit, batch_size: int, seed: int, epoch: int) -> list[ImageBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        shuffle = derive_seed(seed, "partition", epoch if self.partition == "resplit_random" else 0)
        groups = train.order(by_label=self.partition == "fixed_by_group", seed=shuffle)
        batch = train.grey if self.binarisation == "dynamic" else train.binarised
        return [batch(index) for group in groups for index in cut(group, batch_size)]
