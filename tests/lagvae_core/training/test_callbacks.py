"""Who looks on while a trial trains sees every moment, and changes nothing."""

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
    run,
    tiny,
    trial_of,
)

from lagvae_core.errors import ConfigError
from lagvae_core.evaluation.evaluate import on_device
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.metrics.posterior_means import moments_by_grid
from lagvae_core.studies.posterior_mean_recorder import PosteriorMeanRecorder, Snapshots
from lagvae_core.training.callbacks import evaluation_mode

SCALAR = {"model": {"latent_dim": 1}}
STACKS = {
    "vae": (),
    "aggressive": (SHORT_AGGRESSIVE,),
    "bn_vae": ("bn_vae",),
    "scale_vae": ("scale_vae",),
    "sa_vae": ({"kind": "sa_vae", "refinement_steps": 2},),
}


def watcher(snapshots, ways, **options):
    setting = PosteriorMeanRecorder(**{"examples": 6, "every": 2, "updates": 3, **options})
    return Snapshots(setting, snapshots.append, ways.append)


def replaced(components):
    """Rows by step and, within a step, by place, the later in the place of the earlier."""
    return {rows[-1]["step"]: rows for rows in components}


@pytest.mark.parametrize("stack", STACKS)
def test_a_watched_trial_is_the_unwatched_one_bit_for_bit(stack):
    config = tiny(*STACKS[stack], **SCALAR)
    snapshots, ways = [], []
    assert essence(run(config, callback=watcher(snapshots, ways))) == essence(run(config))
    assert [rows[0]["step"] for rows in snapshots] == [0, 2, 4, 8]
    assert len(ways) == 3


@pytest.mark.parametrize("stack", ["vae", "aggressive"])
def test_interruptions_change_neither_the_record_nor_what_is_seen(stack):
    config = tiny(*STACKS[stack], **SCALAR, data={"examples": 48})
    whole, whole_ways, snapshots, ways = [], [], [], []
    uninterrupted = run(config, callback=watcher(whole, whole_ways))
    store, interruptions = MemoryCheckpoint(), Interruptions(everywhere)
    while True:
        try:
            callback = watcher(snapshots, ways)
            record = run(config, checkpoint=store, checkpoint_seconds=0.0, progress=interruptions, callback=callback)
            break
        except InterruptionError:
            continue
    assert len(interruptions.seen) > 8
    assert essence(record) == essence(uninterrupted)
    assert replaced(snapshots) == replaced(whole)
    assert replaced(ways) == replaced(whole_ways)


def test_every_moment_is_told_once():
    seen = []
    run(tiny(SHORT_AGGRESSIVE), callback=lambda w: seen.append((w.event, w.epoch, w.step, w.encoder_steps)))
    moments = [entry[0] for entry in seen]
    assert seen[0] == ("start", 0, 0, 0)
    assert (moments.count("start"), moments.count("update"), moments.count("epoch")) == (1, 8, 2)
    assert seen[-1][:3] == ("epoch", 2, 8)
    assert moments.count("step") == seen[-1][3] + 8, "inner steps, and 8 of the decoder"
    assert next(entry for entry in seen if entry[0] == "epoch")[:3] == ("epoch", 1, 4)


def test_the_time_of_the_watcher_is_not_that_of_the_training(monkeypatch):
    from lagvae_core.training import trial as trainable

    clock = {"now": 0.0}

    class Time:
        monotonic = staticmethod(lambda: clock["now"])
        process_time = monotonic

    monkeypatch.setattr(trainable, "time", Time)

    def dawdle(watched):
        clock["now"] += 1000.0

    record = run(tiny(SHORT_AGGRESSIVE), callback=dawdle)
    assert record.cost["seconds"] == record.cost["cpu_seconds_train"] == 0.0


def test_an_undisturbed_model_is_left_as_it_was():
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
    def test_hold_the_means_of_the_weights_of_that_moment(self):
        config, snapshots, weights = tiny(**SCALAR), [], {}
        look = watcher(snapshots, [])

        def callback(watched):
            if watched.event != "step":
                weights[watched.step] = {name: value.clone() for name, value in watched.model.state_dict().items()}
            look(watched)

        run(config, callback=callback)
        trial = trial_of(config)
        for rows in snapshots:
            trial.model.load_state_dict(weights[rows[0]["step"]])
            trial.model.eval()
            split = trial.dataset.valid.limit(6)
            moments = moments_by_grid(trial.model, split.batches(1))
            encoded = encode_split(trial.model, on_device(split, 32, trial.device), 0)
            # the study's grid and the snapshot's differ, and the model is float32
            p_mean = torch.tensor([row["p_mean"] for row in rows], dtype=torch.float64)
            torch.testing.assert_close(p_mean, moments.mean_NZ, atol=1e-5, rtol=0)
            assert [row["q_mean"] for row in rows] == encoded.mean_NZ.tolist()
            assert [row["example"] for row in rows] == list(range(6))
            assert rows[0]["kl"] == pytest.approx(float(encoded.kl_ND.sum(1).mean()))

    def test_the_way_of_one_example_has_every_inner_step(self):
        ways = []
        run(tiny(SHORT_AGGRESSIVE, **SCALAR), callback=watcher([], ways, followed=3))
        assert [rows[-1]["step"] for rows in ways] == [1, 2, 3]
        assert ways[0][0]["step"] == ways[0][0]["encoder_steps"] == 0
        for rows in ways:
            *inner, last = rows
            assert len({tuple(row["p_mean"]) for row in inner}) == 1, "only the decoder moves p(z|x)"
            assert len({tuple(row["q_mean"]) for row in inner}) == len(inner) > 2
            assert last["p_mean"] != inner[-1]["p_mean"]
            assert last["q_mean"] == inner[-1]["q_mean"]

    def test_the_way_may_begin_later(self):
        ways = []
        run(tiny(**SCALAR), callback=watcher([], ways, updates_from=5, updates=2))
        assert [[row["step"] for row in rows] for rows in ways] == [[6], [7]]

    def test_more_latents_are_sampled(self):
        snapshots = []
        run(tiny(model={"latent_dim": 3}), callback=watcher(snapshots, []))
        assert len(snapshots[0][0]["p_mean"]) == len(snapshots[0][0]["q_mean"]) == 3

    def test_a_model_without_z_and_an_example_that_is_not_there(self):
        with pytest.raises(ConfigError) as caught:
            run(tiny("lstm_lm"), callback=watcher([], [], followed=len(dataset_of(tiny().data).valid)))
        assert "2 mistakes" in str(caught.value)
        assert "posterior_means:followed must be one of the 32 validation examples" in str(caught.value)
        assert "must watch a model with a latent variable" in str(caught.value)
