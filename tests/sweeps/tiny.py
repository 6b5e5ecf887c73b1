"""A sweep of 14 runs that takes seconds and keeps its models, one arm of which diverges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from processes import Ended
from worlds import TINY_TRIAL, sweep

from sweeps.storage.table import ResultsFolder

DIVERGES = 1e30
"""An encoder's learning rate so far above the decoder's that the loss is NaN after one step."""


@dataclass(frozen=True)
class TinySweep:
    """A finished sweep: where it ran, how the command ended, and its table."""

    here: Path
    ended: Ended

    @property
    def folder(self) -> ResultsFolder:
        return ResultsFolder(str(self.here / "results"), "tiny")

    @property
    def files(self) -> dict[str, bytes]:
        root = self.here / "results"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write_tiny_sweep(here: Path) -> None:
    trial = TINY_TRIAL | {"model": {**TINY_TRIAL["model"], "init_range": 0.3}}
    arms = {
        "vae": [],
        "anneal": [{"kind": "kl_linear_epoch", "warm_up": {"low": 1, "high": 2}}],
        "encoder_lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2, DIVERGES]}}],
    }
    search = {"sampler": "tpe", "configurations": 3, "seeds": 2, "seed": 0}
    values = sweep(trial=trial, arms=arms, search=search, keep="models")
    (here / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
