"""Default values for model, training and evaluation, by kind of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lagvae_core.data import DATA_SOURCES
from lagvae_core.models import MODELS

__all__ = ["RECIPES", "defaults_of", "recipe_of"]

_VECTORS: dict[str, dict[str, Any]] = {
    "model": {"kind": "mlp", "latent_dim": 10},
    "training": {
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "batch_size": 64,
        "epochs": 200,
        "decay_patience": 10,
        "decay_min_epoch": 0,
        "decay_reference": "best",
    },
}

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
    "vectors": _VECTORS,
    "linear_gaussian": {**_VECTORS, "model": {"kind": "mlp", "latent_dim": 5, "layers": 0}},
}
"""Default values by kind of data and section; they override the defaults that the fields declare.

The values for synthetic data, text and images are from He et al. 2019, Appendices B.1 to B.3, as implemented in their
code. For reinflection, the model sizes, batch size and gradient clipping are from the code of the blog post "Posterior
collapse and the strong generator problem". That code uses Adadelta without learning-rate decay; this recipe uses Adam
with decay. The values for vectors are those of this project; the generated linear
set has the linear VAE as its model.
"""


def recipe_of(kind: str, model: str | None = None) -> Mapping[str, Mapping[str, Any]]:
    """Return the default values by section.

    Args:
        kind: Kind of data; an unknown kind has the defaults of synthetic data.
        model: Kind of model, whose defaults for the training take precedence; None for the default model.
    """
    source = DATA_SOURCES.get(kind, DATA_SOURCES["synthetic"])
    recipe: Mapping[str, Mapping[str, Any]] | None = source.recipe
    if recipe is None:
        recipe = RECIPES.get(source.family or kind, RECIPES["synthetic"])
    if model is not None and model in MODELS and (own := MODELS[model].training_defaults):
        return {**recipe, "training": {**recipe.get("training", {}), **own}}
    return recipe


def defaults_of(section: str, model: str | None = None) -> dict[str, Mapping[str, Any]]:
    """Return the default values of a section by the kind of data, and of the training also by the kind of model.

    Args:
        section: `model`, `training` or `evaluation`.
        model: Kind of model to whose defaults the section `model` is restricted; None for all.
    """
    by_data = {kind: recipe.get(section, {}) for kind, recipe in RECIPES.items()}
    chosen: dict[str, Mapping[str, Any]] = {
        kind: values for kind, values in by_data.items() if model is None or values.get("kind") == model
    }
    if section == "training":
        chosen |= {kind: config.training_defaults for kind, config in MODELS.items() if config.training_defaults}
    return chosen
