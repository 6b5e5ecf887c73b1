"""Cache of arrays on disk. Data are prepared once, and the processes of a machine share the memory of the arrays.

An entry is a folder of .npy files with a table of contents that holds their digests. It is written atomically: even if
many processes start at the same time, each of them finds either a complete entry or no entry. An entry never changes.
The whole cache may be deleted at any time.
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

from lagvae_core.files import create_folder_atomically, write_synced

__all__ = ["Entry", "cache_folder", "discard_entry", "read_entry", "write_entry"]

_CONTENTS = "contents.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Entry:
    """Content of a cache entry.

    Args:
        arrays: Arrays by name.
        facts: Values that JSON can represent, by name.
    """

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]


def cache_folder() -> Path:
    """Return `$LAGVAE_CACHE`, else `$XDG_CACHE_HOME/lagvae`, else `~/.cache/lagvae`.

    Raises:
        RuntimeError: No variable is set and the home folder cannot be determined.
    """
    if folder := os.environ.get("LAGVAE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lagvae")


def read_entry(name: str) -> Entry | None:
    """Return the entry called `name`, or None if there is none.

    The arrays are read-only memory-mapped files. A damaged entry is logged and deleted.
    """
    try:
        folder = cache_folder() / name
        if not folder.is_dir():
            return None
        contents = json.loads((folder / _CONTENTS).read_text("utf-8"))
        arrays = {array: _read_array(folder, array, digest) for array, digest in contents["arrays"].items()}
        return Entry(arrays, contents["facts"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        discard_entry(name, str(error))
    except RuntimeError:  # no home folder
        pass
    return None


def _read_array(folder: Path, name: str, digest: str) -> NDArray[Any]:
    array = np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    if _digest(array) != digest:
        raise ValueError(f"{name}.npy does not match its digest")
    return array


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def discard_entry(name: str, reason: str) -> None:
    """Log why an entry is unusable, and delete it. Processes that have mapped its arrays can still use them."""
    _log.warning("cache entry %s cannot be used, so its data are prepared again: %s", name, reason)
    with suppress(OSError):
        discarded = tempfile.mkdtemp(dir=cache_folder(), suffix=".tmp")
        with suppress(OSError):
            os.rename(cache_folder() / name, discarded)
        shutil.rmtree(discarded)


def write_entry(name: str, entry: Entry) -> None:
    """Write `entry` under `name`. A failure is logged and raises no error.

    If several processes write the entry at the same time, the first one wins; all of them write the same data.
    """
    try:
        with create_folder_atomically(cache_folder() / name) as folder:
            for array_name, array in entry.arrays.items():
                with write_synced(folder / f"{array_name}.npy") as file:
                    np.save(file, array, allow_pickle=False)
            digests = {array_name: _digest(array) for array_name, array in entry.arrays.items()}
            with write_synced(folder / _CONTENTS) as file:
                file.write(json.dumps({"arrays": digests, "facts": dict(entry.facts)}).encode())
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _log.warning("cannot write cache entry %s: %s", name, error)
