"""Columns of models of vectors: the error of reconstructions, and the scale of the decoder's noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lagvae_core.columns import Column
from lagvae_core.data import VectorBatch
from lagvae_core.metrics.encoding import EncodedSplit
from lagvae_core.models.mlp import MlpDecoder
from lagvae_core.models.vae import Vae

__all__ = ["VECTOR_COLUMNS", "vector_columns"]

VECTOR_COLUMNS: tuple[Column, ...] = (
    Column(
        "rmse",
        "float",
        "root mean square error of E[x|z] at z = E[z|x], in the units that the model sees (standardised or not)",
        "min",
    ),
    Column(
        "rmse_swapped", "float", "rmse with the z of the next example; z is unused if the two errors are close", "max"
    ),
    Column(
        "sigma",
        "float",
        "scale of the noise of the gaussian or student_t decoder in evaluation, in the units that the model sees; null "
        "for other likelihoods",
        "min",
    ),
)
"""Columns that `vector_columns` computes."""


@torch.no_grad()
def vector_columns(model: Vae, batches: Sequence[VectorBatch], encoded: EncodedSplit) -> dict[str, Any]:
    """Return the values of `VECTOR_COLUMNS` for an encoded split."""
    decoder = model.decoder
    assert isinstance(decoder, MlpDecoder), "vectors have fully connected decoders"
    z_NZ = encoded.mean_NZ
    columns: dict[str, Any] = {}
    for name, chosen_NZ in (("rmse", z_NZ), ("rmse_swapped", z_NZ.roll(-1, 0))):
        total, count = 0.0, 0
        for batch in batches:
            z_BSZ = chosen_NZ[batch.index_B, None].to(batch.device, encoded.precision)
            mean_BX = decoder.likelihood.mean(decoder.outputs(z_BSZ), batch.x_BX)[:, 0]
            total += float((mean_BX - batch.x_BX).double().square().sum())
            count += batch.units
        columns[name] = math.sqrt(total / count)
    return columns | {"sigma": decoder.likelihood.sigma()}
