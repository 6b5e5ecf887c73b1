"""Loading the data of a sweep or of a trial, and planning a sweep from its stored rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lagvae_core.data import Dataset, SyntheticData
from lagvae_core.errors import DataError
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.table import ResultsFolder

__all__ = ["load_data", "load_trial_data", "make_plan"]

MODELS = 64
"""Largest number of points of an arm whose models are compared with the data."""


def load_data(spec: SweepSpec) -> Dataset:
    """Return the data that all trials of the sweep share.

    Raises:
        DataError: The data are missing or invalid, or the model of an arm cannot model them. Its issues name keys of
            the sweep file, such as `trial.data.path`.
    """
    with _issues_of_sweep(spec):
        data = spec.defaults.data.load()
    issues = []
    for arm in spec.arms:
        models = dict.fromkeys(spec.trial_config(arm, point, 0).model for point in arm.probes(MODELS))
        found = dict.fromkeys(issue for model in models for issue in model.domain_issues(data.domain))
        issues += [replace(issue, where=f"arms.{arm.name}: {issue.where}") for issue in found]
    if issues:
        raise DataError(issues, f"sweep {spec.name}")
    return data


def make_plan(
    spec: SweepSpec,
    folder: ResultsFolder,
    data: Dataset | None = None,
    *,
    retry: bool = False,
    set_aside: bool = False,
) -> Plan:
    """Return the plan of the sweep `spec`, given the rows stored in `folder`.

    Rows of generated data that version 0.1.0 stored have a former fingerprint (`SyntheticData.is_former_fingerprint`).
    If more rows match the sweep under that one, the plan keeps it, so that no stored run is trained again.

    Args:
        spec: The sweep.
        folder: The folder of its results.
        data: The data of the sweep; None if they are not loaded. Generated data are then not generated, and their
            content is not compared with an earlier fingerprint.
        retry: Whether runs that failed or ran out of memory are repeated.
        set_aside: Whether unreadable rows are moved to the archive; see `ResultsFolder.runs`.

    Raises:
        DataError: The data are missing or invalid; see `load_data`.
    """
    rows = folder.runs(set_aside=set_aside) if folder.exists() else []
    source = spec.defaults.data
    with _issues_of_sweep(spec):
        fingerprints = [data.fingerprint if data is not None else source.fingerprint()]
    if isinstance(source, SyntheticData):
        former = sorted({f for row in rows if source.is_former_fingerprint(f := row["data_fingerprint"])})
        fingerprints += [f for f in former if data is None or data.under(f).fingerprint == f]
    plans = [Plan(spec, fingerprint, rows, retry=retry) for fingerprint in fingerprints]
    return max(plans, key=lambda plan: len(plan.rows))


@contextmanager
def _issues_of_sweep(spec: SweepSpec) -> Iterator[None]:
    """Context manager. Names the keys of a DataError as the sweep file has them."""
    try:
        yield
    except DataError as error:
        issues = [
            replace(issue, where=f"trial.{issue.where}")
            if issue.where == "data" or issue.where.startswith("data.")
            else issue
            for issue in error.issues
        ]
        raise DataError(issues, f"sweep {spec.name}") from None


@functools.lru_cache(maxsize=2)
def load_trial_data(data_json: str) -> Any:
    """Return the data of a trial; `data_json` is the `data` section of its configuration, as JSON.

    The data are cached, so that a worker process that trains several runs loads them only once.
    """
    from pydantic import TypeAdapter

    from lagvae_core.data import DataConfig

    data: Any = TypeAdapter(DataConfig).validate_json(data_json)
    return data.load()
