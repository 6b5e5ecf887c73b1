"""Limits of the splits, which all kinds of data share."""

import pytest

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import SyntheticData, TextData
from lagvae_core.data.base import SplitLimits

SMALL = {"examples": 12, "heldout": 8, "vocabulary": 20, "length": 3, "hidden": 4, "embedding": 4}


def text(folder, **fields):
    for split, count in (("train", 12), ("valid", 8), ("test", 8)):
        (folder / f"{split}.txt").write_text("".join(f"the {split} {number}\n" for number in range(count)))
    return TextData(path=str(folder), **fields)


@pytest.fixture(params=["synthetic", "text"])
def make(request, tmp_path):
    """Return a function that makes a configuration of 12/8/8 examples."""
    return lambda **fields: text(tmp_path, **fields) if request.param == "text" else SyntheticData(**SMALL, **fields)


def test_each_limit_cuts_its_own_split(make):
    whole, cut = make().load(), make(limit=5, valid_limit=3, test_limit=99).load()
    assert [len(whole.train), len(whole.valid), len(whole.test)] == [12, 8, 8]
    assert [len(cut.train), len(cut.valid), len(cut.test)] == [5, 3, 8]
    for split in ("train", "valid", "test"):
        offsets = getattr(cut, split).offsets
        assert offsets.tolist() == getattr(whole, split).offsets[: len(offsets)].tolist()
    assert cut.fingerprint != whole.fingerprint


def test_a_limit_is_said_in_the_report(make):
    assert "remarks" not in make().load().report
    assert make(valid_limit=3, test_limit=1_000).load().report["remarks"] == (
        "limited to the first 3 of valid, 1,000 of test"
    )


def test_limits_are_part_of_the_identity_unless_they_are_not_set():
    ids = [
        parse_trial({"data": fields}).config_id("data")
        for fields in ({}, {"valid_limit": None}, {"valid_limit": 5}, {"test_limit": 5}, {"limit": 5})
    ]
    assert ids[0] == ids[1] == "c77907aa8f85"  # of 0.1.0, so that stored runs keep their identity
    assert len(set(ids)) == 4


def test_the_data_of_generated_lines_are_cut_too():
    data = SyntheticData(**SMALL, valid_limit=3).load()
    assert [len(data.truth[f"{split}_z"]) for split in ("train", "valid", "test")] == [12, 3, 8]


def test_limits_are_positive():
    for field in SplitLimits.model_fields:
        with pytest.raises(ValueError, match=field):
            SyntheticData(**{field: 0})
