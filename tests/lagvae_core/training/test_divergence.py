import json
import math

import pytest
import torch

from lagvae_core.errors import Diverged
from lagvae_core.training.divergence import DivergenceRule, check_finite


def outcome(epochs, kl_explode=1000.0):
    """Return the epoch, from 1, after which the trial has diverged, or None; `epochs` are (kl, loss, weight)."""
    rule = DivergenceRule(kl_explode)
    for epoch, (kl, nll, weight) in enumerate(epochs, 1):
        try:
            rule.after_epoch(epoch, kl, nll, weight)
        except Diverged:
            return epoch
    return None


def test_a_kl_above_the_limit_in_two_consecutive_epochs_is_divergence():
    assert outcome([(5, 100, 1), (1e5, 150, 1), (1e5, 150, 1)]) == 3


def test_a_kl_above_the_limit_in_separate_epochs_is_no_divergence():
    assert outcome([(1e5, 100, 1), (5, 100, 1), (1e5, 100, 1), (1000, 100, 1), (1e5, 100, 1)]) is None


@pytest.mark.parametrize(("weight", "epoch"), [(0.0, None), (0.1, None), (0.49, None), (0.5, 2), (1.0, 2)])
def test_the_kl_counts_from_a_weight_of_one_half(weight, epoch):
    assert outcome([(1e5, 100, weight)] * 4) == epoch


def test_a_warm_up_with_a_kl_of_500_nats_is_no_divergence():
    assert outcome([(500, 100, step / 10) for step in range(11)]) is None


def test_an_epoch_with_a_small_weight_resets_the_count():
    assert outcome([(1e5, 100, 1), (1e5, 100, 0.4), (1e5, 100, 1)]) is None


def test_more_than_twice_the_first_loss_in_two_consecutive_epochs_is_divergence():
    assert outcome([(5, 100, 1), (5, 201, 1), (5, 200, 1), (5, 201, 1), (5, 201, 1)]) == 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_divergence_immediately(value):
    assert outcome([(5, 100, 0), (value, 100, 0)]) == 2
    assert outcome([(5, value, 0)]) == 1


@pytest.mark.parametrize("split", range(5))
def test_a_restored_rule_decides_like_an_uninterrupted_one(split):
    epochs = [(5, 100, 1), (5, 250, 1), (1e5, 150, 1), (1e5, 150, 1)]
    rule = DivergenceRule(1000.0)
    for epoch, values in enumerate(epochs[:split], 1):
        if epoch < 4:
            rule.after_epoch(epoch, *values)
    restored = DivergenceRule(1000.0)
    restored.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert restored == rule
    if split == 3:
        with pytest.raises(Diverged, match=r"the validation KL is 1e\+05 nats after epoch 4, .* = 1000"):
            restored.after_epoch(4, *epochs[3])


def test_the_message_names_the_first_update_that_is_not_finite():
    check_finite(torch.tensor([1.0, 2.0]), 10)
    with pytest.raises(Diverged, match="the loss is nan at update 13"):
        check_finite(torch.tensor([1.0, 2.0, math.nan, math.inf]), 10)
    with pytest.raises(Diverged, match="the loss is inf at update 1"):
        check_finite(torch.tensor([math.inf]), 0)
