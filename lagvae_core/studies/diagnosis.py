"""Why a model does not use its latent variable: the causes of collapse that measurements of the model point to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Batch, Dataset
from lagvae_core.errors import ValidationIssue
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device
from lagvae_core.metrics.active_units import active_units
from lagvae_core.metrics.information import mutual_information
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.vae import frozen
from lagvae_core.randomness import example_noise
from lagvae_core.runtime import Adam
from lagvae_core.studies.base import Findings, Study, StudyProgress, needs_z
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["CAUSES", "Cause", "Diagnosis", "causes_of"]

LEAST_INFORMATION = 0.1
"""Mutual information or cost of a swapped z below which z counts as unused [nats]."""

LEAST_GAIN = 0.5
"""Gain of the ELBO by refined posteriors above which the inference network counts as lagging [nats]."""

LEAST_CHANGE = 0.001
"""Change of the encoder, relative to that of the decoder, below which the encoder counts as untrained."""

LEAST_KL = 0.5
USED_SHARE = 0.2
"""KL from which on less than this share of mutual information means that the KL is kept but not used [nats]."""

FAR = 1.0
"""KL of the aggregate posterior to the prior above which samples from the prior differ from what was trained [nats]."""

BASE_STEP = 50.0
"""KL at which the slope of the training objective is measured [nats], beyond every usual free-bits floor."""


class Diagnosis(Study):
    """Measurements that tell why a model does not use z, or that it does.

    Source: He et al. 2019, section 3 (a lagging inference network, as opposed to a decoder that ignores z); Cremer et
    al. 2018, Inference Suboptimality in Variational Autoencoders (the gain of refined posteriors). The combination and
    the thresholds are those of this project; docs/measurements.md describes the cases on which they were checked.

    - `swap_cost`: how much worse each example is decoded from the z of the next one. At 0 the decoder does not use z,
      whatever the KL is.
    - `z_gradient`: root mean square of the gradient of rec with respect to z. At exactly 0 the decoder cannot read z.
    - `refined_gain`, `refined_kl`, `refined_mi`: each posterior is refined by `steps` gradient steps on the ELBO at KL
      weight 1, with the decoder as it is. If the refined posteriors carry information that those of the encoder do not,
      the inference network lags behind. They start at the encoder's Gaussian; for flow posteriors they are null.
    - `encoder_change` is the distance of the encoder's weights from their initial values, relative to the norm of
      these, and divided by the same number of the decoder.
    - `kl_slope`: the final weight of the KL in the training objective, beyond any free bits. `kl_weight_start`: the KL
      weight of the first update.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("swap_cost", "float", "mean rec with the z of the next example minus mean rec [nats]", "max"),
        Column("z_gradient", "float", "root mean square of the gradient of rec by z [nats]"),
        Column("refined_gain", "float", "gain of the ELBO if each posterior is refined [nats]; null for flows"),
        Column("refined_kl", "float", "kl of the refined posteriors [nats]; null for flows"),
        Column("refined_mi", "float", "mi of the refined posteriors [nats]; null for flows"),
        Column("encoder_change", "float", "relative change of the encoder's weights, divided by that of the decoder"),
        Column("kl_slope", "float", "final weight of the KL in the training objective, beyond free bits"),
        Column("kl_weight_start", "float", "KL weight of the first update"),
        Column("diagnosis_kl", "float", "kl of the measured examples [nats]"),
        Column("diagnosis_mi", "float", "mi of the measured examples [nats]; null for flows"),
        Column("diagnosis_au", "int", "active units of the measured examples"),
        Column("latent_dim", "int", "number of dimensions of z"),
    )
    tables: ClassVar[Mapping[str, str]] = {
        "causes": "one row per cause that the measurements point to: its name `cause`, the measured `value`, the "
        "`threshold` with which it is compared, and what it `means`"
    }

    kind: Literal["diagnosis"] = "diagnosis"
    examples: Annotated[int, Field(ge=2, description="number of examples, from the start of the measured split")] = 200
    steps: Annotated[int, Field(ge=1, le=10_000, description="gradient steps on each posterior")] = 100
    rate: Annotated[float, Field(gt=0, description="learning rate of these steps, with Adam")] = 0.05
    samples: Annotated[int, Field(ge=1, description="samples of z per step and example")] = 4

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        split = trained.split.limit(self.examples)
        batches = on_device(split, ENCODE_BATCH, trained.device)
        encoded = trained.encode(split)
        swap = _swap_cost(trained, batches, encoded.z_NZ, encoded.rec_N)
        values: dict[str, Any] = {
            "swap_cost": swap,
            "z_gradient": _z_gradient(trained, batches, encoded.z_NZ),
            **_refined(trained, batches, self, progress),
            "encoder_change": _encoder_change(trained),
            "kl_slope": _kl_slope(trained),
            "kl_weight_start": float(trained.components.kl_weight(0)),
            "diagnosis_kl": float(encoded.kl_ND.sum(1).mean()),
            "diagnosis_mi": None,
            "diagnosis_au": active_units(
                encoded.mean_NZ, trained.model.generative_prior().std(), encoded.mean_noise_Z
            ).count,
            "latent_dim": encoded.q.size[1],
        }
        if isinstance(encoded.q, Gaussian):
            values["diagnosis_mi"] = mutual_information(encoded.q, encoded.noise_NZ).value
        causes = causes_of(values)
        names = ("cause", "value", "threshold", "means")
        return Findings(values, {"causes": {name: [getattr(cause, name) for cause in causes] for name in names}})


@torch.no_grad()
def _swap_cost(trained: TrainedModel, batches: Sequence[Batch], z_NZ: Tensor, rec_N: Tensor) -> float:
    swapped_NZ, total, count = z_NZ.roll(-1, 0), 0.0, 0
    for batch in batches:
        z_B1Z = swapped_NZ[batch.index_B, None].to(next(trained.model.parameters()))
        total += float(trained.model.reconstruct(batch, batch.history, z_B1Z).double().sum())
        count += batch.size
    return total / count - float(rec_N.mean())


def _z_gradient(trained: TrainedModel, batches: Sequence[Batch], z_NZ: Tensor) -> float:
    squares = 0.0
    with torch.enable_grad(), frozen(trained.model.parameters()):
        for batch in batches:
            z_B1Z = z_NZ[batch.index_B, None].to(next(trained.model.parameters())).requires_grad_()
            rec = trained.model.reconstruct(batch, batch.history, z_B1Z).sum()
            gradient = torch.autograd.grad(rec, z_B1Z, allow_unused=True)[0] if rec.requires_grad else None
            squares += 0.0 if gradient is None else float(gradient.double().square().sum())
    return math.sqrt(squares / z_NZ.numel())


def _refined(
    trained: TrainedModel, batches: Sequence[Batch], study: Diagnosis, progress: StudyProgress
) -> dict[str, float | None]:
    """Refine the posterior of every example, and return the columns about the refined posteriors."""
    model, seed = trained.model, trained.config.evaluation.seed
    infer = trained.components.refine(model, seed)
    prior = model.generative_prior()
    gains, refined, noises, kls = [], [], [], []
    done, total = 0, sum(batch.size for batch in batches)
    for batch in batches:
        with torch.no_grad():
            q = infer(batch).q
        if not isinstance(q, Gaussian):
            return dict.fromkeys(("refined_gain", "refined_kl", "refined_mi"))
        start = q.map(lambda rows: rows.detach().clone())
        judged = example_noise(seed, "judged", batch.index_B, 10 * study.samples, q.size[1]).to(start.mean_BZ)

        def elbo(candidate: Gaussian, noise_BSZ: Tensor, batch: Batch = batch) -> tuple[Tensor, Tensor]:
            draw = candidate.draw(noise_BSZ)
            kl_B = prior.kl(candidate, draw).sum(1)
            return -model.reconstruct(batch, batch.history, draw.z_BSZ).mean(1) - kl_B, kl_B

        parameters = [start.mean_BZ.clone().requires_grad_(), start.logvar_BZ.clone().requires_grad_()]
        optimiser = Adam(parameters, lr=study.rate)
        noise_BKZ = example_noise(seed, "refined", batch.index_B, study.steps * study.samples, q.size[1])
        noise_BKZ = noise_BKZ.to(start.mean_BZ)
        with torch.enable_grad(), frozen(model.parameters()):
            for step in range(study.steps):
                noise_BSZ = noise_BKZ[:, step * study.samples : (step + 1) * study.samples]
                optimiser.zero_grad()
                (-elbo(Gaussian(*parameters), noise_BSZ)[0].sum()).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        best = Gaussian(*(parameter.detach() for parameter in parameters))
        with torch.no_grad():
            before, _ = elbo(start, judged)
            after, kl = elbo(best, judged)
        # A refinement that does not help is not used.
        helped_B = (after > before)[:, None]
        best = Gaussian(
            torch.where(helped_B, best.mean_BZ, start.mean_BZ), torch.where(helped_B, best.logvar_BZ, start.logvar_BZ)
        )
        with torch.no_grad():
            kl = elbo(best, judged)[1]
        gains.append((after - before).clamp(min=0).double().cpu())
        refined.append(best.map(lambda rows: rows.double().cpu()))
        noises.append(example_noise(seed, "sample", batch.index_B, 1, q.size[1])[:, 0].double())
        kls.append(kl.double().cpu())
        done += batch.size
        progress("refine posteriors", done, total)
    every = refined[0].concatenate(refined[1:])
    return {
        "refined_gain": float(torch.cat(gains).mean()),
        "refined_kl": float(torch.cat(kls).mean()),
        "refined_mi": mutual_information(every, torch.cat(noises)).value,
    }


def _encoder_change(trained: TrainedModel) -> float:
    """Return the relative change of the encoder's weights since the start, divided by that of the decoder."""
    initial = TrainedModel.untrained(trained.config, trained.dataset, trained.device).model
    changes = []
    for part in ("encoder", "decoder"):
        now, then = (getattr(model, part).parameters() for model in (trained.model, initial))
        pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(now, then, strict=True)]
        moved = sum(float((a - b).square().sum()) for a, b in pairs)
        size = sum(float(b.square().sum()) for _, b in pairs)
        changes.append(math.sqrt(moved / max(size, 1e-30)))
    return changes[0] / max(changes[1], 1e-12)


@torch.no_grad()
def _kl_slope(trained: TrainedModel) -> float:
    """Return the slope of the training objective in the KL of an example, at the final KL weight."""
    components, size = trained.components, trained.config.model.latent_dim
    weight = math.prod(strategy.final_kl_weight for strategy in trained.config.strategies) * components.kl_share
    rec_B = torch.zeros(1, dtype=torch.float64, device=trained.device)
    low, high = (
        float(components.objective(rec_B, torch.full((1, size), kl / size, dtype=torch.float64), weight))
        for kl in (BASE_STEP, BASE_STEP + 1.0)
    )
    return high - low


# --- causes ---------------------------------------------------------------------------------------------------------

CAUSES: Mapping[str, str] = {
    "none": "z is used: it carries information, and the decoder needs it",
    "decoder_cannot_read_z": "the likelihood does not depend on z at all, so no objective can make z useful",
    "encoder_not_trained": "the encoder hardly moved from its initial weights, so q(z|x) hardly depends on x",
    "inference_lags": "the decoder can use z, but the posteriors of the encoder lag behind the best ones",
    "kl_weight_above_1": "the objective charges more for information in z than the ELBO does, so z is cheaper unused",
    "kl_not_used": "the KL is kept above 0, but the posteriors do not tell examples apart",
    "kl_pressure": "nothing more specific: typical of the pressure of the KL from the start, or of a short training",
    "decoder_ignores_z": "z carries information, but the decoder decodes as well from the z of another example",
    "dead_dimensions": "some dimensions of z are unused",
    "aggregate_posterior_far": "all posteriors together differ from the prior, so z from the prior is untrained",
}
"""Each cause with what it means."""


@dataclass(frozen=True)
class Cause:
    """A cause that the measurements point to.

    Args:
        cause: Its name, a key of `CAUSES`.
        value: The measured value; None if no value decides.
        threshold: The value with which it is compared.
    """

    cause: str
    value: float | None
    threshold: float | None

    @property
    def means(self) -> str:
        """What the cause means."""
        return CAUSES[self.cause]


def causes_of(values: Mapping[str, Any]) -> list[Cause]:
    """Return the causes that the measurements of `Diagnosis` point to, the main one first; "none" if z is used.

    At most one main cause explains an unused z. It is followed by remarks on a z that is used in part.
    """
    mi, kl = values["diagnosis_mi"], values["diagnosis_kl"]
    information = kl if mi is None else mi
    used = information >= LEAST_INFORMATION and values["swap_cost"] >= LEAST_INFORMATION
    found = [Cause("none", values["swap_cost"], LEAST_INFORMATION)] if used else [_main_cause(values, information)]
    if used and values["diagnosis_au"] < values["latent_dim"]:
        found.append(Cause("dead_dimensions", values["diagnosis_au"], values["latent_dim"]))
    if mi is not None and kl - mi > FAR and found[0].cause != "kl_not_used":
        found.append(Cause("aggregate_posterior_far", kl - mi, FAR))
    return found


def _main_cause(values: Mapping[str, Any], information: float) -> Cause:
    kl, gain, refined_mi = values["diagnosis_kl"], values["refined_gain"], values["refined_mi"]
    if values["z_gradient"] == 0.0:
        return Cause("decoder_cannot_read_z", 0.0, 0.0)
    if values["kl_slope"] > 1.0 and information < LEAST_INFORMATION:
        return Cause("kl_weight_above_1", values["kl_slope"], 1.0)
    if values["encoder_change"] < LEAST_CHANGE:
        return Cause("encoder_not_trained", values["encoder_change"], LEAST_CHANGE)
    if kl >= LEAST_KL and information < USED_SHARE * kl:
        return Cause("kl_not_used", information, USED_SHARE * kl)
    if gain is not None and gain >= LEAST_GAIN and refined_mi >= information + LEAST_INFORMATION:
        return Cause("inference_lags", gain, LEAST_GAIN)
    if information >= LEAST_INFORMATION:
        return Cause("decoder_ignores_z", values["swap_cost"], LEAST_INFORMATION)
    return Cause("kl_pressure", None, None)
