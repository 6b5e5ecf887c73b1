from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import invoke
from processes import Ended

Call = Callable[..., Ended]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `lagvae ARGUMENTS` in this process and in `tmp_path`, where importing Ray is an error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, folder: Path = tmp_path) -> Ended:
        return invoke(*arguments, folder=folder)

    return call
