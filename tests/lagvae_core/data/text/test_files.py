"""The formats of text files (plain, gzip, Parquet), the choice of the file of a split, and issues of files."""

import gzip
import subprocess
import sys

import pyarrow as pa
import pytest
from following import follow
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
    values = {"label": pa.array([int(label) for label in labels]), "text": pa.array(texts), **columns}
    return pa.table({name: column for name, column in values.items() if column is not None})


def write(folder, split, suffix, rows):
    path = folder / f"{split}{suffix}"
    if suffix == ".parquet":
        parquet.write_table(as_table(rows), path)
    else:
        path.write_bytes(gzip.compress(as_lines(rows), mtime=0) if suffix == ".txt.gz" else as_lines(rows))
    return path


@pytest.fixture
def corpus(tmp_path):
    """Return a function that writes train, valid and test with the given suffixes and returns their folder."""

    def write_splits(*suffixes):
        for split, suffix in zip(ROWS, suffixes, strict=True):
            write(tmp_path, split, suffix, ROWS[split])
        return tmp_path

    return write_splits


def issues(folder, **fields):
    """Return the issues that loading the text raises."""
    with pytest.raises(DataError) as caught:
        TextData(path=str(folder), **fields).load()
    return caught.value.issues


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    for split, rows in ROWS.items():
        write(folder, split, ".txt", rows)
    return TextData(path=str(folder)).load()


@pytest.mark.parametrize("suffixes", [(".txt.gz",) * 3, (".parquet",) * 3, (".parquet", ".txt", ".txt.gz")])
def test_all_formats_give_the_same_data(corpus, suffixes, plain):
    data = TextData(path=str(corpus(*suffixes))).load()
    assert data.fingerprint == plain.fingerprint
    assert data.report == plain.report
    assert data.train.labels == ("1", "0")
    assert data.report["train_dropped_empty"] == 1


def test_a_parquet_file_has_labels_if_it_has_the_column(corpus):
    folder = corpus(*[".parquet"] * 3)
    for labels in ("no", "drop"):
        assert TextData(path=str(folder), labels=labels).load().train.labels is None
    for split, rows in ROWS.items():
        parquet.write_table(as_table(rows, label=None), folder / f"{split}.parquet")
    assert TextData(path=str(folder)).load().train.labels is None
    found = issues(folder, labels="yes")
    assert [(issue.where, issue.value) for issue in found] == [("data.label_column", "label")] * 3
    assert all(f"{split}.parquet" in issue.message for split, issue in zip(ROWS, found, strict=True))
    assert found[0].hint == "The columns are text."


def test_the_columns_of_a_parquet_file_can_be_named(corpus):
    folder = corpus(*[".parquet"] * 3)
    for split, rows in ROWS.items():
        table = as_table(rows).rename_columns(["stars", "review"])
        table = table.set_column(0, "stars", table["stars"].cast(pa.string()).dictionary_encode())
        parquet.write_table(table, folder / f"{split}.parquet")
    data = TextData(path=str(folder), text_column="review", label_column="stars").load()
    assert data.train.labels == ("1", "0")
    found = issues(folder)
    assert [(issue.where, issue.value) for issue in found] == [("data.text_column", "text")] * 3
    assert "valid.parquet" in found[1].message
    assert "stars, review" in found[1].hint


TEXT_TYPES = {
    "large_string": lambda texts: texts.cast(pa.large_string()),
    "string_view": lambda texts: texts.cast(pa.string_view()),
    "dictionary": lambda texts: texts.dictionary_encode(),
    "binary": lambda texts: texts.cast(pa.binary()),
}


@pytest.mark.parametrize("kind", TEXT_TYPES)
def test_a_parquet_column_of_any_type_of_string(corpus, plain, kind):
    folder = corpus(*[".parquet"] * 3)
    texts = TEXT_TYPES[kind](pa.array([text for _, text in ROWS["train"]]))
    labels = TEXT_TYPES[kind](pa.array([label for label, _ in ROWS["train"]]))
    parquet.write_table(pa.table({"label": labels, "text": texts}), folder / "train.parquet")
    assert TextData(path=str(folder)).load().fingerprint == plain.fingerprint


def test_two_parquet_columns_of_one_name_are_refused(corpus):
    folder = corpus(*[".parquet"] * 3)
    texts = pa.array(["a", "b"])
    parquet.write_table(pa.Table.from_arrays([texts] * 4, ["text", "x", "text", "x"]), folder / "train.parquet")
    (issue,) = issues(folder, labels="no")
    assert (issue.where, issue.value) == ("data.text_column", "text")
    assert "only one" in issue.message
    assert "text, x, text, x" in issue.hint
    parquet.write_table(pa.Table.from_arrays([texts] * 3, ["text", "x", "x"]), folder / "train.parquet")
    assert len(TextData(path=str(folder), labels="no").load().train) == 2


@pytest.mark.parametrize("texts", [[["the", "cow"], ["a"]], [1.5, 2.5]])
def test_a_parquet_column_of_another_type_is_refused_with_the_command_that_converts(corpus, texts):
    folder = corpus(*[".parquet"] * 3)
    parquet.write_table(pa.table({"text": texts, "label": [1, 0]}), folder / "valid.parquet")
    (issue,) = issues(folder)
    follow(issue.hint, "python")
    assert TextData(path=str(folder)).load().report["valid_length_max"] == len(str(texts[0]).split())


def test_a_parquet_text_of_several_lines_is_one_sentence(corpus):
    folder = corpus(*[".parquet"] * 3)
    parquet.write_table(as_table([("1", "the\ncat"), ("0", "sat\t on")]), folder / "train.parquet")
    data = TextData(path=str(folder)).load()
    assert data.train.lengths.tolist() == [4, 4]


def test_two_files_for_one_split_are_rejected(corpus):
    folder = corpus(*[".txt"] * 3)
    write(folder, "train", ".txt.gz", ROWS["train"])
    write(folder, "dev", ".txt", ROWS["valid"])
    train, valid = issues(folder)
    assert train.where == valid.where == "data.path"
    assert train.value == valid.value == str(folder)
    assert "train.txt and train.txt.gz" in train.hint
    assert "valid.txt and dev.txt" in valid.hint


def test_the_issues_of_all_files_are_reported_at_once(corpus):
    folder = corpus(".txt.gz", ".parquet", ".parquet")
    complete = (folder / "train.txt.gz").read_bytes()
    (folder / "train.txt.gz").write_bytes(complete[:-12])
    parquet.write_table(as_table(ROWS["valid"], text=pa.array([1.0, 2.0])), folder / "valid.parquet")
    (folder / "test.parquet").write_bytes(b"PAR1 no more PAR1")
    train, valid, test = issues(folder)
    assert train.where.startswith(f"{folder / 'train.txt.gz'}, after line ")
    assert "gzip" in train.message
    assert (valid.where, valid.value) == ("data.text_column", "text")
    assert "strings" in valid.message
    assert "double" in valid.hint
    assert test.where == str(folder / "test.parquet")
    assert "Parquet" in test.message


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(b"a\n" * 9, mtime=0)[:14] + b"\xff" * 20])
def test_a_file_that_is_not_gzip_is_rejected(corpus, content):
    folder = corpus(*[".txt.gz"] * 3)
    (folder / "test.txt.gz").write_bytes(content)
    (issue,) = issues(folder)
    assert issue.where.startswith(str(folder / "test.txt.gz"))
    assert "gzip" in issue.message


def test_rows_without_text_or_label_are_located(corpus):
    folder = corpus(*[".parquet"] * 3)
    rows = ROWS["train"]
    parquet.write_table(as_table(rows, text=pa.array(["a", None, "b"])), folder / "train.parquet")
    parquet.write_table(as_table(ROWS["valid"], label=pa.array([1, None])), folder / "valid.parquet")
    train, valid = issues(folder)
    assert train.where == f"{folder / 'train.parquet'}, row 2"
    assert "null" in train.message
    assert (valid.where, valid.value) == (f"{folder / 'valid.parquet'}, row 2", "a dog")
    assert "label" in valid.message


def test_text_that_is_not_utf8_inside_gzip_is_located(corpus):
    folder = corpus(*[".txt.gz"] * 3)
    (folder / "valid.txt.gz").write_bytes(gzip.compress(b"1\ta\n0\tcaf\xe9\n", mtime=0))
    (issue,) = issues(folder)
    assert issue.where == f"{folder / 'valid.txt.gz'}, line 2, byte offset 9"
    assert "UTF-8" in issue.message


def test_labels_must_be_strings_integers_or_booleans(corpus):
    folder = corpus(*[".parquet"] * 3)
    parquet.write_table(as_table(ROWS["test"], label=pa.array([0.0, 1.0])), folder / "test.parquet")
    (issue,) = issues(folder)
    assert (issue.where, issue.value) == ("data.label_column", "label")
    assert "booleans" in issue.message


def test_without_pyarrow_only_parquet_files_are_rejected(corpus, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path_factory.mktemp("cold")))
    folder = corpus(".parquet", ".txt", ".txt.gz")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from lagvae_core.data import TextData\n"
        "try: TextData(path=sys.argv[1]).load()\n"
        "except ValueError as error: print(*(f'{issue.where}\\t{issue.message}' for issue in error.issues), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    ((where, message),) = (line.split("\t") for line in done.stdout.splitlines())
    assert where == str(folder / "train.parquet")
    assert "pyarrow" in message
