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
    """Return a function that writes .txt files (text or bytes, by stem) and returns the path of their folder."""

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


def issues(config):
    """Return the issues that loading the text raises."""
    with pytest.raises(DataError) as caught:
        config.load()
    return caught.value.issues


def places(issues):
    """Return the name of the file, and what follows it, of each issue about a file."""
    return [issue.where.rpartition("/")[2] for issue in issues]


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

    def test_white_space_separates_words_and_only_a_newline_ends_a_sentence(self, folder):
        train = "\ufeffa  b\x0cc \r\nd\u2028e f\u00e9"
        data = TextData(path=folder(**PLAIN | {"train": train})).load()
        assert sentences(data) == ["a b c", "d e f\u00e9"]

    def test_accents_are_the_same_whether_composed_or_not(self, folder):
        composed, decomposed = "caf\u00e9 \u1ed9 x\n", "cafe\u0301 o\u0323\u0302 x\n"
        data = TextData(path=folder(train=composed + "a\n", valid=decomposed, test=decomposed + composed)).load()
        assert data.vocabulary.words[4:] == ("caf\u00e9", "\u1ed9", "x", "a")
        assert data.report["valid_oov_rate"] == data.report["test_oov_rate"] == 0
        assert [data.report[f"{split}_normalised"] for split in ("train", "valid", "test")] == [0, 1, 1]
        assert data.report["remarks"] == "2 sentences brought to Unicode's NFC"

    def test_labels_with_accents_are_the_same_whether_composed_or_not(self, folder):
        data = TextData(path=folder(train="\u00e9\ta\n", valid="e\u0301\tb\n", test="\u00e9\tc\n")).load()
        assert data.train.labels == data.valid.labels == ("\u00e9",)

    def test_carriage_returns_alone_end_the_lines_of_a_file_without_newlines(self, folder):
        data = TextData(path=folder(train="1\tthe cat\r0\tthe dog\r", valid="1\ta\r0\tb", test="1\ta\n0\tb\n")).load()
        assert sentences(data) == ["the cat", "the dog"]
        assert data.train.labels == ("1", "0")
        assert len(data.valid) == 2

    def test_other_carriage_returns_are_white_space_and_said(self, folder):
        data = TextData(path=folder(**PLAIN | {"train": "a\rb\nc\r\r\nd\re f\r\n"})).load()
        assert sentences(data) == ["a b", "c", "d e f"]
        assert data.report["remarks"] == "carriage returns inside 2 lines read as spaces"

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

    def test_max_vocabulary_keeps_the_most_frequent_words_and_of_equals_the_first(self, folder):
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

    def test_special_words_in_a_text_become_unk(self, folder):
        data = TextData(path=folder(**PLAIN | {"train": "a </s> <s> <pad> <unk>\n", "valid": "</s> b\n"})).load()
        assert data.vocabulary.words[4:] == ("a",)
        assert data.train.tokens.tolist() == [BOS, 4, UNK, UNK, UNK, UNK, EOS]
        assert data.valid.tokens.tolist() == [BOS, UNK, UNK, EOS]

    def test_limit_is_equivalent_to_a_shorter_training_file(self, folder):
        limited = TextData(path=folder(**PLAIN), limit=1).load()
        short = TextData(path=folder(**PLAIN | {"train": "the cat sat\n"})).load()
        assert limited.fingerprint == short.fingerprint
        assert (len(limited.train), len(limited.valid)) == (1, 1)

    def test_only_the_content_decides_the_fingerprint(self, folder, tmp_path):
        one = TextData(path=folder(**PLAIN)).load()
        again = TextData(path=folder(**PLAIN | {"train": "the  cat sat\n\nthe dog"})).load()
        assert one.fingerprint == again.fingerprint
        other = TextData(path=folder(**PLAIN | {"test": "dog dog\n"})).load()
        assert other.fingerprint != one.fingerprint

    def test_the_types_of_the_arrays(self, folder):
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

    def test_words_between_tabs_are_refused_with_the_field_that_reads_them(self, folder):
        def words(first, last):
            return "".join(f"w{number}\tw{number % 7}\tw{number % 5}\n" for number in range(first, last))

        path = folder(train=words(0, 20), valid=words(20, 30), test=words(0, 20))
        found = issues(TextData(path=path))
        assert set(places(found)) == {"valid.txt"}
        for issue in found:
            assert issue.hint.index("data.labels=no") < issue.hint.index("data.labels=drop")
        data = TextData(path=path, labels="no").load()
        assert [data.train.lengths.tolist()[0], data.vocabulary.words[4:6]] == [5, ("w0", "w1")]

    def test_words_between_tabs_that_could_be_labels_are_said(self, folder):
        lines = "".join(f"w{number}\tw{number % 7}\n" for number in range(20))
        report = TextData(path=folder(train=lines, valid=lines, test=lines)).load().report
        assert report["remarks"] == "first column read as 20 labels (if it holds words, set data.labels=no)"
        for labels in ("yes", "drop"):
            assert "remarks" not in TextData(path=folder(), labels=labels).load().report

    @pytest.mark.parametrize("labels", ["no", False])
    def test_with_labels_no_a_tab_is_white_space(self, folder, labels):
        data = TextData(path=folder(**LABELLED), labels=labels).load()
        assert data.train.labels is None
        assert sentences(data) == ["1 the cat", "0 the dog"]
        assert data.report["labels"] == "none"

    def test_text_without_tabs_has_no_labels(self, folder):
        assert TextData(path=folder(**PLAIN)).load().report["labels"] == "none"

    def test_labels_on_some_lines_only_are_rejected(self, folder):
        files = {"train": "1\ta\n\nb c\nd\n", "valid": "0\ta\n", "test": "a\n"}
        train, test = issues(TextData(path=folder(**files)))
        assert places([train, test]) == ["train.txt, line 3", "test.txt, line 1"]
        assert (train.value, test.value) == ("b c", "a")
        assert "data.labels=no" in train.hint
        assert len(TextData(path=folder(**files), labels="no").load().train) == 3

    def test_the_number_of_lines_without_a_label_is_reported(self, folder):
        (issue,) = issues(TextData(path=folder(**LABELLED | {"train": "1\ta\nb\n0\tc\nd\n\ne\n"})))
        assert (places([issue]), issue.value) == (["train.txt, line 2"], "b")
        assert "3 lines without a label" in issue.hint

    def test_labels_can_be_dropped(self, folder):
        files = LABELLED | {"test": "2\ta dog\n"}
        data = TextData(path=folder(**files), labels="drop").load()
        assert data.train.labels is None
        assert sentences(data) == ["the cat", "the dog"]
        (issue,) = issues(TextData(path=folder(**files | {"test": "a dog\n"}), labels="drop"))
        assert (places([issue]), issue.value) == (["test.txt, line 1"], "a dog")

    def test_all_splits_must_have_the_labels_of_training(self, folder):
        files = {"train": "1\ta\n0\ta\n2\ta\n", "valid": "1\ta\n0\ta\n2\ta\n", "test": "9\ta\n1\ta\n"}
        missing, unknown = issues(TextData(path=folder(**files)))
        assert places([missing, unknown]) == ["test.txt"] * 2
        assert missing.message.endswith(": 0, 2")
        assert unknown.message.endswith(": 9")
        assert "data.labels=drop" in unknown.hint

    def test_labels_beyond_the_limit_count_and_labels_of_dropped_sentences_do_not(self, folder):
        assert len(TextData(path=folder(**LABELLED), limit=1).load().train) == 1
        (issue,) = issues(TextData(path=folder(**LABELLED | {"valid": "1\ta\n0\ta b c\n"}), max_length=2))
        assert places([issue]) == ["valid.txt"]
        assert issue.message.endswith(": 0")

    def test_a_blank_label_is_a_missing_label(self, folder):
        assert places(issues(TextData(path=folder(**LABELLED | {"valid": "1\ta\n \tb\n"})))) == ["valid.txt, line 2"]

    def test_with_labels_yes_every_file_must_have_labels(self, folder):
        found = issues(TextData(path=folder(**PLAIN), labels="yes"))
        assert places(found) == [f"{split}.txt, line 1" for split in PLAIN]


class TestPartition:
    @staticmethod
    def batches_of(folder, partition, seed=0, epoch=0):
        """Return the sentences of each batch of up to 4, for a text of 20 sentences of one word and 30 of two."""
        lines = [f"a{n}" if n % 5 < 2 else f"a{n} b" for n in range(50)]
        config = TextData(path=folder(**PLAIN | {"train": "\n".join(lines)}), partition=partition)
        train = config.load().train
        return [batch.index_B.tolist() for batch in config.train_batches(train, 4, seed, epoch)]

    @pytest.mark.parametrize("partition", get_args(Partition))
    def test_every_sentence_is_in_one_batch_of_its_length(self, folder, partition):
        batches = self.batches_of(folder, partition)
        assert sorted(n for batch in batches for n in batch) == list(range(50))
        assert {len({n % 5 < 2 for n in batch}) for batch in batches} == {1}
        assert [len(batch) for batch in batches] == [4] * 5 + [4] * 7 + [2]

    def test_fixed_by_group_follows_the_order_of_the_file(self, folder):
        assert TextData(path="x").partition == "fixed_by_group"
        batches = self.batches_of(folder, "fixed_by_group")
        assert batches == self.batches_of(folder, "fixed_by_group", seed=9, epoch=4)
        assert batches[:5] == [[0, 1, 5, 6], [10, 11, 15, 16], [20, 21, 25, 26], [30, 31, 35, 36], [40, 41, 45, 46]]

    def test_fixed_batches_depend_on_the_seed_and_resplit_batches_on_seed_and_epoch(self, folder):
        def partitions(partition):
            return [str(self.batches_of(folder, partition, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]

        fixed, resplit = partitions("fixed_random"), partitions("resplit_random")
        assert fixed[0] == fixed[1] != fixed[2] == fixed[3]
        assert len({*fixed, *resplit}) == 4
        assert fixed[0] == resplit[0]
        assert str(self.batches_of(folder, "fixed_by_group")) not in {*fixed, *resplit}


class TestIssues:
    def test_no_folder(self, tmp_path):
        (tmp_path / "file").write_text("")
        for name in ("nowhere", "file"):
            (issue,) = issues(TextData(path=str(tmp_path / name)))
            assert (issue.where, issue.value) == ("data.path", str(tmp_path / name))
            assert str(tmp_path) in issue.hint

    def test_a_missing_file_is_reported_with_the_content_of_the_folder(self, folder):
        valid, test = issues(TextData(path=folder(train="a\n", tests="b\n")))
        assert valid.where == test.where == "data.path"
        assert "valid.txt or validation.txt or dev.txt or val.txt" in valid.message
        assert "test.txt" in test.message
        assert "tests.txt, train.txt" in test.hint

    def test_a_file_must_have_a_sentence_left(self, folder):
        found = issues(TextData(path=folder(train="a b c\n", valid="\n \n", test=""), max_length=2))
        assert places(found) == [f"{split}.txt" for split in PLAIN]
        assert "0 empty, 1 longer" in found[0].hint
        assert "2 empty, 0 longer" in found[1].hint

    def test_text_that_is_not_utf8_is_located(self, folder):
        (issue,) = issues(TextData(path=folder(**PLAIN | {"train": b"ab\ncaf\xe9 x\n"})))
        assert places([issue]) == ["train.txt, line 2, byte offset 6"]
        assert "UTF-8" in issue.message

    def test_a_file_that_cannot_be_read_is_reported(self, folder, tmp_path):
        path = folder(train="a\n", valid="a\n")
        (tmp_path / "test.txt").mkdir()
        assert places(issues(TextData(path=path))) == ["test.txt"]

    def test_the_issues_of_all_files_are_reported_at_once(self, folder):
        missing, *others = issues(TextData(path=folder(train=b"\xff\n", dev="1\ta\nb\n")))
        assert missing.where == "data.path"
        assert "test.txt" in missing.message
        assert places(others) == ["train.txt, line 1, byte offset 0", "dev.txt, line 2"]


def test_the_kind_decides_the_class_of_the_configuration():
    adapter = TypeAdapter(DataConfig)
    assert adapter.validate_python({"kind": "synthetic", "examples": 5}) == SyntheticData(examples=5)
    assert adapter.validate_python({"kind": "text", "path": "x"}) == TextData(path="x")
    for wrong in ({"kind": "image"}, {"kind": "text"}, {"kind": "text", "path": "x", "label": "no"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
