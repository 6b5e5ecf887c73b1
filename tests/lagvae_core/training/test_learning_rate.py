import dataclasses
import itertools
import json

import pytest

from lagvae_core.training.learning_rate import DecayRule

LOSSES = [10, 9, 11, 12, 8, 9, 9.5, 9.4, 9.6, 9.7]


def actions(rule, losses):
    return [rule.after_epoch(epoch, loss) for epoch, loss in enumerate(losses)]


def test_the_second_consecutive_bad_epoch_decays_and_its_worse_loss_becomes_the_reference():
    rule = DecayRule(patience=2, min_epoch=0, max_decays=5)
    expected = [
        ("continue", 10, 0),
        ("continue", 9, 0),
        ("continue", 9, 1),
        ("decay", 12, 0),
        ("continue", 8, 0),
        ("continue", 8, 1),
        ("decay", 9.5, 0),
        ("continue", 9.4, 0),
        ("continue", 9.4, 1),
        ("decay", 9.7, 0),
    ]
    seen = []
    for epoch, loss in enumerate(LOSSES):
        action = rule.after_epoch(epoch, loss)
        seen.append((action, rule.reference, rule.bad_epochs))
    assert seen == expected


def test_against_the_best_loss_a_decay_leaves_the_reference():
    rule = DecayRule(patience=2, min_epoch=0, max_decays=5, against="best")
    seen = []
    for epoch, loss in enumerate(LOSSES):
        seen.append((rule.after_epoch(epoch, loss), rule.reference, rule.bad_epochs))
    assert seen == [
        ("continue", 10, 0),
        ("continue", 9, 0),
        ("continue", 9, 1),
        ("decay", 9, 0),
        ("continue", 8, 0),
        ("continue", 8, 1),
        ("decay", 8, 0),
        ("continue", 8, 1),
        ("decay", 8, 0),
        ("continue", 8, 1),
    ]


def test_against_the_best_loss_falling_losses_can_decay_again():
    losses = [5, 9, 8, 7, 6, 5.5, 5]
    last, best = (DecayRule(patience=2, min_epoch=0, max_decays=3, against=against) for against in ("last", "best"))
    assert actions(last, losses) == ["continue", "continue", "decay", "continue", "continue", "continue", "continue"]
    assert actions(best, losses) == ["continue", "continue", "decay", "continue", "decay", "continue", "continue"]


def test_an_equal_loss_is_not_bad_and_a_good_epoch_resets_the_count():
    rule = DecayRule(patience=2, min_epoch=0, max_decays=5)
    assert actions(rule, [5, 6, 5, 6, 5, 6]) == ["continue"] * 6
    assert rule.decays == 0


def test_bad_epochs_before_min_epoch_count_but_do_not_decay():
    rule = DecayRule(patience=2, min_epoch=5, max_decays=5)
    losses = [1, 2, 3, 4, 5, 6, 7]
    assert actions(rule, losses) == ["continue"] * 5 + ["decay", "continue"]


def test_a_better_epoch_before_min_epoch_resets_the_count():
    rule = DecayRule(patience=2, min_epoch=4, max_decays=5)
    assert actions(rule, [1, 2, 3, 0.5, 2, 2]) == ["continue"] * 5 + ["decay"]


@pytest.mark.parametrize("max_decays", [1, 2, 3])
def test_training_stops_in_place_of_the_last_decay(max_decays):
    rule = DecayRule(patience=1, min_epoch=0, max_decays=max_decays)
    expected = ["continue"] + ["decay"] * (max_decays - 1) + ["stop"]
    assert actions(rule, range(max_decays + 1)) == expected
    assert rule.decays == max_decays


@pytest.mark.parametrize("split", range(len(LOSSES) + 1))
def test_a_rule_restored_from_json_decides_like_an_uninterrupted_one(split):
    whole = DecayRule(2, 3, 4)
    expected = actions(whole, LOSSES)
    first = DecayRule(2, 3, 4)
    actions(first, LOSSES[:split])
    second = DecayRule(2, 3, 4)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [second.after_epoch(e, loss) for e, loss in itertools.islice(enumerate(LOSSES), split, None)]
    assert rest == expected[split:]
    assert second == whole


def test_the_state_contains_every_field_that_changes():
    rule = DecayRule(1, 0, 9)
    before = dataclasses.asdict(rule)
    actions(rule, [3, 4, 3.5, 9, 10, 11, 2, 1])
    rule.bad_epochs = 1
    changed = {name for name, value in dataclasses.asdict(rule).items() if value != before[name]}
    assert changed == set(rule.state_dict())
