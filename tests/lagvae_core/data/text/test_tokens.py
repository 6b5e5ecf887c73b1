import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from lagvae_core.data import BOS, EOS, PAD, SPECIALS, UNK, TokenDataset, TokenSplit, Vocabulary
from lagvae_core.data.text import tokens


def split_of_lengths(lengths, labels=None):
    """Return a split whose sentence n is `<s>`, the word 10 + n repeated lengths[n] times, `</s>`."""
    return TokenSplit.of(([BOS, *[10 + n] * length, EOS] for n, length in enumerate(lengths)), labels)


@pytest.fixture
def split():
    lengths = random.Random(0).choices(range(1, 8), k=200)
    return split_of_lengths(lengths, tuple(str(length) for length in lengths))


class TestVocabulary:
    def test_words_follow_the_special_words_in_the_order_of_first_appearance(self):
        vocabulary = Vocabulary.of(["b a  b", "c\ta"])
        assert vocabulary.words == ("<pad>", "<s>", "</s>", "<unk>", "b", "a", "c")
        assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)

    def test_rare_words_are_left_out(self):
        assert Vocabulary.of(["b a b", "c a"], min_freq=2).words == (*SPECIALS, "b", "a")

    def test_decoding_inverts_encoding_except_for_unknown_words(self):
        vocabulary = Vocabulary.of(["the cat sat"])
        assert vocabulary.encode("the dog\u2003sat\n") == [BOS, 4, UNK, 6, EOS]
        assert vocabulary.decode([*vocabulary.encode("the dog sat"), PAD, PAD]) == "the <unk> sat"
        assert vocabulary.decode(vocabulary.encode(" sat the  cat ")) == "sat the cat"

    def test_special_words_in_a_text_become_unk(self):
        vocabulary = Vocabulary.of(["a </s> <s> <pad> <unk>"])
        assert vocabulary.words == (*SPECIALS, "a")
        assert vocabulary.encode("a </s> <s> <pad> <unk>") == [BOS, 4, UNK, UNK, UNK, UNK, EOS]

    def test_the_hash_depends_on_the_words_and_their_order(self):
        hashes = {Vocabulary.of([text]).hash for text in ("a b", "b a", "a b c", "ab")}
        assert len(hashes) == 4
        assert Vocabulary.of(["a b"]).hash == Vocabulary.of(["a", "a b"]).hash

    def test_a_vocabulary_starts_with_the_special_words_and_has_no_duplicates(self):
        with pytest.raises(AssertionError):
            Vocabulary(("a", *SPECIALS))
        with pytest.raises(AssertionError):
            Vocabulary((*SPECIALS, "a", "a"))


class TestTokenSplit:
    def test_arrays_and_sizes(self):
        split = split_of_lengths([3, 1])
        assert len(split) == 2
        assert split.tokens.tolist() == [BOS, 10, 10, 10, EOS, BOS, 11, EOS]
        assert (split.tokens.dtype, split.offsets.dtype) == (np.int32, np.int64)
        assert split.lengths.tolist() == [5, 3]
        assert split.units == 6

    def test_limit_keeps_the_first_sentences_and_their_labels(self, split):
        few = split.limit(7)
        assert len(few) == 7
        assert few.labels == split.labels[:7]
        assert few.tokens.tolist() == split.tokens[: split.offsets[7]].tolist()
        assert len(split.limit(1_000)) == len(split)
        assert split_of_lengths([1, 2]).limit(1).labels is None

    def test_offsets_and_labels_must_fit(self):
        with pytest.raises(AssertionError):
            TokenSplit(np.zeros(4, np.int32), np.array([0, 3]))
        with pytest.raises(AssertionError):
            split_of_lengths([1, 2], labels=("one",))


class TestBatches:
    @pytest.mark.parametrize("batch_size", [1, 7, 32, 1_000])
    def test_each_sentence_is_in_one_batch_of_its_length(self, split, batch_size):
        seen = []
        for batch in split.batches(batch_size):
            assert 1 <= batch.size <= batch_size
            assert batch.tokens_BL.dtype == batch.index_B.dtype == torch.int64
            for row, number in zip(batch.tokens_BL.tolist(), batch.index_B.tolist(), strict=True):
                assert row == split.tokens[split.offsets[number] : split.offsets[number + 1]].tolist()
                seen.append(number)
        assert sorted(seen) == list(range(len(split)))
        assert seen == sorted(seen, key=lambda number: split.lengths[number])  # the sort is stable

    def test_batches_end_only_when_full_or_at_a_change_of_length(self, split):
        for one, following in zip(split.batches(8), split.batches(8)[1:], strict=False):
            assert one.size == 8 or one.tokens_BL.shape[1] < following.tokens_BL.shape[1]

    def test_units_add_up_to_the_predicted_tokens(self, split):
        assert sum(batch.units for batch in split.batches(16)) == split.units

    def test_inputs_and_targets_are_shifted_by_one(self):
        (batch,) = split_of_lengths([2]).batches(4)
        assert batch.history.tokens_BT.tolist() == [[BOS, 10, 10]]
        assert batch.targets_BT.tolist() == [[10, 10, EOS]]

    def test_the_index_stays_on_the_cpu(self, split):
        moved = split.batches(4)[0].to("meta")
        assert moved.tokens_BL.device.type == "meta"
        assert moved.index_B.device.type == "cpu"

    def test_an_empty_split_has_no_batches(self):
        assert split_of_lengths([]).batches(4) == []

    @pytest.mark.parametrize("batch_size", [1, 7, 32])
    def test_a_seed_shuffles_within_each_length_and_keeps_the_shapes(self, split, batch_size):
        stored, shuffled = split.batches(batch_size), split.batches(batch_size, seed=5)
        assert [batch.tokens_BL.shape for batch in shuffled] == [batch.tokens_BL.shape for batch in stored]
        for length in range(3, 10):
            one, other = (
                [n for batch in batches if batch.tokens_BL.shape[1] == length for n in batch.index_B.tolist()]
                for batches in (stored, shuffled)
            )
            assert sorted(other) == one
            assert other != one
        for batch in shuffled:
            assert batch.tokens_BL[:, 1].tolist() == [10 + n for n in batch.index_B.tolist()]

    def test_only_the_seed_decides_the_shuffle(self, split):
        def batches_of(seed):
            return [batch.index_B.tolist() for batch in split.batches(8, seed=seed)]

        assert batches_of(1) == batches_of(1)
        assert batches_of(1) != batches_of(2)

    @pytest.mark.parametrize("seed", [None, 3])
    def test_by_label_each_batch_has_one_label_and_one_length(self, seed):
        lengths = random.Random(0).choices(range(1, 4), k=90)
        labels = tuple(random.Random(1).choices(["10", "9", "a"], k=90))
        split = split_of_lengths(lengths, labels)
        batches = split.batches(4, by_label=True, seed=seed)
        for batch in batches:
            assert len({(lengths[n], labels[n]) for n in batch.index_B.tolist()}) == 1
        assert sorted(n for batch in batches for n in batch.index_B.tolist()) == list(range(90))
        groups = Counter(zip(lengths, labels, strict=True))
        assert len(batches) == sum(-(-size // 4) for size in groups.values())

    def test_only_labelled_sentences_can_be_grouped_by_label(self):
        with pytest.raises(AssertionError, match="without labels"):
            split_of_lengths([1, 2]).batches(4, by_label=True)


class TestTokenDataset:
    @staticmethod
    def dataset(train=("a b c", "a"), valid=("a d",), test=("d d e",), labels=("x", "y"), words="a b c"):
        vocabulary = Vocabulary.of([words])
        components = [TokenSplit.of(map(vocabulary.encode, lines)) for lines in (train, valid, test)]
        return TokenDataset.of(replace(components[0], labels=labels), *components[1:], vocabulary, {"note": 5})

    def test_equal_contents_have_equal_fingerprints(self):
        assert self.dataset().fingerprint == self.dataset().fingerprint

    @pytest.mark.parametrize(
        "change",
        [
            {"train": ("a b", "c a")},  # the same tokens in other sentences
            {"train": ("a", "a b c")},
            {"valid": ("a d", "a")},
            {"test": ("a d d",)},
            {"valid": ("d d e",), "test": ("a d",)},
            {"words": "a b c d"},
            {"labels": ("y", "x")},
            {"labels": None},
        ],
        ids=str,
    )
    def test_different_contents_have_different_fingerprints(self, change):
        assert self.dataset(**change).fingerprint != self.dataset().fingerprint

    def test_a_known_fingerprint_is_not_computed_again(self, monkeypatch):
        data = self.dataset()
        monkeypatch.setattr(tokens, "_fingerprint", None)
        splits = data.train, data.valid, data.test
        assert TokenDataset.of(*splits, data.vocabulary, fingerprint="known").fingerprint == "known"

    def test_the_report(self):
        report = self.dataset().report
        assert report["vocabulary"] == 7
        assert (report["train_examples"], report["valid_examples"], report["test_examples"]) == (2, 1, 1)
        assert (report["train_length_min"], report["train_length_mean"], report["train_length_max"]) == (
            1,
            2,
            3,
        )
        assert report["train_predicted_tokens"] == 6
        assert (report["train_oov_rate"], report["valid_oov_rate"], report["test_oov_rate"]) == (0, 0.5, 1)
        assert report["labels"] == "x y"
        assert report["note"] == 5
        assert all(type(value) in (int, float, str) for value in report.values())
        assert self.dataset(labels=None).report["labels"] == "none"
