import os
import unicodedata
from pathlib import Path

import inflections
import numpy as np
import pytest
import torch
from inflections import SUFFIXES, rows

from lagvae_core.data import BOS, EOS, PAD, UNK, ReinflectionData
from lagvae_core.data.reinflection.arrays import ABSENT, Characters
from lagvae_core.errors import DataError

REAL = Path(os.environ.get("LAGVAE_DATA", "no such folder")) / "sigmorphon2016"
"""Folder of the files of the shared task, if they are available."""


@pytest.fixture
def folder(tmp_path):
    return lambda **files: inflections.write(tmp_path, **files)


def tiny_data(path, **fields):
    return ReinflectionData(path=path, **{"language": "tiny", **fields})


def issues(config):
    """Return the issues that loading the data raises."""
    with pytest.raises(DataError) as caught:
        config.load()
    return caught.value.issues


def places(issues):
    """Return the name of the file, and what follows it, of each issue about a file."""
    return [issue.where.rpartition("/")[2] for issue in issues]


def examples(data, split):
    """Return the lines of a split, reconstructed from its batches."""
    lines = {}
    for batch in getattr(data, split).batches(7):
        for row, number in enumerate(batch.index_B.tolist()):
            tags = [data.features[tag] for tag in batch.tags_BK[row].tolist() if tag != ABSENT]
            words = (batch.source.tokens_BL[row].tolist(), batch.tokens_BL[row].tolist())
            source, target = (data.characters.decode(word) for word in words)
            lines[number] = f"{source}\t{','.join(tags)}\t{target}"
    return [lines[number] for number in range(len(lines))]


class TestReading:
    def test_examples_are_read_as_written(self, folder):
        data = tiny_data(folder()).load()
        for split, stems in (("train", slice(8)), ("valid", slice(8, 10)), ("test", slice(10, None))):
            assert examples(data, split) == rows(inflections.STEMS[stems])
        assert set(data.features) == {"pos=N", "num=SG", *(f"case={case}" for case in SUFFIXES)}
        assert (data.domain.vocabulary, data.domain.features) == (len(data.characters), len(data.features))
        assert data.report["train_examples"] == len(data.train) == 48
        assert data.report["features"] == 5
        assert data.report["unit"] == "characters"

    def test_forms_are_normalised_and_split_into_code_points(self, folder):
        train = unicodedata.normalize("NFD", "ödü\tpos=N\töç\n")
        data = tiny_data(folder(train=train, dev="ö\tpos=N\tx\n", test="ö\tpos=N\tç\n")).load()
        assert data.characters.words[4:] == ("ö", "d", "ü", "ç")
        assert data.valid.targets.tokens.tolist() == [BOS, UNK, EOS]
        assert data.report["valid_oov_rate"] == 1

    @pytest.mark.parametrize(
        ("task", "line"),
        [
            (1, "abi\tpos=N,case=GEN\tabiin"),
            (2, "pos=N,case=NOM\tabi\tpos=N,case=GEN\tabiin"),
            (3, "abi\tpos=N,case=GEN\tabiin"),
        ],
    )
    def test_the_columns_of_each_task(self, tmp_path, task, line):
        for suffix in ("train", "dev", "test"):
            (tmp_path / f"tiny-task{task}-{suffix}").write_text(line + "\r\n\n")
        data = tiny_data(str(tmp_path), task=task).load()
        assert examples(data, "train") == ["abi\tpos=N,case=GEN\tabiin"]
        assert data.features == ("pos=N", "case=GEN")
        assert data.report["train_dropped_empty"] == 1

    def test_a_set_of_values_is_one_feature(self, folder):
        line = "a\tpos=V,aspect={IPFV/PROG}\tb\n"
        data = tiny_data(folder(train=line, dev=line, test=line)).load()
        assert data.features == ("pos=V", "aspect={IPFV/PROG}")

    def test_limit_keeps_the_first_examples_and_every_feature(self, folder):
        whole, part = (tiny_data(folder(), limit=limit).load() for limit in (None, 3))
        assert examples(part, "train") == examples(whole, "train")[:3]
        assert part.features == whole.features
        assert len(part.characters) < len(whole.characters)
        assert examples(part, "test") != examples(whole, "test")  # characters that only omitted examples contain
        assert part.fingerprint != whole.fingerprint

    def test_the_content_decides_the_fingerprint(self, folder):
        first = tiny_data(folder()).load().fingerprint
        assert tiny_data(folder()).load().fingerprint == first
        changed = [("abi", "abo"), ("case=GEN", "case=DAT"), ("case=GEN", "case=LOC")]
        for before, after in changed:
            text = "\n".join(rows(inflections.STEMS[:8])).replace(before, after, 1)
            text += "\nab\tcase=GEN\tabin"
            assert tiny_data(folder(train=text)).load().fingerprint != first

    @pytest.mark.skipif(not REAL.is_dir(), reason="LAGVAE_DATA is not a folder with sigmorphon2016")
    @pytest.mark.parametrize(
        ("language", "characters", "features", "sizes"),
        [("turkish", 36, 31, (12_798, 1_600, 1_600)), ("german", 62, 25, (12_777, 1_600, 16_000))],
    )
    def test_the_real_sets(self, language, characters, features, sizes):
        data = ReinflectionData(path=str(REAL), language=language).load()
        assert data.domain.vocabulary == characters
        assert data.domain.features == features
        assert (len(data.train), len(data.valid), len(data.test)) == sizes


class TestBatches:
    def test_padding_lengths_and_encoder_input(self, folder):
        data = tiny_data(folder()).load()
        for batch in data.train.batches(5):
            for words in (batch, batch.source):
                lengths = words.lengths_B
                if lengths is None:
                    assert (words.tokens_BL[:, -1] == EOS).all()
                    continue
                position = torch.arange(words.tokens_BL.shape[1])
                assert torch.equal(words.tokens_BL == PAD, position >= lengths[:, None])
                assert (words.tokens_BL.gather(1, lengths[:, None] - 1) == EOS).all()
            assert batch.read is batch.source is batch.history.source
            assert batch.source.read is batch.source
            assert (batch.tags_BK != ABSENT).any(0).all()  # no superfluous column
        assert sum(batch.units for batch in data.train.batches(5)) == data.train.units

    @pytest.mark.parametrize("partition", ["resplit_random", "fixed_random", "fixed_by_group"])
    def test_each_epoch_holds_every_example_once_in_an_equal_number_of_batches(self, folder, partition):
        data = tiny_data(folder(), partition=partition)
        train = data.load().train
        epochs = [data.train_batches(train, 7, seed=1, epoch=epoch) for epoch in range(3)]
        for batches in epochs:
            assert sorted(torch.cat([b.index_B for b in batches]).tolist()) == list(range(len(train)))
            assert max(b.size for b in batches) == 7
        assert len({len(batches) for batches in epochs}) == 1
        first, second = (sorted(sorted(b.index_B.tolist()) for b in batches) for batches in epochs[:2])
        assert (first == second) == (partition != "resplit_random")
        one_length = all(b.lengths_B is None for b in epochs[0])
        assert one_length == (partition == "fixed_by_group")

    def test_measured_batches_are_sorted_by_length(self, folder):
        train = tiny_data(folder()).load().train
        index = torch.cat([batch.index_B for batch in train.batches(7)])
        assert (np.diff(train.targets.lengths[index]) >= 0).all()

    def test_characters_are_never_special_words(self):
        characters = Characters.of(["<pad>"])
        assert characters.encode("<a>") == [BOS, 4, characters.words.index("a"), 8, EOS]
        assert characters.decode([BOS, 4, UNK, EOS, PAD]) == "<<unk>"


class TestIssues:
    @pytest.mark.parametrize(
        ("line", "fact"),
        [
            ("abi\tpos=N", "This line has 2."),
            ("abi\tpos=N\tabi\tabi", "This line has 4."),
            ("abi\tpos\tabi", "'pos'"),
            ("abi\tpos=N,,case=GEN\tabi", "''"),
            ("abi\tpos={N/V\tabi", "'pos={N/V'"),
            ("abi\t\tabi", '"features"'),
            ("\tpos=N\tabi", '"source"'),
            ("abi\tpos=N\t ", '"target"'),
        ],
    )
    @pytest.mark.parametrize("suffix", ["train", "dev"])
    def test_a_wrong_line_is_located_and_the_layout_is_given(self, folder, line, fact, suffix):
        (issue,) = issues(tiny_data(folder(**{suffix: f"ab\tpos=N\tab\n{line}\n"})))
        assert places([issue]) == [f"tiny-task3-{suffix}, line 2"]
        assert issue.value == line.rstrip()
        assert fact in f"{issue.message} {issue.hint}"
        assert issue.hint.endswith("source, features, target.")

    def test_a_feature_that_the_training_file_lacks(self, folder):
        (issue,) = issues(tiny_data(folder(test="ab\tpos=N\tab\nab\tcase=GN\tabin\n")))
        assert places([issue]) == ["tiny-task3-test, line 2"]
        assert (issue.value, issue.hint) == ("case=GN", "Did you mean case=GEN?")

    def test_text_that_is_not_utf8_is_located(self, folder):
        (issue,) = issues(tiny_data(folder(dev=b"ab\tpos=N\tab\n\xff\n")))
        assert places([issue]) == ["tiny-task3-dev, line 2, byte offset 12"]
        assert "UTF-8" in issue.message

    def test_missing_folders(self, tmp_path):
        (issue,) = issues(tiny_data(str(tmp_path / "nowhere")))
        assert (issue.where, issue.value) == ("data.path", str(tmp_path / "nowhere"))

    def test_missing_files(self, folder, tmp_path):
        assert [issue.where for issue in issues(tiny_data(folder(), language="finnish"))] == ["data.path"] * 3
        found = issues(tiny_data(folder(), task=1))
        assert [issue.value for issue in found] == [str(tmp_path)] * 3
        assert all("tiny-task3" in issue.hint for issue in found)

    def test_files_without_examples(self, folder):
        assert places(issues(tiny_data(folder(dev="\n \n")))) == ["tiny-task3-dev"]

    def test_the_issues_of_all_files_are_reported_but_only_the_first_of_each_file(self, folder):
        found = issues(tiny_data(folder(train="ab\n" * 1000, dev="ab\tpos=N\t\n")))
        assert places(found) == [
            *(f"tiny-task3-train, line {number}" for number in range(1, 6)),
            "tiny-task3-train",
            "tiny-task3-dev, line 1",
        ]
        assert "995" in found[5].message
