import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import (
    SHORT_AGGRESSIVE,
    InterruptionError,
    Interruptions,
    MemoryCheckpoint,
    essence,
    everywhere,
    rejects,
    run,
    run_interrupted,
    tiny,
    trial_of,
)

from lagvae_core import train
from lagvae_core.errors import CheckpointError, DataError, Interrupted
from lagvae_core.evaluation.evaluate import on_device
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.runtime import torch_threads
from lagvae_core.strategies.slots import Objective
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.record import EpochRecord, Progress
from lagvae_core.training.trial import Trial

STACKS = {
    "vae": (),
    "aggressive": (SHORT_AGGRESSIVE,),
    "kl_linear_epoch": ({"kind": "kl_linear_epoch", "warm_up": 1.5},),
    "beta_vae": ("beta_vae",),
    "encoder_lr": ({"kind": "encoder_lr", "multiplier": 2},),
    "scale_vae": ("scale_vae",),
    "aggressive+kl_linear_epoch": (SHORT_AGGRESSIVE, "kl_linear_epoch"),
}
REPOSITORY = Path(__file__).parents[3]
KILLS, TIMEOUT = 2, 120


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hidden", "requested", "expected"), [(8, None, 1), (256, None, 3), (8, 2, 2)])
def test_a_small_model_is_trained_with_one_thread_by_default(monkeypatch, hidden, requested, expected):
    monkeypatch.setattr("lagvae_core.runtime.available_cores", lambda: 3)
    used = set()
    with torch_threads(4):
        config = tiny(training={"epochs": 1}, model={"hidden": hidden})
        train(config, progress=lambda place: used.add(torch.get_num_threads()), threads=requested)
        assert torch.get_num_threads() == 4
    assert used == {expected}


# --- content of a record ---------------------------------------------------------------------------------------------


def test_the_record_depends_on_the_seed_only():
    one, again, other = run(tiny(seed=1)), run(tiny(seed=1)), run(tiny(seed=2))
    assert one.status == "finished"
    assert essence(one) == essence(again)
    assert one.metrics["nll_iw"] != other.metrics["nll_iw"]
    assert one.curve[0]["train_loss"] != other.curve[0]["train_loss"]
    assert one.config_id == other.config_id
    assert one.run_id == f"{one.config_id}-1"


def test_training_neither_reads_nor_advances_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = run(tiny())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert essence(run(tiny())) == essence(one)


def test_a_finished_record_has_the_metrics_of_the_best_weights_and_the_step_counts():
    config = tiny(training={"epochs": 4, "learning_rate": 5.0})
    record = run(config)
    losses = [epoch["valid_loss"] for epoch in record.curve]
    best = min(range(4), key=losses.__getitem__)
    assert record.metrics["best_epoch"] == best + 1
    assert record.metrics["valid_loss"] == losses[best]
    assert record.metrics["epochs"] == 4
    assert [epoch["step"] for epoch in record.curve] == [4, 8, 12, 16]
    assert record.cost["encoder_steps"] == record.cost["decoder_steps"] == 16
    assert record.stop_reason == "all 4 epochs are trained."


def test_report_is_called_after_every_epoch_and_progress_after_every_update_and_evaluated_batch():
    epochs, places = [], []
    record = run(tiny(), report=lambda epoch: epochs.append(epoch.values), progress=places.append)
    assert epochs == [epoch.values for epoch in record.curve]
    trained = [Progress("train", epoch, done, 4) for epoch in (1, 2) for done in (1, 2, 3, 4)]
    validated = [place for place in places if place.phase == "validate"]
    assert [place for place in places if place.phase == "train"] == trained
    assert [place.epoch for place in validated if place.done == place.total] == [1, 2]
    assert places[4] == validated[0]
    measured = [place.done for place in places if place.phase == "nll_iw"]
    assert measured == sorted(measured)
    assert measured[-1] == 16


def test_the_answer_stop_ends_the_trial_without_a_measurement():
    store = MemoryCheckpoint()
    reported = []

    def report(epoch):
        reported.append(epoch.epoch)
        return "stop" if epoch.epoch == 2 else None

    record = run(tiny(training={"epochs": 5}), report=report, checkpoint=store)
    assert (record.status, record.metrics, len(record.curve), reported) == ("stopped_early", {}, 2, [1, 2])
    assert record.stop_reason == "stopped early after epoch 2 (scheduler)."
    assert essence(run(tiny(training={"epochs": 5}), checkpoint=store)) == essence(record)


# --- the iterator over updates ---------------------------------------------------------------------------------------


def test_an_abandoned_iterator_continues_with_the_next_update():
    whole, parts = trial_of(tiny()), trial_of(tiny())
    assert list(whole.updates()) == [Progress("train", 1, done, 4) for done in (1, 2, 3, 4)]
    assert next(parts.updates()) == Progress("train", 1, 1, 4)
    assert [place.done for place in parts.updates()] == [2, 3, 4]
    assert parts.validate()["valid_loss"] == whole.validate()["valid_loss"]


# --- partition of the training examples ------------------------------------------------------------------------------


def trained_batches(config):
    """Return for each epoch the examples of its batches, as sets in training order; and the trial."""
    trial, epochs, train_batch = trial_of(config), [], Trial.train_batch
    with pytest.MonkeyPatch.context() as patch:

        def recorded(self, batch):
            epochs[-1].append(frozenset(batch.index_B.tolist()))
            assert any(batch is stored for stored in self.learner.batches)  # the batches of an inner loop
            train_batch(self, batch)

        patch.setattr(Trial, "train_batch", recorded)
        for _ in range(config.training.epochs):
            epochs.append([])
            list(trial.updates())
            trial.end_epoch(trial.validate())
    return epochs, trial


@pytest.mark.parametrize("partition", ["fixed_random", "fixed_by_group", "resplit_random"])
def test_an_epoch_trains_on_every_example_once_and_only_resplitting_changes_the_batches(partition):
    config = tiny(data={"partition": partition}, training={"epochs": 3})
    epochs, trial = trained_batches(config)
    labels = trial.dataset.train.labels
    for batches in epochs:
        assert sorted(n for batch in batches for n in batch) == list(range(64))
    assert len({frozenset(batches) for batches in epochs}) == (3 if partition == "resplit_random" else 1)
    pure = all(len({labels[n] for n in batch}) == 1 for batches in epochs for batch in batches)
    assert pure == (partition == "fixed_by_group")


def test_the_partition_affects_the_training_split_only():
    expected = trial_of(tiny())
    for partition in ("fixed_by_group", "resplit_random"):
        trial = trial_of(tiny(data={"partition": partition}))
        list(trial.updates())
        for one, other in zip(trial.validation.batches, expected.validation.batches, strict=True):
            assert torch.equal(one.index_B, other.index_B)
        assert all(torch.equal(a, b) for a, b in zip(trial.validation.groups, expected.validation.groups, strict=True))


@pytest.mark.parametrize("stack", ["vae", "aggressive"])
def test_resplit_batches_do_not_depend_on_interruptions(stack):
    config = tiny(*STACKS[stack], data={"partition": "resplit_random"}, training={"epochs": 3})
    expected = run(config)
    assert essence(run_interrupted(config)[0]) == essence(expected)
    fixed = run(tiny(*STACKS[stack], training={"epochs": 3}))
    assert fixed.config_id != expected.config_id
    assert fixed.metrics["nll_iw"] != expected.metrics["nll_iw"]


# --- validation ------------------------------------------------------------------------------------------------------


def validation_before_training(batch_size):
    trial = trial_of(tiny(training={"batch_size": batch_size}))
    trial.step, trial.history = 1, [torch.ones(4)]
    streams = {name: value.clone() for name, value in trial.streams.state_dict().items()}
    record = trial.validate()
    again = trial.validate()
    after = trial.streams.state_dict()
    assert streams.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in streams.items())
    first, second = ({n: v for n, v in r.values.items() if n.startswith("valid_")} for r in (record, again))
    assert first == second
    return first


def test_validation_uses_no_stream_and_does_not_depend_on_the_batch_size():
    assert validation_before_training(4) == validation_before_training(16)


def test_the_sample_of_a_validated_example_does_not_depend_on_its_batch():
    trial = trial_of(tiny())
    trial.model.eval()
    one, other = (encode_split(trial.model, on_device(trial.dataset.valid, size, trial.device), 0) for size in (32, 5))
    assert torch.equal(one.noise_NZ, other.noise_NZ)
    torch.testing.assert_close(one.rec_N, other.rec_N, rtol=1e-6, atol=0)


# --- decay of the learning rate --------------------------------------------------------------------------------------


def trial_before_a_decay(**training):
    """Return a trial after a worse epoch 2 with a decay, its weights after epoch 1, and those of epoch 2."""
    settings = {"decay_patience": 1, "decay_min_epoch": 0, "momentum": 0.9, "epochs": 9, **training}
    trial = trial_of(tiny({"kind": "encoder_lr", "multiplier": 3}, training=settings))
    list(trial.updates())
    trial.end_epoch(EpochRecord({"epoch": 1, "valid_loss": 10.0, "valid_mi_batch": 0.0}))
    best = {name: value.clone() for name, value in trial.model.state_dict().items()}
    list(trial.updates())
    assert not any(torch.equal(value, best[name]) for name, value in trial.model.named_parameters())
    moved = {name: value.clone() for name, value in trial.model.state_dict().items()}
    trial.end_epoch(EpochRecord({"epoch": 2, "valid_loss": 11.0, "valid_mi_batch": 0.0}))
    return trial, best, moved


@pytest.mark.parametrize("reload", [True, False])
def test_a_decay_halves_both_rates_resets_momentum_and_reloads_the_best_weights(reload):
    trial, best, moved = trial_before_a_decay(reload_best_on_decay=reload)
    expected = best if reload else moved
    for name, value in trial.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    state = trial.learner.state_dict()
    assert state["learning_rate"] == 0.5
    assert state["encoder_optimiser"]["param_groups"][0]["lr"] == 1.5
    assert state["decoder_optimiser"]["param_groups"][0]["lr"] == 0.5
    assert state["encoder_optimiser"]["state"] == state["decoder_optimiser"]["state"] == {}


def test_training_does_not_change_the_best_weights():
    trial, best, _ = trial_before_a_decay(reload_best_on_decay=True)
    list(trial.updates())
    for name, value in trial.best.weights.items():
        assert torch.equal(value, best[name])


def test_training_stops_at_the_last_decay():
    training = {"epochs": 40, "learning_rate": 8.0, "decay_patience": 1, "decay_min_epoch": 0, "max_decays": 3}
    record = run(tiny(training=training))
    assert record.stop_reason == "reached decay number 3 of the learning rate."
    assert len(record.curve) < 40
    assert sorted({epoch["learning_rate"] for epoch in record.curve}) == [2.0, 4.0, 8.0]


# --- divergence ------------------------------------------------------------------------------------------------------


def test_exploding_parameters_end_as_diverged_with_the_update_in_the_message():
    record = run(tiny(training={"learning_rate": 1e30, "clip_norm": 1e30}))
    assert record.status == "diverged"
    assert record.metrics == {}
    assert record.stop_reason.startswith("the loss is ")
    assert record.stop_reason.split(" at update ")[1] in {"2.", "3.", "4."}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("stack", ["vae", "encoder_lr", "kl_linear_epoch"])
def test_a_loss_that_is_not_finite_ends_as_diverged_with_the_curve_before_it(monkeypatch, value, stack):
    plain, calls = Objective.__call__, []

    def injected(self, rec_B, kl_BZ, weight):
        calls.append(weight)
        loss = plain(self, rec_B, kl_BZ, weight)
        return loss * value if len(calls) == 6 else loss

    monkeypatch.setattr(Objective, "__call__", injected)
    store = MemoryCheckpoint()
    record = run(tiny(*STACKS[stack]), checkpoint=store)
    assert (record.status, record.stop_reason) == ("diverged", f"the loss is {value} at update 6.")
    assert record.metrics == {}
    assert [epoch.epoch for epoch in record.curve] == [1]
    assert essence(run(tiny(*STACKS[stack]), checkpoint=store)) == essence(record)


def test_an_inner_loop_with_a_nan_ends_as_diverged_with_the_update_in_the_message(monkeypatch):
    plain, calls = Objective.__call__, []

    def injected(self, rec_B, kl_BZ, weight):
        calls.append(weight)
        loss = plain(self, rec_B, kl_BZ, weight)
        return loss * math.nan if len(calls) > 30 else loss

    monkeypatch.setattr(Objective, "__call__", injected)
    record = run(tiny({**SHORT_AGGRESSIVE, "budget": "converge"}))
    assert record.status == "diverged"
    assert "the loss of the inner loop is nan" in record.stop_reason
    assert "at update 4" in record.stop_reason or "at update 5" in record.stop_reason


def test_a_validation_kl_above_its_limit_in_two_epochs_ends_as_diverged():
    record = run(tiny(training={"kl_explode": 1e-9, "epochs": 5}))
    assert record.status == "diverged"
    assert "after epoch 2, above training.kl_explode" in record.stop_reason
    assert record.metrics == {}
    assert [epoch.epoch for epoch in record.curve] == [1]


def test_a_large_kl_outside_the_training_objective_is_no_divergence():
    scaled = {"kind": "scale_vae", "des_std": 30.0, "f_epo": 1, "start": "model"}
    record = run(tiny(scaled, training={"kl_explode": 1.0, "epochs": 5}))
    assert record.status == "finished", record.stop_reason
    assert min(epoch["valid_kl"] for epoch in record.curve[1:]) > 1.0 > record.metrics["kl_train"]


def test_a_large_kl_with_a_small_weight_is_no_divergence():
    schedule = {"kind": "kl_linear_epoch", "w_start": 0.0, "w_end": 0.49}
    assert run(tiny(schedule, training={"kl_explode": 1e-9, "epochs": 4})).status == "finished"


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("rate", [1.0, 30.0, 1e4, 1e8, 1e15])
def test_a_fifty_times_larger_encoder_rate_never_raises(optimiser, rate):
    training = {"learning_rate": rate, "optimiser": optimiser, "clip_norm": 1e6, "epochs": 4}
    record = run(tiny({"kind": "encoder_lr", "multiplier": 50}, training=training))
    assert record.status in {"finished", "diverged"}
    if record.status == "finished":
        assert all(math.isfinite(v) for v in record.metrics.values() if isinstance(v, float))
    else:
        assert record.metrics == {}


def test_data_without_a_batch_of_sufficient_size_are_refused_before_training():
    with rejects("the largest training batch", error=DataError) as issues:
        run(tiny("scale_vae", data={"examples": 7}))
    assert issues[0].value == 7
    assert "scale_vae" in issues[0].message
    assert issues[0].hint
    assert run(tiny("scale_vae", data={"examples": 8})).status == "finished"


# --- resuming --------------------------------------------------------------------------------------------------------


def test_the_record_in_a_finished_checkpoint_is_returned_without_training(monkeypatch):
    store = MemoryCheckpoint()
    record = run(tiny(), checkpoint=store)

    def refuse(*_, **__):
        raise AssertionError("must not train or measure again")

    monkeypatch.setattr(Trial, "fit", refuse)
    monkeypatch.setattr(Trial, "measure", refuse)
    again = run(tiny(), checkpoint=store, report=refuse, progress=refuse)
    assert again.to_json() == record.to_json()


def test_the_checkpoint_of_a_different_trial_is_refused_and_stays_unchanged():
    store = MemoryCheckpoint()
    run(tiny(seed=1), checkpoint=store)
    content = store.content
    with pytest.raises(CheckpointError, match="belongs to trial"):
        run(tiny(seed=2), checkpoint=store)
    assert store.content == content


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())
def test_a_trial_interrupted_everywhere_has_the_record_of_an_uninterrupted_one(stack):
    config = tiny(*stack)
    expected = run(config)
    assert expected.status == "finished"
    record, places = run_interrupted(config)
    assert {place.phase for place in places} - {"encode_train"} == {"train", "validate", "encode", "nll_iw"}
    assert len([place for place in places if place.phase == "train"]) == 8
    assert essence(record) == essence(expected)


@pytest.mark.parametrize("optimiser", [{"momentum": 0.9}, {"optimiser": "adam", "learning_rate": 0.01}])
def test_interruptions_do_not_affect_the_state_of_the_optimisers(optimiser):
    config = tiny(training=optimiser)
    assert essence(run_interrupted(config)[0]) == essence(run(config))


def test_interruptions_do_not_affect_decays():
    training = {"epochs": 12, "learning_rate": 8.0, "decay_patience": 1, "decay_min_epoch": 0, "max_decays": 3}
    config = tiny(training=training)
    expected = run(config)
    assert "decay" in expected.stop_reason
    record, _ = run_interrupted(config, lambda place: place.done % 2 == 0)
    assert essence(record) == essence(expected)


def test_an_interrupted_trial_diverges_at_the_same_epoch_as_an_uninterrupted_one():
    config = tiny(training={"kl_explode": 1e-9, "epochs": 4})
    expected = run(config)
    assert "after epoch 2" in expected.stop_reason
    assert essence(run_interrupted(config)[0]) == essence(expected)


def test_updates_since_the_last_checkpoint_are_repeated_with_equal_results():
    config = tiny(SHORT_AGGRESSIVE, training={"epochs": 3})
    store, interruptions = MemoryCheckpoint(), Interruptions(lambda place: place.done == 3)
    saves = []

    def every_third(content, save=store.save):
        saves.append(content)
        if len(saves) % 3 == 1:
            save(content)

    store.save = every_third
    record = None
    while record is None:
        try:
            record = run(config, checkpoint=store, checkpoint_seconds=0.0, progress=interruptions)
        except InterruptionError:
            continue
    assert len(interruptions.seen) > 3
    assert essence(record) == essence(run(config))


def test_an_interruption_in_report_does_not_change_the_record():
    config, store, seen = tiny(training={"epochs": 3}), MemoryCheckpoint(), set()

    def report(epoch):
        if epoch.epoch not in seen:
            seen.add(epoch.epoch)
            raise InterruptionError

    record = None
    while record is None:
        try:
            record = run(config, checkpoint=store, checkpoint_seconds=0.0, report=report)
        except InterruptionError:
            continue
    assert seen == {1, 2, 3}
    assert essence(record) == essence(run(config))


@pytest.mark.parametrize(("reported", "expected"), [(None, [3]), (0, [1, 2, 3]), (1, [2, 3]), (2, [3]), (9, [3])])
def test_a_resumed_trial_first_reports_the_epochs_that_were_not_received(reported, expected):
    config, store, records = tiny(training={"epochs": 3}), MemoryCheckpoint(), []

    def end_in_the_third_epoch(progress: Progress) -> None:
        if progress.epoch == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(config, checkpoint=store, progress=end_in_the_third_epoch)
    record = run(config, checkpoint=store, reported=reported, report=records.append)
    assert [epoch.epoch for epoch in records] == expected
    assert records == record.curve[-len(records) :]
    assert essence(record) == essence(run(config))


def test_a_resumed_trial_may_be_stopped_after_an_epoch_that_was_not_received():
    config, store = tiny(training={"epochs": 3}), MemoryCheckpoint()

    def end_in_the_third_epoch(progress: Progress) -> None:
        if progress.epoch == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(config, checkpoint=store, progress=end_in_the_third_epoch)
    record = run(config, checkpoint=store, reported=1, report=lambda epoch: "stop")
    assert record.status == "stopped_early"
    assert "epoch 2" in record.stop_reason


def test_a_trial_that_is_asked_to_end_saves_its_state_first():
    config, store = tiny(), MemoryCheckpoint()

    def end_at_the_third_update(progress: Progress) -> None:
        if progress.done == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(config, checkpoint=store, progress=end_at_the_third_update)
    assert store.content is not None
    assert checkpoints.decode(store.content, None)["record"] is None
    assert essence(run(config, checkpoint=store)) == essence(run(config))


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_trial_that_is_asked_to_end_during_a_validation_ends_after_the_epoch(epoch):
    config, store, reported = tiny(SHORT_AGGRESSIVE), MemoryCheckpoint(), []

    def end_during_the_validation(progress: Progress) -> None:
        if (progress.phase, progress.epoch) == ("validate", epoch):
            raise Interrupted

    def report(record):
        reported.append(record.epoch)

    with pytest.raises(Interrupted):
        run(config, checkpoint=store, checkpoint_seconds=1e9, report=report, progress=end_during_the_validation)
    assert reported == list(range(1, epoch + 1))
    assert essence(run(config, checkpoint=store, report=report)) == essence(run(config))
    assert reported == [1, 2]


def test_before_a_save_is_due_only_the_trained_state_and_the_record_are_saved():
    store, saved = MemoryCheckpoint(), []
    store.save = saved.append
    config = tiny()
    record = run(config, checkpoint=store, checkpoint_seconds=1e9)
    trained, finished = (checkpoints.decode(content, record.run_id) for content in saved)
    assert trained["record"] is None
    assert trained["stop_reason"] == "all 2 epochs are trained."
    assert finished["record"]["metrics"] == record.to_json()["metrics"]
    assert "model" not in finished
    store.content = saved[0]
    places = []
    assert essence(run(config, checkpoint=store, progress=places.append)) == essence(record)
    assert all(place.phase != "train" for place in places)


# --- resuming after a real kill --------------------------------------------------------------------------------------


def start(folder: Path, threads: int, cache: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("resume_script.py")
    # Passive waiting: with spinning threads, another test on the same cores takes a hundred times as long, not twice.
    changes = {"LAGVAE_CACHE": str(cache), "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "passive"}
    environment = {**os.environ, **changes}
    return subprocess.Popen([sys.executable, str(script), str(folder), str(threads)], env=environment)


def killed_once(process: subprocess.Popen, checkpoint: Path, delay: float) -> bool:
    """Kill `process` `delay` seconds after its next checkpoint; return False if it ended before that."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while not (checkpoint.exists() and checkpoint.stat().st_mtime_ns != before):
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


@pytest.mark.parametrize("threads", [1, 2])
def test_a_killed_process_resumes_to_the_record_of_an_uninterrupted_one(tmp_path, threads):
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed of the delays: {seed}")
    delays = random.Random(seed)
    process = start(tmp_path / "whole", threads, tmp_path / "cache")
    try:
        assert process.wait(TIMEOUT) == 0
        folder, kills = tmp_path / "killed", 0
        process = start(folder, threads, tmp_path / "cache")
        while kills < KILLS and killed_once(process, folder / "trial.pt", delays.uniform(0, 0.3)):
            kills += 1
            process = start(folder, threads, tmp_path / "cache")
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
    assert kills > 0, "the process finished before it could be killed"
    expected, record = (
        essence(json.loads((tmp_path / name / "record.json").read_text())) for name in ("whole", "killed")
    )
    assert expected["status"] == "finished"
    assert record == expected


def test_everywhere_selects_every_update():
    assert all(everywhere(Progress("train", 1, done, 4)) for done in range(1, 5))
