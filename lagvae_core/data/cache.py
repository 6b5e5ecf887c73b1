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

_UNUSABLE = (
    "the data cache %s cannot be used (%s), so the data are prepared at every start; set LAGVAE_CACHE to a folder with "
    "free space that may be written"
)

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
        contents = _read_contents(folder / _CONTENTS)
        arrays = {array: _read_array(folder / f"{array}.npy", digest) for array, digest in contents["arrays"].items()}
        return Entry(arrays, contents["facts"])
    except (OSError, ValueError) as error:
        discard_entry(name, _reason(error))
    except RuntimeError:  # no home folder
        pass
    return None


def _read_contents(path: Path) -> dict[str, Any]:
    try:
        contents: dict[str, Any] = json.loads(path.read_text("utf-8"))
        arrays, facts = dict(contents["arrays"]), dict(contents["facts"])
        is_valid = contents.get("digest") in (None, _text_digest(arrays, facts))  # entries of 0.1.0 have no digest
    except (ValueError, KeyError, TypeError, AttributeError):
        is_valid = False
    if not is_valid:
        raise ValueError(f"{path.name} is damaged")
    return contents


def _read_array(path: Path, digest: str) -> NDArray[Any]:
    try:
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (EOFError, ValueError):
        raise ValueError(f"{path.name} is damaged") from None
    if _digest(array) != digest:
        raise ValueError(f"{path.name} is damaged")
    return array


def _reason(error: Exception) -> str:
    """Return the reason of an error without its number and the long path of a temporary file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _text_digest(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([arrays, facts], sort_keys=True).encode()).hexdigest()


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def discard_entry(name: str, reason: str) -> None:
    """Log why an entry is unusable, and delete it. Processes that have mapped its arrays can still use them."""
    _log.warning("an entry of the data cache cannot be used (%s), so its data are prepared again", reason)
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
            arrays, facts = {key: _digest(array) for key, array in entry.arrays.items()}, dict(entry.facts)
            contents = {"arrays": arrays, "facts": facts, "digest": _text_digest(arrays, facts)}
            with write_synced(folder / _CONTENTS) as file:
                file.write(json.dumps(contents).encode())
    except OSError as error:
        _log.warning(_UNUSABLE, cache_folder(), error.strerror or error)
    except RuntimeError:
        _log.warning(_UNUSABLE, "~/.cache/lagvae", "the home folder is unknown")
