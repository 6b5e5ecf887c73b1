"""The cache of tokenised text: entries are complete or absent, shared by processes, and replaced when damaged."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lagvae_core.data import TextData
from lagvae_core.data.cache import Entry, read_entry, write_entry
from lagvae_core.data.text import corpus, tokens
from lagvae_core.errors import DataError

FILES = {
    "train": "1\tthe cat sat\n0\tthe dog\n1\tcat\n",
    "valid": "1\ta cat\n0\ta dog\n",
    "test": "0\ta dog\n1\tthe cow\n",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LAGVAE_CACHE", str(folder))
    return folder


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for split, content in FILES.items():
        (folder / f"{split}.txt").write_text(content)
    return folder


def entries(cache):
    return sorted(path.name for path in cache.iterdir())


def forbid_reading(monkeypatch):
    def fail(*_):
        raise AssertionError("the files must not be read again")

    monkeypatch.setattr("lagvae_core.data.text.source.read_corpus", fail)


def assert_same(one, other):
    assert one.fingerprint == other.fingerprint
    assert one.report == other.report
    assert one.vocabulary == other.vocabulary
    assert one.train.labels == other.train.labels


def test_a_second_load_does_not_read_the_files(cache, text, monkeypatch):
    first = TextData(path=str(text)).load()
    (name,) = entries(cache)
    assert name.startswith("text-")
    forbid_reading(monkeypatch)
    again = TextData(path=str(text), batching="padded", partition="fixed_random").load()
    assert_same(again, first)
    assert not again.train.tokens.flags.writeable
    assert sum(batch.size for batch in again.train.batches(2)) == len(again.train)


def test_the_content_of_the_files_decides_the_entry_not_their_location(cache, text, tmp_path, monkeypatch):
    first = TextData(path=str(text)).load()
    text.rename(tmp_path / "elsewhere")
    forbid_reading(monkeypatch)
    assert_same(TextData(path=str(tmp_path / "elsewhere")).load(), first)


def test_the_fingerprint_is_in_the_entry_and_not_computed_again(cache, text, monkeypatch):
    first = TextData(path=str(text)).load()
    (name,) = entries(cache)
    assert read_entry(name).facts["fingerprint"] == first.fingerprint
    assert corpus.token_dataset(without_fingerprint(read_entry(name))).fingerprint == first.fingerprint
    monkeypatch.setattr(tokens, "_fingerprint", None)
    assert_same(TextData(path=str(text)).load(), first)


def without_fingerprint(entry):
    return Entry(entry.arrays, {name: value for name, value in entry.facts.items() if name != "fingerprint"})


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 1},
        {"valid_limit": 1},
        {"max_length": 2},
        {"min_freq": 2},
        {"max_vocabulary": 1},
        {"labels": "no"},
        {"labels": "drop"},
    ],
)
def test_other_fields_have_another_entry(cache, text, fields, tmp_path, monkeypatch):
    TextData(path=str(text)).load()
    other = TextData(path=str(text), **fields).load()
    assert len(entries(cache)) == 2
    monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path / "empty"))
    assert_same(TextData(path=str(text), **fields).load(), other)


def test_other_content_has_another_entry(cache, text):
    first = TextData(path=str(text)).load()
    (text / "test.txt").write_text("0\ta dog\n1\tthe cat\n")
    assert TextData(path=str(text)).load().fingerprint != first.fingerprint
    assert len(entries(cache)) == 2
    (text / "test.txt").rename(text / "old")
    (text / "test.txt.gz").write_bytes(gzip.compress((text / "old").read_bytes(), mtime=0))
    TextData(path=str(text)).load()
    assert len(entries(cache)) == 3


def damage_an_array(entry):
    file = entry / "train_tokens.npy"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "an array of other content": damage_an_array,
    "a short array": lambda entry: (entry / "valid_tokens.npy").write_bytes(b"\x93NUMPY"),
    "an empty array": lambda entry: (entry / "valid_tokens.npy").write_bytes(b""),
    "an array is missing": lambda entry: (entry / "test_offsets.npy").unlink(),
    "no contents": lambda entry: (entry / "contents.json").unlink(),
    "other contents": lambda entry: (entry / "contents.json").write_text("[]"),
    "half of the contents": lambda entry: (entry / "contents.json").write_text('{"arrays": {"tr'),
    "no arrays": lambda entry: (entry / "contents.json").write_text('{"arrays": {}, "facts": {}, "digest": ""}'),
    "a changed fact": lambda entry: change_contents(entry, '"1"', '"7"'),
    "a folder in place of an array": lambda entry: replace_by_folder(entry / "test_offsets.npy"),
}


def change_contents(entry, old, new):
    path = entry / "contents.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_replaced(cache, text, damage, caplog, monkeypatch):
    first = TextData(path=str(text)).load()
    (name,) = entries(cache)
    damage(cache / name)
    assert_same(TextData(path=str(text)).load(), first)
    (record,) = caplog.records
    assert "an entry of the data cache cannot be used" in record.getMessage()
    assert "Errno" not in record.getMessage()
    assert entries(cache) == [name]
    forbid_reading(monkeypatch)
    assert_same(TextData(path=str(text)).load(), first)


@pytest.mark.parametrize("name", ["file", "file/cache"])
def test_without_a_usable_cache_folder_the_files_are_read_each_time(text, tmp_path, name, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path / name))
    one, other = (TextData(path=str(text)).load() for _ in range(2))
    assert_same(one, other)
    for record in caplog.records:
        assert f"the data cache {tmp_path / name} cannot be used" in record.getMessage()
        assert "LAGVAE_CACHE" in record.getMessage()
        assert "Errno" not in record.getMessage()


def test_an_entry_of_an_older_version_is_read(cache, text, monkeypatch):
    first = TextData(path=str(text)).load()
    (name,) = entries(cache)
    contents = json.loads((cache / name / "contents.json").read_text())
    del contents["digest"]
    (cache / name / "contents.json").write_text(json.dumps(contents))
    forbid_reading(monkeypatch)
    assert_same(TextData(path=str(text)).load(), first)


def test_files_that_change_while_they_are_read_are_not_cached(cache, text, monkeypatch):
    def read_and_change(sources, rules, known):
        entry = corpus.read_corpus(sources, rules, known)
        (text / "test.txt").write_text("1\tx\n0\ty\n")
        return entry

    monkeypatch.setattr("lagvae_core.data.text.source.read_corpus", read_and_change)
    TextData(path=str(text)).load()
    assert not cache.exists()


def test_a_text_with_issues_is_not_cached(cache, text):
    (text / "test.txt").write_text("9\ta\n")
    for _ in range(2):
        with pytest.raises(DataError):
            TextData(path=str(text)).load()
    assert not cache.exists()


def test_the_first_of_several_writers_wins_and_leaves_no_other_files(cache):
    write_entry("x", Entry({"a": np.arange(3)}, {"number": 1}))
    write_entry("x", Entry({"a": np.arange(4)}, {"number": 2}))
    entry = read_entry("x")
    assert entry.facts == {"number": 1}
    assert entry.arrays["a"].tolist() == [0, 1, 2]
    assert entries(cache) == ["x"]
    assert read_entry("y") is None
    assert json.loads((cache / "x" / "contents.json").read_text())["facts"] == {"number": 1}


SCRIPT = """
import sys, time
from lagvae_core.data import TextData
config = TextData(path=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
data = config.load()
print(data.fingerprint, data.train.tokens.base is not None, flush=True)
"""


def test_processes_that_start_at_once_on_an_empty_cache_agree_and_leave_one_complete_entry(cache, tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "large"
    folder.mkdir()
    for split, lines in (("train", 20_000), ("valid", 500), ("test", 500)):
        words = random.integers(0, 2_000, (lines, 8)).astype(str)
        (folder / f"{split}.txt").write_text("\n".join(map(" ".join, words)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SCRIPT, str(folder)],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert len(entries(cache)) == 1
    assert answers == [[TextData(path=str(folder)).load().fingerprint, "True"]] * 3
