"""Where the code of a run comes from, and what became of its earlier attempts."""

from __future__ import annotations

import datetime
import functools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["history_of", "now", "provenance"]


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def provenance() -> dict[str, Any]:
    """Where the code of this process comes from; a submitted job is told by LAGVAE_ORIGIN, JSON, what it cannot see."""
    told: dict[str, Any] = json.loads(os.environ.get("LAGVAE_ORIGIN", "{}"))
    return {**_own_provenance(), **told}


@functools.cache
def _own_provenance() -> Mapping[str, Any]:
    import platform
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python_version": platform.python_version()}
    for name, package in (("lagvae_version", "lagvae"), ("torch_version", "torch"), ("ray_version", "ray")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = None
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, timeout=10)
        if top.returncode == 0 and Path(top.stdout.strip()) == here.parent:
            commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
            status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=30)
            if commit.returncode == 0:
                found["git_commit"] = commit.stdout.strip()
                found["git_dirty"] = bool(status.stdout.strip())
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"lagvae: the git commit is not recorded ({error}).", file=sys.stderr)
    return found


def history_of(row: Mapping[str, Any]) -> str:
    """The history of a run with the attempt that `row` tells of added to it."""
    earlier = json.loads(row["history"] or "[]")
    ended = row["ended_at"].isoformat() if row["ended_at"] else None
    kept = {name: row[name] for name in ("attempt", "status", "stop_reason", "error_class", "host")}
    return json.dumps([*earlier, kept | {"ended_at": ended}])
