import io
import math
import pickle

import numpy as np
import pytest
import torch
from helpers import rejects
from PIL import Image

from lagvae_core.data import ImageBatch, ImageData
from lagvae_core.data.images.arrays import fixed_bits
from lagvae_core.data.raw import SPLITS
from lagvae_core.errors import DataError
from lagvae_core.randomness import Streams


def grey(count=5, height=4, width=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, height, width), dtype=np.uint8)


def splits(**changes):
    arrays = {"train": grey(7, seed=1), "valid": grey(3, seed=2), "test": grey(4, seed=3), **changes}
    return {name: array for name, array in arrays.items() if array is not None}


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
def test_npz_and_torch_files_give_the_same_data(tmp_path, save):
    expected = load(tmp_path)
    tensors = {name: torch.from_numpy(array) for name, array in splits().items()}
    if save != "npz":
        torch.save(list(tensors.values()) if save == "list" else tensors, tmp_path / "images.pt")
    data = ImageData(path=str(tmp_path / ("images.npz" if save == "npz" else "images.pt"))).load()
    assert data.fingerprint == expected.fingerprint
    assert data.report == expected.report
    assert (data.domain.height, data.domain.width) == (4, 3)
    assert data.train.levels_NHW.dtype == np.uint8
    assert np.array_equal(data.train.levels_NHW, splits()["train"][:, 0])
    assert [len(data.train), len(data.valid), len(data.test)] == [7, 3, 4]
    assert data.test.units == 4 * 4 * 3


def test_floats_booleans_and_images_without_a_channel_are_read(tmp_path):
    expected = load(tmp_path)
    floats = {name: array[:, 0] / np.float32(255) for name, array in splits().items()}
    assert load(tmp_path, **floats).fingerprint == expected.fingerprint
    finer = load(tmp_path, train=np.full((2, 4, 3), 0.123456, np.float64))
    assert finer.train.levels_NHW.dtype == np.float32
    assert finer.train.levels_NHW[0, 0, 0] == np.float32(0.123456)
    booleans = {name: array > 99 for name, array in splits().items()}
    data = load(tmp_path, **booleans)
    assert np.array_equal(data.test.binarised(np.arange(4)).pixels_BHW.numpy(), booleans["test"][:, 0])
    assert data.report["test_mean_grey"] == pytest.approx(booleans["test"].mean())


def test_limit_applies_to_the_training_images_only(tmp_path):
    whole, few = load(tmp_path), load(tmp_path, {"limit": 2})
    assert np.array_equal(few.train.levels_NHW, whole.train.levels_NHW[:2])
    assert np.array_equal(few.train.bits, whole.train.bits[:2])
    assert few.test.bits_hash == whole.test.bits_hash
    assert few.fingerprint != whole.fingerprint
    assert len(whole.valid.limit(2)) == 2


def test_missing_arrays_are_drawn_from_train(tmp_path):
    train = np.arange(200, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    arrays = {"train": train, "train_labels": np.arange(200) % 2, "valid": None, "test": None}
    data = load(tmp_path, {"held_out": 0.2}, **arrays)
    assert data.report["remarks"] == "valid and test drawn from train (0.2 each, seed 0)"
    drawn = [getattr(data, split).levels_NHW[:, 0, 0] for split in SPLITS]
    assert sorted(np.concatenate(drawn)) == list(range(200))
    assert all(20 < len(split) < 60 for split in drawn[1:])
    assert [int(label) for label in data.test.labels] == [level % 2 for level in drawn[2]]


def test_labels_are_read_and_reported(tmp_path):
    data = load(tmp_path, **labels([1, 2, 1, 2, 3, 3, 1], [1, 1, 2], [3, 3, 3, 3]))
    assert data.train.labels == ("1", "2", "1", "2", "3", "3", "1")
    assert data.report["labels"] == "1 2 3"
    assert load(tmp_path).report["labels"] == "none"
    assert load(tmp_path, {"limit": 2}, **labels(list("abababa"), list("aab"), list("bbbb"))).train.labels == ("a", "b")


# --- channels and remedies -------------------------------------------------------------------------------------------


def followed(hint, array):
    """Return the array after the remedy of a hint, an expression of numpy at its end."""
    expression = hint.rpartition("x = ")[2]
    return eval(expression, {"numpy": np, "x": array})


def colour(count=4, channels=3, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 6, channels)).astype(dtype)


def coloured(**options):
    return {split: colour(seed=seed, **options) for seed, split in enumerate(SPLITS)}


@pytest.mark.parametrize("channels_first", [False, True])
def test_colour_becomes_grey_only_when_asked(tmp_path, channels_first):
    arrays = coloured()
    given = {split: np.moveaxis(x, -1, 1) if channels_first else x for split, x in arrays.items()}
    with pytest.raises(DataError) as caught:
        load(tmp_path, **given)
    assert [issue.where.rpartition(" ")[2] for issue in caught.value.issues] == list(SPLITS)
    assert all("data.colour=grey" in issue.hint for issue in caught.value.issues)
    data = load(tmp_path, {"colour": "grey"}, **given)
    pictures = [np.asarray(Image.fromarray(image).convert("L")) for image in arrays["test"]]
    assert np.abs(data.test.levels_NHW.astype(int) - np.stack(pictures)).max() <= 1  # Pillow rounds differently
    assert data.report["remarks"] == "colour turned into grey"
    floats = {split: (x / 255).astype(np.float32) for split, x in given.items()}
    finer = load(tmp_path, {"colour": "grey"}, **floats)
    assert np.allclose(finer.test.levels_NHW * 255, data.test.levels_NHW, atol=0.51)


def test_equal_channels_and_opaque_alpha_are_grey(tmp_path):
    plain = {split: grey(3, 5, 6, seed)[:, 0] for seed, split in enumerate(SPLITS)}
    opaque = {split: np.stack([x, x, x, np.full_like(x, 255)], -1) for split, x in plain.items()}
    expected = load(tmp_path, **plain)
    data = load(tmp_path, **opaque)
    assert data.fingerprint == expected.fingerprint
    assert data.report["remarks"] == "equal channels read as grey"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda x: (x / 127.5 - 1).astype(np.float32), "(x + 1) / 2"),
        (lambda x: x / 127.5 - 1, "(x + 1) / 2"),
        (lambda x: x.astype(np.float32), "x / 255"),
        (lambda x: x * 257.0, "x / 65535"),
        (lambda x: x.astype(np.int64), "x.astype(numpy.uint8)"),
        (lambda x: x.astype(np.uint16) * 257, "x / 65535"),
        (lambda x: (x > 9).astype(np.int32), "x.astype(bool)"),
        (lambda x: x / 254.999, "x.clip(0, 1)"),
        (lambda x: ((x / 255 - 0.1307) / 0.3081).astype(np.float32), None),
        (lambda x: x.astype(np.int64) - 300, None),
        (lambda x: x.reshape(len(x), -1), "x.reshape(-1, 6, 6)"),
        (lambda x: x.repeat(3, -1).reshape(len(x), -1), "x.reshape(-1, 3, 6, 6)"),
        (lambda x: np.stack([x, x, x, x // 2], -1), "x[..., :3]"),
        (lambda x: np.stack([x, x, x, x // 2], 1), "x[:, :3]"),
    ],
)
def test_the_remedy_of_a_message_gives_readable_images(tmp_path, change, remedy):
    arrays = {split: np.random.default_rng(seed).integers(0, 256, (4, 6, 6)) for seed, split in enumerate(SPLITS)}
    arrays = {split: change(np.where(x == x.flat[0], 0, x).astype(np.uint8)) for split, x in arrays.items()}
    with pytest.raises(DataError) as caught:
        load(tmp_path, **arrays)
    remedied = dict(arrays)
    for issue in caught.value.issues:
        split = issue.where.rpartition(" ")[2]
        assert remedy is None or issue.hint.endswith(f"x = {remedy}")
        remedied[split] = followed(issue.hint, arrays[split])
    data = load(tmp_path, {"colour": "grey"}, **remedied)
    assert data.domain.height == 6


# --- issues ----------------------------------------------------------------------------------------------------------

RAGGED = np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object)
TWO_IMAGES = np.ones((2, 4, 3))
BAD = {
    "missing": ({"valid": None}, "", "valid"),
    "objects": ({"train": RAGGED}, "train", "Python objects"),
    "integers": ({"test": grey().astype(np.int64)}, "test", "int64"),
    "complex": ({"test": grey().astype(np.complex64)}, "test", "complex64"),
    "flat": ({"train": grey().reshape(5, 12)}, "train", "[5, 12]"),
    "two channels": ({"train": grey(width=5).repeat(2, 1)}, "train", "[5, 2, 4, 5]"),
    "ambiguous channels": ({"train": grey().repeat(3, 1)}, "train", "[5, 3, 4, 3]"),
    "no pixels": ({"train": grey(5, 0)}, "train", "[5, 1, 0, 3]"),
    "empty": ({"valid": grey(0)}, "valid", "at least one image"),
    "other size": ({"test": grey(4, 5, 5)}, "test", "5 x 5"),
    "nan": (
        {"valid": np.where([[[0]], [[1]]], np.nan, TWO_IMAGES)},
        "valid",
        "1 of 2, the first with index 1",
    ),
    "infinity": (
        {"valid": np.full((2, 4, 3), -np.inf)},
        "valid",
        "2 of 2, the first with index 0",
    ),
    "to 255": ({"train": 255.0 * TWO_IMAGES}, "train", "255 to 255"),
    "negative": ({"train": -0.5 * TWO_IMAGES}, "train", "-0.5 to -0.5"),
    "short labels": (labels([1] * 6, [1] * 3, [1] * 4), "train_labels", "6 labels for 7 images"),
    "float labels": (labels([0.5] * 7, [1] * 3, [1] * 4), "train_labels", "float64"),
    "unknown labels": (labels([1] * 7, [1, 2, 1], [1] * 4), "valid_labels", "contains 2."),
}
"""Changes of the arrays, the array that the issue is about ("" for the file), and a fact in the message or hint."""


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_rejected_with_the_array_and_a_hint(tmp_path, what):
    changes, array, fact = BAD[what]
    path = tmp_path / "images.npz"
    with rejects(f"{path}, array {array}" if array else str(path), error=DataError) as issues:
        load(tmp_path, **changes)
    assert fact in f"{issues[0].message} {issues[0].hint}"
    assert issues[0].hint != ""


def test_labels_of_one_split_require_labels_of_the_others(tmp_path):
    places = [f"{tmp_path / 'images.npz'}, array {split}_labels" for split in ("valid", "test")]
    with rejects(*places, error=DataError):
        load(tmp_path, train_labels=np.arange(7))


def test_black_and_white_bytes_are_rejected(tmp_path):
    with rejects(str(tmp_path / "images.npz"), error=DataError) as issues:
        load(tmp_path, **{name: array // 128 for name, array in splits().items()})
    remedied = {name: followed(issues[0].hint, array // 128) for name, array in splits().items()}
    assert set(np.unique(load(tmp_path, **remedied).test.levels_NHW)) == {0, 255}


def test_the_issues_of_all_arrays_are_reported_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        load(tmp_path, train=grey(0), valid=None, test=np.full((2, 4, 3), 2.0))
    assert len(caught.value.issues) == 3


class FailsWhenUnpickled:
    """An object that fails the test if it is created from a file."""

    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def test_objects_in_a_file_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", **splits(train=np.array([FailsWhenUnpickled()], dtype=object)))
    torch.save([FailsWhenUnpickled()], tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps([FailsWhenUnpickled()]))
    for name, place in (("a.npz", "a.npz, array train"), ("a.pt", "a.pt"), ("b.pt", "b.pt")):
        with rejects(str(tmp_path / place), error=DataError):
            ImageData(path=str(tmp_path / name)).load()


def test_files_of_other_formats_and_damaged_files_are_rejected(tmp_path):
    with open(saved(tmp_path), "rb") as file:
        content = file.read()
    files = {
        "a.csv": b"1,2",
        "empty.npz": b"",
        "half.npz": content[: len(content) // 2],
        "flip.npz": content.replace(splits()["train"].tobytes()[:8], b"\0" * 8),
        "text.pt": b"not a tensor",
        "array.npz": npy(grey()),
    }
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
        with rejects(str(tmp_path / name), error=DataError) as issues:
            ImageData(path=str(tmp_path / name)).load()
        assert issues[0].hint != ""


def test_torch_files_must_contain_three_tensors(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "one.pt")
    with rejects(str(tmp_path / "one.pt"), error=DataError) as issues:
        ImageData(path=str(tmp_path / "one.pt")).load()
    assert "Tensor" in issues[0].hint
    torch.save([torch.zeros(2, 4, 3, dtype=torch.bfloat16), [1], torch.zeros(2, 4, 3)], tmp_path / "list.pt")
    places = [f"{tmp_path / 'list.pt'}, array {split}" for split in ("train", "valid")]
    with rejects(*places, error=DataError) as issues:
        ImageData(path=str(tmp_path / "list.pt")).load()
    assert "torch.bfloat16" in issues[0].hint
    assert "list" in issues[1].hint


def npy(array):
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


# --- binarisation ----------------------------------------------------------------------------------------------------


def test_fixed_bits_depend_on_seed_split_and_example_only():
    levels = grey(6, 5, 5)[:, 0]
    bits = fixed_bits(levels, 0, "test")
    assert np.array_equal(bits, fixed_bits(levels, 0, "test"))
    assert np.array_equal(bits[:2], fixed_bits(levels[:2], 0, "test"))
    assert not np.array_equal(bits, fixed_bits(levels, 1, "test"))
    assert not np.array_equal(bits, fixed_bits(levels, 0, "valid"))
    alike = fixed_bits(np.full((2, 8, 8), 128, np.uint8), 0, "test")
    assert not np.array_equal(alike[0], alike[1])
    assert np.array_equal(bits, fixed_bits((levels / np.float64(255)).astype(np.float32), 0, "test"))


def test_measured_bits_do_not_depend_on_the_batch_size(tmp_path):
    data = load(tmp_path)
    whole = data.test.batches(4)[0].pixels_BHW
    assert set(whole.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(torch.cat([batch.pixels_BHW for batch in data.test.batches(3)]), whole)
    batch = data.test.batches(3)[0]
    assert batch.observed(torch.Generator()) is batch
    assert batch.units == 3 * 12
    assert np.array_equal(np.packbits(whole.numpy().astype(bool).reshape(4, -1), axis=1), data.test.bits)


def test_the_frequency_of_ones_is_the_grey_level():
    levels = np.repeat(np.array([0, 1, 64, 200, 255], np.uint8), 4000).reshape(5, 40, 100)
    fixed = np.unpackbits(fixed_bits(levels, 0, "test"), axis=1).mean(1)
    batch = ImageBatch(torch.from_numpy(levels), torch.arange(5), drawn=True)
    drawn = batch.observed(torch.Generator().manual_seed(0)).pixels_BHW.mean((1, 2)).numpy()
    p = np.array([0, 1, 64, 200, 255]) / 255
    for frequency in (fixed, drawn):
        assert (np.abs(frequency - p) <= 4 * np.sqrt(p * (1 - p) / 4000)).all()


def test_dynamic_binarisation_draws_at_each_use_and_fixed_does_not(tmp_path):
    for binarisation, fresh in (("dynamic", True), ("fixed", False)):
        config = ImageData(path=saved(tmp_path), binarisation=binarisation)
        data = config.load()
        (batch,) = config.train_batches(data.train, 10, seed=0, epoch=0)
        stream = Streams(0)["observation"]
        one, two = batch.observed(stream).pixels_BHW, batch.observed(stream).pixels_BHW
        again = batch.observed(Streams(0)["observation"]).pixels_BHW
        assert torch.equal(one, two) != fresh
        assert torch.equal(one, again)
        fixed = data.train.binarised(batch.index_B.numpy()).pixels_BHW
        assert torch.equal(one, fixed) != fresh


def test_report_and_fingerprint_depend_on_the_bits(tmp_path):
    one, other = load(tmp_path), load(tmp_path, {"binarisation_seed": 1})
    assert one.report["test_bits_sha256"] == one.test.bits_hash != other.report["test_bits_sha256"]
    assert one.fingerprint != other.fingerprint
    assert one.domain.columns(84.0, 10, 120) == {"bits_per_dim": pytest.approx(7.0 / math.log(2))}


# --- batches ---------------------------------------------------------------------------------------------------------


def numbers(batches):
    return [batch.index_B.tolist() for batch in batches]


def test_each_partition_holds_every_image_once(tmp_path):
    arrays = labels([1, 2, 1, 2, 3, 3, 1], [1, 1, 2], [3, 3, 3, 3])
    path = saved(tmp_path, **arrays)
    for partition, same in (("resplit_random", False), ("fixed_random", True), ("fixed_by_group", True)):
        config = ImageData(path=path, partition=partition)
        train = config.load().train
        first, second = (numbers(config.train_batches(train, 2, 0, epoch)) for epoch in (0, 1))
        assert (first == second) == same
        assert len(first) == len(second)
        assert sorted(number for batch in first for number in batch) == list(range(7))
        assert first == numbers(config.train_batches(train, 2, 0, 0))
        if partition == "fixed_by_group":
            assert all(len({arrays["train_labels"][n] for n in batch}) == 1 for batch in first)
            assert len(first) == 4


def test_groups_need_labels(tmp_path):
    with rejects("data.partition", error=DataError):
        load(tmp_path, {"partition": "fixed_by_group"})
