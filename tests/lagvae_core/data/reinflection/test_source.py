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
"""The files of the shared task, where they are at hand."""


@pytest.fixture
def folder(tmp_path):
    return lambda **files: inflections.write(tmp_path, **files)


def setting(path, **fields):
    return ReinflectionData(path=path, **{"language": "tiny", **fields})


def issues(of):
    with pytest.raises(DataError) as caught:
        of.load()
    assert all(issue.where == "data.path" for issue in caught.value.issues)
    return [str(issue) for issue in caught.value.issues]


def examples(data, split):
    """Sources, names of features and targets, read back from the batches of a split."""
    found = {}
    for batch in getattr(data, split).batches(7):
        for row, number in enumerate(batch.index_B.tolist()):
            tags = [data.features[tag] for tag in batch.tags_BK[row].tolist() if tag != ABSENT]
            words = (batch.source.tokens_BL[row].tolist(), batch.tokens_BL[row].tolist())
            source, target = (data.characters.decode(word) for word in words)
            found[number] = f"{source}\t{','.join(tags)}\t{target}"
    return [found[number] for number in range(len(found))]


class TestReading:
    def test_what_is_written_comes_back(self, folder):
        data = setting(folder()).load()
        for split, stems in (("train", slice(8)), ("valid", slice(8, 10)), ("test", slice(10, None))):
            assert examples(data, split) == rows(inflections.STEMS[stems])
        assert set(data.features) == {"pos=N", "num=SG", *(f"case={case}" for case in SUFFIXES)}
        assert (data.domain.vocabulary, data.domain.features) == (len(data.characters), len(data.features))
        assert data.report["train_examples"] == len(data.train) == 48
        assert data.report["features"] == 5
        assert data.report["unit"] == "characters"

    def test_forms_are_composed_and_cut_into_code_points(self, folder):
        train = unicodedata.normalize("NFD", "ödü\tpos=N\töç\n")
        data = setting(folder(train=train, dev="ö\tpos=N\tx\n", test="ö\tpos=N\tç\n")).load()
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
        data = setting(str(tmp_path), task=task).load()
        assert examples(data, "train") == ["abi\tpos=N,case=GEN\tabiin"]
        assert data.features == ("pos=N", "case=GEN")
        assert data.report["train_dropped_empty"] == 1

    def test_a_set_of_values_is_one_feature(self, folder):
        line = "a\tpos=V,aspect={IPFV/PROG}\tb\n"
        data = setting(folder(train=line, dev=line, test=line)).load()
        assert data.features == ("pos=V", "aspect={IPFV/PROG}")

    def test_limit_takes_the_first_and_keeps_every_feature(self, folder):
        whole, part = (setting(folder(), limit=limit).load() for limit in (None, 3))
        assert examples(part, "train") == examples(whole, "train")[:3]
        assert part.features == whole.features
        assert len(part.characters) < len(whole.characters)
        assert examples(part, "test") != examples(whole, "test")  # characters that only others hold
        assert part.fingerprint != whole.fingerprint

    def test_the_fingerprint_is_of_the_content(self, folder):
        first = setting(folder()).load().fingerprint
        assert setting(folder()).load().fingerprint == first
        changed = [("abi", "abo"), ("case=GEN", "case=DAT"), ("case=GEN", "case=LOC")]
        for before, after in changed:
            text = "\n".join(rows(inflections.STEMS[:8])).replace(before, after, 1)
            text += "\nab\tcase=GEN\tabin"
            assert setting(folder(train=text)).load().fingerprint != first

    @pytest.mark.skipif(not REAL.is_dir(), reason="LAGVAE_DATA names no folder with sigmorphon2016")
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
    def test_padding_lengths_and_what_is_read(self, folder):
        data = setting(folder()).load()
        for batch in data.train.batches(5):
            for words in (batch, batch.source):
                lengths = words.lengths_B
                if lengths is None:
                    assert (words.tokens_BL[:, -1] == EOS).all()
                    continue
                place = torch.arange(words.tokens_BL.shape[1])
                assert torch.equal(words.tokens_BL == PAD, place >= lengths[:, None])
                assert (words.tokens_BL.gather(1, lengths[:, None] - 1) == EOS).all()
            assert batch.read is batch.source is batch.history.source
            assert batch.source.read is batch.source
            assert (batch.tags_BK != ABSENT).any(0).all()  # no column more than needed
        assert sum(batch.units for batch in data.train.batches(5)) == data.train.units

    @pytest.mark.parametrize("partition", ["resplit_random", "fixed_random", "fixed_by_group"])
    def test_each_epoch_holds_every_example_once_in_as_many_batches(self, folder, partition):
        data = setting(folder(), partition=partition)
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
        train = setting(folder()).load().train
        index = torch.cat([batch.index_B for batch in train.batches(7)])
        assert (np.diff(train.targets.lengths[index]) >= 0).all()

    def test_characters_never_are_specials(self):
        characters = Characters.of(["<pad>"])
        assert characters.encode("<a>") == [BOS, 4, characters.words.index("a"), 8, EOS]
        assert characters.decode([BOS, 4, UNK, EOS, PAD]) == "<<unk>"


class TestMistakes:
    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("abi\tpos=N", "have 3 columns, not 2, between tabs"),
            ("abi\tpos=N\tabi\tabi", "have 3 columns, not 4, between tabs"),
            ("abi\tpos\tabi", "have features as key=value between commas"),
            ("abi\tpos=N,,case=GEN\tabi", "have features as key=value between commas"),
            ("abi\tpos={N/V\tabi", "have features as key=value between commas"),
            ("abi\t\tabi", "leave no column empty"),
            ("\tpos=N\tabi", "leave no column empty"),
            ("abi\tpos=N\t ", "leave no column empty"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["train", "dev"])
    def test_a_wrong_line_is_told_with_file_number_and_remedy(self, folder, line, told, suffix):
        path = folder(**{suffix: f"ab\tpos=N\tab\n{line}\n"})
        (found,) = issues(setting(path))
        assert f"must {told}" in found
        assert f"tiny-task3-{suffix}, line 2: " in found
        assert "A line of task 3 is: source, features, target." in found

    def test_an_unknown_feature(self, folder):
        (found,) = issues(setting(folder(test="ab\tpos=N\tab\nab\tcase=GN\tabin\n")))
        assert "have features of the training file alone" in found
        assert "tiny-task3-test, line 2: case=GN'. Did you mean case=GEN?" in found

    def test_not_utf8(self, folder):
        (found,) = issues(setting(folder(dev=b"ab\tpos=N\tab\n\xff\n")))
        assert "tiny-task3-dev, line 2, byte offset 12" in found
        assert "must hold UTF-8 text" in found

    def test_missing_and_empty_files_and_folders(self, folder, tmp_path):
        (found,) = issues(setting(str(tmp_path / "nowhere")))
        assert "must be a folder" in found
        assert len(issues(setting(folder(), language="finnish"))) == 3
        assert all("It holds tiny-task3." in m for m in issues(setting(folder(), task=1)))
        (found,) = issues(setting(folder(dev="\n \n")))
        assert "must have an example in every file" in found

    def test_all_at_once_but_not_thousands(self, folder):
        found = issues(setting(folder(train="ab\n" * 1000, dev="ab\tpos=N\t\n")))
        assert len(found) == 7
        assert "995 further lines" in found[5]
        assert "tiny-task3-dev, line 1" in found[6]
