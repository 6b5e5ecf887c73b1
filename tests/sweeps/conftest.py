from __future__ import annotations

from pathlib import Path

import pytest
from processes import MARK, lagvae, private_home, watched_listeners
from tiny import TinySweep, write_tiny_sweep


@pytest.fixture(scope="session")
def tiny_sweep(tmp_path_factory: pytest.TempPathFactory) -> TinySweep:
    """Return the tiny sweep after an undisturbed `lagvae run`: 7 configurations with 2 seeds each."""
    here = tmp_path_factory.mktemp("tiny")
    write_tiny_sweep(here)
    with private_home() as home:
        with watched_listeners(home[MARK]) as found:
            ended = lagvae("run", "tiny.yaml", cwd=here, home=home)
        return TinySweep(here, ended, found, {path.name for path in Path(home["TMPDIR"]).iterdir()})
