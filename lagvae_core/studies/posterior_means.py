"""Posterior mean space: the means of the model's posterior p(z|x) and of the inference network's q(z|x)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import ValidationIssue
from lagvae_core.evaluation.evaluate import on_device, sequences_at_a_time
from lagvae_core.metrics.information import aggregate_kl, mutual_information
from lagvae_core.metrics.posterior_means import PosteriorMoments, mean_space, moments_of
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.studies.base import Findings, Study, StudyProgress, needs_z
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["COLLAPSED_SD", "PosteriorMeans"]

COLLAPSED_SD = 0.1
"""Posterior means are collapsed if their standard deviation, in units of the prior, is below this value."""


class PosteriorMeans(Study):
    """The means of p(z|x) and of q(z|x) for the first `examples` of the measured split, in eval mode.

    Source: He et al. 2019, sections 2.3 and 3 and Appendix A. If the model ignores z, every mean of p(z|x) equals the
    mean of the prior (`model_collapse`). If the inference network lags behind, all means of q(z|x) coincide
    (`inference_collapse`).

    Departures from the paper: the examples are the first of the split, not a random sample. With one or two latent
    dimensions, the means of p(z|x) are computed on a grid that adapts to each posterior. With more dimensions, for
    which the paper has no method, they are computed by importance sampling with `samples` draws from q. The paper gives
    no threshold for either collapse; this study uses 0.1.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("p_mean_sd", "float", "standard deviation over examples of the means of p(z|x), in units of the prior"),
        Column("q_mean_sd", "float", "standard deviation over examples of the means of q(z|x), in units of the prior"),
        Column("p_q_correlation", "float", "correlation of the means of p(z|x) and q(z|x); null if one is constant"),
        Column("p_q_slope", "float", "slope of the regression of q(z|x) means on p(z|x) means; 1 if they agree"),
        Column("model_collapse", "int", f"1 if p_mean_sd is below {COLLAPSED_SD}, else 0"),
        Column("inference_collapse", "int", f"1 if q_mean_sd is below {COLLAPSED_SD}, else 0"),
        Column("nll_grid", "float", "mean -log p(x) of the examples on the grid [nats]; null with importance sampling"),
        Column(
            "kl_agg_direct",
            "float",
            "KL(q(z) || p(z)) on the whole split, estimated from samples of q(z) [nats]",
            "min",
        ),
        Column(
            "kl_agg_noise",
            "float",
            "kl_agg_direct - kl_agg, the difference between two estimates of KL(q(z) || p(z)) [nats]",
        ),
    )

    tables: ClassVar[dict[str, str]] = {
        "means": "one row per example: its index in the split; `p_mean` and `p_sd` of p(z|x) and `q_mean` of q(z|x), "
        "lists over the latent dimensions; the effective sample size `ess` (null for a grid); and `log_px` in nats"
    }

    kind: Literal["posterior_means"] = "posterior_means"
    examples: Annotated[int, Field(ge=1, description="number of examples, from the start of the split")] = 500
    samples: Annotated[
        int,
        Field(ge=2, description="number of importance samples per example, used with more than two latent dimensions"),
    ] = 500

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        yield from needs_z(self, config)

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        examples = on_device(trained.split.limit(self.examples), 1, trained.device)
        moments = moments_of(
            trained.model,
            examples,
            trained.config.evaluation.seed,
            infer=trained.encoded.infer,
            samples=self.samples,
            sequences=sequences_at_a_time(trained.device),
            progress=lambda done: progress("posterior means", done, len(examples)),
        )
        q_mean_NZ = trained.encoded.mean_NZ[: len(examples)]
        space = mean_space(moments.mean_NZ, q_mean_NZ, trained.model.generative_prior().std())
        values = {
            "p_mean_sd": space.p_sd,
            "q_mean_sd": space.q_sd,
            "p_q_correlation": space.correlation,
            "p_q_slope": space.slope,
            "model_collapse": int(space.p_sd < COLLAPSED_SD),
            "inference_collapse": int(space.q_sd < COLLAPSED_SD),
            "nll_grid": -float(moments.log_px_N.mean()) if moments.ess_N is None else None,
            **_aggregate(trained),
        }
        return Findings(values, {"means": _table(moments, q_mean_NZ)})


def _table(moments: PosteriorMoments, q_mean_NZ: Tensor) -> dict[str, list[Any]]:
    """Return the table `means`."""
    examples = len(q_mean_NZ)
    return {
        "example": list(range(examples)),
        "p_mean": moments.mean_NZ.tolist(),
        "q_mean": q_mean_NZ.tolist(),
        "p_sd": moments.sd_NZ.tolist(),
        "ess": [None] * examples if moments.ess_N is None else moments.ess_N.tolist(),
        "log_px": moments.log_px_N.tolist(),
    }


def _aggregate(trained: TrainedModel) -> dict[str, float | None]:
    """Return KL(q(z) || p(z)) and its difference from kl - mi at the same samples; both are None for a flow."""
    encoded, prior = trained.encoded, trained.model.generative_prior()
    if not isinstance(encoded.q, Gaussian):
        return {"kl_agg_direct": None, "kl_agg_noise": None}
    z_NZ = encoded.z_NZ
    log_p_N = prior.log_prob(z_NZ[:, None].to(trained.device, encoded.precision))[:, 0].detach().cpu()
    direct = aggregate_kl(encoded.q, z_NZ, log_p_N).value
    kl, mi = float(encoded.kl_ND.sum(1).mean()), mutual_information(encoded.q, encoded.noise_NZ).value
    return {"kl_agg_direct": direct, "kl_agg_noise": direct - (kl - mi)}
