"""Metrics of an encoded split that need no further decoding: reconstruction, KL, mutual information, active units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.metrics.active_units import active_units
from lagvae_core.metrics.encoding import EncodedSplit
from lagvae_core.metrics.information import (
    Estimate,
    mutual_information,
    mutual_information_within,
    pairwise_information,
)
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.vae import Vae

__all__ = ["LATENT_COLUMNS", "POSTERIOR_COLUMNS", "posterior_columns"]

_LATENT: tuple[Column, ...] = (
    Column("kl", "float", "KL(q(z|x) || p(z)) of the evaluated model [nats]", "max"),
    Column("kl_train", "float", "KL in the training objective at weight 1 [nats]"),
    Column(
        "mi",
        "float",
        "I(x; z) under q, estimated with the mixture over the whole split [nats]; at most mi_cap",
        "max",
    ),
    Column("mi_se", "float", "standard error of mi [nats]"),
    Column("mi_cap", "float", "ln n: the largest possible value of mi [nats]"),
    Column("mi_batch", "float", "I(x; z) in groups of mi_batch_size examples, as in He et al. 2019 [nats]"),
    Column("mi_batch_cap", "float", "the largest possible value of mi_batch [nats]"),
    Column("kl_agg", "float", "kl - mi, an estimate of KL(q(z) || p(z)) [nats]", "min"),
    Column("au", "int", "active units: dimensions with Var(E[z|x]) >= 0.01, in units of the prior", "max"),
    Column("mean_variance", "floats", "Var(E[z|x]) of each dimension, in units of the prior"),
    Column("kl_by_dimension", "floats", "kl of each dimension [nats]; null if kl is not a sum over dimensions"),
)

LATENT_COLUMNS: tuple[str, ...] = tuple(column.name for column in _LATENT)
"""Names of the columns about the latent variable z; they are null for a model without a latent variable."""

POSTERIOR_COLUMNS: tuple[Column, ...] = (
    Column(
        "nll_elbo", "float", "rec + kl, the negative ELBO from one sample [nats]; a looser bound than nll_iw", "min"
    ),
    Column("rec", "float", "-log p(x|z) at one posterior sample [nats]", "min"),
    *_LATENT,
)
"""Columns that `posterior_columns` computes, in addition to the number of examples `n`."""

PAIRED = 512
"""Number of examples, rounded up to whole groups, used for mi_batch if every pair requires inverting a flow."""


FEWEST_CHECKED = 30
"""Smallest number of examples for which the estimate of mi is compared with its bound, the kl. The standard error of
fewer examples is itself so uncertain that correct estimates exceed the bound by many standard errors."""


def posterior_columns(model: Vae, encoded: EncodedSplit, mi_groups: Sequence[Tensor]) -> dict[str, Any]:
    """Return `n` and the values of `POSTERIOR_COLUMNS`.

    Args:
        model: The model that encoded the split.
        encoded: The encoded split.
        mi_groups: Indices of the examples of each group of mi_batch.

    Returns:
        The values by column name. For a model without z, the values of all columns about z are None.
    """
    rec, kl = float(encoded.rec_N.mean()), float(encoded.kl_ND.sum(1).mean())
    columns = {"n": len(encoded.rec_N), "rec": rec, "nll_elbo": rec + kl}
    dimensions = encoded.q.size[1]
    if dimensions == 0:
        return columns | dict.fromkeys(LATENT_COLUMNS)
    mi, mi_batch = _information(encoded, mi_groups)
    au = active_units(encoded.mean_NZ, model.generative_prior().std(), encoded.mean_noise_Z)
    if mi is not None and len(encoded.rec_N) >= FEWEST_CHECKED:
        slack = 6 * mi.se + 6 * _kl_error(model, encoded) + 1e-6
        assert not kl < mi.value - slack, f"I(x; z) must be at most E[KL], got {mi.value} > {kl}"
    return columns | {
        "kl": kl,
        "kl_train": float(encoded.kl_train_N.mean()),
        "mi": mi and mi.value,
        "mi_se": mi and mi.se,
        "mi_cap": mi and mi.ceiling,
        "mi_batch": mi_batch.value,
        "mi_batch_cap": mi_batch.ceiling,
        "kl_agg": mi and kl - mi.value,
        "au": au.count,
        "mean_variance": list(au.variance),
        "kl_by_dimension": encoded.kl_ND.mean(0).tolist() if encoded.kl_ND.shape[1] == dimensions else None,
    }


def _kl_error(model: Vae, encoded: EncodedSplit) -> float:
    """Return an upper bound on the standard error of the mean KL, from the spread of the KLs; 0 if the KL is exact."""
    kl_N = encoded.kl_ND.sum(1)
    if len(kl_N) < 2 or model.generative_prior().closed_form(encoded.q):
        return 0.0
    return float(kl_N.std()) / math.sqrt(len(kl_N))


def _information(encoded: EncodedSplit, groups: Sequence[Tensor]) -> tuple[Estimate | None, Estimate]:
    """Return `mi` and `mi_batch`. For a flow, `mi` is None, and `mi_batch` uses only the first groups (see PAIRED)."""
    q = encoded.q
    if isinstance(q, Gaussian):
        noise = encoded.noise_NZ
        return mutual_information(q, noise), mutual_information_within(q, noise, groups)
    first_groups, examples = [], 0
    for group in groups:
        first_groups.append(group)
        examples += len(group)
        if examples >= PAIRED:
            break
    return None, pairwise_information(q, encoded.z_NZ, encoded.log_q_N, first_groups)
