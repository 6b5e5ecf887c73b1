"""Every strategy trains on padded sentences or is refused; strategies are taken from the catalogue."""

import numpy as np
import pytest
import torch
from helpers import IMAGE_STRATEGIES, VECTOR_STRATEGIES

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import PAD
from lagvae_core.errors import ConfigError
from lagvae_core.strategies import CATALOGUE
from lagvae_core.training.trial import Trial

MODELS = {
    "lstm": {"latent_dim": 2, "hidden": 8, "embedding": 8, "init_range": 0.3},
    "transformer": {"kind": "transformer", "latent_dim": 2, "layers": 2, "width": 8, "heads": 2},
    "transformer memory": {
        "kind": "transformer",
        "latent_dim": 2,
        "layers": 1,
        "width": 8,
        "heads": 2,
        "latent": "memory",
    },
}
VARIANTS = [
    *({"kind": name} for name in sorted(set(CATALOGUE) - IMAGE_STRATEGIES - VECTOR_STRATEGIES)),
    {"kind": "contiguous_dropout", "starts": 2},
    {"kind": "delta_vae", "prior": "ar1"},
    {"kind": "historyless", "variant": "notoken"},
    {"kind": "multitask_bow", "loss": "bernoulli"},
    {"kind": "sa_vae", "backward": "autograd", "refinement_steps": 2},
    {"kind": "skip_vae", "path": "add"},
    {"kind": "vamp_prior", "components": 5, "init_from_data": True},
]
"""Every strategy that supports text at its defaults, and options with different code for padded sentences."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for name, lines in (("train", 96), ("valid", 32), ("test", 16)):
        words = [" ".join(random.choice(list("abcdefghij"), random.integers(3, 9))) for _ in range(lines)]
        (folder / f"{name}.txt").write_text("\n".join(words))
    return {"kind": "text", "path": str(folder), "batching": "padded"}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("strategy", VARIANTS, ids=lambda strategy: "-".join(map(str, strategy.values())))
def test_it_trains_on_padded_sentences_or_is_refused(strategy, model, data):
    values = {"data": data, "model": model, "training": {"batch_size": 32}, "strategies": [strategy]}
    try:
        config = parse_trial(values)
    except ConfigError as error:
        reasons = ("batching", "supports model.kind")
        assert all(any(r in str(issue) for r in reasons) for issue in error.issues)  # noqa: PT017 - a valid outcome
        return
    trial = Trial(config, config.data.load(), torch.device("cpu"))
    trial.model.train()
    assert all(batch.lengths_B is not None for batch in trial.train_batches)
    before = {name: value.clone() for name, value in trial.model.named_parameters()}
    for batch in trial.train_batches[:2]:
        trial.train_batch(trial.learner.observed(batch))
    assert len(trial.history) == 2
    assert all(torch.isfinite(entry).all() for entry in trial.history)
    assert any(not torch.equal(value, before[name]) for name, value in trial.model.named_parameters())
    assert all(torch.isfinite(value).all() for value in trial.model.parameters())
    for name, value in trial.model.named_parameters():
        if "embedding" in name and len(value) == trial.dataset.domain.vocabulary:
            assert torch.equal(value[PAD], before[name][PAD]), f"{name} gets a gradient from padding"
