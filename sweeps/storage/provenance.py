"""Provenance of a run: the versions of its code and of its packages, and the history of its earlier attempts."""

from __future__ import annotations

import datetime
import functools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["history_of", "now", "provenance", "versions"]


def now() -> datetime.datetime:
    """Return the current time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def provenance() -> dict[str, Any]:
    """Return the provenance columns that describe this process.

    In a submitted job, columns in the environment variable LAGVAE_ORIGIN (JSON) take precedence, because the job has no
    access to the checkout that its code comes from.
    """
    origin: dict[str, Any] = json.loads(os.environ.get("LAGVAE_ORIGIN", "{}"))
    return {**_local_provenance(), **origin}


def versions() -> dict[str, str | None]:
    """Return the versions of lagvae, Python, torch and Ray by column, without importing torch or Ray.

    The version of a package that is not installed is None.
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    columns: dict[str, str | None] = {"python_version": platform.python_version()}
    for name, package in (("lagvae_version", "lagvae"), ("torch_version", "torch"), ("ray_version", "ray")):
        try:
            columns[name] = version(package)
        except PackageNotFoundError:
            columns[name] = None
    return columns


@functools.cache
def _local_provenance() -> Mapping[str, Any]:
    import subprocess

    columns: dict[str, Any] = dict(versions())
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, timeout=10)
        if top.returncode == 0 and Path(top.stdout.strip()) == root:
            commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
            status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=30)
            if commit.returncode == 0:
                columns["git_commit"] = commit.stdout.strip()
                columns["git_dirty"] = bool(status.stdout.strip())
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"lagvae: the git commit cannot be determined, so it is not recorded ({error}).", file=sys.stderr)
    return columns


def history_of(row: Mapping[str, Any]) -> str:
    """Return the history of a run, as JSON, with the attempt of `row` as its last entry."""
    earlier = json.loads(row["history"] or "[]")
    ended = row["ended_at"].isoformat() if row["ended_at"] else None
    entry = {name: row[name] for name in ("attempt", "status", "stop_reason", "error_class", "host")}
    return json.dumps([*earlier, entry | {"ended_at": ended}])
