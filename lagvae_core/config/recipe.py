"""Default values for model, training and evaluation, by kind of data."""

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
"""Default values by kind of data and section; they override the defaults that the fields declare.

The values for synthetic data, text and images are from He et al. 2019, Appendices B.1 to B.3, as implemented in their
code. For reinflection, the model sizes, batch size and gradient clipping are from the code of the blog post "Posterior
collapse and the strong generator problem". That code uses Adadelta without learning-rate decay; this recipe uses Adam
with decay.
"""
