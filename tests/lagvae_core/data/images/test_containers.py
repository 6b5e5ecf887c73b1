"""Image files under a wrong name or in another format: they are read, or the command in the message converts them."""

import gzip
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
import torch
from following import follow
from PIL import Image

from lagvae_core.data import ImageData
from lagvae_core.data.raw import SPLITS
from lagvae_core.errors import DataError

IMAGES = {split: np.random.default_rng(n).integers(0, 256, (12, 5, 4), np.uint8) for n, split in enumerate(SPLITS)}


def issue_of(path):
    with pytest.raises(DataError) as caught:
        ImageData(path=str(path)).load()
    (issue,) = caught.value.issues
    return issue


def save_npz(path):
    with path.open("wb") as file:
        np.savez(file, **IMAGES)


def save_npy(path):
    with path.open("wb") as file:
        np.save(file, IMAGES["train"])


def save_pictures(folder):
    for split, images in IMAGES.items():
        (folder / split).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / split / f"{number:02}.png")


def save_idx(path):
    images = IMAGES["train"]
    path.write_bytes(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape) + images.tobytes())


def save_zip(path):
    save_pictures(path.parent / "source")
    with zipfile.ZipFile(path, "w") as archive:
        for file in (path.parent / "source").rglob("*.png"):
            archive.write(file, file.relative_to(path.parent / "source"))


def save_tar(path):
    save_pictures(path.parent / "source")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.parent / "source", ".")


def save_gzip(path):
    save_npz(path)
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def save_pickle(path):
    path.write_bytes(pickle.dumps(IMAGES))


@pytest.mark.parametrize("name", ["images.npz", "images.pt", "images", "images.dat"])
def test_the_content_decides_about_the_format(tmp_path, name):
    save_npz(path := tmp_path / name)
    expected = ImageData(path=str(path)).load().fingerprint
    for is_new in (True, False):
        torch.save([*map(torch.from_numpy, IMAGES.values())], path, _use_new_zipfile_serialization=is_new)
        assert ImageData(path=str(path)).load().fingerprint == expected


FORMATS = {
    "gz": (save_gzip, "images.npz.gz", "compressed with gzip", "gzip"),
    "gz named npz": (save_gzip, "images.npz", "compressed with gzip", "gzip"),
    "zip": (save_zip, "my images.zip", ".zip", "python"),
    "zip named npz": (save_zip, "images.npz", ".zip", "python"),
    "tar": (save_tar, "images.tar.gz", ".tar", "mkdir"),
    "npy": (save_npy, "images.npy", ".npy", "python"),
    "npy named npz": (save_npy, "it's.npz", ".npy", "python"),
    "idx": (save_idx, "train-images-idx3-ubyte", "IDX", "python"),
    "matlab": (lambda path: scipy.io.savemat(path, IMAGES), "images.mat", "MATLAB", "python"),
    "pickle": (save_pickle, "images.pkl", "pickle", "python"),
    "pickle named npz": (save_pickle, "images.npz", "pickle", "python"),
}
"""For each format: the function that writes it, the name of the file, a word of the message, and the command in it."""


@pytest.mark.parametrize("kind", ["gz", "npy", "matlab"])
def test_a_file_of_another_format_is_converted_by_its_message(tmp_path, kind):
    check_conversion(tmp_path, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"gz", "npy", "matlab"}))
def test_a_file_of_any_other_format_is_converted_by_its_message(tmp_path, kind):
    check_conversion(tmp_path, kind)


def check_conversion(tmp_path, kind):
    save, name, word, command = FORMATS[kind]
    save(path := tmp_path / name)
    shutil.rmtree(tmp_path / "source", ignore_errors=True)
    issue = issue_of(path)
    assert issue.where == str(path)
    assert word in issue.message
    before = {file.name for file in tmp_path.iterdir()}
    follow(issue.hint, command)
    (converted,) = {file.name for file in tmp_path.iterdir()} - before
    data = ImageData(path=str(tmp_path / converted)).load()
    shares = [IMAGES["train"][part] for part in (slice(2, None), slice(1), slice(1, 2))]  # of a file with one array
    expected = shares if kind.startswith(("npy", "idx")) else IMAGES.values()
    for split, images in zip((data.train, data.valid, data.test), expected, strict=True):
        assert np.array_equal(split.levels_NHW, images)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x89PNG\r\n", "a single picture"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"MATLAB 5.0 MAT-file, damaged", "MATLAB"),
        (b"PAR1", "another format"),
        (b"", "another format"),
        (b"PK\x03\x04 the rest is missing", "complete"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    ],
)
@pytest.mark.parametrize("name", ["images.npz", "images"])
def test_other_content_is_named(tmp_path, content, word, name):
    (tmp_path / name).write_bytes(content)
    issue = issue_of(tmp_path / name)
    assert word in issue.message
    assert issue.hint != ""
