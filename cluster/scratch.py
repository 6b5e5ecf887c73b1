"""The scratch folder of a driver, for its token, the files of an embedded Ray and those of Ray Tune.

The folder is locked while its driver lives. A lock ends with its process, even if it is killed, and holds across
containers that share a folder. Therefore the next driver can remove the folders that killed drivers have left.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lagvae_core.errors import ConfigError, ValidationIssue

__all__ = ["RAY_FOLDER", "scratch_folder"]

VARIABLES = ("RAY_TMPDIR", "TMPDIR", "TEMP", "TMP")
"""Environment variables that name the folder for temporary files; the first one that names a folder is used."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders for temporary files without such a variable, or if sockets are impossible in the folder that it names."""

NAME = re.compile(r"lagvae-\d+-[a-z0-9_]{8}")
"""Name of a scratch folder: the process id of its driver, and eight random characters."""

RAY_FOLDER = "r"
"""Name of the folder of an embedded Ray in the scratch folder. It is short, because paths of sockets must be short."""

RAY_SOCKET = f"/{RAY_FOLDER}/session_YYYY-MM-DD_hh-mm-ss_ffffff_PPPPPPP/sockets/plasma_store"
"""Longest path of a socket of Ray in the scratch folder, as a pattern."""

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a socket [bytes]."""

FREE_BYTES = 8 * 2**20
"""Space that must be free in the folder [bytes]. The files of Ray take about 0.5 MB and a few kB per run."""

REMOVAL_SECONDS = 10.0
"""How long processes of Ray that are just ending may keep the folder from being removed [s]."""


class _SocketsImpossible(Exception):
    """The path is too long for a socket, or its file system knows no sockets. The message is a reason in brackets."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Context manager. Yields a new folder that only this user can enter, and removes it at the end of the block.

    It lies in the folder that RAY_TMPDIR, TMPDIR, TEMP or TMP names, otherwise in /tmp; and in a folder with a short
    path if the sockets of Ray cannot be created in that folder. Scratch folders of dead drivers are removed there.

    Raises:
        ConfigError: There is no folder with enough space in which this user can create files and sockets.
    """
    folder, lock = _create()
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _create() -> tuple[Path, int]:
    """Create the folder in the first suitable place, and return it with the file descriptor that holds its lock."""
    variable = next((name for name in VARIABLES if os.environ.get(name) and Path(os.environ[name]).is_dir()), None)
    problems = []
    if variable is not None:
        named = Path(os.environ[variable])
        try:
            return _create_in(named)
        except _SocketsImpossible as error:
            problems.append(f"{named}: {error}")
        except OSError as error:
            message = f"must be a folder with {FREE_BYTES // 2**20} MiB of free space in which Ray can create files"
            hint = f"Set {variable} to another folder, or unset it to use {SHORT_FOLDERS[0]}."
            raise ConfigError([ValidationIssue(variable, f"{message} ({error.strerror})", hint, str(named))]) from None
    for place in SHORT_FOLDERS:
        try:
            return _create_in(Path(place))
        except _SocketsImpossible as error:
            problems.append(f"{place}: {error}")
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
    message = f"must name a folder in which Ray can create files and sockets ({'; '.join(problems)})"
    hint = f"Set TMPDIR to a folder with {FREE_BYTES // 2**20} MiB of free space."
    raise ConfigError([ValidationIssue("TMPDIR", message, hint, os.environ.get("TMPDIR"))])


def _create_in(place: Path) -> tuple[Path, int]:
    """Create the folder in `place` and remove those of dead drivers there.

    Raises:
        _SocketsImpossible: Ray cannot create its sockets there.
        OSError: The folder cannot be created, or `place` has too little free space.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"lagvae-{os.getpid()}-", dir=place.absolute()))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # without locks, no driver removes folders of others
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                break
            os.close(lock)  # another driver took the new folder for a leftover before it was locked
    try:
        _check(folder)
    except BaseException:
        _remove(folder)
        os.close(lock)
        raise
    _remove_leftovers(place)
    return folder, lock


def _check(folder: Path) -> None:
    """Check that Ray can use the new folder, by writing into it."""
    with open(folder / "file", "wb") as file:
        file.write(bytes(FREE_BYTES))
    path = os.fsencode(folder)
    if len(path) + len(RAY_SOCKET) > SOCKET_BYTES:
        raise _SocketsImpossible(f"sockets of Ray would have paths of more than {SOCKET_BYTES} bytes")
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(path + b"/socket")
    except OSError as error:
        raise _SocketsImpossible(f"no socket can be created ({error.strerror})") from None
    for name in ("socket", "file"):
        (folder / name).unlink()


def _remove_leftovers(place: Path) -> None:
    """Remove the scratch folders in `place` that belong to this user alone and are not locked."""
    for folder in place.glob("lagvae-*"):
        if not NAME.fullmatch(folder.name):
            continue
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(lock)
                if (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o700):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove the folder. Processes of Ray that are just ending may still write files, so try again for some seconds."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.1)
