"""Padded training batches hold every sentence once, are full, and give the same numbers as batches of one length."""

import numpy as np
import pytest
import torch
from helpers import rejects
from pydantic import ValidationError

from lagvae_core import TrialConfig
from lagvae_core.config.trial import parse_trial
from lagvae_core.data import BOS, EOS, PAD, TextData, TokenSplit
from lagvae_core.data.text.padding import padded_batches
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.training.trial import Trial

LENGTHS = np.random.default_rng(0).integers(1, 16, 1_003)


@pytest.fixture(scope="module")
def split():
    """Sentence n is `<s>`, the word 10 + n repeated LENGTHS[n] times, `</s>`."""
    return TokenSplit.of([BOS, *[10 + n] * length, EOS] for n, length in enumerate(LENGTHS.tolist()))


@pytest.mark.parametrize("batch_size", [1, 32, 1_003, 5_000])
def test_each_sentence_is_in_one_batch_and_at_most_one_batch_is_not_full(split, batch_size):
    batches = padded_batches(split, batch_size, seed=1)
    assert sorted(n for batch in batches for n in batch.index_B.tolist()) == list(range(len(split)))
    full, rest = divmod(len(split), batch_size)
    assert sorted(batch.size for batch in batches) == sorted([batch_size] * full + [rest] * (rest > 0))
    for batch in batches:
        for row, number, size in zip(batch.tokens_BL.tolist(), batch.index_B.tolist(), batch.sizes_B, strict=True):
            words = [BOS, *[10 + number] * LENGTHS[number], EOS]
            assert row == words + [PAD] * (batch.tokens_BL.shape[1] - len(words))
            assert size == len(words)
        assert (batch.lengths_B is None) == (PAD not in batch.tokens_BL)
        assert batch.tokens_BL.dtype == batch.index_B.dtype == batch.sizes_B.dtype == torch.int64
    assert sum(batch.units for batch in batches) == split.units


def test_batches_mix_lengths_and_need_little_padding(split):
    batches = padded_batches(split, 32, seed=1)
    cells = sum(batch.tokens_BL.numel() for batch in batches)
    assert sum(batch.lengths_B is not None for batch in batches) > len(batches) / 2
    assert cells < 1.15 * len(split.tokens)


def test_the_seed_decides_the_batches_and_the_position_of_the_small_batch(split):
    def batches_of(seed):
        return [batch.index_B.tolist() for batch in padded_batches(split, 32, seed)]

    assert batches_of(1) == batches_of(1) != batches_of(2)
    small = [[len(batch) for batch in batches_of(seed)].index(1_003 % 32) for seed in range(8)]
    assert len(set(small)) > 3


class TestTextData:
    @pytest.fixture
    def folder(self, tmp_path):
        random = np.random.default_rng(1)
        for name, lines in (("train", 60), ("valid", 30), ("test", 10)):
            words = [" ".join(random.choice(list("abcdefgh"), random.integers(1, 12))) for _ in range(lines)]
            (tmp_path / f"{name}.txt").write_text("\n".join(words))
        return str(tmp_path)

    def test_padded_batches_are_drawn_before_each_epoch_unless_the_partition_is_fixed(self, folder):
        def cuts(**fields):
            config = TextData(path=folder, batching="padded", **fields)
            train = config.load().train
            return [
                [batch.index_B.tolist() for batch in config.train_batches(train, 8, seed, epoch)]
                for seed in (0, 1)
                for epoch in (0, 1)
            ]

        resplit, fixed = cuts(), cuts(partition="fixed_random")
        assert TextData(path=folder, batching="padded").partition == "resplit_random"
        assert len({str(cut) for cut in resplit}) == 4
        assert fixed[0] == fixed[1] != fixed[2] == fixed[3]
        assert {len(cut) for cut in resplit + fixed} == {8}

    def test_padding_excludes_groups_of_one_length(self):
        with rejects("data.partition") as issues:
            parse_trial({"data": {"kind": "text", "path": "x", "batching": "padded", "partition": "fixed_by_group"}})
        assert issues[0].value == "fixed_by_group"
        assert "constant_length" in issues[0].hint
        with pytest.raises(ValidationError):
            TextData(path="x", batching="ragged")

    def test_batching_is_part_of_the_identity(self):
        def config_id(**fields):
            return parse_trial({"data": {"kind": "text", "path": "x", **fields}}).config_id("f")

        assert len({config_id(), config_id(batching="padded"), config_id(partition="resplit_random")}) == 3
        config = parse_trial({"data": {"kind": "text", "path": "x", "batching": "padded"}})
        assert TrialConfig.model_validate_json(config.model_dump_json()) == config

    def test_padding_does_not_change_the_measured_bound(self, folder):
        """Each sentence has its own noise, which does not depend on its batch."""
        model = {"latent_dim": 2, "hidden": 16, "embedding": 8, "init_range": 0.5, "init_embedding": 1.0}
        config = parse_trial({"data": {"kind": "text", "path": folder}, "model": model})
        trial = Trial(config, config.data.load(), torch.device("cpu"))
        trial.model.eval()
        valid = trial.dataset.valid
        padded = padded_batches(valid, 8, seed=3)
        assert any(batch.lengths_B is not None for batch in padded)
        one, other = (encode_split(trial.model, batches, seed=0) for batches in (valid.batches(8), padded))
        for each, with_padding in ((one.rec_N, other.rec_N), (one.kl_ND, other.kl_ND)):
            assert torch.allclose(each, with_padding, rtol=1e-5, atol=1e-5)
        bounds = [float((split.rec_N + split.kl_ND.sum(1)).mean()) for split in (one, other)]
        assert bounds[0] == pytest.approx(bounds[1], abs=1e-4)
