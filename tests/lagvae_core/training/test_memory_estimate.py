"""The estimate of peak memory before a trial runs."""

import dataclasses

import pytest
import torch
from helpers import tiny

from lagvae_core import train
from lagvae_core.config.trial import parse_trial
from lagvae_core.runtime import peak_reserved_bytes, reset_peak_memory
from lagvae_core.training import memory_estimate
from lagvae_core.training.learner import Learner
from lagvae_core.training.memory_estimate import estimate_peak_memory
from lagvae_core.training.trial import Trial

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A configuration with sentences of one to thirteen words, and its data."""
    folder = tmp_path_factory.mktemp("text")
    for name, count in (("train", 120), ("valid", 60), ("test", 60)):
        lines = [" ".join(WORDS[(i + k) % 8] for k in range(1 + i % 13)) for i in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    values = tiny().model_dump(mode="json") | {"data": {"kind": "text", "path": str(folder)}}
    config = parse_trial(values)
    return config, config.data.load()


def test_the_largest_batches_are_trained_on(uneven, monkeypatch):
    config, dataset = uneven
    trained, observed = [], Learner.observed
    monkeypatch.setattr(Learner, "observed", lambda self, batch: trained.append(batch.units) or observed(self, batch))
    assert estimate_peak_memory(config, dataset, CPU) > 0
    every = sorted(batch.units for batch in Trial(config, dataset, CPU).train_batches)
    assert sorted(trained) == every[-2:]
    assert every[0] < every[-1]


def test_some_examples_of_each_split_are_measured(uneven, monkeypatch):
    config, dataset = uneven
    measured = {}
    monkeypatch.setattr(memory_estimate, "EXAMPLES", 7)

    class RecordingTrial(Trial):
        def measure(self, *arguments):
            metrics = super().measure(*arguments)
            measured.update(metrics, train=len(self.dataset.train), valid=len(self.dataset.valid))
            return metrics

    monkeypatch.setattr(memory_estimate, "Trial", RecordingTrial)
    estimate_peak_memory(config, dataset, CPU)
    assert measured["nll_iw"] > 0
    assert (measured["train"], measured["valid"]) == (7, 7)
    assert len(dataset.train) == 120


def test_an_estimate_does_not_affect_later_trials(uneven):
    config, dataset = uneven
    before = train(config, dataset=dataset)
    states = torch.random.get_rng_state()
    estimate_peak_memory(config, dataset, CPU)
    assert torch.equal(torch.random.get_rng_state(), states)
    assert train(config, dataset=dataset).metrics == before.metrics


def test_a_model_that_diverges_immediately_has_an_estimate(monkeypatch):
    config = tiny(training={"kl_explode": 1e-12})
    assert train(config).status == "diverged"
    assert estimate_peak_memory(config, config.data.load(), CPU) > 0


@pytest.mark.gpu
@pytest.mark.parametrize(
    "stack", [(), ("aggressive",), ({"kind": "sa_vae", "backward": "autograd"},), ("iaf_posterior",)]
)
def test_a_trial_reserves_no_more_than_the_margin_allows(stack):
    from sweeps.execution.gpu_sharing import MARGIN

    device = torch.device("cuda")
    sizes = {"hidden": 512, "embedding": 256, "latent_dim": 32}
    config = tiny(*stack, model=sizes, training={"epochs": 3})
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"examples": 2000, "vocabulary": 5000, "length": 40})}
    )
    dataset = config.data.load()
    expected = estimate_peak_memory(config, dataset, device)
    reset_peak_memory(device)
    train(config, dataset=dataset, device=device)
    assert peak_reserved_bytes(device) <= MARGIN * expected


def test_the_examples_of_a_dataset_can_be_limited(uneven):
    _, dataset = uneven
    assert len(dataclasses.replace(dataset, valid=dataset.valid.limit(3)).valid) == 3
