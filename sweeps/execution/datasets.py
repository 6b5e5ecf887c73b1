"""Loading the data of a sweep or of a trial, and planning a sweep from its stored rows."""

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
    """Return the data that all trials of the sweep share.

    Raises:
        DataError: The data are missing or invalid. Its issues name keys of the sweep file, such as `trial.data.path`.
    """
    try:
        return spec.defaults.data.load()
    except DataError as error:
        issues = [
            replace(issue, where=f"trial.{issue.where}") if issue.where.startswith("data.") else issue
            for issue in error.issues
        ]
        raise DataError(issues, f"sweep {spec.name}") from None


def make_plan(spec: SweepSpec, folder: ResultsFolder, fingerprint: str, *, retry: bool = False) -> Plan:
    """Return the plan of the sweep `spec`, given the rows stored in `folder`."""
    return Plan(spec, fingerprint, folder.runs() if folder.exists() else [], retry=retry)


@functools.lru_cache(maxsize=2)
def load_trial_data(data_json: str) -> Any:
    """Return the data of a trial; `data_json` is the `data` section of its configuration, as JSON.

    The data are cached, so that a worker process that trains several runs loads them only once.
    """
    from pydantic import TypeAdapter

    from lagvae_core.data import DataConfig

    data: Any = TypeAdapter(DataConfig).validate_json(data_json)
    return data.load()
