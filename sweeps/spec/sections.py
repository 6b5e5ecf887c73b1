"""The sections `search`, `stopping` and `resources` of a sweep file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import FrozenConfig
from sweeps.spec.samplers import SAMPLERS

if TYPE_CHECKING:
    Sampler = str
else:
    Sampler = Literal[tuple(SAMPLERS)]


__all__ = [
    "COMPARED_COLUMNS",
    "MAX_CONFIGURATIONS",
    "BudgetSpec",
    "Direction",
    "Keep",
    "RacingSeeds",
    "ResourceSpec",
    "SearchSpec",
    "Seeds",
    "StoppingRule",
    "StoppingScope",
    "StoppingSpec",
    "as_seeds",
]


Direction = Literal["min", "max"]

MAX_CONFIGURATIONS = 10**6
"""Largest number of configurations of an arm."""


Keep = Literal["nothing", "models"]
"""Files to keep of each finished run.

Trained models are kept only on request, because they are large: a model for Yahoo takes 215 MB, so 170 such runs take
36 GB.
"""


Seeds = Annotated[int, Field(ge=1, le=10**4)] | tuple[Annotated[int, Field(ge=0, lt=2**53)], ...]
"""A number of seeds, or a list of distinct seeds."""


def as_seeds(seeds: int | tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the seeds that a number or a list stands for."""
    return tuple(range(seeds)) if isinstance(seeds, int) else seeds


_BUDGET_HINT = "Write, for example, {hours: 2}."


class BudgetSpec(FrozenConfig):
    """Limits on the cost of a sweep. At least one of them must be given.

    The cost is that of all stored rows that belong to the sweep file, whatever their status, and of the running runs up
    to their last epoch. Once a limit is reached, no new run starts. Runs that have started are still trained to their
    end, so the cost may exceed the limit. To continue the sweep, raise the limit. A budget changes no `config_id`.
    """

    hours: Annotated[
        float | None,
        Field(gt=0, description="time of all runs together [h]; two runs at the same time for an hour count as 2"),
    ] = None
    gpu_hours: Annotated[
        float | None, Field(gt=0, description="the same, each run weighted by its GPUs or fraction of a GPU [h]")
    ] = None
    gradient_evaluations: Annotated[
        float | None, Field(gt=0, description="encoder updates plus decoder updates of all runs together")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _check_mapping(cls, value: Any) -> Any:
        if not isinstance(value, Mapping | BudgetSpec):
            raise ConfigError([ValidationIssue("search.budget", "must be a mapping of limits", _BUDGET_HINT, value)])
        return value

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if not self.model_dump(exclude_none=True):
            message = f"must contain at least one of {', '.join(type(self).model_fields)}"
            value = self.model_dump(exclude_unset=True)
            raise ConfigError([ValidationIssue("search.budget", message, _BUDGET_HINT, value)])
        return self


class RacingSeeds(FrozenConfig):
    """The seeds as a mapping: further seeds only for configurations that may be on the Pareto front.

    Every configuration gets `start` seeds. Then it gets one seed at a time, up to `up_to`, until another configuration
    dominates it beyond the error between seeds. If none of its runs has finished, it gets no further seed. Members of
    the front always get all. An arm with `seeds` of its own does not race. docs/search.md has the rule as a formula.
    """

    start: Annotated[int, Field(ge=1, description="number of seeds of every configuration")] = 1
    up_to: Annotated[
        int, Field(ge=1, le=10**4, description="number of seeds of a configuration that no other clearly dominates")
    ]

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.start > self.up_to:
            message, hint = f"must be at most search.seeds.up_to = {self.up_to}", "Lower start or raise up_to."
            raise ConfigError([ValidationIssue("search.seeds.start", message, hint, self.start)])
        return self


class SearchSpec(FrozenConfig):
    """Settings of the search.

    Unless the sampler is `grid`, every arm has the same budget of configurations. An arm whose fields have fewer
    combinations of values runs each of them once.
    """

    sampler: Annotated[Sampler, Field(description="Optuna sampler; grid runs every combination of values")] = "tpe"
    configurations: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_CONFIGURATIONS,
            description="largest number of configurations per arm, 8 if omitted; must be omitted with the grid sampler",
        ),
    ] = None
    seeds: Annotated[
        Seeds | RacingSeeds,
        Field(
            description="seeds of each configuration: a number of seeds, a list of distinct seeds, or "
            "{start: 1, up_to: 5} to give seeds beyond `start` only to configurations that may be on the front"
        ),
    ] = 3
    seed: Annotated[int, Field(ge=0, description="seed of the search")] = 0
    paired: Annotated[
        bool,
        Field(
            description="whether configuration i of all arms has the same values of the fields in the `space` of the "
            "sweep, so that arms are compared at equal recipes"
        ),
    ] = False
    budget: Annotated[
        BudgetSpec | None, Field(description="limits on the cost of the sweep, see below; null: none")
    ] = None

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs of each configuration; with racing, as many as it can get."""
        seeds = as_seeds(self.seeds.up_to if isinstance(self.seeds, RacingSeeds) else self.seeds)
        assert seeds is not None
        return seeds

    @property
    def start_seeds(self) -> int:
        """Number of seeds that every configuration gets."""
        return self.seeds.start if isinstance(self.seeds, RacingSeeds) else len(self.run_seeds)


StoppingRule = Literal["front", "halving"]

StoppingScope = Literal["arm", "all"]

COMPARED_COLUMNS: Mapping[str, str] = {
    "nll_iw": "valid_nll_elbo",
    "nll_elbo": "valid_nll_elbo",
    "kl": "valid_kl",
    "mi": "valid_mi",
    "au": "valid_au",
    **{column: column for column in ("valid_nll_elbo", "valid_kl", "valid_mi", "valid_au")},
}
"""Objectives with which runs can be stopped early, each with the column of the curves that is compared instead."""


class StoppingSpec(FrozenConfig):
    """Early stopping of runs that cannot reach the Pareto front any more; `none` trains every run to its end.

    Runs are compared by validation values at KL weight 1 after the epochs 1, 2, 3, 4, 6, 8, 12, 18 and so on, and only
    once their own schedules have ended: KL annealing, the aggressive phase, pretraining. docs/search.md has the rules
    as formulas, and `lagvae replay` shows what a rule would have saved and lost in a stored sweep.
    """

    rule: Annotated[
        StoppingRule,
        Field(
            description="front: a run stops if its configuration is dominated beyond the error between seeds; halving: "
            "the better third of the configurations continues"
        ),
    ] = "front"
    confidence: Annotated[
        float, Field(ge=0.5, lt=1, description="one-sided confidence of the rule front; halving ignores it")
    ] = 0.9
    scope: Annotated[
        StoppingScope,
        Field(
            description="configurations that are compared: those of one arm after the same epoch, or all after as many "
            "gradient evaluations"
        ),
    ] = "arm"
    grace: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=0)],
        Field(
            description="epochs after the end of its schedules in which a configuration is not compared; auto: a "
            "quarter of its planned epochs, at least 1"
        ),
    ] = "auto"

    def grace_of(self, epochs: int) -> int:
        """Return `grace` for a run that is planned to train `epochs` epochs."""
        return max(1, epochs // 4) if self.grace == "auto" else self.grace


class ResourceSpec(FrozenConfig):
    """Resources of each run."""

    cpus: Annotated[int, Field(ge=1, description="CPU cores per run; each run uses as many threads")] = 1
    gpus: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0)],
        Field(
            description="GPUs per run; a fraction lets runs share a GPU; auto: as many share a GPU as fit in its memory"
        ),
    ] = 0
    concurrent: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)], Field(description="maximum number of concurrent runs")
    ] = "auto"
    patience: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=10)],
        Field(
            description="longest silence of a run [s]; a run that reports nothing for longer, for example while it "
            "loads its data, is ended and tried once more. auto: 20 times the longest epoch of the run, at least 10 "
            "minutes, and at least 30 minutes before its first epoch"
        ),
    ] = "auto"

    @property
    def gpu_share(self) -> float:
        """`gpus` as a number. The value `auto` must be replaced first, using `with_gpus`."""
        assert self.gpus != "auto", "`gpus: auto` must be replaced by a number before it is used"
        return self.gpus

    def with_gpus(self, gpus: float) -> ResourceSpec:
        """Return a copy of these resources with `gpus` GPUs per run."""
        return self.model_copy(update={"gpus": gpus})
