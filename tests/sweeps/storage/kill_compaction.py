"""Compact copies of a folder, each in a process that is killed at another step. Called by test_compaction.py.

    python kill_compaction.py RESULTS SWEEP PLACE exchange|replace

The copies are PLACE/0/SWEEP, PLACE/1/SWEEP and so on. The last one is compacted without a kill.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeps.storage import compaction
from sweeps.storage.folder import SweepFolder
from sweeps.storage.table import ResultsFolder


def kill_at(step: int) -> None:
    """Make this process kill itself before step number `step` of everything that changes a folder."""
    steps = itertools.count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for owner, names in (
        (os, ("replace", "link", "unlink", "rmdir", "mkdir", "fsync")),
        (compaction, ("exchange_folders",)),
        (SweepFolder, ("move", "remove")),
    ):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def refuse(first: Path, second: Path) -> None:
    raise OSError("this file system cannot exchange folders")


def main(results: str, sweep: str, place: str, way: str) -> None:
    if way == "replace":
        compaction.exchange_folders = refuse
    for step in itertools.count():
        shutil.copytree(Path(results) / sweep, Path(place) / str(step) / sweep)
        child = os.fork()
        if child == 0:
            folder = ResultsFolder(str(Path(place) / str(step)), sweep)
            with folder.locked():
                kill_at(step)
                compaction.compact(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            raise SystemExit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
