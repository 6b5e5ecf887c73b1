"""Vectors from files and bundled sets: what is read, what identifies it, and how wrong files are refused."""

import math

import numpy as np
import pyarrow as pa
import pytest
from helpers import rejects
from pyarrow import parquet

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import VectorData, VectorDataset
from lagvae_core.data.vectors.files import BUNDLED
from lagvae_core.errors import DataError

X = np.random.default_rng(0).normal(3.0, [1.0, 5.0, 0.2], (40, 3))


def npz(folder, **arrays):
    path = folder / "vectors.npz"
    np.savez(path, **arrays)
    return str(path)


def splits(**changed):
    return {"train": X[:20], "valid": X[20:30], "test": X[30:], **changed}


def csv(path, values, names=("a", "b", "c"), extra=None):
    lines = [",".join(names)] + [",".join(map(repr, row)) for row in values.tolist()]
    if extra:
        lines = [f"{line},{cell}" for line, cell in zip(lines, extra, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_an_npz_file_is_read_with_its_labels(tmp_path):
    labels = {f"{split}_labels": np.arange(len(x)) % 2 for split, x in splits().items()}
    data = VectorData(path=npz(tmp_path, **splits(), **labels)).load()
    np.testing.assert_array_equal(data.train.x_NX, X[:20].astype(np.float32))
    assert data.test.labels == tuple(map(str, np.arange(10) % 2))
    assert data.domain.features == data.report["features"] == 3
    assert (data.domain.values, data.domain.log_scale) == ("real", 0.0)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables_are_read_by_the_names_of_their_columns(tmp_path, ending):
    orders = {"train": [0, 1, 2], "valid": [2, 0, 1], "test": [1, 2, 0]}
    for split, x in splits().items():
        table = pa.table(
            {"abc"[column]: x[:, column] for column in orders[split]} | {"kind": ["u", "v"] * (len(x) // 2)}
        )
        if ending == "parquet":
            parquet.write_table(table, tmp_path / f"{split}.parquet")
        else:
            table.to_pandas().to_csv(tmp_path / f"{split}.{ending}", sep="," if ending == "csv" else "\t", index=False)
    data = VectorData(path=str(tmp_path), label_column="kind").load()
    np.testing.assert_allclose(data.test.x_NX, X[30:].astype(np.float32))
    assert data.valid.labels == ("u", "v") * 5
    ignored = VectorData(path=str(tmp_path), ignore=("kind", "b")).load()
    assert ignored.domain.features == 2
    assert ignored.train.labels is None


def test_one_table_is_divided_by_the_seed(tmp_path):
    path = csv(tmp_path / "x.csv", X)
    one = VectorData(path=path, held_out=0.2).load()
    rows = np.concatenate([getattr(one, split).x_NX for split in ("train", "valid", "test")])
    assert {tuple(row) for row in rows} == {tuple(row) for row in X.astype(np.float32)}
    assert "drawn from train" in one.report["remarks"]
    assert VectorData(path=path, held_out=0.2).fingerprint() == one.fingerprint
    assert VectorData(path=path, held_out=0.2, held_out_seed=1).fingerprint() != one.fingerprint


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_set_is_read_and_divided(name):
    data = VectorData(path=f"sklearn:{name}").load()
    sizes = [len(getattr(data, split)) for split in ("train", "valid", "test")]
    assert min(sizes) > 0
    assert "0.2 each" in data.report["remarks"]


def test_the_digits_are_labelled_counts():
    data = VectorData(path="sklearn:digits").load()
    assert (data.domain.features, data.domain.values) == (64, "counts")
    assert set(data.train.labels) == set(map(str, range(10)))
    assert sum(len(getattr(data, split)) for split in ("train", "valid", "test")) == 1797


def test_words_of_texts_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path / "cache"))
    texts = {"train": "x\ta b a\ny\tb c b a\n", "valid": "x\ta d\ny\tb\n", "test": "y\tc c\nx\ta\n"}
    for split, text in texts.items():
        (tmp_path / f"{split}.txt").write_text(text)
    data = VectorData(path=str(tmp_path), words=2).load()
    assert data.train.x_NX.tolist() == [[2, 1], [1, 2]]
    assert data.valid.x_NX.tolist() == [[1, 0], [0, 1]]
    assert data.test.x_NX.tolist() == [[0, 0], [1, 0]]
    assert (data.domain.values, data.train.labels) == ("counts", ("x", "y"))
    assert VectorData(path=str(tmp_path), words=9, labels="drop").load().domain.features == 3
    with rejects("data"):
        parse_trial({"data": {"kind": "vectors", "path": ".", "words": 5, "ignore": ["a"]}})


def test_values_are_classified_over_all_splits(tmp_path):
    binary = {split: (x > 3).astype(np.uint8) for split, x in splits().items()}
    assert VectorData(path=npz(tmp_path, **binary)).load().domain.values == "binary"
    assert VectorData(path=npz(tmp_path, **binary | {"test": binary["test"] * 2})).load().domain.values == "counts"
    assert VectorData(path=npz(tmp_path, **binary | {"test": binary["test"] * 0.5})).load().domain.values == "real"


@pytest.mark.parametrize("standardise", ["features", "shared"])
def test_standardisation_uses_train_alone_and_is_part_of_the_identity(tmp_path, standardise):
    path = npz(tmp_path, **splits())
    plain, data = (VectorData(path=path, standardise=how).load() for how in ("none", standardise))
    std = X[:20].std(0) if standardise == "features" else np.full(3, math.sqrt(np.square(X[:20].std(0)).mean()))
    np.testing.assert_allclose(data.test.x_NX, (X[30:] - X[:20].mean(0)) / std, rtol=1e-5, atol=1e-5)
    assert data.domain.log_scale == pytest.approx(np.log(std).sum())
    assert data.domain.is_standardised
    assert data.fingerprint != plain.fingerprint
    assert data.report["standardise"] != plain.report["standardise"]


def test_constant_features_are_only_centred():
    x = np.column_stack([X[:, 0], np.full(40, 7.0)])
    data = VectorDataset.of(dict.fromkeys(("train", "valid", "test"), x), standardise="features")
    assert np.abs(data.train.x_NX[:, 1]).max() == 0
    assert data.scale_X[1] == 1
    assert "1 of 2 features" in data.report["remarks"]


def test_limits_cut_the_splits(tmp_path):
    data = VectorData(path=npz(tmp_path, **splits()), limit=5, valid_limit=3, test_limit=2).load()
    assert [len(getattr(data, split)) for split in ("train", "valid", "test")] == [5, 3, 2]


def test_training_batches_are_shuffled_by_the_seed_and_grouped_by_label():
    data = VectorData(path="sklearn:iris", partition="fixed_by_group")
    batches = data.train_batches(data.load().train, 16, seed=1, epoch=0)
    labels = np.array(data.load().train.labels)
    assert all(len(set(labels[batch.index_B.numpy()])) == 1 for batch in batches)
    assert sorted(np.concatenate([batch.index_B.numpy() for batch in batches])) == list(range(len(labels)))
    shuffled = data.model_copy(update={"partition": "resplit_random"})
    first, again, second = (
        np.concatenate([b.index_B.numpy() for b in shuffled.train_batches(data.load().train, 16, seed=1, epoch=epoch)])
        for epoch in (0, 0, 1)
    )
    assert first.tolist() == again.tolist() != second.tolist()


# --- wrong data ------------------------------------------------------------------------------------------------------


def refused(**fields):
    with pytest.raises(DataError) as caught:
        VectorData(**fields).load()
    return [(issue.where, issue.message, issue.hint) for issue in caught.value.issues]


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        ({"test": X[30:, :2]}, "3 values per vector", "2 values"),
        ({"valid": X[20]}, "one vector per row", "[3]"),
        ({"valid": np.array([["a", "b", "c"]])}, "must contain numbers", "<U1"),
        ({"valid": X[20:30] + 1j}, "must contain numbers", "complex"),
        ({"test": np.empty((0, 3))}, "at least one vector", "[0, 3]"),
        ({"train": np.where(X[:20] > 3, np.nan, X[:20])}, "only finite", "row"),
        ({"train": X[:20] * 1e39}, "only finite", "are missing, infinite or too large"),
        ({"train_labels": np.arange(20)}, "must have labels", "data.labels=drop"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, changed, message, hint):
    found = refused(path=npz(tmp_path, **splits(**changed)))
    assert any(message in text and hint in advice for _, text, advice in found), found


def test_all_problems_are_reported_at_once(tmp_path):
    found = refused(path=npz(tmp_path, train=X[:20], valid=np.array([["a"]]), test=np.full((2, 3), np.inf)))
    assert len(found) == 2
    assert [where.rpartition(" ")[2] for where, _, _ in found] == ["valid", "test"]


def test_objects_are_never_unpickled(tmp_path):
    found = refused(path=npz(tmp_path, **splits(train=np.array([[{}]], dtype=object))))
    assert "without Python objects" in found[0][1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"1,2,3\n4,5,6\n"])
def test_a_damaged_file_is_refused(tmp_path, content):
    for name in ("x.npz", "x.csv", "x.parquet"):
        (tmp_path / name).write_bytes(content)
        assert refused(path=str(tmp_path / name), held_out=0.2)


def test_wrong_tables_are_refused(tmp_path):
    path = csv(tmp_path / "x.csv", X, extra=["city", *["Rome"] * 40])
    (found,) = refused(path=path, held_out=0.2)
    assert "city (string)" in found[1]
    assert "data.ignore=[city]" in found[2]
    found = refused(path=path, held_out=0.2, label_column="town", ignore=("id",))
    assert [where for where, _, _ in found] == ["data.label_column", "data.ignore"]
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3,\n" + "5,6\n" * 40)
    (found,) = refused(path=path, held_out=0.2)
    assert "row 1, column b" in found[2]
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n")
    (found,) = refused(path=path, held_out=0.2)
    assert "undamaged" in found[1]


def test_tables_with_different_columns_are_refused(tmp_path):
    for split, names in (("train", "abc"), ("valid", "abc"), ("test", "abd")):
        csv(tmp_path / f"{split}.csv", X[:10], names)
    (found,) = refused(path=str(tmp_path))
    assert found[0].endswith("test.csv")
    assert "c, d" in found[2]


def test_missing_splits_are_refused(tmp_path):
    csv(tmp_path / "train.csv", X)
    assert [where for where, _, _ in refused(path=str(tmp_path))] == ["data.path", "data.path"]
    assert len(VectorData(path=str(tmp_path), held_out=0.2).load().test)
    (found,) = refused(path=str(tmp_path / "train.csv"))
    assert "valid and test" in found[1]
    assert refused(path=npz(tmp_path, **splits()), held_out=0.2)[0][0] == "data.held_out"


def test_options_of_tables_are_refused_for_other_files(tmp_path):
    found = refused(path=npz(tmp_path, **splits()), label_column="a", ignore=("b",))
    assert [where for where, _, _ in found] == ["data.label_column", "data.ignore"]


def test_unknown_sets_and_missing_files_are_refused():
    assert "Did you mean digits" in refused(path="sklearn:digit")[0][2]
    assert refused(path="no/such/file.npz")[0][0] == "data.path"


def test_grouping_without_labels_is_refused(tmp_path):
    assert refused(path=npz(tmp_path, **splits()), partition="fixed_by_group")[0][0] == "data.partition"


def test_the_location_does_not_identify_a_configuration(tmp_path):
    one, other = (parse_trial({"data": {"kind": "vectors", "path": path}}) for path in ("a.npz", "sklearn:digits"))
    assert one.canonical() == other.canonical()
    with rejects("data.standardise"):
        parse_trial({"data": {"kind": "vectors", "path": "a.npz", "standardise": "always"}})
