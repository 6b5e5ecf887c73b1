"""Arrays kept on disk between trials, so that data are made once and workers of one machine share the memory they take.

An entry is a folder of .npy files and a table of contents with their digests. It is written beside and renamed, so
that of many processes that start at once each finds a whole entry or none; an entry is never changed. The whole cache
may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Entry", "cache_folder", "read_entry", "write_entry"]

_CONTENTS = "contents.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Entry:
    """Arrays by name, and facts that JSON can hold."""

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]


def cache_folder() -> Path:
    """`$LAGVAE_CACHE`, else `$XDG_CACHE_HOME/lagvae`, else `~/.cache/lagvae`.

    Raises:
        RuntimeError: there is no home folder.
    """
    if folder := os.environ.get("LAGVAE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lagvae")


def read_entry(name: str) -> Entry | None:
    """The entry of that name, its arrays mapped from disk and read-only, or None if there is none.

    A damaged one is told in the log and put out of the way.
    """
    try:
        folder = cache_folder() / name
        if not folder.is_dir():
            return None
        contents = json.loads((folder / _CONTENTS).read_text("utf-8"))
        arrays = {array: _read_array(folder, array, digest) for array, digest in contents["arrays"].items()}
        return Entry(arrays, contents["facts"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        _put_away(name, error)
    except RuntimeError:  # there is no home folder
        pass
    return None


def _read_array(folder: Path, name: str, digest: str) -> NDArray[Any]:
    array = np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    if _digest(array) != digest:
        raise ValueError(f"{name}.npy is not what was written")
    return array


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _put_away(name: str, error: Exception) -> None:
    """Delete a damaged entry; those who have its arrays mapped keep them."""
    _log.warning("the cached data %s cannot be used and are made again: %s", name, error)
    with suppress(OSError):
        aside = tempfile.mkdtemp(dir=cache_folder(), suffix=".tmp")
        with suppress(OSError):
            os.rename(cache_folder() / name, aside)
        shutil.rmtree(aside)


def write_entry(name: str, entry: Entry) -> None:
    """Keep `entry` under `name` if possible; of many writers at once the first wins, with the same data."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=f"{name}-", suffix=".tmp"))
        try:
            _write_files(beside, entry)
            beside.chmod(0o755)
            _rename_unless_there(beside, cache_folder() / name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        _log.warning("the data %s are not cached: %s", name, error)


def _write_files(folder: Path, entry: Entry) -> None:
    for name, array in entry.arrays.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    digests = {name: _digest(array) for name, array in entry.arrays.items()}
    with (folder / _CONTENTS).open("w", encoding="utf-8") as text:
        json.dump({"arrays": digests, "facts": dict(entry.facts)}, text)
        text.flush()
        os.fsync(text.fileno())


def _rename_unless_there(folder: Path, target: Path) -> None:
    try:
        os.rename(folder, target)  # never replaces a folder that holds anything
    except OSError:
        if not target.is_dir():
            raise
