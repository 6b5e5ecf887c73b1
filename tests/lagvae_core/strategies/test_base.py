"""Rules that several strategies share."""

import pytest

from lagvae_core.config.trial import parse_trial
from lagvae_core.strategies.bn_vae import BnVae

PARTITIONS = ("resplit_random", "fixed_random", "fixed_by_group")


def warnings(**data):
    """The warnings of a strategy with batch statistics on these data."""
    return list(BnVae().warnings(parse_trial({"data": data}).context))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_batches_of_a_text_have_one_length_unless_they_are_padded(partition):
    (warning,) = warnings(kind="text", path="somewhere", partition=partition)
    assert warning.code == "W4"
    assert "bn_vae" in warning.message
    assert "data.batching = padded" in warning.message
    if partition != "fixed_by_group":
        assert warnings(kind="text", path="somewhere", partition=partition, batching="padded") == []


@pytest.mark.parametrize("partition", PARTITIONS)
def test_batches_of_generated_lines_have_one_group_only_if_the_partition_is_by_group(partition):
    given = warnings(partition=partition)
    if partition == "fixed_by_group":
        (warning,) = given
        assert warning.code == "W4"
        assert "data.partition = fixed_random" in warning.message
    else:
        assert given == []
