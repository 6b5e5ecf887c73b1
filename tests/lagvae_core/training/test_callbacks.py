"""Training callbacks are called at every event and do not affect the result."""

import pytest
import torch
from helpers import (
    SHORT_AGGRESSIVE,
    InterruptionError,
    Interruptions,
    MemoryCheckpoint,
    dataset_of,
    essence,
    everywhere,
    rejects,
    run,
    tiny,
    trial_of,
)

from lagvae_core.evaluation.evaluate import on_device
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.metrics.posterior_means import moments_by_grid
from lagvae_core.studies.posterior_mean_recorder import PosteriorMeanRecorder, Snapshots
from lagvae_core.training import stopwatch
from lagvae_core.training.callbacks import evaluation_mode

SCALAR = {"model": {"latent_dim": 1}}
STACKS = {
    "vae": (),
    "aggressive": (SHORT_AGGRESSIVE,),
    "bn_vae": ("bn_vae",),
    "scale_vae": ("scale_vae",),
    "sa_vae": ({"kind": "sa_vae", "refinement_steps": 2},),
}


def recorder(snapshots, trajectories, **options):
    """A callback that appends the rows of snapshots and trajectories to the two lists."""
    config = PosteriorMeanRecorder(**{"examples": 6, "every": 2, "updates": 3, **options})
    return Snapshots(config, snapshots.append, trajectories.append)


def last_rows(parts):
    """Return rows by step; repeated rows replace earlier ones."""
    return {rows[-1]["step"]: rows for rows in parts}


@pytest.mark.parametrize("stack", STACKS)
def test_a_callback_does_not_change_the_record(stack):
    config = tiny(*STACKS[stack], **SCALAR)
    snapshots, trajectories = [], []
    assert essence(run(config, callback=recorder(snapshots, trajectories))) == essence(run(config))
    assert [rows[0]["step"] for rows in snapshots] == [0, 2, 4, 8]
    assert len(trajectories) == 3


@pytest.mark.parametrize("stack", ["vae", "aggressive"])
def test_interruptions_change_neither_the_record_nor_the_recorded_rows(stack):
    config = tiny(*STACKS[stack], **SCALAR, data={"examples": 48})
    whole, whole_trajectories, snapshots, trajectories = [], [], [], []
    uninterrupted = run(config, callback=recorder(whole, whole_trajectories))
    store, interruptions = MemoryCheckpoint(), Interruptions(everywhere)
    while True:
        try:
            callback = recorder(snapshots, trajectories)
            record = run(config, checkpoint=store, checkpoint_seconds=0.0, progress=interruptions, callback=callback)
            break
        except InterruptionError:
            continue
    assert len(interruptions.seen) > 8
    assert essence(record) == essence(uninterrupted)
    assert last_rows(snapshots) == last_rows(whole)
    assert last_rows(trajectories) == last_rows(whole_trajectories)


def test_a_callback_is_called_once_at_every_event():
    states = []
    run(tiny(SHORT_AGGRESSIVE), callback=lambda s: states.append((s.event, s.epoch, s.step, s.encoder_steps)))
    events = [state[0] for state in states]
    assert states[0] == ("start", 0, 0, 0)
    assert (events.count("start"), events.count("update"), events.count("epoch")) == (1, 8, 2)
    assert states[-1][:3] == ("epoch", 2, 8)
    assert events.count("step") == states[-1][3] + 8, "encoder steps and 8 decoder steps"
    assert next(state for state in states if state[0] == "epoch")[:3] == ("epoch", 1, 4)


def test_the_time_of_a_callback_does_not_count(monkeypatch):
    clock = {"now": 0.0}

    class Time:
        monotonic = staticmethod(lambda: clock["now"])
        process_time = monotonic

    monkeypatch.setattr(stopwatch, "time", Time)

    def slow(state):
        clock["now"] += 1000.0

    record = run(tiny(SHORT_AGGRESSIVE), callback=slow)
    assert record.cost["seconds"] == record.cost["cpu_seconds_train"] == 0.0


def test_evaluation_mode_restores_the_mode_of_every_module():
    model = trial_of(tiny("bn_vae")).model
    model.train()
    model.decoder.eval()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert model.training
    assert model.encoder.training
    assert not model.decoder.training


class TestSnapshots:
    def test_a_snapshot_has_the_means_of_the_current_weights(self):
        config, snapshots, weights = tiny(**SCALAR), [], {}
        record_means = recorder(snapshots, [])

        def callback(state):
            if state.event != "step":
                weights[state.step] = {name: value.clone() for name, value in state.model.state_dict().items()}
            record_means(state)

        run(config, callback=callback)
        trial = trial_of(config)
        for rows in snapshots:
            trial.model.load_state_dict(weights[rows[0]["step"]])
            trial.model.eval()
            split = trial.dataset.valid.limit(6)
            moments = moments_by_grid(trial.model, split.batches(1))
            encoded = encode_split(trial.model, on_device(split, 32, trial.device), 0)
            # the grids of study and snapshot differ, and the model is float32
            p_mean = torch.tensor([row["p_mean"] for row in rows], dtype=torch.float64)
            torch.testing.assert_close(p_mean, moments.mean_NZ, atol=1e-5, rtol=0)
            assert [row["q_mean"] for row in rows] == encoded.mean_NZ.tolist()
            assert [row["example"] for row in rows] == list(range(6))
            assert rows[0]["kl"] == pytest.approx(float(encoded.kl_ND.sum(1).mean()))

    def test_a_trajectory_has_every_inner_step(self):
        trajectories = []
        run(tiny(SHORT_AGGRESSIVE, **SCALAR), callback=recorder([], trajectories, followed=3))
        assert [rows[-1]["step"] for rows in trajectories] == [1, 2, 3]
        assert trajectories[0][0]["step"] == trajectories[0][0]["encoder_steps"] == 0
        for rows in trajectories:
            *inner, last = rows
            assert len({tuple(row["p_mean"]) for row in inner}) == 1, "only a decoder step changes p(z|x)"
            assert len({tuple(row["q_mean"]) for row in inner}) == len(inner) > 2
            assert last["p_mean"] != inner[-1]["p_mean"]
            assert last["q_mean"] == inner[-1]["q_mean"]

    def test_a_trajectory_can_begin_later(self):
        trajectories = []
        run(tiny(**SCALAR), callback=recorder([], trajectories, updates_from=5, updates=2))
        assert [[row["step"] for row in rows] for rows in trajectories] == [[6], [7]]

    def test_more_latent_dimensions_are_sampled(self):
        snapshots = []
        run(tiny(model={"latent_dim": 3}), callback=recorder(snapshots, []))
        assert len(snapshots[0][0]["p_mean"]) == len(snapshots[0][0]["q_mean"]) == 3

    def test_a_model_without_z_and_a_missing_example_are_refused(self):
        examples = len(dataset_of(tiny().data).valid)
        with rejects("posterior_means:followed", "--watch posterior_means") as issues:
            run(tiny("lstm_lm"), callback=recorder([], [], followed=examples))
        assert issues[0].value == examples
