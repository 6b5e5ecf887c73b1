"""From a trained model to the default columns, all of them out of one triple: q(z|x), p(z), p(x|z)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from lagvae_core.columns import DATA_COLUMNS, LATENT_COLUMNS
from lagvae_core.data import Batch, Dataset, Split
from lagvae_core.metrics.active_units import active_units
from lagvae_core.metrics.encoding import EncodedSplit, Infer, encode_split
from lagvae_core.metrics.information import (
    Estimate,
    mutual_information,
    mutual_information_within,
    pairwise_information,
)
from lagvae_core.metrics.likelihood import LogMean, LogWeight, importance_weighted, proposal_weight
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.vae import Vae
from lagvae_core.settings import EvaluationConfig
from lagvae_core.strategies.slots import Measurement, TrainingComponents

__all__ = ["evaluate", "examples_at_a_time", "on_device", "posterior_columns", "sequences_at_a_time"]

ENCODE_BATCH = 32
Report = Callable[[str, int, int], None]

PAIRED = 512
"""Examples over which mi_batch is taken where every pair of them costs an inversion."""


def on_device(split: Split, batch_size: int, device: torch.device) -> list[Batch]:
    return [batch.to(device) for batch in split.batches(batch_size)]


def posterior_columns(model: Vae, encoded: EncodedSplit, mi_groups: list[torch.Tensor]) -> dict[str, Any]:
    """Every column that needs no further decoding: rec, KL, MI and active units of an encoded split.

    A model without z has a rec alone, and what speaks of z is None: it is not measured, and not 0.
    """
    rec, kl = float(encoded.rec_N.mean()), float(encoded.kl_ND.sum(1).mean())
    columns = {"n": len(encoded.rec_N), "rec": rec, "nll_elbo": rec + kl}
    dimensions = encoded.q.size[1]
    if dimensions == 0:
        return columns | dict.fromkeys(LATENT_COLUMNS)
    mi, mi_batch = _information(encoded, mi_groups)
    au = active_units(encoded.mean_NZ, model.generative_prior().std(), encoded.mean_noise_Z)
    slack = 6 * (mi.se if mi else 0.0) + 6 * _kl_error(model, encoded) + 1e-6
    assert mi is None or not kl < mi.value - slack, f"I(x; z) <= E[KL] must hold, not {mi.value} and {kl}."
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
    """At least the standard error of the mean KL: 0 in closed form, else from the spread over examples."""
    kl_N = encoded.kl_ND.sum(1)
    if len(kl_N) < 2 or model.generative_prior().closed_form(encoded.q):
        return 0.0
    return float(kl_N.std()) / math.sqrt(len(kl_N))


def _information(encoded: EncodedSplit, groups: list[torch.Tensor]) -> tuple[Estimate | None, Estimate]:
    """`mi` and `mi_batch`; of a flow `mi_batch` alone, over the first groups that hold PAIRED examples."""
    q = encoded.q
    if isinstance(q, Gaussian):
        noise = encoded.noise_NZ
        return mutual_information(q, noise), mutual_information_within(q, noise, groups)
    few, found = [], 0
    for group in groups:
        few.append(group)
        found += len(group)
        if found >= PAIRED:
            break
    return None, pairwise_information(q, encoded.z_NZ, encoded.log_q_N, few)


def evaluate(
    model: Vae,
    components: TrainingComponents,
    dataset: Dataset,
    split: Split,
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
    refined = components.refine(model, setting.seed)
    encoded = encode_split(model, batches, setting.seed, infer=refined, progress=lambda n: report("encode", n, total))
    groups = [batch.index_B for batch in split.batches(setting.mi_batch_size)]

    @functools.cache
    def encoded_train() -> EncodedSplit:
        return encode_split(model, on_device(dataset.train, ENCODE_BATCH, device), setting.seed, infer=refined)

    samples = setting.iw_samples if encoded.q.size[1] else 1  # without z, one "sample" is the likelihood itself

    def importance(infer: Infer, weights: dict[str, LogWeight]) -> dict[str, LogMean]:
        return importance_weighted(
            model,
            on_device(split, examples_at_a_time(device), device),
            samples,
            setting.seed,
            weights,
            infer=infer,
            sequences=sequences_at_a_time(device),
            progress=lambda n: report("nll_iw", n, total),
        )

    weights = {"nll_iw": proposal_weight(model)}
    for protocol in components.extra_metrics:
        weights |= protocol.log_weights(encoded_train)
    means = importance(encoded.infer, weights)
    likelihood = means["nll_iw"]
    metrics = posterior_columns(model, encoded, groups) | {
        **dict.fromkeys(DATA_COLUMNS),
        **dataset.domain.columns(likelihood.nll, total, split.units),
        "iw_k": likelihood.samples,
        "iw_ess": float(likelihood.ess_N.median()),
        "nll_iw_mc_se": likelihood.mc_se,
        **{name: mean.nll for name, mean in means.items()},
    }
    measurement = Measurement(
        model,
        batches,
        encoded,
        encoded_train,
        lambda infer: importance(infer, {"nll_iw": proposal_weight(model)})["nll_iw"],
        setting.seed,
    )
    for protocol in components.extra_metrics:
        metrics |= protocol.measure(measurement)
    return metrics


def examples_at_a_time(device: torch.device) -> int:
    return 1 if device.type == "cpu" else 32


def sequences_at_a_time(device: torch.device) -> int:
    """On a CPU a few hundred sequences keep the LSTM in the cache; on a GPU as many as fill it."""
    return 256 if device.type == "cpu" else 4096
