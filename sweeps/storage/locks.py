"""A lock on a file, which excludes other processes of this machine and survives no process."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.storage.lease import LeaseHeldError

__all__ = ["is_locked", "lock_file"]

LOCKS = Path("/proc/locks")
"""The list of locks of Linux. It does not show locks of other machines, nor of other containers."""

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers of file systems that do not support locks."""


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Context manager. Locks the file `path`, which is created if necessary, until the end of the block.

    The file of another user is opened for reading, which suffices for a lock on a local disk.

    Yields:
        Whether the file is locked; False if the file system does not support locks.

    Raises:
        LeaseHeldError: Another process has locked the file.
        ConfigError: The file cannot be opened, or its file system locks only files that can be written.
    """
    try:
        descriptor = _open(path)
    except OSError as error:
        raise _cannot_be_locked(path, error) from None
    try:
        yield _lock(path, descriptor)
    finally:
        os.close(descriptor)


def is_locked(path: Path, locks: Path = LOCKS) -> bool:
    """Return whether Linux lists a lock on the file `path`. The file is not opened, so that no driver is disturbed.

    False proves nothing, because not every lock is listed under the device number of its file.
    """
    try:
        status = path.stat()
        lines = locks.read_text().splitlines()
    except OSError:
        return False
    # ID: FLOCK KIND MODE PID MAJOR:MINOR:INODE START END
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(file in fields and "->" not in fields for fields in map(str.split, lines))


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def _lock(path: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LeaseHeldError() from None
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return False
        raise _cannot_be_locked(path, error) from None
    return True


def _cannot_be_locked(path: Path, error: OSError) -> ConfigError:
    try:
        owner = path.lstat().st_uid
        belongs = f" and belongs to user {_name_of(owner)}" if owner != os.geteuid() else ""
    except OSError:
        belongs = ""
    message = f"must be a file that this user can lock ({error.strerror}){belongs}"
    hint = f"Its owner can permit it with `chmod a+rw {path}`; a link must be removed."
    return ConfigError([ValidationIssue(str(path), message, hint)])


def _name_of(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
