import io
import math
import pickle

import numpy as np
import pytest
import torch

from lagvae_core.data import ImageBatch, ImageData
from lagvae_core.data.images.arrays import fixed_bits
from lagvae_core.errors import DataError
from lagvae_core.randomness import Streams


def grey(count=5, height=4, width=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, height, width), dtype=np.uint8)


def splits(**changes):
    given = {"train": grey(7, seed=1), "valid": grey(3, seed=2), "test": grey(4, seed=3), **changes}
    return {name: array for name, array in given.items() if array is not None}


def saved(tmp_path, **changes):
    path = tmp_path / "images.npz"
    np.savez(path, **splits(**changes))
    return str(path)


def load(tmp_path, fields=None, **changes):
    return ImageData(path=saved(tmp_path, **changes), **(fields or {})).load()


def labels(*names):
    return dict(zip(("train_labels", "valid_labels", "test_labels"), map(np.array, names), strict=True))


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["npz", "list", "dict"])
def test_an_npz_and_a_torch_file_give_the_same_data(tmp_path, save):
    expected = load(tmp_path)
    tensors = {name: torch.from_numpy(array) for name, array in splits().items()}
    if save != "npz":
        torch.save(list(tensors.values()) if save == "list" else tensors, tmp_path / "images.pt")
    found = ImageData(path=str(tmp_path / ("images.npz" if save == "npz" else "images.pt"))).load()
    assert found.fingerprint == expected.fingerprint
    assert found.report == expected.report
    assert (found.domain.height, found.domain.width) == (4, 3)
    assert found.train.levels_NHW.dtype == np.uint8
    assert np.array_equal(found.train.levels_NHW, splits()["train"][:, 0])
    assert [len(found.train), len(found.valid), len(found.test)] == [7, 3, 4]
    assert found.test.units == 4 * 4 * 3


def test_floats_booleans_and_images_without_a_channel_are_read(tmp_path):
    expected = load(tmp_path)
    floats = {name: array[:, 0] / np.float32(255) for name, array in splits().items()}
    assert load(tmp_path, **floats).fingerprint == expected.fingerprint
    finer = load(tmp_path, train=np.full((2, 4, 3), 0.123456, np.float64))
    assert finer.train.levels_NHW.dtype == np.float32
    assert finer.train.levels_NHW[0, 0, 0] == np.float32(0.123456)
    truths = {name: array > 99 for name, array in splits().items()}
    of_truths = load(tmp_path, **truths)
    assert np.array_equal(of_truths.test.binarised(np.arange(4)).pixels_BHW.numpy(), truths["test"][:, 0])
    assert of_truths.report["test_mean_grey"] == pytest.approx(truths["test"].mean())


def test_limit_takes_the_first_training_images_and_leaves_the_rest(tmp_path):
    whole, few = load(tmp_path), load(tmp_path, {"limit": 2})
    assert np.array_equal(few.train.levels_NHW, whole.train.levels_NHW[:2])
    assert np.array_equal(few.train.bits, whole.train.bits[:2])
    assert few.test.bits_hash == whole.test.bits_hash
    assert few.fingerprint != whole.fingerprint
    assert len(whole.valid.limit(2)) == 2


def test_labels_are_kept_and_told(tmp_path):
    found = load(tmp_path, **labels([1, 2, 1, 2, 3, 3, 1], [1, 1, 2], [3, 3, 3, 3]))
    assert found.train.labels == ("1", "2", "1", "2", "3", "3", "1")
    assert found.report["labels"] == "1 2 3"
    assert load(tmp_path).report["labels"] == "none"
    assert load(tmp_path, {"limit": 2}, **labels(list("abababa"), list("aab"), list("bbbb"))).train.labels == ("a", "b")


# --- bad files -------------------------------------------------------------------------------------------------------

RAGGED = np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object)
BAD = {
    "missing": ({"valid": None}, "hold the arrays train, valid, test", "It lacks valid and holds test, train."),
    "objects": ({"train": RAGGED}, "array train", "be an array of numbers of one shape", "such are never read."),
    "integers": ({"test": grey().astype(np.int64)}, "array test", "hold bytes", "It holds int64; convert it"),
    "complex": ({"test": grey().astype(np.complex64)}, "array test", "It holds complex64"),
    "flat": ({"train": grey().reshape(5, 12)}, "array train", "N x 1 x H x W", "It has [5, 12]; reshape it."),
    "colour": ({"train": grey().repeat(3, 1)}, "array train", "It has [5, 3, 4, 3]"),
    "no pixels": ({"train": grey(5, 0)}, "array train", "It has [5, 1, 0, 3]"),
    "empty": ({"valid": grey(0)}, "array valid", "hold at least one image", "It is empty; "),
    "other size": ({"test": grey(4, 5, 5)}, "array test", "of 4 x 3 pixels, as train does", "They have 5 x 5"),
    "nan": ({"valid": np.where([[[0]], [[1]]], np.nan, np.ones((2, 4, 3)))}, "array valid", "be finite", "Image 1 "),
    "infinity": ({"valid": np.full((2, 4, 3), -np.inf)}, "array valid", "Image 0 (from 0) is the first of 2"),
    "to 255": (
        {"train": np.full((2, 4, 3), 255.0)},
        "array train",
        "floats from 0 to 1",
        "It holds 255 to 255; divide",
    ),
    "negative": ({"train": np.full((2, 4, 3), -0.5)}, "array train", "It holds -0.5 to -0.5"),
    "some labels": ({"train_labels": np.arange(7)}, "array valid_labels", "be there where another split has labels"),
    "short labels": (labels([1] * 6, [1] * 3, [1] * 4), "array train_labels", "one label for each", "6 for 7 images"),
    "float labels": (labels([0.5] * 7, [1] * 3, [1] * 4), "train_labels", "It is float64 of shape [7]."),
    "foreign labels": (labels([1] * 7, [1, 2, 1], [1] * 4), "valid_labels", "labels that train_labels has", "holds 2."),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_refused_by_name_with_the_remedy(tmp_path, what):
    changes, *components = BAD[what]
    with pytest.raises(DataError) as caught:
        load(tmp_path, **changes)
    assert len(caught.value.issues) == (2 if what == "some labels" else 1)
    for issue in map(str, caught.value.issues):
        assert str(tmp_path / "images.npz") in issue
    assert all(part in str(caught.value.issues[0]) for part in components), str(caught.value)


def test_black_and_white_bytes_that_would_read_as_black_are_refused(tmp_path):
    with pytest.raises(DataError, match="They are 0 and 1; save black and white images as booleans"):
        load(tmp_path, **{name: array // 128 for name, array in splits().items()})


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        load(tmp_path, train=grey(0), valid=None, test=np.full((2, 4, 3), 2.0))
    assert len(caught.value.issues) == 3


class Unpickled:
    """What a file of objects would make."""

    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def test_objects_in_a_file_are_never_made(tmp_path):
    np.savez(tmp_path / "a.npz", **splits(train=np.array([Unpickled()], dtype=object)))
    torch.save([Unpickled()], tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps([Unpickled()]))
    for name, message in (("a.npz", "never read"), ("a.pt", "plain tensors"), ("b.pt", "plain tensors|whole torch")):
        with pytest.raises(DataError, match=message):
            ImageData(path=str(tmp_path / name)).load()


def test_files_that_are_none_are_refused(tmp_path):
    whole = saved(tmp_path)
    with open(whole, "rb") as file:
        content = file.read()
    cases = {
        "no.npz": (None, r"be a file.*There is none at"),
        "a.csv": (b"1,2", r"end in \.npz, \.pt, \.pth"),
        "empty.npz": (b"", r"be a whole \.npz file"),
        "half.npz": (content[: len(content) // 2], r"be a whole \.npz file"),
        "flip.npz": (content.replace(splits()["train"].tobytes()[:8], b"\0" * 8), r"be a whole \.npz file"),
        "text.pt": (b"not a tensor", r"be a whole torch file|plain tensors"),
        "array.npz": (npy(grey()), r"be a whole \.npz file|hold the arrays"),
    }
    for name, (written, message) in cases.items():
        if written is not None:
            (tmp_path / name).write_bytes(written)
        with pytest.raises(DataError, match=message):
            ImageData(path=str(tmp_path / name)).load()
    torch.save(torch.zeros(3), tmp_path / "one.pt")
    with pytest.raises(DataError, match="It holds a Tensor; save"):
        ImageData(path=str(tmp_path / "one.pt")).load()
    torch.save([torch.zeros(2, 4, 3, dtype=torch.bfloat16), [1], torch.zeros(2, 4, 3)], tmp_path / "list.pt")
    with pytest.raises(DataError, match=r"(?s)array train.*torch.bfloat16.*array valid.*It is a list"):
        ImageData(path=str(tmp_path / "list.pt")).load()


def npy(array):
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


# --- binarisation ----------------------------------------------------------------------------------------------------


def test_fixed_bits_are_one_function_of_seed_split_and_example():
    levels = grey(6, 5, 5)[:, 0]
    bits = fixed_bits(levels, 0, "test")
    assert np.array_equal(bits, fixed_bits(levels, 0, "test"))
    assert np.array_equal(bits[:2], fixed_bits(levels[:2], 0, "test"))
    assert not np.array_equal(bits, fixed_bits(levels, 1, "test"))
    assert not np.array_equal(bits, fixed_bits(levels, 0, "valid"))
    alike = fixed_bits(np.full((2, 8, 8), 128, np.uint8), 0, "test")
    assert not np.array_equal(alike[0], alike[1])
    assert np.array_equal(bits, fixed_bits((levels / np.float64(255)).astype(np.float32), 0, "test"))


def test_measured_batches_are_the_same_bits_whatever_their_size(tmp_path):
    data = load(tmp_path)
    whole = data.test.batches(4)[0].pixels_BHW
    assert set(whole.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(torch.cat([batch.pixels_BHW for batch in data.test.batches(3)]), whole)
    batch = data.test.batches(3)[0]
    assert batch.observed(torch.Generator()) is batch
    assert batch.units == 3 * 12
    assert np.array_equal(np.packbits(whole.numpy().astype(bool).reshape(4, -1), axis=1), data.test.bits)


def test_a_grey_pixel_is_one_as_often_as_it_is_bright():
    levels = np.repeat(np.array([0, 1, 64, 200, 255], np.uint8), 4000).reshape(5, 40, 100)
    once = np.unpackbits(fixed_bits(levels, 0, "test"), axis=1).mean(1)
    batch = ImageBatch(torch.from_numpy(levels), torch.arange(5), drawn=True)
    drawn = batch.observed(torch.Generator().manual_seed(0)).pixels_BHW.mean((1, 2)).numpy()
    p = np.array([0, 1, 64, 200, 255]) / 255
    for found in (once, drawn):
        assert (np.abs(found - p) <= 4 * np.sqrt(p * (1 - p) / 4000)).all()


def test_training_sees_another_draw_at_each_use_and_under_fixed_always_the_same(tmp_path):
    for binarisation, fresh in (("dynamic", True), ("fixed", False)):
        setting = ImageData(path=saved(tmp_path), binarisation=binarisation)
        data = setting.load()
        (batch,) = setting.train_batches(data.train, 10, seed=0, epoch=0)
        stream = Streams(0)["observation"]
        one, two = batch.observed(stream).pixels_BHW, batch.observed(stream).pixels_BHW
        again = batch.observed(Streams(0)["observation"]).pixels_BHW
        assert torch.equal(one, two) != fresh
        assert torch.equal(one, again)
        fixed = data.train.binarised(batch.index_B.numpy()).pixels_BHW
        assert torch.equal(one, fixed) != fresh


def test_the_report_and_the_fingerprint_know_the_bits(tmp_path):
    one, other = load(tmp_path), load(tmp_path, {"binarisation_seed": 1})
    assert one.report["test_bits_sha256"] == one.test.bits_hash != other.report["test_bits_sha256"]
    assert one.fingerprint != other.fingerprint
    assert one.domain.columns(84.0, 10, 120) == {"bits_per_dim": pytest.approx(7.0 / math.log(2))}


# --- batches ---------------------------------------------------------------------------------------------------------


def numbers(batches):
    return [batch.index_B.tolist() for batch in batches]


def test_partitions(tmp_path):
    named = labels([1, 2, 1, 2, 3, 3, 1], [1, 1, 2], [3, 3, 3, 3])
    path = saved(tmp_path, **named)
    for partition, same in (("resplit_random", False), ("fixed_random", True), ("fixed_by_group", True)):
        setting = ImageData(path=path, partition=partition)
        train = setting.load().train
        first, second = (numbers(setting.train_batches(train, 2, 0, epoch)) for epoch in (0, 1))
        assert (first == second) == same
        assert len(first) == len(second)
        assert sorted(number for batch in first for number in batch) == list(range(7))
        assert first == numbers(setting.train_batches(train, 2, 0, 0))
        if partition == "fixed_by_group":
            assert all(len({named["train_labels"][n] for n in batch}) == 1 for batch in first)
            assert len(first) == 4


def test_groups_need_labels(tmp_path):
    with pytest.raises(DataError, match=r"data\.partition must be fixed_random or resplit_random where .* no labels"):
        load(tmp_path, {"partition": "fixed_by_group"})
