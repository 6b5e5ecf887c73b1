"""Variance of metrics over the random draws of the evaluation."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.studies.base import Findings, Study, StudyProgress
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Uncertainty"]

MEASURED = ("nll_iw", "nll_elbo", "kl", "mi", "mi_batch", "au")


class Uncertainty(Study):
    """Mean and variance of six default columns of one model over several evaluation seeds.

    Source: He et al. 2019, Appendix D, who measure with 10 seeds and report variances, not standard deviations, in
    parentheses. The first seed is the seed of the configuration, and the others are the next integers, so the first row
    of the table repeats the metrics of the run. Variances are unbiased, with denominator `seeds` - 1.

    Expected values: with Gaussian posteriors, `au` and a `kl` in closed form use no random draws and have variance 0.
    The variance of `nll_iw` is about nll_iw_mc_se^2; `nll_iw_eval_predicted` is the mean of this square over seeds. The
    variance of `nll_elbo` is 1/N times the mean over the N examples of Var_z(log p(x|z)). To measure the variance over
    training runs instead, train with several seeds.
    """

    columns: ClassVar = (
        *(Column(f"{name}_eval_mean", "float", f"mean of {name} over evaluation seeds") for name in MEASURED),
        *(Column(f"{name}_eval_variance", "float", f"variance of {name} over evaluation seeds") for name in MEASURED),
        Column(
            "nll_iw_eval_predicted",
            "float",
            "variance of nll_iw as predicted by the importance weights: the mean of nll_iw_mc_se^2",
        ),
    )
    tables: ClassVar = {"seeds": "one row per evaluation seed: the six measured columns and `nll_iw_mc_se`"}

    kind: Literal["uncertainty"] = "uncertainty"
    seeds: int = Field(10, ge=2, le=10_000, description="number of evaluation seeds")
    iw_samples: int | None = Field(
        None, ge=1, description="number of importance samples per example; null for the number in the configuration"
    )

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        rows = []
        for number in range(self.seeds):
            rows.append(self._row(trained, trained.config.evaluation.seed + number))
            progress("evaluate", number + 1, self.seeds)
        table = {name: [row[name] for row in rows] for name in rows[0]}
        values: dict[str, float | None] = {}
        for name in MEASURED:
            measured = [value for value in table[name] if value is not None]
            values[f"{name}_eval_mean"] = statistics.fmean(measured) if measured else None
            values[f"{name}_eval_variance"] = float(statistics.variance(measured)) if measured else None
        values["nll_iw_eval_predicted"] = statistics.fmean(error**2 for error in table["nll_iw_mc_se"])
        return Findings(values, {"seeds": table})

    def _row(self, trained: TrainedModel, seed: int) -> dict[str, Any]:
        evaluation = trained.config.evaluation
        samples = evaluation.iw_samples if self.iw_samples is None else self.iw_samples
        evaluation = evaluation.model_copy(update={"seed": seed, "iw_samples": samples})
        components = replace(trained.components, extra_metrics=())
        metrics = evaluate(trained.model, components, trained.dataset, trained.split, evaluation, trained.device)
        return {"seed": seed, **{name: metrics[name] for name in (*MEASURED, "nll_iw_mc_se")}}
