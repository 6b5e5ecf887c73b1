"""How much of a number is the luck of the evaluation's own draws."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.studies.base import Findings, Study
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Uncertainty"]

MEASURED = ("nll_iw", "nll_elbo", "kl", "mi", "mi_batch", "au")


class Uncertainty(Study):
    """One model measured under several evaluation seeds: mean and variance of the default columns.

    Source: He et al. 2019, Appendix D, who measure under 10 seeds and print variances, not deviations, in parentheses.
    The seeds are that of the configuration and those after it, so that the first row of the table repeats the run's own
    row. Variances are unbiased, with `seeds` - 1.

    What to expect: `kl` of Gaussian posteriors in closed form and `au` draw nothing, and have variance 0. `nll_iw` has
    about nll_iw_mc_se^2, of which `nll_iw_eval_predicted` is the mean over seeds. `nll_elbo` has the mean over the N
    examples of Var_z(log p(x|z)), over N. It says nothing of the luck of training: for that, train under several seeds.
    """

    columns: ClassVar = (
        *(Column(f"{name}_eval_mean", "float", f"mean of {name} over evaluation seeds") for name in MEASURED),
        *(Column(f"{name}_eval_variance", "float", f"variance of {name} over evaluation seeds") for name in MEASURED),
        Column("nll_iw_eval_predicted", "float", "variance of nll_iw that its importance weights foretell"),
    )
    tables: ClassVar = {"seeds": "one row for each evaluation seed: the six columns and `nll_iw_mc_se`"}

    kind: Literal["uncertainty"] = "uncertainty"
    seeds: int = Field(10, ge=2, le=10_000, description="evaluation seeds")
    iw_samples: int | None = Field(None, ge=1, description="importance samples; null: those of the configuration")

    def measure(self, trained: TrainedModel, progress: Callable[[str, int, int], None]) -> Findings:
        rows = []
        for number in range(self.seeds):
            rows.append(self._row(trained, trained.config.evaluation.seed + number))
            progress("evaluate", number + 1, self.seeds)
        table = {name: [row[name] for row in rows] for name in rows[0]}
        values: dict[str, float | None] = {}
        for name in MEASURED:
            found = [value for value in table[name] if value is not None]
            values[f"{name}_eval_mean"] = statistics.fmean(found) if found else None
            values[f"{name}_eval_variance"] = float(statistics.variance(found)) if found else None
        values["nll_iw_eval_predicted"] = statistics.fmean(error**2 for error in table["nll_iw_mc_se"])
        return Findings(values, {"seeds": table})

    def _row(self, trained: TrainedModel, seed: int) -> dict[str, Any]:
        config = trained.config.evaluation
        samples = config.iw_samples if self.iw_samples is None else self.iw_samples
        setting = config.model_copy(update={"seed": seed, "iw_samples": samples})
        components = replace(trained.components, extra_metrics=())
        found = evaluate(trained.model, components, trained.dataset, trained.split, setting, trained.device)
        return {"seed": seed, **{name: found[name] for name in (*MEASURED, "nll_iw_mc_se")}}
