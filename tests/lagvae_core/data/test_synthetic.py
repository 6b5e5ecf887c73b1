from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import rejects
from pydantic import ValidationError

from lagvae_core.data import SPECIALS, SyntheticData, synthetic
from lagvae_core.data.synthetic import MEANS, weights
from lagvae_core.errors import DataError

CONTENT = "5a5662868abf89ee7bc54d9eb6da227432d42743d13b95a3265e75716c0d5a7d"
"""Hash of the content of the lines of `SMALL`."""

SMALL = {"examples": 30, "heldout": 20, "vocabulary": 25, "length": 5, "hidden": 7, "embedding": 6}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LAGVAE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return SyntheticData().load()


def words_of(split):
    """Return the words [N, length] of a split, numbered from 0."""
    return split.tokens.reshape(len(split), -1)[:, 1:-1] - len(SPECIALS)


def assert_same(one, other):
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(one, split).tokens, getattr(other, split).tokens)
        assert getattr(one, split).labels == getattr(other, split).labels
    assert one.truth.keys() == other.truth.keys()
    for name in one.truth:
        np.testing.assert_array_equal(one.truth[name], other.truth[name])


def negative_log_likelihood(config, words, z):
    """Return -log p(x|z) of each line [nats], computed with torch's LSTM cell."""
    parameters = {name: torch.from_numpy(value) for name, value in vars(weights(config)).items()}
    cell = torch.nn.LSTMCell(config.embedding + 2, config.hidden, dtype=torch.float64)
    cell.load_state_dict(
        {
            "weight_ih": parameters["input_GI"],
            "weight_hh": parameters["recurrent_GH"],
            "bias_ih": parameters["input_bias_G"],
            "bias_hh": parameters["recurrent_bias_G"],
        }
    )
    words, z = torch.from_numpy(words).long(), torch.from_numpy(z)
    c = z @ parameters["start_HZ"].T
    h = torch.tanh(c)
    total = torch.full((len(words),), float(np.log(config.vocabulary)), dtype=torch.float64)
    for now, following in zip(words.T[:-1], words.T[1:], strict=True):
        h, c = cell(torch.cat([parameters["embedding_VE"][now], z], dim=1), (h, c))
        logits = h @ parameters["out_h_VH"].T + z @ parameters["out_z_VZ"].T
        total += torch.nn.functional.cross_entropy(logits, following, reduction="none")
    return total.detach().numpy()


class TestDistribution:
    def test_sizes_vocabulary_and_report(self, full):
        assert (len(full.train), len(full.valid), len(full.test)) == (16_000, 2_000, 2_000)
        assert full.vocabulary.words == (*SPECIALS, *map(str, range(1_000)))
        assert set(full.train.lengths) == {12}
        assert full.report["test_oov_rate"] == 0
        assert full.report["labels"] == "0 1 2 3"

    def test_the_likelihood_of_lines_agrees_with_the_published_generator(self):
        # 25.3 to 26.7 nats per line over weight seeds: single seeds may lie slightly outside, the mean may not.
        means = []
        for seed in range(4):
            config = SyntheticData(seed=seed, examples=1, heldout=500)
            data = config.load()
            words, z = words_of(data.valid), data.truth["valid_z"]
            means.append(negative_log_likelihood(config, words, z).mean())
            # The words depend on the z of their line: they are far less likely under the z of another line.
            assert negative_log_likelihood(config, words, np.roll(z, 1, axis=0)).mean() > means[-1] + 15
        assert 25.3 < np.mean(means) < 26.7

    def test_lines_are_distinct_and_use_most_words(self, full):
        lines = np.concatenate([words_of(split) for split in (full.train, full.valid, full.test)])
        assert len(np.unique(lines, axis=0)) >= 19_970
        assert 900 < len(np.unique(lines[:, 1:])) < 960
        counts = np.bincount(lines[:, 0], minlength=1_000)
        chi_square = ((counts - 20) ** 2 / 20).sum()
        assert abs(chi_square - 999) < 4 * np.sqrt(2 * 999)

    def test_the_last_word_is_drawn_with_its_probability(self):
        config = SyntheticData(**SMALL | {"examples": 20_000, "vocabulary": 3})
        data = config.load()
        words, z = words_of(data.train), data.truth["train_z"]
        before = negative_log_likelihood(config, words[:, :-1], z)
        for word in range(3):
            candidate = words.copy()
            candidate[:, -1] = word
            p = np.exp(before - negative_log_likelihood(config, candidate, z))
            assert abs((words[:, -1] == word).sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())

    def test_z_component_and_label_agree(self, full):
        z, component = full.truth["train_z"], full.truth["train_component"]
        assert full.train.labels == tuple(map(str, component))
        np.testing.assert_allclose(np.bincount(component) / len(component), 0.25, atol=0.015)
        np.testing.assert_array_equal(MEANS, [(-2, -2), (2, 2), (-2, 2), (2, -2)])
        for number, mean in enumerate(MEANS):
            np.testing.assert_allclose(z[component == number].mean(axis=0), mean, atol=0.07)
            np.testing.assert_allclose(np.cov(z[component == number].T), np.eye(2), atol=0.1)

    def test_weights_fill_their_ranges(self):
        for name, value in vars(weights(SyntheticData(weight_scale=0.5, z_scale=3.0))).items():
            scale = 3.0 if name == "out_z_VZ" else 0.5
            assert 0.97 * scale < np.abs(value).max() <= scale
            assert abs(value.mean()) < 5 * scale / np.sqrt(3 * value.size)


class TestReproducibility:
    def test_a_longer_training_set_starts_with_the_shorter(self):
        short = SyntheticData(**SMALL | {"examples": 1_500}).load()
        long = SyntheticData(**SMALL | {"examples": 4_000}).load()
        limited = SyntheticData(**SMALL | {"examples": 4_000, "limit": 1_500}).load()
        np.testing.assert_array_equal(words_of(short.train), words_of(long.train)[:1_500])
        np.testing.assert_array_equal(words_of(short.test), words_of(long.test))
        assert_same(short, limited)
        assert len(limited.truth["train_z"]) == len(limited.train.labels) == 1_500

    def test_blocks_and_splits_differ(self):
        data = SyntheticData(**SMALL | {"examples": 2_000, "heldout": 1_000}).load()
        z = data.truth["train_z"]
        assert len(np.unique(np.concatenate([z, data.truth["valid_z"], data.truth["test_z"]]), axis=0)) == 4_000

    def test_equal_configurations_generate_equal_data(self, monkeypatch, tmp_path):
        one = SyntheticData(**SMALL).load()
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path / "another"))
        assert_same(one, SyntheticData(**SMALL).load())

    def test_the_generated_lines_never_change(self):
        # After an intended change of the lines, raise synthetic._FORMAT.
        assert SyntheticData(**SMALL).load().under(CONTENT).fingerprint == CONTENT

    @pytest.mark.parametrize("change", [{"seed": 1}, {"z_scale": 1.0}, {"weight_scale": 0.5}, {"hidden": 8}])
    def test_other_fields_generate_other_lines(self, change):
        other = SyntheticData(**SMALL | change).load()
        assert other.fingerprint != SyntheticData(**SMALL).load().fingerprint
        assert other.under(CONTENT) is other


class TestFingerprint:
    def test_it_is_that_of_the_loaded_data(self):
        config = SyntheticData(**SMALL)
        assert config.load().fingerprint == config.fingerprint()

    def test_it_never_changes(self):
        # After an intended change of the lines, raise synthetic._FORMAT; nothing else may change it.
        assert SyntheticData(**SMALL).fingerprint() == (
            "5427b892be750ce59055d87e0fe9fe959b36549cc44769a1331f4ea767e48c07-v1"
        )

    def test_it_is_known_without_generating_the_data(self, monkeypatch):
        monkeypatch.setattr(synthetic, "_generate", None)
        monkeypatch.setattr(synthetic, "memory_bytes", lambda: None)
        assert SyntheticData(examples=10**12).fingerprint() != SyntheticData(examples=10**12 + 1).fingerprint()

    @pytest.mark.parametrize(
        "same",
        [
            {"partition": "fixed_by_group"},
            {"limit": 30},
            {"examples": 40, "limit": 30},
            {"valid_limit": 20, "test_limit": 99},
        ],
    )
    def test_fields_that_give_the_same_lines(self, same):
        one, other = SyntheticData(**SMALL), SyntheticData(**SMALL | same)
        assert one.fingerprint() == other.fingerprint()
        assert_same(one.load(), other.load())

    @pytest.mark.parametrize(
        "change",
        [
            *({name: value + 1} for name, value in SMALL.items()),
            *({name: 7} for name in ("weight_scale", "z_scale", "seed", "limit", "valid_limit", "test_limit")),
        ],
    )
    def test_every_other_field_counts(self, change):
        assert SyntheticData(**SMALL | change).fingerprint() != SyntheticData(**SMALL).fingerprint()

    def test_it_is_not_a_former_fingerprint(self):
        config = SyntheticData(**SMALL)
        assert config.is_former_fingerprint(CONTENT)
        assert not config.is_former_fingerprint(config.fingerprint())
        assert not config.is_former_fingerprint(None)

    @pytest.mark.parametrize(
        "large",
        [
            {"examples": 10**12},
            {"heldout": 10**12},
            {"examples": 10**10, "length": 1000, "limit": 1},
            {"vocabulary": 50_000, "hidden": 10_000, "embedding": 10_000},
        ],
    )
    def test_data_larger_than_the_memory_are_refused_before_they_are_generated(self, large, monkeypatch):
        monkeypatch.setattr(synthetic, "_generate", None)
        monkeypatch.setattr(synthetic, "memory_bytes", lambda: 16 * 2**30)
        for method in (SyntheticData(**large).load, SyntheticData(**large).fingerprint):
            with rejects("data", error=DataError) as issues:
                method()
            assert "16.0 GiB" in issues[0].message


class TestPartition:
    @staticmethod
    def cut(partition, seed=0, epoch=0):
        config = SyntheticData(**SMALL | {"examples": 100, "partition": partition})
        train = config.load().train
        return [batch.index_B.tolist() for batch in config.train_batches(train, 8, seed, epoch)], train.labels

    def test_fixed_random_cuts_the_lines_in_stored_order(self):
        assert SyntheticData().partition == "fixed_random"
        stored = [list(range(100))[start : start + 8] for start in range(0, 100, 8)]
        assert self.cut("fixed_random")[0] == self.cut("fixed_random", seed=9, epoch=4)[0] == stored

    def test_fixed_by_group_fills_each_batch_from_one_component(self):
        batches, labels = self.cut("fixed_by_group")
        assert {len({labels[n] for n in batch}) for batch in batches} == {1}
        assert sorted(n for batch in batches for n in batch) == list(range(100))
        assert self.cut("fixed_by_group", seed=9, epoch=4)[0] == batches

    def test_resplit_random_depends_on_seed_and_epoch(self):
        cuts = [self.cut("resplit_random", seed, epoch)[0] for seed in (0, 1) for epoch in (0, 1)]
        for batches in cuts:
            assert [len(batch) for batch in batches] == [8] * 12 + [4]
            assert sorted(n for batch in batches for n in batch) == list(range(100))
        assert len({str(batches) for batches in cuts}) == 4
        assert self.cut("resplit_random", 1, 1)[0] == cuts[3]

    def test_partition_changes_neither_the_data_nor_the_cache_entry(self, cache):
        one, other = (SyntheticData(**SMALL, partition=p).load() for p in ("fixed_random", "fixed_by_group"))
        assert_same(one, other)
        assert len(list(cache.iterdir())) == 1


def damage_contents(change):
    return lambda entry: (entry / "contents.json").write_bytes(change((entry / "contents.json").read_bytes()))


def damage_array(change):
    return lambda entry: (entry / "train_z.npy").write_bytes(change((entry / "train_z.npy").read_bytes()))


DAMAGE = {
    "empty contents": damage_contents(lambda raw: b""),
    "contents that are not JSON": damage_contents(lambda raw: b"not a table"),
    "truncated contents": damage_contents(lambda raw: raw[: len(raw) // 2]),
    "another name of an array": damage_contents(lambda raw: raw.replace(b"train_z", b"trail_z")),
    "empty array": damage_array(lambda raw: b""),
    "truncated array": damage_array(lambda raw: raw[: len(raw) // 2]),
    "one flipped bit": damage_array(lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]),
}


class TestCache:
    def test_cached_data_equal_generated_data(self, cache, monkeypatch):
        generated = SyntheticData(**SMALL).load()
        monkeypatch.setattr(synthetic, "_generate", None)
        assert_same(generated, SyntheticData(**SMALL).load())

    def test_limit_shares_the_entry_and_other_fields_do_not(self, cache):
        SyntheticData(**SMALL).load()
        SyntheticData(**SMALL, limit=3).load()
        assert len(list(cache.iterdir())) == 1
        SyntheticData(**SMALL, seed=2).load()
        assert len(list(cache.iterdir())) == 2

    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
    def test_a_damaged_entry_is_replaced(self, cache, damage, monkeypatch):
        generated = SyntheticData(**SMALL).load()
        (entry,) = cache.iterdir()
        damage(entry)
        assert_same(generated, SyntheticData(**SMALL).load())
        monkeypatch.setattr(synthetic, "_generate", None)
        assert_same(generated, SyntheticData(**SMALL).load())

    def test_an_entry_of_other_shapes_is_replaced(self, cache, monkeypatch):
        SyntheticData(**SMALL).load()
        (entry,) = cache.iterdir()
        longer = SyntheticData(**SMALL | {"examples": 31})
        entry.rename(cache / synthetic._entry_name(longer))
        assert len(longer.load().train) == 31
        monkeypatch.setattr(synthetic, "_generate", None)
        assert len(longer.load().train) == 31

    def test_an_unusable_cache_folder_is_reported_and_not_an_error(self, tmp_path, monkeypatch, caplog):
        generated = SyntheticData(**SMALL).load()
        (tmp_path / "file").write_text("a file is not a folder")
        monkeypatch.setenv("LAGVAE_CACHE", str(tmp_path / "file" / "below"))
        assert_same(generated, SyntheticData(**SMALL).load())
        assert "cannot be used" in caplog.text

    def test_the_environment_decides_the_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LAGVAE_CACHE", "")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        SyntheticData(**SMALL).load()
        assert len(list((tmp_path / "xdg" / "lagvae").iterdir())) == 1
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        SyntheticData(**SMALL).load()
        assert len(list((tmp_path / "home" / ".cache" / "lagvae").iterdir())) == 1

    def test_many_threads_may_start_at_once(self, cache):
        with ThreadPoolExecutor(8) as pool:
            loaded = list(pool.map(lambda _: SyntheticData(**SMALL).load(), range(16)))
        assert len({data.fingerprint for data in loaded}) == 1
        assert [entry.name for entry in cache.iterdir()] == [synthetic._entry_name(SyntheticData(**SMALL))]

    def test_a_failed_write_leaves_nothing_behind(self, cache, monkeypatch):
        def no_space(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", no_space)
        assert len(SyntheticData(**SMALL).load().train) == 30
        assert list(cache.iterdir()) == []


@pytest.mark.parametrize("field", ["examples", "heldout", "vocabulary", "length", "hidden", "embedding", "limit"])
def test_sizes_are_positive(field):
    with pytest.raises(ValidationError):
        SyntheticData(**{field: 0})
