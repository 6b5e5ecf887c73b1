"""CSV, TSV and JSON Lines."""

import gzip
import json
import re

import pandas as pd
import pytest
from following import follow

from lagvae_core.data import TextData
from lagvae_core.errors import DataError

ROWS = [("1", "the cat sat"), ("0", 'a "dog", or two'), ("1", "")]


def plain(folder):
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("".join(f"{label}\t{text}\n" for label, text in ROWS))
    return TextData(path=str(folder)).load()


def write(folder, suffix, rows=ROWS, splits=("train", "valid", "test")):
    frame = pd.DataFrame({"id": range(len(rows)), "label": [r[0] for r in rows], "text": [r[1] for r in rows]})
    for split in splits:
        path = folder / f"{split}{suffix}"
        if suffix.startswith(".json"):
            frame.to_json(path, orient="records", lines=True)
        elif suffix.startswith(".tsv"):
            lines = ["\t".join(frame.columns), *("\t".join(map(str, row)) for row in frame.itertuples(index=False))]
            path.write_text("\n".join(lines))
        else:
            frame.to_csv(path, index=False)
    return folder


def issues(folder, **fields):
    with pytest.raises(DataError) as caught:
        TextData(path=str(folder), **fields).load()
    return caught.value.issues


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".json", ".jsonl.xz"])
def test_all_formats_give_the_same_data(tmp_path, suffix):
    expected = plain(tmp_path / "plain")
    data = TextData(path=str(write(tmp_path, suffix))).load()
    assert data.fingerprint == expected.fingerprint
    assert data.report == expected.report
    for labels in ("no", "drop"):
        assert TextData(path=str(tmp_path), labels=labels).load().train.labels is None


def test_the_columns_can_be_named_and_a_text_of_several_lines_is_one_sentence(tmp_path):
    write(tmp_path, ".csv", splits=("valid", "test"))
    (tmp_path / "train.csv").write_bytes('\ufefflabel,id,text\r\n"1",7,"the\r\ncat ""x"""\r\n\r\n0,8,b\r\n'.encode())
    data = TextData(path=str(tmp_path), label_column="label").load()
    assert data.vocabulary.words[4:] == ("the", "cat", '"x"', "b")
    assert data.train.labels == ("1", "0")
    assert data.report["train_dropped_empty"] == 1


def test_labels_of_json_are_strings_integers_or_booleans(tmp_path):
    lines = [{"text": "a", "label": True}, {"text": "b", "label": 3}, {"text": "c", "label": "x"}]
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert TextData(path=str(tmp_path)).load().train.labels == ("True", "3", "x")
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": 0.5}')
    (issue,) = issues(tmp_path)
    assert (issue.where, issue.value) == (f"{tmp_path / 'test.jsonl'}, line 1", 0.5)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_missing_column_is_refused_with_those_that_are_there(tmp_path, suffix):
    found = issues(write(tmp_path, suffix), text_column="review", label_column="id")
    assert [(issue.where, issue.value) for issue in found] == [("data.text_column", "review")] * 3
    assert "id, label, text" in found[0].hint


def test_a_missing_column_is_refused_with_the_only_other_one(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.csv").write_text("sentence,label\na,1\n")
    (first, *_) = issues(tmp_path)
    ((key, value),) = re.findall(r"data\.(\w+)=(\w+)", first.hint)
    data = TextData(path=str(tmp_path), **{key: value}).load()
    assert len(data.train) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", b'"1","the cat"\n"0","a dog"\n'),
        ("train.csv.gz", gzip.compress(b"1,the title,the cat\n0,title,a dog\n", mtime=0)),
        ("train.tsv", b"the cat\na dog\n"),
    ],
)
def test_a_file_without_names_of_columns_is_refused_with_the_command_that_adds_them(tmp_path, name, content):
    write(tmp_path, ".csv", splits=("valid", "test"))
    (tmp_path / name).write_bytes(content)
    (issue,) = issues(tmp_path, labels="no")
    follow(issue.hint, "gzip -dc" if name.endswith(".gz") else "sed")
    data = TextData(path=str(tmp_path), labels="no").load()
    assert data.vocabulary.words[4:] == ("the", "cat", "a", "dog")


def test_two_columns_of_one_name_are_refused(tmp_path):
    write(tmp_path, ".csv")
    (tmp_path / "test.csv").write_text("text,label,text\na,1,b\n")
    (issue,) = issues(tmp_path)
    assert (issue.where, issue.value) == ("data.text_column", "text")
    assert "only one" in issue.message


def test_semicolons_are_refused_with_the_command_that_converts(tmp_path):
    write(tmp_path, ".csv")
    (tmp_path / "valid.csv").write_text('label;text\n1;"the, cat"\n0;"a; b"\n')
    follow(issues(tmp_path)[-1].hint, "python")
    assert len(TextData(path=str(tmp_path)).load().valid) == 2


def test_an_array_of_json_is_refused_with_the_command_that_converts(tmp_path):
    write(tmp_path, ".jsonl")
    (tmp_path / "valid.jsonl").unlink()
    pd.DataFrame(ROWS, columns=["label", "text"]).to_json(tmp_path / "valid.json.gz", orient="records", indent=1)
    (issue,) = issues(tmp_path)
    assert issue.where == f"{tmp_path / 'valid.json.gz'}, line 1"
    follow(issue.hint, "python")
    assert len(TextData(path=str(tmp_path)).load().valid) == 2


def test_lists_of_words_are_refused_with_the_command_that_joins_them(tmp_path):
    write(tmp_path, ".jsonl")
    (tmp_path / "test.jsonl").write_text('{"text": ["the", "cow"], "label": 1}\n{"text": ["b"], "label": 0}\n')
    (issue,) = issues(tmp_path)
    assert issue.value == ["the", "cow"]
    follow(issue.hint, "python")
    assert TextData(path=str(tmp_path)).load().report["test_length_max"] == 2


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("test.csv", "text,label\na,1\nb\n", 3),
        ("test.csv", 'text,label\na,1\n"b"x,1\n', 3),
        ("test.csv", 'text,label\n"a,1\nb,0\n', 3),
        ("test.tsv", "text\tlabel\na\t1\nb\tc\t0\n", 3),
        ("test.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "lab', 2),
        ("test.jsonl", '{"text": "a", "label": 1}\n"b"\n', 2),
        ("test.jsonl", '{"text": {"a": 1}, "label": 1}\n', 1),
        ("test.jsonl", "[" * 100_000, 1),
        ("test.csv", f'text,label\n"{"a" * 200_000}",1', 2),
    ],
)
def test_an_invalid_record_is_located(tmp_path, name, content, line):
    write(tmp_path, ".csv", splits=("train", "valid"))
    (tmp_path / name).write_text(content)
    (issue,) = issues(tmp_path)
    assert issue.where == f"{tmp_path / name}, line {line}"


def test_a_null_text_is_refused_and_a_null_label_is_none(tmp_path):
    write(tmp_path, ".jsonl")
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": 1}\n{"text": null, "label": 1}\n')
    (tmp_path / "valid.jsonl").write_bytes(b'{"text": "a", "label": null}\n')
    valid, test = issues(tmp_path)
    assert (valid.where, test.where) == (f"{tmp_path / 'valid.jsonl'}, row 1", f"{tmp_path / 'test.jsonl'}, row 2")


def test_text_of_a_table_that_is_not_utf_8_is_located(tmp_path):
    write(tmp_path, ".csv")
    (tmp_path / "test.csv").unlink()
    (tmp_path / "test.csv.gz").write_bytes(gzip.compress(b"text,label\ncaf\xe9,1\n", mtime=0))
    (issue,) = issues(tmp_path)
    assert issue.where == f"{tmp_path / 'test.csv.gz'}, line 2, byte offset 14"
