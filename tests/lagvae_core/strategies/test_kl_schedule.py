"""Warnings about KL schedules that do not reach their end within the training."""

import dataclasses

import pytest
from helpers import run, tiny

from lagvae_core.config.trial import parse_trial
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.kl_schedule import REACHED, KlSchedule

SCHEDULES = {kind: strategy for kind, strategy in CATALOGUE.items() if issubclass(strategy, KlSchedule)}


def codes(strategy, epochs=10, **known):
    config = parse_trial({"strategies": [strategy], "training": {"epochs": epochs}})
    return [warning.code for warning in config.warnings(**known) if warning.code == "W7"]


def test_every_strategy_with_a_kl_weight_is_a_schedule():
    assert set(SCHEDULES) == {kind for kind, strategy in CATALOGUE.items() if "kl_weight" in strategy.slots}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_defaults_of_every_schedule_are_too_long_for_a_few_small_epochs(kind):
    assert codes({"kind": kind}, 3, batches_per_epoch=20) == ["W7"]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_defaults_of_every_schedule_end_in_a_long_training(kind):
    assert codes({"kind": kind}, 100, batches_per_epoch=3000) == []


@pytest.mark.parametrize("kind", SCHEDULES)
def test_following_the_advice_removes_the_warning(kind):
    strategy = SCHEDULES[kind]
    updates = 50 if kind == "kl_sigmoid" else 90  # a sigmoid is half up at its midpoint
    fields = {"kind": kind, strategy.length: 5 if strategy.in_epochs else updates}
    if kind == "kl_sigmoid":
        fields["slope"] = 0.2
    assert codes(fields, 5, batches_per_epoch=20) == []


@pytest.mark.parametrize(
    ("fields", "epochs"),
    [
        ({"kind": "kl_linear_epoch", "warm_up": 20}, 10),
        ({"kind": "kl_linear_epoch", "warm_up": 10, "rate_mode": "kim"}, 8),
        ({"kind": "kl_cyclical", "cycles": 1}, 10),
        ({"kind": "kl_cyclical"}, 12),  # ends while the second cycle rises
        ({"kind": "kl_cyclical", "shape": "cosine", "ramp": 1.0}, 25),
    ],
)
def test_schedules_in_epochs_are_judged_before_the_data_are_loaded(fields, epochs):
    assert codes(fields, epochs) == codes(fields, epochs, batches_per_epoch=100) == ["W7"]


@pytest.mark.parametrize(
    ("fields", "epochs"),
    [
        ({"kind": "kl_linear_epoch", "warm_up": 10}, 10),
        ({"kind": "kl_linear_epoch", "warm_up": 10, "rate_mode": "kim"}, 9),
        ({"kind": "kl_linear_epoch", "warm_up": 20, "w_start": 0.5, "w_end": 0.5}, 1),
        ({"kind": "kl_linear_epoch", "w_start": 0.0, "w_end": 0.0}, 1),
        ({"kind": "kl_cyclical", "shape": "sigmoid", "ramp": 1.0}, 40),
        ({"kind": "kl_cyclical"}, 18),  # ends at the full weight of the second cycle
    ],
)
def test_a_schedule_that_ends_in_time_gives_no_warning(fields, epochs):
    assert codes(fields, epochs) == codes(fields, epochs, batches_per_epoch=100) == []


def test_schedules_in_updates_are_judged_when_the_number_of_updates_is_known():
    schedule = {"kind": "kl_linear_iter", "warm_up": 1000}
    assert codes(schedule) == []
    assert codes(schedule, batches_per_epoch=99) == ["W7"]
    assert codes(schedule, batches_per_epoch=100) == []


def test_the_warning_names_the_weight_and_the_share_that_are_reached():
    config = parse_trial(
        {"strategies": [{"kind": "kl_linear_iter", "warm_up": 1000, "w_end": 0.5}], "training": {"epochs": 5}}
    )
    (warning,) = config.warnings(batches_per_epoch=50)
    assert "never reaches kl_linear_iter.w_end = 0.5" in warning.message
    assert "a fraction of 0.25, when training ends after 5 epochs (250 updates)" in warning.message


def test_a_cycle_that_is_cut_off_is_told_from_a_weight_that_was_never_reached():
    def message(**fields):
        config = parse_trial({"strategies": [{"kind": "kl_cyclical", **fields}], "training": {"epochs": 12}})
        return next(warning.message for warning in config.warnings() if warning.code == "W7")

    assert "is again below" in message()
    assert "never reaches" in message(cycles=1)


def test_a_training_that_ends_early_is_judged_by_the_epochs_that_it_trained():
    schedule = {"kind": "kl_linear_epoch", "warm_up": 10}
    assert codes(schedule, 20, batches_per_epoch=10) == []
    assert codes(schedule, 20, batches_per_epoch=10, trained_epochs=6) == ["W7"]


def test_the_record_has_the_warning_and_the_reached_weight():
    config = tiny({"kind": "kl_linear_epoch", "warm_up": 8, "w_start": 0.0})
    record = run(config)
    assert record.metrics["kl_weight_final"] == pytest.approx(config.training.epochs / 8)
    assert record.metrics["kl_weight"] == record.curve[record.metrics["best_epoch"] - 1]["kl_weight"]
    assert [text.partition(":")[0] for text in record.warnings] == ["W7"]


def test_without_a_latent_variable_there_is_no_kl_weight():
    record = run(tiny("lstm_lm"))
    assert record.metrics["kl_weight"] is record.metrics["kl_weight_final"] is record.curve[0]["kl_weight"] is None
    assert record.metrics["iw_khat"] is record.metrics["iw_unreliable"] is None


@pytest.mark.parametrize("batches", [7, 40])
@pytest.mark.parametrize(
    "fields",
    [
        *({"kind": kind} for kind in SCHEDULES),
        {"kind": "kl_linear_epoch", "warm_up": 2.5},
        {"kind": "kl_linear_epoch", "warm_up": 0},
        {"kind": "kl_linear_epoch", "w_start": 0.5, "w_end": 0.5},
        {"kind": "kl_linear_iter", "warm_up": 70},
        {"kind": "kl_exp", "warm_up": 71, "curvature": -3.0},
        {"kind": "kl_cyclical", "epochs": 9, "cycles": 3, "ramp": 0.25, "shape": "cosine"},
        {"kind": "kl_sigmoid", "midpoint": 60, "slope": 0.1},
    ],
    ids=str,
)
def test_it_settles_in_the_first_epoch_whose_updates_all_have_the_final_weight(fields, batches):
    config = parse_trial({"strategies": [fields], "training": {"epochs": 50}})
    [schedule] = config.strategies
    weights = [[schedule.weight(epoch * batches + i, batches) for i in range(batches)] for epoch in range(50)]
    unfinished = [min(epoch) < (REACHED - 1e-9) * schedule.w_end for epoch in weights]
    last = max((number for number, is_unfinished in enumerate(unfinished, 1) if is_unfinished), default=0)
    context = dataclasses.replace(config.context, batches_per_epoch=batches)
    settled = schedule.settled_epoch(context)
    assert last + 1 <= settled <= last + 2, "never too early, and at most one epoch late"


def test_skipped_batches_delay_the_end_of_a_schedule():
    config = parse_trial({"strategies": [{"kind": "kl_linear_epoch", "warm_up": 4}], "training": {"epochs": 20}})
    epochs = [{"epoch": n, "step": 5 * n, "skipped_batches": 5} for n in (1, 2, 3)]
    assert config.settled_epoch() == 5
    assert config.settled_epoch(epochs) == 9, "half of 10 batches are skipped"


def test_a_schedule_in_updates_is_unsettled_until_the_number_of_batches_is_known():
    config = parse_trial({"strategies": [{"kind": "kl_linear_iter", "warm_up": 40}], "training": {"epochs": 20}})
    assert config.settled_epoch() == 21
    assert config.settled_epoch([{"epoch": 1, "step": 10, "skipped_batches": 0}]) == 5
    assert config.settled_epoch([{"epoch": 1, "step": 1, "skipped_batches": 0}]) == 21
