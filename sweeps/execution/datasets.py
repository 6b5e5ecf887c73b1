"""Data of a sweep, for the driver and the workers, and the plan over them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from lagvae_core.data import Dataset
from lagvae_core.errors import DataError
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.table import ResultsFolder

__all__ = ["load_data", "load_trial_data", "make_plan"]


def load_data(spec: SweepSpec) -> Dataset:
    """The data of all the sweep's trials; DataError in the names of the sweep file if they are not right."""
    try:
        return spec.trial_config(spec.arms[0], spec.arms[0].probe(), seed=0).data.load()
    except DataError as error:
        renamed = [replace(issue, where=f"trial.{issue.where}") for issue in error.issues]
        raise DataError(renamed, f"sweep {spec.name}") from None


def make_plan(spec: SweepSpec, folder: ResultsFolder, fingerprint: str, *, retry: bool = False) -> Plan:
    """The plan of `spec` over what `folder` holds."""
    return Plan(spec, fingerprint, folder.runs() if folder.exists() else [], retry=retry)


@functools.lru_cache(maxsize=2)
def load_trial_data(data_json: str) -> Any:
    """The data of the last trials; a reused worker loads the same data once."""
    from pydantic import TypeAdapter

    from lagvae_core.data import DataConfig

    data: Any = TypeAdapter(DataConfig).validate_json(data_json)
    return data.load()
