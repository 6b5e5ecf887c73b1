"""Stored models: their content, their restoration and the refusal of invalid files."""

import pytest
import torch
from helpers import InterruptionError, MemoryCheckpoint, dataset_of, essence, run, tiny, trial_of

from lagvae_core.errors import CheckpointError
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.studies.trained_model import configuration_of, restore
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
def test_a_restored_model_has_the_metrics_of_its_trial(stack):
    config, model_store = tiny(*stack), MemoryCheckpoint()
    record = run(config, model_store=model_store)
    trained = restore(model_store.content, config, dataset_of(config.data))
    assert trained.run_id == record.run_id
    dataset = trained.dataset
    metrics = evaluate(trained.model, trained.components, dataset, dataset.test, config.evaluation, trained.device)
    assert {name: record.metrics[name] for name in metrics} == metrics


def test_a_stored_model_contains_its_configuration():
    config, model_store = tiny("beta_vae", seed=3), MemoryCheckpoint()
    run(config, model_store=model_store)
    assert configuration_of(model_store.content) == config


def test_storing_the_model_does_not_change_the_record():
    config = tiny(seed=1)
    plain, with_model, model_store = MemoryCheckpoint(), MemoryCheckpoint(), MemoryCheckpoint()
    record = run(config, checkpoint=with_model, model_store=model_store)
    assert essence(run(config, checkpoint=plain)) == essence(record)
    assert config.run_id("x") == tiny(seed=1).run_id("x")


def test_a_trial_that_does_not_finish_stores_no_model():
    model_store = MemoryCheckpoint()
    assert run(tiny(), model_store=model_store, report=lambda record: "stop").status == "stopped_early"
    assert run(tiny({"kind": "encoder_lr", "multiplier": 1e30}), model_store=model_store).status == "diverged"
    assert model_store.content is None


class FailingStore(MemoryCheckpoint):
    """A store that fails once, before or after save number `at`."""

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
@pytest.mark.parametrize("where", ["model_store", "checkpoint"])
def test_a_finished_record_always_has_its_model(where, after):
    """Interrupt around the save of the model, and around that of the record (the second save of the checkpoint)."""
    stores = {"model_store": MemoryCheckpoint(), "checkpoint": MemoryCheckpoint()}
    stores[where] = FailingStore({"model_store": 1, "checkpoint": 2}[where], after)
    with pytest.raises(InterruptionError):
        run(tiny(), **stores, checkpoint_seconds=1e9)
    record = run(tiny(), **stores, checkpoint_seconds=1e9)
    whole, alone = MemoryCheckpoint(), run(tiny())
    run(tiny(), model_store=whole)
    assert essence(record) == essence(alone)
    assert stores["model_store"].content == whole.content


@pytest.mark.parametrize("content", [None, b"rubbish", "different trial"])
def test_a_finished_trial_without_its_model_is_trained_again(content):
    store, model_store, other = MemoryCheckpoint(), MemoryCheckpoint(), MemoryCheckpoint()
    record = run(tiny(), checkpoint=store)
    run(tiny(seed=1), model_store=other)
    model_store.content = other.content if content == "different trial" else content
    epochs = []
    assert essence(
        run(tiny(), checkpoint=store, model_store=model_store, report=lambda e: epochs.append(e))
    ) == essence(record)
    assert len(epochs) == 2
    restore(model_store.content, tiny(), dataset_of(tiny().data))
    epochs.clear()
    run(tiny(), checkpoint=store, model_store=model_store, report=lambda e: epochs.append(e))
    assert epochs == []


@pytest.fixture(scope="module")
def content():
    model_store = MemoryCheckpoint()
    run(tiny(), model_store=model_store)
    return model_store.content


class TestRefusals:
    @pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-1], lambda c: c[:200] + b"x" + c[201:]])
    def test_damage(self, content, damage):
        config = tiny()
        for read in (configuration_of, lambda c: restore(c, config, dataset_of(config.data))):
            with pytest.raises(CheckpointError, match="stored model is damaged"):
                read(damage(content))

    def test_a_model_of_a_different_trial(self, content):
        other = tiny(seed=1)
        with pytest.raises(
            CheckpointError, match=f"belongs to trial {tiny().run_id(dataset_of(other.data).fingerprint)}"
        ):
            restore(content, other, dataset_of(other.data))

    def test_weights_that_do_not_fit_the_configuration(self):
        trial = trial_of(tiny())
        weights = {"identity": trial.run_id, "config": "{}", "model": {"encoder": torch.zeros(1)}}
        with pytest.raises(CheckpointError, match="do not fit their configuration"):
            restore(encode(weights), trial.config, trial.dataset)
        with pytest.raises(CheckpointError, match="configuration"):
            configuration_of(encode({"identity": "x", "config": '{"nothing": 1}'}))

    def test_a_file_that_contains_code(self, tmp_path):
        import hashlib
        import os
        import pickle

        class Malicious:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "harm"),))

        body = pickle.dumps(Malicious(), protocol=2)
        with pytest.raises(CheckpointError, match="damaged"):
            configuration_of(hashlib.sha256(body).digest() + body)
        assert not (tmp_path / "harm").exists()

    def test_the_stored_weights_are_the_best_and_not_the_last(self):
        trial = trial_of(tiny())
        trial.best.weights = {name: value + 1 for name, value in trial.model.state_dict().items()}
        trained = restore(trial.best_weights(), trial.config, trial.dataset)
        for name, value in trial.best.weights.items():
            assert torch.equal(trained.model.state_dict()[name], value)
