"""Folders of pictures: layouts, formats, colour, and pictures that cannot be used."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from following import follow
from PIL import Image

from lagvae_core.data import ImageData
from lagvae_core.data.raw import SPLITS
from lagvae_core.errors import DataError


def pixels(seed, *shape, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape or (5, 4), dtype, endpoint=True)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """A folder of labelled pictures: two of each class in train, one in valid and test."""
    root = tmp_path / "images"
    for seed, (split, count) in enumerate((("train", 2), ("valid", 1), ("test", 1))):
        for label in ("a", "b c"):
            for number in range(count):
                write(root / split / label / f"{number}.png", pixels(10 * seed + number + 1000 * ord(label[0])))
    return root


def load(folder, **fields):
    return ImageData(path=str(folder), **fields).load()


def issues_of(folder, **fields):
    with pytest.raises(DataError) as caught:
        load(folder, **fields)
    return caught.value.issues


def test_pictures_are_read_in_the_order_of_their_paths_with_their_labels(folder, tmp_path):
    data = load(folder)
    paths = sorted((folder / "train").rglob("*.png"), key=lambda path: path.as_posix())
    assert np.array_equal(data.train.levels_NHW, np.stack([np.asarray(Image.open(path)) for path in paths]))
    assert data.train.labels == ("a", "a", "b c", "b c")
    assert data.valid.labels == ("a", "b c")
    assert "remarks" not in data.report
    assert load(folder, labels="drop").train.labels is None
    np.savez(tmp_path / "images.npz", **{split: getattr(data, split).levels_NHW for split in SPLITS})
    assert load(tmp_path / "images.npz").fingerprint == load(folder, labels="drop").fingerprint


@pytest.mark.parametrize(
    "names",
    [
        ("train", "validation", "test"),
        ("TRAIN", "Val", "TEST"),
        ("training", "dev", "testing"),
        ("linked", "valid", "test"),
    ],
)
def test_names_of_the_splits(folder, names):
    expected = load(folder).fingerprint
    for old, new in zip(SPLITS, names, strict=True):
        if new == "linked":
            (folder / old).rename(folder.parent / "elsewhere")
            (folder / old).symlink_to(folder.parent / "elsewhere")
        else:
            (folder / old).rename(folder / f"{old}.tmp").rename(folder / new)
    assert load(folder).fingerprint == expected


@pytest.mark.parametrize("save", ["L", "RGB", "RGBA", "LA", "P", "I;16", "bmp", "gif", "tiff", "webp", "pgm", "jpeg"])
def test_formats_and_modes_of_grey_pictures(tmp_path, save):
    array = pixels(1)
    for split in SPLITS:
        path = tmp_path / split / f"x.{save if save.islower() else 'PNG'}"
        if save == "I;16":
            write(path, array.astype(np.uint16) * 257)
        elif save in ("RGB", "RGBA", "LA", "P"):
            path.parent.mkdir()
            Image.fromarray(array).convert(save).save(path)
        else:
            write(path, array, **({"lossless": True} if save == "webp" else {}))
    read = load(tmp_path).train.levels_NHW[0]
    assert np.array_equal(read, array) if save != "jpeg" else np.abs(read.astype(int) - array).max() < 60


def test_black_and_white_and_deep_pictures(tmp_path):
    for seed, split in enumerate(SPLITS):
        Image.fromarray(pixels(seed) > 99).save((tmp_path / split).with_suffix(".png"))
        write(tmp_path / split / "x.png", pixels(seed, 5, 4, dtype=np.uint16))
    deep = load(tmp_path).train.levels_NHW
    assert deep.dtype == np.float32
    assert np.allclose(deep[0] * 65535, pixels(0, 5, 4, dtype=np.uint16), atol=0.01)
    for split in SPLITS:
        shutil.move((tmp_path / split).with_suffix(".png"), tmp_path / split / "x.png")
    assert set(np.unique(load(tmp_path).train.levels_NHW)) == {0, 255}


def test_other_and_hidden_files_are_skipped_and_said(folder):
    expected = load(folder).fingerprint
    (folder / "train" / "README.txt").write_text("")
    (folder / "train" / ".DS_Store").write_text("")
    (folder / "train" / "a" / "._0.png").write_text("")
    (folder / "train" / "loop").symlink_to(folder / "train")
    data = load(folder)
    assert data.fingerprint == expected
    assert data.report["remarks"] == "1 other files in train are not read"


def test_limits_apply(folder):
    data = load(folder, limit=1, valid_limit=1, test_limit=1)
    assert [len(getattr(data, split)) for split in SPLITS] == [1, 1, 1]


def test_colour_becomes_grey_only_when_asked(folder):
    write(folder / "test" / "a" / "1.png", pixels(3, 5, 4, 3))
    (issue,) = issues_of(folder)
    assert issue.where == str(folder / "test" / "a" / "1.png")
    assert "data.colour=grey" in issue.hint
    data = load(folder, colour="grey")
    assert len(data.test) == 3
    assert data.report["remarks"] == "colour turned into grey"


@pytest.mark.parametrize("what", ["transparent", "size"])
def test_the_command_in_the_message_corrects_a_picture(folder, what):
    array = pixels(3, 5, 4, 4) if what == "transparent" else pixels(3, 7, 9)
    write(folder / "train" / "a" / "it's 1.png", array)
    (issue,) = issues_of(folder)
    assert issue.where.endswith("it's 1.png")
    follow(issue.hint, "python")
    assert len(load(folder).train) == 5


def test_pictures_that_cannot_be_used(folder):
    (folder / "train" / "a" / "empty.png").write_bytes(b"")
    (folder / "train" / "a" / "page.png").write_text("<!DOCTYPE html>")
    whole = (folder / "train" / "a" / "0.png").read_bytes()
    (folder / "train" / "a" / "half.png").write_bytes(whole[: len(whole) // 2])
    frames = [Image.fromarray(pixels(seed)) for seed in range(2)]
    frames[0].save(folder / "train" / "a" / "film.gif", save_all=True, append_images=frames[1:])
    found = issues_of(folder)
    assert [os.path.basename(issue.where) for issue in found] == ["empty.png", "film.gif", "half.png", "page.png"]
    assert all(issue.hint for issue in found)
    for number in range(20):
        (folder / "train" / "a" / f"zero{number}.png").write_bytes(b"")
    assert len(issues_of(folder)) == 6


def test_labels_that_do_not_fit(folder):
    write(folder / "test" / "c" / "0.png", pixels(3))
    (issue,) = issues_of(folder)
    assert "data.labels=drop" in issue.hint
    assert load(folder, labels="drop").test.labels is None
    shutil.move(folder / "test" / "c" / "0.png", folder / "test" / "0.png")
    (issue,) = issues_of(folder)
    assert issue.where == str(folder / "test")
    shutil.rmtree(folder / "test")
    write(folder / "test" / "0.png", pixels(3))
    assert "data.labels=drop" in issues_of(folder)[0].hint


class TestLayouts:
    def test_a_missing_split(self, folder):
        shutil.rmtree(folder / "valid")
        (issue,) = issues_of(folder)
        assert (issue.where, issue.value) == ("data.path", str(folder))
        assert "valid" in issue.hint

    def test_a_split_without_pictures_and_one_with_two_folders(self, folder):
        shutil.rmtree(folder / "valid" / "a")
        shutil.rmtree(folder / "valid" / "b c")
        shutil.copytree(folder / "test", folder / "testing")
        assert [issue.where for issue in issues_of(folder)] == ["data.path", str(folder / "valid")]

    @pytest.mark.parametrize("inner", ["folder", "file"])
    def test_the_data_lie_one_level_deeper(self, folder, tmp_path, inner):
        expected = load(folder).fingerprint
        if inner == "file":
            data = load(folder)
            arrays = {split: getattr(data, split).levels_NHW for split in SPLITS}
            labels = {f"{split}_labels": np.array(getattr(data, split).labels) for split in SPLITS}
            shutil.rmtree(folder)
            np.savez(tmp_path / "x.npz", **arrays, **labels)
        (issue,) = issues_of(tmp_path)
        assert load(issue.hint.rpartition("data.path=")[2]).fingerprint == expected

    def test_pictures_without_splits_and_an_empty_folder(self, tmp_path):
        assert "nothing" in issues_of(tmp_path)[0].hint
        (tmp_path / "0.png").write_bytes(b"")
        assert "0.png" in issues_of(tmp_path)[0].hint

    @pytest.mark.slow
    def test_parquet_files_of_pictures_are_written_by_the_command(self, folder, tmp_path):
        for split, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
            cells = [{"bytes": path.read_bytes(), "path": None} for path in sorted((folder / split).rglob("*.png"))]
            (tmp_path / "hub").mkdir(exist_ok=True)
            pq.write_table(pa.table({"image": cells}), tmp_path / "hub" / f"{name}-00000-of-00001.parquet")
        (issue,) = issues_of(tmp_path / "hub")
        follow(issue.hint, "python")
        assert load(tmp_path / "hub-pictures").fingerprint == load(folder, labels="drop").fingerprint

    def test_missing_splits_are_drawn_from_train(self, folder):
        whole = load(folder)
        shutil.rmtree(folder / "test")
        (issue,) = issues_of(folder)
        assert "data.held_out=0.1" in issue.hint
        for number in range(30):
            write(folder / "train" / "a" / f"more{number:02}.png", pixels(100 + number))
        data = load(folder, held_out=0.1)
        assert data.valid.labels == whole.valid.labels
        assert len(data.train) + len(data.test) == 34
        assert 1 <= len(data.test) <= 10
        levels = {image.tobytes() for image in data.train.levels_NHW} | {x.tobytes() for x in data.test.levels_NHW}
        assert len(levels) == 34
        assert data.report["remarks"] == "test drawn from train (0.1 each, seed 0)"
        assert load(folder, held_out=0.1).fingerprint == data.fingerprint
        assert load(folder, held_out=0.1, held_out_seed=1).fingerprint != data.fingerprint

    def test_held_out_of_complete_data_or_without_train(self, folder):
        assert issues_of(folder, held_out=0.1)[0].where == "data.held_out"
        shutil.rmtree(folder / "train")
        assert issues_of(folder, held_out=0.1)[0].where == "data.path"
