"""The base recipe of training and measurement that every remedy plugs into, and what the kind of data changes in it."""

from __future__ import annotations

from typing import Any

__all__ = ["RECIPES"]

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "synthetic": {
        "model": {"kind": "lstm", "latent_dim": 1, "hidden": 50, "embedding": 50},
        "training": {"batch_size": 16, "epochs": 50, "decay_min_epoch": 0},
    },
    "text": {
        "model": {"kind": "lstm", "latent_dim": 32, "hidden": 1024, "embedding": 512},
        "training": {"batch_size": 32, "epochs": 100, "decay_min_epoch": 15},
    },
    "reinflection": {
        "model": {"kind": "gru_attention", "latent_dim": 150, "hidden": 512, "embedding": 300},
        "training": {
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "batch_size": 64,
            "epochs": 50,
            "clip_norm": 10.0,
            "decay_patience": 5,
            "decay_min_epoch": 15,
        },
    },
    "images": {
        "model": {"kind": "resnet_pixelcnn", "latent_dim": 32},
        "training": {
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "batch_size": 50,
            "epochs": 1000,
            "decay_patience": 20,
            "decay_min_epoch": 0,
            "decay_reference": "best",
        },
        "evaluation": {"mi_batch_size": 50},
    },
}
"""What a kind of data changes in the defaults of model and training.

For synthetic, text and images: He et al. 2019, Appendices B.1 to B.3, as their code has it. For reinflection sizes,
batch size and clipping are of the code of the blog post "Posterior collapse and the strong generator problem"; Adam
takes the place of its Adadelta, and the decay of the learning rate is ours.
"""
