from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from lagvae_core.data import BOS, EOS, UNK, DataConfig, Partition, SyntheticData, TextData
from lagvae_core.errors import DataError

PLAIN = {"train": "the cat sat\nthe dog\n", "valid": "the cow\n", "test": "a dog\n"}
LABELLED = {
    "train": "1\tthe cat\n0\tthe dog\n",
    "valid": "1\ta cat\n0\ta dog\n",
    "test": "0\ta dog\n1\tthe cow\n",
}


@pytest.fixture
def folder(tmp_path):
    """A function that writes files (text or bytes, by name without suffix) and gives the folder's path."""

    def write(**files):
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else content.encode()
            (tmp_path / f"{name}.txt").write_bytes(raw)
        return str(tmp_path)

    return write


def sentences(data, split="train"):
    part = getattr(data, split)
    bounds = zip(part.offsets[:-1], part.offsets[1:], strict=True)
    return [data.vocabulary.decode(part.tokens[start:end]) for start, end in bounds]


def issues(setting):
    with pytest.raises(DataError) as caught:
        setting.load()
    assert all(issue.where == "data.path" for issue in caught.value.issues)
    return [str(issue) for issue in caught.value.issues]


class TestReading:
    def test_sentences_vocabulary_and_unknown_words(self, folder):
        data = TextData(path=folder(**PLAIN)).load()
        assert data.vocabulary.words[4:] == ("the", "cat", "sat", "dog")
        assert sentences(data) == ["the cat sat", "the dog"]
        assert data.valid.tokens.tolist() == [BOS, 4, UNK, EOS]
        assert data.report["train_oov_rate"] == 0
        assert data.report["valid_oov_rate"] == data.report["test_oov_rate"] == 0.5
        assert data.train.labels is data.truth is None

    @pytest.mark.parametrize("name", ["dev", "val"])
    def test_other_names_of_the_validation_file(self, folder, name):
        files = {**PLAIN, name: PLAIN["valid"]}
        del files["valid"]
        assert sentences(TextData(path=folder(**files)).load(), "valid") == ["the <unk>"]

    def test_white_space_separates_and_only_a_newline_ends_a_sentence(self, folder):
        train = "\ufeffa  b\x0cc \r\nd\u2028e f\u00e9"
        data = TextData(path=folder(**PLAIN | {"train": train})).load()
        assert sentences(data) == ["a b c", "d e f\u00e9"]

    def test_empty_lines_are_dropped_and_counted(self, folder):
        data = TextData(path=folder(**PLAIN | {"train": "\na\n \t \r\n\nb\n"})).load()
        assert sentences(data) == ["a", "b"]
        assert data.report["train_dropped_empty"] == 3
        assert data.report["valid_dropped_empty"] == 0

    def test_long_lines_are_dropped_and_counted_in_every_split(self, folder):
        data = TextData(path=folder(**PLAIN | {"valid": "a\na b c d\n"}), max_length=2).load()
        assert sentences(data) == ["the dog"]
        assert data.vocabulary.words[4:] == ("the", "dog")
        assert [data.report[f"{split}_dropped_long"] for split in ("train", "valid", "test")] == [1, 1, 0]

    def test_rare_words_become_unknown_in_training_too(self, folder):
        data = TextData(path=folder(**PLAIN), min_freq=2).load()
        assert sentences(data) == ["the <unk> <unk>", "the <unk>"]
        assert data.report["train_oov_rate"] == pytest.approx(3 / 5)

    def test_the_most_frequent_words_are_kept_and_of_equals_those_that_come_first(self, folder):
        files = PLAIN | {"train": "d a b b\na c a c\n", "valid": "c d a\n"}

        def words(**fields):
            return TextData(path=folder(**files), **fields).load().vocabulary.words[4:]

        assert words(max_vocabulary=2) == ("a", "b")
        assert words(max_vocabulary=3) == ("a", "b", "c")
        assert words(max_vocabulary=9) == words() == ("d", "a", "b", "c")
        assert words(max_vocabulary=3, min_freq=3) == ("a",)
        data = TextData(path=folder(**files), max_vocabulary=2).load()
        assert sentences(data) == ["<unk> a b b", "a <unk> a <unk>"]
        assert data.report["train_oov_rate"] == pytest.approx(3 / 8)
        assert data.report["valid_oov_rate"] == pytest.approx(2 / 3)

    def test_a_text_that_names_the_special_words(self, folder):
        data = TextData(path=folder(**PLAIN | {"train": "a </s> <s> <pad> <unk>\n", "valid": "</s> b\n"})).load()
        assert data.vocabulary.words[4:] == ("a",)
        assert data.train.tokens.tolist() == [BOS, 4, UNK, UNK, UNK, UNK, EOS]
        assert data.valid.tokens.tolist() == [BOS, UNK, UNK, EOS]

    def test_limit_is_a_shorter_training_file(self, folder):
        limited = TextData(path=folder(**PLAIN), limit=1).load()
        short = TextData(path=folder(**PLAIN | {"train": "the cat sat\n"})).load()
        assert limited.fingerprint == short.fingerprint
        assert (len(limited.train), len(limited.valid)) == (1, 1)

    def test_the_fingerprint_is_that_of_the_content(self, folder, tmp_path):
        one = TextData(path=folder(**PLAIN)).load()
        again = TextData(path=folder(**PLAIN | {"train": "the  cat sat\n\nthe dog"})).load()
        assert one.fingerprint == again.fingerprint
        other = TextData(path=folder(**PLAIN | {"test": "dog dog\n"})).load()
        assert other.fingerprint != one.fingerprint

    def test_arrays_are_small(self, folder):
        data = TextData(path=folder(**PLAIN)).load()
        assert (data.train.tokens.dtype, data.train.offsets.dtype) == (np.int32, np.int64)


class TestLabels:
    @pytest.mark.parametrize("labels", ["auto", "yes", True])
    def test_labels_are_read(self, folder, labels):
        train, held_out = "1\tthe\tcat\n\npos itive\tdog\n0\t\n", "pos itive\ta\n1\tb\n"
        data = TextData(path=folder(train=train, valid=held_out, test=held_out), labels=labels).load()
        assert data.train.labels == ("1", "pos itive")
        assert sentences(data) == ["the cat", "dog"]
        assert data.report["train_dropped_empty"] == 2
        assert data.report["labels"] == "1 pos itive"

    @pytest.mark.parametrize("labels", ["no", False])
    def test_without_labels_a_tab_is_white_space(self, folder, labels):
        data = TextData(path=folder(**LABELLED), labels=labels).load()
        assert data.train.labels is None
        assert sentences(data) == ["1 the cat", "0 the dog"]
        assert data.report["labels"] == "none"

    def test_plain_text_has_no_labels(self, folder):
        assert TextData(path=folder(**PLAIN)).load().report["labels"] == "none"

    def test_labels_on_some_lines_only_are_refused(self, folder):
        files = {"train": "1\ta\n\nb c\nd\n", "valid": "0\ta\n", "test": "a\n"}
        train, test = issues(TextData(path=folder(**files)))
        assert "train.txt, line 3: b c'" in train
        assert "or before none" in train
        assert "labels=no" in train
        assert "test.txt, line 1: a'" in test
        assert len(TextData(path=folder(**files), labels="no").load().train) == 3

    def test_how_many_lines_lack_a_label_is_told(self, folder):
        (message,) = issues(TextData(path=folder(**LABELLED | {"train": "1\ta\nb\n0\tc\nd\n\ne\n"})))
        assert "train.txt, line 2: b'. 2 more lines of the file have none." in message

    def test_labels_are_dropped_on_demand(self, folder):
        files = LABELLED | {"test": "2\ta dog\n"}
        data = TextData(path=folder(**files), labels="drop").load()
        assert data.train.labels is None
        assert sentences(data) == ["the cat", "the dog"]
        (message,) = issues(TextData(path=folder(**files | {"test": "a dog\n"}), labels="drop"))
        assert "test.txt, line 1: a dog" in message

    def test_all_splits_must_know_the_classes_of_training(self, folder):
        files = {"train": "1\ta\n0\ta\n2\ta\n", "valid": "1\ta\n0\ta\n2\ta\n", "test": "9\ta\n1\ta\n"}
        lacking, unknown = issues(TextData(path=folder(**files)))
        assert "must have a sentence of every class that training has" in lacking
        assert "test.txt, without 0, 2'" in lacking
        assert "must have no sentence of a class that training lacks" in unknown
        assert "test.txt, with 9'" in unknown
        assert "data.labels=drop" in unknown

    def test_a_class_beyond_the_limit_or_the_longest_sentence_counts_as_the_file_has_it(self, folder):
        assert len(TextData(path=folder(**LABELLED), limit=1).load().train) == 1
        (message,) = issues(TextData(path=folder(**LABELLED | {"valid": "1\ta\n0\ta b c\n"}), max_length=2))
        assert "valid.txt, without 0'" in message

    def test_a_tab_without_a_label_is_no_label(self, folder):
        (message,) = issues(TextData(path=folder(**LABELLED | {"valid": "1\ta\n \tb\n"})))
        assert "valid.txt, line 2" in message

    def test_labels_that_must_be_there(self, folder):
        messages = issues(TextData(path=folder(**PLAIN), labels="yes"))
        assert [f"{split}.txt, line 1" in text for split, text in zip(PLAIN, messages, strict=True)] == [True] * 3


class TestPartition:
    @staticmethod
    def cut(folder, partition, seed=0, epoch=0):
        """The sentences of each batch, of 4 at most, in a text of 20 sentences of one word and 30 of two."""
        lines = [f"a{n}" if n % 5 < 2 else f"a{n} b" for n in range(50)]
        setting = TextData(path=folder(**PLAIN | {"train": "\n".join(lines)}), partition=partition)
        train = setting.load().train
        return [batch.index_B.tolist() for batch in setting.train_batches(train, 4, seed, epoch)]

    @pytest.mark.parametrize("partition", get_args(Partition))
    def test_every_sentence_is_in_one_batch_of_its_length(self, folder, partition):
        batches = self.cut(folder, partition)
        assert sorted(n for batch in batches for n in batch) == list(range(50))
        assert {len({n % 5 < 2 for n in batch}) for batch in batches} == {1}
        assert [len(batch) for batch in batches] == [4] * 5 + [4] * 7 + [2]

    def test_by_default_the_file_decides(self, folder):
        assert TextData(path="x").partition == "fixed_by_group"
        batches = self.cut(folder, "fixed_by_group")
        assert batches == self.cut(folder, "fixed_by_group", seed=9, epoch=4)
        assert batches[:5] == [[0, 1, 5, 6], [10, 11, 15, 16], [20, 21, 25, 26], [30, 31, 35, 36], [40, 41, 45, 46]]

    def test_fixed_batches_are_those_of_the_seed_and_resplit_ones_of_seed_and_epoch(self, folder):
        def cuts(partition):
            return [str(self.cut(folder, partition, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]

        fixed, resplit = cuts("fixed_random"), cuts("resplit_random")
        assert fixed[0] == fixed[1] != fixed[2] == fixed[3]
        assert len({*fixed, *resplit}) == 4
        assert fixed[0] == resplit[0]
        assert str(self.cut(folder, "fixed_by_group")) not in {*fixed, *resplit}


class TestMistakes:
    def test_no_folder(self, tmp_path):
        (message,) = issues(TextData(path=str(tmp_path / "nowhere")))
        assert message.startswith("data.path must be a folder, but is '")
        (tmp_path / "file").write_text("")
        (message,) = issues(TextData(path=str(tmp_path / "file")))
        assert "must be a folder" in message

    def test_missing_files_name_what_is_there(self, folder):
        valid, test = issues(TextData(path=folder(train="a\n", tests="b\n")))
        assert "must have a file valid.txt or dev.txt or val.txt" in valid
        assert "must have a file test.txt" in test
        assert "It holds tests.txt, train.txt." in test

    def test_no_sentence_left(self, folder):
        messages = issues(TextData(path=folder(train="a b c\n", valid="\n \n", test=""), max_length=2))
        assert [f"{split}.txt" in text for split, text in zip(PLAIN, messages, strict=True)] == [True] * 3
        assert "Dropped: 0 empty lines, 1 of more than max_length words." in messages[0]
        assert "Dropped: 2 empty lines, 0 of" in messages[1]

    def test_not_utf8(self, folder):
        (message,) = issues(TextData(path=folder(**PLAIN | {"train": b"ab\ncaf\xe9 x\n"})))
        assert "must hold UTF-8 text" in message
        assert "train.txt, line 2, byte offset 6'" in message

    def test_unreadable(self, folder, tmp_path):
        path = folder(train="a\n", valid="a\n")
        (tmp_path / "test.txt").mkdir()
        (message,) = issues(TextData(path=path))
        assert "test.txt" in message
        assert "must hold readable files" in message

    def test_all_mistakes_at_once(self, folder):
        setting = TextData(path=folder(train=b"\xff\n", dev="1\ta\nb\n"))
        with pytest.raises(DataError) as caught:
            setting.load()
        text = str(caught.value)
        assert len(caught.value.issues) == 3
        assert "train.txt, line 1, byte offset 0" in text
        assert "must have a file test.txt" in text
        assert "dev.txt, line 2: b" in text


def test_the_kind_chooses_the_source():
    adapter = TypeAdapter(DataConfig)
    assert adapter.validate_python({"kind": "synthetic", "examples": 5}) == SyntheticData(examples=5)
    assert adapter.validate_python({"kind": "text", "path": "x"}) == TextData(path="x")
    for wrong in ({"kind": "image"}, {"kind": "text"}, {"kind": "text", "path": "x", "label": "no"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
