"""Stored sweeps with plausible results, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from worlds import play, spec_of

from sweeps.search.plan import Run
from sweeps.storage.table import ResultsFolder

__all__ = ["measured", "store"]

Measure = Callable[[Run], Mapping[str, Any]]


def measured(run: Run) -> dict[str, Any]:
    """Return results in which only `beta` uses z: more for a smaller beta, at 0.5 nats of likelihood per nat."""
    noise = np.random.default_rng([int(run.config_id, 16), run.seed]).normal(size=2)
    mi = max(0.0, 2.0 * (1.0 - float(run.parameters["beta_vae.beta"]))) if run.arm == "beta" else 0.0
    nll = 40.0 + 0.5 * mi + 0.01 * noise[0]
    return {
        "nll_iw": nll,
        "nll_elbo": nll + 0.5,
        "mi": mi + 0.01 * abs(noise[1]),
        "kl": mi + 0.1,
        "au": int(mi > 0.5),
        "valid_nll_elbo": nll + 0.6,
        "seconds": 10.0,
        "encoder_steps": 100,
        "decoder_steps": 100,
        "device": "cpu",
        "host": "one",
        "torch_version": "2.9.0",
    }


def store(place: Path, measure: Measure = measured, **changes: Any) -> ResultsFolder:
    """Store the rows and curves of a sweep.

    Args:
        place: The results folder.
        measure: Returns the results of a run.
        changes: Values at the top level of the sweep file.
    """
    spec = spec_of(**{"objectives": {"nll_iw": "min", "mi": "max"}} | changes)
    folder = ResultsFolder(str(place), spec.name)
    folder.prepare()
    folder.write("spec.yaml", spec.source.encode())
    for row in play(spec, answer=measure)[0]:
        row = row | {"sweep": spec.name}
        folder.write_run(row)
        if row["status"] == "finished":
            epochs = [{"epoch": e, "step": 10 * e, "valid_kl": row["kl"], "valid_mi": row["mi"]} for e in (1, 2, 3)]
            folder.write_curve(row, epochs)
    return folder
