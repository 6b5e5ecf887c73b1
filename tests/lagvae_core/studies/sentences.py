"""A model that has memorised eight sentences."""

from __future__ import annotations

from pathlib import Path

import torch

from lagvae_core.config.trial import parse_trial
from lagvae_core.studies.trained_model import TrainedModel
from lagvae_core.training.trial import Trial

LINES = [
    "the cat sat",
    "a dog ran away from here",
    "it rains again",
    "nobody knows why",
    "the sun shines on wet streets",
    "she reads long books at night",
    "we eat bread",
    "they left us in the rain",
]


def memorised_sentences(folder: Path) -> TrainedModel:
    """Train a VAE on LINES, which are the training, validation and test split."""
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("\n".join(LINES) + "\n")
    config = parse_trial(
        {
            "data": {"kind": "text", "path": str(folder)},
            "model": {"latent_dim": 8, "hidden": 24, "embedding": 16, "init_range": 0.3, "dropout_in": 0.0}
            | {"dropout_out": 0.0},
            "strategies": [{"kind": "beta_vae", "beta": 0.02}],
            "training": {"epochs": 100, "optimiser": "adam", "learning_rate": 0.02, "decay_min_epoch": 200},
        }
    )
    trial = Trial(config, config.data.load(), torch.device("cpu"))
    trial.fit()
    trial.best.weights = trial.model.state_dict()  # the validation loss, at weight 1, selects earlier weights
    return TrainedModel.of(trial)
