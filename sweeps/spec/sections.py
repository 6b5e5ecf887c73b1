"""Sections of a sweep file: search and resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lagvae_core.settings import FrozenConfig
from sweeps.spec.samplers import SAMPLERS

if TYPE_CHECKING:
    Sampler = str
else:
    Sampler = Literal[tuple(SAMPLERS)]


__all__ = ["Direction", "Keep", "ResourceSpec", "SearchSpec"]


Direction = Literal["min", "max"]


Keep = Literal["nothing", "models"]
"""Models are kept on request only: a sweep of 170 runs at the size of Yahoo's models, 215 MB each, takes 36 GB."""


class SearchSpec(FrozenConfig):
    """Search of each arm; every arm has the same budget."""

    sampler: Annotated[Sampler, Field(description="Optuna sampler; grid runs every combination of choices")] = "tpe"
    configurations: Annotated[
        int | None, Field(ge=1, le=10**6, description="number of configurations per arm; not for the grid sampler")
    ] = None
    seeds: Annotated[
        Annotated[int, Field(ge=1, le=10**4)] | tuple[Annotated[int, Field(ge=0, lt=2**53)], ...],
        Field(description="replicates of each configuration: their number, or a list of their seeds"),
    ] = 3
    seed: Annotated[int, Field(ge=0, description="seed of the search")] = 0

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs of each configuration."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


class ResourceSpec(FrozenConfig):
    """Resources of each run."""

    cpus: Annotated[int, Field(ge=1, description="CPU cores per run, and so its threads")] = 1
    gpus: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0)],
        Field(description="GPUs per run; a fraction shares a GPU; auto: as many runs per GPU as fit its memory"),
    ] = 0
    concurrent: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)], Field(description="largest number of runs at a time")
    ] = "auto"

    @property
    def gpu_share(self) -> float:
        """`gpus` as a number; `auto` must have been replaced by `with_gpus` before."""
        assert self.gpus != "auto", "gpus: auto was not replaced by a number"
        return self.gpus

    def with_gpus(self, gpus: float) -> ResourceSpec:
        """Return a copy with this number of GPUs."""
        return self.model_copy(update={"gpus": gpus})
