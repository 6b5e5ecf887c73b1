"""What several strategies say in the same words."""

import pytest

from lagvae_core.config.trial import parse_trial
from lagvae_core.strategies.base import grouped_batches

PARTITIONS = ("resplit_random", "fixed_random", "fixed_by_group")


def warnings(**data):
    return list(grouped_batches("any_kind", parse_trial({"data": data}).context))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_batches_of_a_text_hold_one_length_unless_they_are_padded(partition):
    (warning,) = warnings(kind="text", path="somewhere", partition=partition)
    assert warning.startswith("W4: any_kind uses the statistics of batches of one sentence length each, so that ")
    assert warning.endswith("data.batching = padded mixes the lengths.")
    if partition != "fixed_by_group":
        assert warnings(kind="text", path="somewhere", partition=partition, batching="padded") == []


@pytest.mark.parametrize("partition", PARTITIONS)
def test_batches_of_generated_lines_hold_one_group_only_if_they_are_told_to(partition):
    found = warnings(partition=partition)
    if partition == "fixed_by_group":
        (warning,) = found
        assert warning.startswith("W4: any_kind uses the statistics of batches of one group each, so that training ")
        assert warning.endswith("data.partition = fixed_random mixes the groups.")
    else:
        assert found == []
