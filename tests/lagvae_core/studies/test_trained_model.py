"""Kept models: what training leaves, what is restored of it, and what is refused."""

import pytest
import torch
from helpers import InterruptionError, MemoryCheckpoint, dataset_of, essence, run, tiny, trial_of

from lagvae_core.errors import CheckpointError
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.studies.trained_model import configuration_of, keep, restore
from lagvae_core.training.checkpoint import encode

STACKS = [
    [],
    ["lstm_lm"],
    [{"kind": "scale_vae", "f_epo": 1}],
    ["bn_vae"],
    ["vamp_prior"],
    ["iaf_posterior"],
    ["af_prior"],
    [{"kind": "sa_vae", "refinement_steps": 2}],
    ["mdr"],
    [{"kind": "ae_pretrain", "epochs": 1}],
]


@pytest.mark.parametrize(
    "stack", STACKS, ids=lambda stack: stack[0]["kind"] if stack and isinstance(stack[0], dict) else str(stack)
)
def test_a_restored_model_measures_what_the_trial_did(stack):
    config, kept = tiny(*stack), MemoryCheckpoint()
    record = run(config, model_store=kept)
    trained = restore(kept.content, config, dataset_of(config.data))
    assert trained.run_id == record.run_id
    dataset = trained.dataset
    metrics = evaluate(trained.model, trained.components, dataset, dataset.test, config.evaluation, trained.device)
    assert {name: record.metrics[name] for name in metrics} == metrics


def test_the_weights_say_what_they_are_of():
    config, kept = tiny("beta_vae", seed=3), MemoryCheckpoint()
    run(config, model_store=kept)
    assert configuration_of(kept.content) == config


def test_keeping_changes_neither_record_nor_checkpoint():
    config = tiny(seed=1)
    plain, keeping, kept = MemoryCheckpoint(), MemoryCheckpoint(), MemoryCheckpoint()
    assert essence(run(config, checkpoint=plain)) == essence(run(config, checkpoint=keeping, model_store=kept))
    assert config.run_id("x") == tiny(seed=1).run_id("x")


def test_a_trial_that_does_not_finish_keeps_nothing():
    kept = MemoryCheckpoint()
    assert run(tiny(), model_store=kept, report=lambda record: "stop").status == "stopped_early"
    assert run(tiny({"kind": "encoder_lr", "multiplier": 1e30}), model_store=kept).status == "diverged"
    assert kept.content is None


class Dies(MemoryCheckpoint):
    """A store that fails, once, at the save number `at`, before it or after it is done."""

    def __init__(self, at, after):
        super().__init__()
        self.at, self.after, self.saves = at, after, 0

    def save(self, content):
        self.saves += 1
        if self.after or self.saves != self.at:
            super().save(content)
        if self.saves == self.at:
            raise InterruptionError


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("where", ["kept", "checkpoint"])
def test_a_finished_record_is_never_without_its_model(where, after):
    """Death around the save of the model, and around that of the finished record (the second of the checkpoint)."""
    stores = {"kept": MemoryCheckpoint(), "checkpoint": MemoryCheckpoint()}
    stores[where] = Dies({"kept": 1, "checkpoint": 2}[where], after)
    with pytest.raises(InterruptionError):
        run(tiny(), **stores, checkpoint_seconds=1e9)
    record = run(tiny(), **stores, checkpoint_seconds=1e9)
    whole, alone = MemoryCheckpoint(), run(tiny())
    run(tiny(), model_store=whole)
    assert essence(record) == essence(alone)
    assert stores["kept"].content == whole.content


@pytest.mark.parametrize("content", [None, b"rubbish", "another"])
def test_a_finished_record_without_its_model_is_trained_anew(content):
    store, kept, other = MemoryCheckpoint(), MemoryCheckpoint(), MemoryCheckpoint()
    record = run(tiny(), checkpoint=store)
    run(tiny(seed=1), model_store=other)
    kept.content = other.content if content == "another" else content
    epochs = []
    assert essence(run(tiny(), checkpoint=store, model_store=kept, report=lambda e: epochs.append(e))) == essence(
        record
    )
    assert len(epochs) == 2
    restore(kept.content, tiny(), dataset_of(tiny().data))
    epochs.clear()
    run(tiny(), checkpoint=store, model_store=kept, report=lambda e: epochs.append(e))
    assert epochs == []


@pytest.fixture(scope="module")
def content():
    kept = MemoryCheckpoint()
    run(tiny(), model_store=kept)
    return kept.content


class TestRefusals:
    @pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-1], lambda c: c[:200] + b"x" + c[201:]])
    def test_damage(self, content, damage):
        config = tiny()
        for read in (configuration_of, lambda c: restore(c, config, dataset_of(config.data))):
            with pytest.raises(CheckpointError, match=r"The kept model is damaged .*Train it again\.$"):
                read(damage(content))

    def test_of_another_trial(self, content):
        other = tiny(seed=1)
        with pytest.raises(CheckpointError, match="A kept model must belong to its trial"):
            restore(content, other, dataset_of(other.data))

    def test_other_weights_under_its_name(self):
        trial = trial_of(tiny())
        weights = {"identity": trial.run_id, "config": "{}", "model": {"encoder": torch.zeros(1)}}
        with pytest.raises(CheckpointError, match="must hold the weights of its configuration"):
            restore(encode(weights), trial.config, trial.dataset)
        with pytest.raises(CheckpointError, match="must hold a configuration of this version"):
            configuration_of(encode({"identity": "x", "config": '{"nothing": 1}'}))

    def test_a_file_that_would_run_code(self, tmp_path):
        import hashlib
        import os
        import pickle

        class Evil:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "harm"),))

        body = pickle.dumps(Evil(), protocol=2)
        with pytest.raises(CheckpointError, match="damaged"):
            configuration_of(hashlib.sha256(body).digest() + body)
        assert not (tmp_path / "harm").exists()

    def test_keep_is_of_the_best_weights_and_not_of_the_last(self):
        trial = trial_of(tiny())
        trial.best.weights = {name: value + 1 for name, value in trial.model.state_dict().items()}
        trained = restore(keep(trial), trial.config, trial.dataset)
        for name, value in trial.best.weights.items():
            assert torch.equal(trained.model.state_dict()[name], value)
