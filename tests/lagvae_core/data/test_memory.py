"""Data in memory have the fingerprint of the same content in files."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import rejects
from PIL import Image
from torch.utils.data import TensorDataset

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import DataError

SPLITS = ("train", "valid", "test")
TEXTS = {
    "train": [("a", "the cat sat"), ("b", "a dog ran far"), ("a", "café the cat"), ("b", "a dog")],
    "valid": [("a", "the dog"), ("b", "cat unknown")],
    "test": [("b", "a cat"), ("a", "ran the dog")],
}


def hugging_face(columns):
    """Return a Hugging Face data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

        return datasets.Dataset.from_dict(columns)


def data_of(**fields):
    return parse_trial({"data": fields}).data


def text(split):
    return [text for _, text in TEXTS[split]]


def label(split):
    return [label for label, _ in TEXTS[split]]


TEXT_FORMS = {
    "pairs": lambda split: (text(split), label(split)),
    "frame": lambda split: pd.DataFrame({"text": text(split), "label": label(split), "other": 0}),
    "hugging face": lambda split: hugging_face({"text": text(split), "label": label(split)}),
}


@pytest.fixture
def text_folder(tmp_path):
    for split, rows in TEXTS.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    return str(tmp_path)


@pytest.mark.parametrize("fields", [{}, {"min_freq": 2}, {"limit": 2}, {"labels": "drop"}, {"max_length": 3}], ids=str)
@pytest.mark.parametrize("form", TEXT_FORMS)
def test_texts_have_the_fingerprint_of_files(text_folder, form, fields):
    stored = data_of(kind="text", path=text_folder, **fields).load()
    given = data_of(kind="text", path="memory", **fields).from_memory(*map(TEXT_FORMS[form], SPLITS))
    assert given.fingerprint == stored.fingerprint
    assert given.report == stored.report


def test_texts_without_labels(tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("\n".join(text(split)))
    stored = data_of(kind="text", path=str(tmp_path)).load()
    assert data_of(kind="text", path="memory").from_memory(*map(text, SPLITS)).fingerprint == stored.fingerprint


def test_held_out_texts_are_those_of_a_file(tmp_path):
    lines = [f"w{number % 7} w{number % 5} w{number}" for number in range(60)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    stored = data_of(kind="text", path=str(tmp_path), held_out=0.2).load()
    assert data_of(kind="text", path="memory", held_out=0.2).from_memory(lines).fingerprint == stored.fingerprint


def arrays(kind):
    random = np.random.default_rng(0)
    if kind == "images":
        return {split: random.integers(0, 256, (6, 4, 4), dtype=np.uint8) for split in SPLITS}
    return {split: random.normal(size=(6, 3)) for split in SPLITS}


def labels_of(values):
    return (np.arange(len(values)) % 2).tolist()


ARRAY_FORMS = {
    "arrays": lambda values: (values, labels_of(values)),
    "tensors": lambda values: (torch.from_numpy(values), torch.tensor(labels_of(values))),
    "torch data set": lambda values: TensorDataset(torch.from_numpy(values), torch.tensor(labels_of(values))),
}


@pytest.mark.parametrize("kind", ["images", "vectors"])
@pytest.mark.parametrize("form", ARRAY_FORMS)
def test_arrays_have_the_fingerprint_of_a_file(tmp_path, kind, form):
    values = arrays(kind)
    labels = {f"{split}_labels": np.array(labels_of(array)) for split, array in values.items()}
    np.savez(tmp_path / "file.npz", **values, **labels)
    stored = data_of(kind=kind, path=str(tmp_path / "file.npz")).load()
    given = data_of(kind=kind, path="memory").from_memory(*(ARRAY_FORMS[form](values[split]) for split in SPLITS))
    assert given.fingerprint == stored.fingerprint
    assert given.report == stored.report


def test_frames_of_vectors_have_the_fingerprint_of_tables(tmp_path):
    frames = {
        split: pd.DataFrame(values, columns=["x", "y", "z"]).assign(group=["a", "b"] * 3, row=0)
        for split, values in arrays("vectors").items()
    }
    for split, frame in frames.items():
        frame.to_parquet(tmp_path / f"{split}.parquet")
    fields = {"kind": "vectors", "label_column": "group", "ignore": ["row"], "standardise": "features"}
    stored = data_of(path=str(tmp_path), **fields).load()
    assert data_of(path="memory", **fields).from_memory(**frames).fingerprint == stored.fingerprint
    tables = {split: hugging_face(frame.to_dict("list")) for split, frame in frames.items()}
    assert data_of(path="memory", **fields).from_memory(**tables).fingerprint == stored.fingerprint


def test_a_table_of_pictures():
    values = arrays("images")
    tables = [
        hugging_face({"image": list(map(Image.fromarray, values[split])), "label": labels_of(values[split])})
        for split in SPLITS
    ]
    source = data_of(kind="images", path="memory")
    pairs = [(values[split], labels_of(values[split])) for split in SPLITS]
    assert source.from_memory(*tables).fingerprint == source.from_memory(*pairs).fingerprint


@pytest.mark.parametrize(
    ("fields", "splits", "where"),
    [
        ({"kind": "text"}, (["a"],), ["data"]),
        ({"kind": "text"}, (["a", 3], ["a"], ["a"]), ["train (in memory), row 2"]),
        ({"kind": "text"}, (["a", None], ["a"], ["a"]), ["train (in memory), row 2"]),
        ({"kind": "text"}, ((["a b", "b"], ["x"]), (["a"], ["x"]), (["a"], ["x"])), ["train (in memory)"]),
        ({"kind": "text"}, (hugging_face({"body": ["a"]}), ["a"], ["a"]), ["data.text_column"]),
        ({"kind": "text", "held_out": 0.1}, (["a"], ["a"], ["a"]), ["data.held_out"]),
        ({"kind": "vectors"}, (np.zeros((3, 2)),), ["data.path"]),
        ({"kind": "vectors", "words": 5}, (np.zeros((3, 2)),), ["data.words"]),
        ({"kind": "images"}, (hugging_face({"picture": [0]}), None, None), ["train (in memory)"]),
        ({"kind": "images"}, ([np.zeros((2, 2)), np.zeros((3, 2))], None, None), ["data"]),
        ({"kind": "images"}, (np.zeros((3, 2, 2), bool),), ["images in memory"]),
    ],
)
def test_invalid_data_are_refused(fields, splits, where):
    with rejects(*where, error=DataError):
        data_of(path="memory", **fields).from_memory(*splits)
