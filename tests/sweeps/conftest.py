from __future__ import annotations

import pytest
from processes import lagvae
from tiny import TinySweep, write_tiny_sweep


@pytest.fixture(scope="session")
def tiny_sweep(tmp_path_factory: pytest.TempPathFactory) -> TinySweep:
    """Return the tiny sweep after an undisturbed `lagvae run`: 7 configurations with 2 seeds each."""
    here = tmp_path_factory.mktemp("tiny")
    write_tiny_sweep(here)
    return TinySweep(here, lagvae("run", "tiny.yaml", cwd=here))
