"""The formats in which text comes: plain, gzip, Parquet; which file is read, and what is refused."""

import gzip
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from lagvae_core.data import TextData
from lagvae_core.errors import DataError

ROWS = {
    "train": [("1", "the cat sat"), ("0", "the dog"), ("1", "")],
    "valid": [("1", "a cat"), ("0", "a dog")],
    "test": [("0", "a dog"), ("1", "the cow")],
}


def as_lines(rows):
    return "".join(f"{label}\t{text}\n" for label, text in rows).encode()


def as_table(rows, **columns):
    labels, texts = zip(*rows, strict=True)
    given = {"label": pa.array([int(label) for label in labels]), "text": pa.array(texts), **columns}
    return pa.table({name: column for name, column in given.items() if column is not None})


def write(folder, split, suffix, rows):
    path = folder / f"{split}{suffix}"
    if suffix == ".parquet":
        parquet.write_table(as_table(rows), path)
    else:
        path.write_bytes(gzip.compress(as_lines(rows)) if suffix == ".txt.gz" else as_lines(rows))
    return path


@pytest.fixture
def corpus(tmp_path):
    """A function that writes all splits and gives their folder; `suffixes` are those of train, valid and test."""

    def fill(*suffixes):
        for split, suffix in zip(ROWS, suffixes, strict=True):
            write(tmp_path, split, suffix, ROWS[split])
        return tmp_path

    return fill


def issues(folder, **fields):
    with pytest.raises(DataError) as caught:
        TextData(path=str(folder), **fields).load()
    return [str(issue) for issue in caught.value.issues]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    for split, rows in ROWS.items():
        write(folder, split, ".txt", rows)
    return TextData(path=str(folder)).load()


@pytest.mark.parametrize("suffixes", [(".txt.gz",) * 3, (".parquet",) * 3, (".parquet", ".txt", ".txt.gz")])
def test_each_format_holds_the_same_data(corpus, suffixes, plain):
    data = TextData(path=str(corpus(*suffixes))).load()
    assert data.fingerprint == plain.fingerprint
    assert data.report == plain.report
    assert data.train.labels == ("1", "0")
    assert data.report["train_dropped_empty"] == 1


def test_labels_of_a_parquet_file_are_a_matter_of_the_column(corpus):
    folder = corpus(*[".parquet"] * 3)
    for labels in ("no", "drop"):
        assert TextData(path=str(folder), labels=labels).load().train.labels is None
    for split, rows in ROWS.items():
        parquet.write_table(as_table(rows, label=None), folder / f"{split}.parquet")
    assert TextData(path=str(folder)).load().train.labels is None
    messages = issues(folder, labels="yes")
    assert len(messages) == 3
    assert "data.label_column must be a column of" in messages[0]
    assert messages[0].endswith("but is 'label'. Its columns are text.")


def test_columns_have_the_names_that_they_are_given(corpus):
    folder = corpus(*[".parquet"] * 3)
    for split, rows in ROWS.items():
        table = as_table(rows).rename_columns(["stars", "review"])
        table = table.set_column(0, "stars", table["stars"].cast(pa.string()).dictionary_encode())
        parquet.write_table(table, folder / f"{split}.parquet")
    data = TextData(path=str(folder), text_column="review", label_column="stars").load()
    assert data.train.labels == ("1", "0")
    messages = issues(folder)
    assert len(messages) == 3
    assert "data.text_column must be a column of" in messages[1]
    assert "valid.parquet, but is 'text'. Its columns are stars, review." in messages[1]


def test_a_text_of_several_lines_is_one_sentence(corpus):
    folder = corpus(*[".parquet"] * 3)
    parquet.write_table(as_table([("1", "the\ncat"), ("0", "sat\t on")]), folder / "train.parquet")
    data = TextData(path=str(folder)).load()
    assert data.train.lengths.tolist() == [4, 4]


def test_two_files_for_one_split_are_refused(corpus):
    folder = corpus(*[".txt"] * 3)
    write(folder, "train", ".txt.gz", ROWS["train"])
    write(folder, "dev", ".txt", ROWS["valid"])
    train, valid = issues(folder)
    assert "data.path must have one file for train, and train.txt and train.txt.gz are there" in train
    assert "data.path must have one file for valid, and valid.txt and dev.txt are there" in valid
    assert valid.endswith("Move all but one of them away.")


def test_what_is_wrong_in_any_file_is_told_at_once(corpus):
    folder = corpus(".txt.gz", ".parquet", ".parquet")
    whole = (folder / "train.txt.gz").read_bytes()
    (folder / "train.txt.gz").write_bytes(whole[:-12])
    parquet.write_table(as_table(ROWS["valid"], text=pa.array([1.0, 2.0])), folder / "valid.parquet")
    (folder / "test.parquet").write_bytes(b"PAR1 no more PAR1")
    train, valid, test = issues(folder)
    assert "must hold whole gzip files" in train
    assert "train.txt.gz, after line " in train
    assert "data.text_column must be a column of strings" in valid
    assert "this one is of type double" in valid
    assert "must hold whole Parquet files" in test
    assert "test.parquet'" in test


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(b"a\n" * 9)[:14] + b"\xff" * 20])
def test_what_is_no_gzip_file(corpus, content):
    folder = corpus(*[".txt.gz"] * 3)
    (folder / "test.txt.gz").write_bytes(content)
    (message,) = issues(folder)
    assert "must hold whole gzip files, but is '" in message


def test_a_row_without_text_or_label_is_named(corpus):
    folder = corpus(*[".parquet"] * 3)
    rows = ROWS["train"]
    parquet.write_table(as_table(rows, text=pa.array(["a", None, "b"])), folder / "train.parquet")
    parquet.write_table(as_table(ROWS["valid"], label=pa.array([1, None])), folder / "valid.parquet")
    train, valid = issues(folder)
    assert "must have a text in every row of text" in train
    assert "train.parquet, row 2: null'" in train
    assert "must have a label in each row" in valid
    assert "valid.parquet, row 2: a dog'" in valid


def test_not_utf8_inside_gzip(corpus):
    folder = corpus(*[".txt.gz"] * 3)
    (folder / "valid.txt.gz").write_bytes(gzip.compress(b"1\ta\n0\tcaf\xe9\n"))
    (message,) = issues(folder)
    assert "valid.txt.gz, line 2, byte offset 9'" in message


def test_labels_of_one_type_only_have_classes(corpus):
    folder = corpus(*[".parquet"] * 3)
    parquet.write_table(as_table(ROWS["test"], label=pa.array([0.0, 1.0])), folder / "test.parquet")
    (message,) = issues(folder)
    assert "data.label_column must be a column of strings or integers" in message


def test_without_pyarrow_parquet_is_refused_and_the_rest_is_read(corpus, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path_factory.mktemp("cold")))
    folder = corpus(".parquet", ".txt", ".txt.gz")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from lagvae_core.data import TextData\n"
        "try: TextData(path=sys.argv[1]).load()\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.count("must") == 1
    assert "Parquet takes the package pyarrow" in done.stdout
    assert done.stdout.rstrip().endswith("Install pyarrow, or convert the file to .txt.")
