"""From a trained model to the default columns, all of them out of one triple: q(z|x), p(z), p(x|z)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from lagvae_core.data import TokenBatch, TokenSplit
from lagvae_core.metrics.active_units import active_units
from lagvae_core.metrics.encoding import EncodedSplit, encode_split
from lagvae_core.metrics.information import mutual_information, mutual_information_within
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.models.vae import Vae
from lagvae_core.recipe import EvaluationConfig
from lagvae_core.strategies.base import Parts

__all__ = ["evaluate", "on_device", "posterior_columns"]

ENCODE_BATCH = 32
Report = Callable[[str, int, int], None]


def on_device(split: TokenSplit, batch_size: int, device: torch.device) -> list[TokenBatch]:
    return [batch.to(device) for batch in split.batches(batch_size)]


def posterior_columns(model: Vae, encoded: EncodedSplit, mi_groups: list[torch.Tensor]) -> dict[str, Any]:
    """Every column that needs no further decoding: rec, KL, MI and active units of an encoded split."""
    q, kl_ND = encoded.q, encoded.kl_ND
    mi = mutual_information(q, encoded.noise_NZ)
    mi_batch = mutual_information_within(q, encoded.noise_NZ, mi_groups)
    au = active_units(q.mean_BZ, model.generative_prior().std())
    rec, kl = float(encoded.rec_N.mean()), float(kl_ND.sum(1).mean())
    assert not kl < mi.value - 6 * mi.se - 1e-6, f"I(x; z) <= E[KL] must hold, but mi is {mi.value} and kl is {kl}."
    return {
        "n": len(encoded.rec_N),
        "rec": rec,
        "kl": kl,
        "kl_train": float(encoded.kl_train_N.mean()),
        "nll_elbo": rec + kl,
        "mi": mi.value,
        "mi_se": mi.se,
        "mi_cap": mi.ceiling,
        "mi_batch": mi_batch.value,
        "mi_batch_cap": mi_batch.ceiling,
        "kl_agg": kl - mi.value,
        "au": au.count,
        "mean_variance": list(au.variance),
        "kl_by_dimension": kl_ND.mean(0).tolist() if kl_ND.shape[1] == q.mean_BZ.shape[1] else None,
    }


def evaluate(
    model: Vae,
    parts: Parts,
    split: TokenSplit,
    train: TokenSplit,
    setting: EvaluationConfig,
    device: torch.device,
    report: Report = lambda phase, done, total: None,
) -> dict[str, Any]:
    """The metric columns of `split` (its first `setting.limit` examples), and those that the strategies add.

    The model is put in eval mode: no dropout, no corruption, weight 1, running statistics.
    """
    model.eval()
    split = split.limit(setting.limit) if setting.limit is not None else split
    total = len(split)
    batches = on_device(split, ENCODE_BATCH, device)
    encoded = encode_split(model, batches, setting.seed, progress=lambda n: report("encode", n, total))
    groups = [batch.index_B for batch in split.batches(setting.mi_batch_size)]

    @functools.cache
    def encoded_train() -> EncodedSplit:
        return encode_split(model, on_device(train, ENCODE_BATCH, device), setting.seed)

    weights = {"nll_iw": proposal_weight(model)}
    for protocol in parts.protocols:
        weights |= protocol.log_weights(encoded_train)
    means = importance_weighted(
        model,
        on_device(split, examples_at_a_time(device), device),
        setting.iw_samples,
        setting.seed,
        weights,
        sequences=sequences_at_a_time(device),
        progress=lambda n: report("nll_iw", n, total),
    )
    likelihood = means["nll_iw"]
    metrics = posterior_columns(model, encoded, groups) | {
        "tokens": split.predicted_tokens,
        "iw_k": likelihood.samples,
        "iw_ess": float(likelihood.ess_N.median()),
        "nll_iw_mc_se": likelihood.mc_se,
        "ppl": math.exp(min(likelihood.nll * total / split.predicted_tokens, 700.0)),
        **{name: mean.nll for name, mean in means.items()},
    }
    for protocol in parts.protocols:
        metrics |= protocol.measure(encoded, encoded_train)
    return metrics


def examples_at_a_time(device: torch.device) -> int:
    return 1 if device.type == "cpu" else 32


def sequences_at_a_time(device: torch.device) -> int:
    """On a CPU a few hundred sequences keep the LSTM in the cache; on a GPU as many as fill it."""
    return 256 if device.type == "cpu" else 4096
