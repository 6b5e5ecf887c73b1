from __future__ import annotations

import pytest
from processes import lagvae
from tiny import TinySweep, write_tiny_sweep


@pytest.fixture(scope="session")
def tiny_sweep(tmp_path_factory: pytest.TempPathFactory) -> TinySweep:
    """The tiny sweep, run by `lagvae run` without any trouble: 7 configurations under 2 seeds."""
    here = tmp_path_factory.mktemp("tiny")
    write_tiny_sweep(here)
    return TinySweep(here, lagvae("run", "tiny.yaml", cwd=here))
