"""Names of the files of each split: other names, prefixes, shards, missing splits and shares of train."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from following import follow

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import TextData
from lagvae_core.data.text.layout import find_layout
from lagvae_core.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes files, by default with one sentence each, and returns their folder."""

    def write(*names, **contents):
        for name in names:
            (tmp_path / name).write_text(f"the {name.lower()}\n")
        for name, content in contents.items():
            (tmp_path / f"{name}.txt").write_text(content)
        return tmp_path

    return write


def names(layout):
    return {split: [path.name for path in paths] for split, paths in layout.files.items()}


def issues(folder, **fields):
    with pytest.raises(DataError) as caught:
        TextData(path=str(folder), **fields).load()
    return caught.value.issues


@pytest.mark.parametrize("name", ["valid", "validation", "dev", "val", "Validation"])
@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".txt.gz", ".csv", ".tsv.xz", ".jsonl.bz2", ".json", ".parquet"])
def test_names_of_the_validation_file(folder, name, suffix):
    layout = find_layout(folder("train.txt", name + suffix, "test.txt"))
    assert names(layout) == {"train": ["train.txt"], "valid": [name + suffix], "test": ["test.txt"]}
    assert not layout.issues + layout.remarks + list(layout.missing)


def test_a_prefix_that_all_names_share_is_guessed_and_said(folder):
    path = folder("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt", "README.md", ".hidden_train.txt", "._train.txt")
    data = TextData(path=str(path)).load()
    assert data.report["remarks"] == "read from ptb.test.txt, ptb.train.txt, ptb.valid.txt"
    (path / "train.txt").write_text("x\n")
    (path / "valid.txt").write_text("x\n")
    (path / "test.txt").write_text("x\n")
    assert "remarks" not in TextData(path=str(path)).load().report


def test_files_of_two_corpora_are_refused(folder):
    path = folder("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt", "ptb.char.train.txt")
    (issue,) = issues(path)
    assert (issue.where, issue.value) == ("data.path", str(path))
    assert "ptb, ptb.char" in issue.hint


def test_names_that_differ_in_letter_case_are_two_files(folder):
    (issue,) = issues(folder("train.txt", "Train.txt", "valid.txt", "test.txt"))
    assert "Train.txt and train.txt" in issue.hint


class TestShards:
    def test_shards_are_read_in_their_order(self, folder):
        path = folder("train-00001-of-00003.txt", "train-00000-of-00003.txt", "train-00002-of-00003.txt")
        folder("validation-00000-of-00001-0123abcd.txt", "test.txt")
        data = TextData(path=str(path)).load()
        assert data.vocabulary.words[5:] == tuple(f"train-0000{number}-of-00003.txt" for number in range(3))
        assert (len(data.train), len(data.valid), len(data.test)) == (3, 1, 1)

    def test_a_missing_shard_is_refused(self, folder):
        (issue,) = issues(folder("train-00001-of-00003.txt", "valid.txt", "test.txt"))
        assert issue.where == "data.path, train-00001-of-00003.txt"
        assert "0, 2" in issue.hint

    @pytest.mark.parametrize("other", ["train-00000-of-00001-ff.txt", "train-00001-of-00001.txt"])
    def test_shards_of_two_versions_are_refused(self, folder, other):
        (issue,) = issues(folder("train-00000-of-00001.txt", other, "valid.txt", "test.txt"))
        assert "once" in issue.message

    @pytest.mark.parametrize("other", ["train-00000-of-00002.txt", "train.txt", "train-00000-of-00001.csv"])
    def test_shards_and_another_file_are_refused(self, folder, other):
        (issue,) = issues(folder("train-00000-of-00001.txt", other, "valid.txt", "test.txt"))
        assert f"{other}" in issue.hint
        assert "only one file" in issue.message

    def test_an_issue_names_the_shard_and_its_line(self, folder):
        path = folder("valid.txt", "test.txt", "train-00000-of-00002.txt")
        (path / "train-00001-of-00002.txt").write_bytes(b"a\n\xff\n")
        (issue,) = issues(path)
        assert issue.where.startswith(f"{path / 'train-00001-of-00002.txt'}, line 2")


class TestMissing:
    def test_another_suffix_is_refused_with_the_command_that_renames(self, folder):
        path = folder("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens")
        for issue in issues(path):
            follow(issue.hint, "mv")
        assert len(TextData(path=str(path)).load().valid) == 1

    @pytest.mark.parametrize("name", ["dev.txt.zip", "dev.txt.tar.gz", "dev.tgz"])
    def test_a_packed_file_is_refused_with_the_command_that_unpacks(self, folder, name):
        path = folder("train.txt", "test.txt")
        if name.endswith(".zip"):
            with zipfile.ZipFile(path / name, "w") as archive:
                archive.writestr("dev.txt", "a\nb\n")
        else:
            with tarfile.open(path / name, "w:gz") as archive:
                (member := tarfile.TarInfo("dev.txt")).size = 4
                archive.addfile(member, io.BytesIO(b"a\nb\n"))
        (issue,) = issues(path)
        follow(issue.hint, "unzip" if name.endswith(".zip") else "tar")
        assert len(TextData(path=str(path)).load().valid) == 2

    def test_a_missing_split_is_refused_with_the_field_that_makes_it(self, folder):
        path = folder(train="".join(f"{number}\n" for number in range(100)))
        assert len(issues(path)) == 2
        for issue in issues(path):
            assert (issue.where, issue.value) == ("data.path", str(path))
            assert "data.held_out=0.1" in issue.hint
        data = TextData(path=str(path), held_out=0.1).load()
        assert len(data.train) + len(data.valid) + len(data.test) == 100

    def test_train_is_never_made(self, folder):
        (issue,) = issues(folder("valid.txt", "test.txt"), held_out=0.1)
        assert "train.txt" in issue.message


class TestHeldOut:
    """Sentences of train in place of a missing split."""

    LINES = tuple(f"word{number}" for number in range(3_000))

    def load(self, folder, **fields):
        return TextData(path=str(folder(train="\n".join(self.LINES))), held_out=0.1, **fields).load()

    def words(self, data):
        """Return the sentences of train, all of which are one word long."""
        return set(data.vocabulary.words[4:])

    def test_the_shares_are_disjoint_and_drawn_by_the_seed(self, folder):
        data, again, other = self.load(folder), self.load(folder), self.load(folder, held_out_seed=1)
        assert data.fingerprint == again.fingerprint != other.fingerprint
        for split, share in ((data.train, 0.8), (data.valid, 0.1), (data.test, 0.1)):
            assert abs(len(split) / 3_000 - share) < 4 * np.sqrt(share * (1 - share) / 3_000)
        assert len(data.train) + len(data.valid) + len(data.test) == 3_000
        assert len(self.words(data)) == len(data.train)
        assert data.report["valid_oov_rate"] == data.report["test_oov_rate"] == 1

    def test_the_report_says_it(self, folder):
        assert self.load(folder, held_out_seed=3).report["remarks"] == (
            "valid and test drawn from train (0.1 each, seed 3)"
        )

    def test_it_is_the_same_as_separate_files(self, folder, tmp_path_factory):
        data = self.load(folder, min_freq=1)
        kept = self.words(data)
        other = tmp_path_factory.mktemp("other")
        (other / "train.txt").write_text("\n".join(line for line in self.LINES if line in kept))
        (other / "valid.txt").write_text("x\n" * len(data.valid))
        (other / "test.txt").write_text("x\n" * len(data.test))
        assert TextData(path=str(other)).load().fingerprint == data.fingerprint

    def test_only_the_missing_split_is_made(self, folder):
        folder(test="a\nb\n")
        data = self.load(folder)
        assert len(data.train) + len(data.valid) == 3_000
        assert len(data.test) == 2
        assert data.report["remarks"].startswith("valid drawn from train")

    def test_a_limit_of_train_does_not_change_the_other_splits(self, folder):
        data = self.load(folder, limit=10, test_limit=7)
        assert (len(data.train), len(data.valid), len(data.test)) == (10, len(self.load(folder).valid), 7)

    def test_shards_are_drawn_independently(self, folder):
        path = folder()
        for shard in range(2):
            (path / f"train-{shard}-of-2.txt").write_text("\n".join(self.LINES))
        data = TextData(path=str(path), held_out=0.1).load()
        assert len(data.train) + len(data.valid) + len(data.test) == 6_000
        assert len(self.words(data)) > len(data.train) / 2

    def test_nothing_to_make_is_refused(self, folder):
        (issue,) = issues(folder("train.txt", "valid.txt", "test.txt"), held_out=0.1)
        assert (issue.where, issue.value) == ("data.held_out", 0.1)

    def test_an_empty_share_is_refused(self, folder):
        found = issues(folder(train="a\nb\n"), held_out=0.001)
        assert [issue.where for issue in found] == ["data.held_out"]

    def test_labels_that_a_share_lacks_are_refused(self, folder):
        found = issues(folder(train="".join(f"{n % 2}\tx\n" for n in range(99)) + "rare\ty\n"), held_out=0.1)
        assert all("data.held_out_seed" in issue.hint for issue in found)

    def test_an_issue_with_train_is_reported_once(self, folder):
        path = folder()
        (path / "train.txt.gz").write_bytes(gzip.compress(b"a\n\xff", mtime=0))
        assert len(issues(path, held_out=0.1)) == 1

    def test_it_is_part_of_the_identity_where_it_is_set(self):
        ids = {
            parse_trial({"data": {"kind": "text", "path": "x", **fields}}).config_id("data")
            for fields in ({}, {"held_out": None}, {"held_out": 0.1}, {"held_out": 0.1, "held_out_seed": 1})
        }
        assert len(ids) == 3


def test_a_folder_inside_the_folder_is_named(folder):
    path = folder("README.md")
    (path / "data").mkdir()
    for split in ("train", "valid", "test"):
        (path / "data" / f"{split}-00000-of-00001.txt").write_text("a b\n")
    (issue,) = issues(path)
    assert (issue.where, issue.value) == ("data.path", str(path))
    assert len(TextData(path=issue.hint.rpartition("data.path=")[2]).load().train) == 1


def test_a_file_in_place_of_the_folder_is_refused_with_the_folder(folder):
    path = folder("train.txt", "valid.txt", "test.txt")
    (issue,) = issues(path / "train.txt")
    assert len(TextData(path=issue.hint.rpartition("data.path=")[2]).load().train) == 1


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_split_that_is_not_a_file_is_refused(folder, make):
    path = folder("train.txt", "test.txt")
    make(path / "valid.txt")
    assert [issue.where for issue in issues(path)] == [str(path / "valid.txt")]


def test_a_link_to_nowhere_is_refused(folder):
    path = folder("train.txt", "test.txt")
    (path / "valid.txt").symlink_to(path / "absent")
    (issue,) = issues(path)
    assert issue.where == str(path / "valid.txt")
    assert "No such file" in issue.message


def test_a_folder_that_vanishes_or_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError):
        find_layout(tmp_path / "file")
