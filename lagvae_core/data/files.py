"""Access to the user's data files: paths that are missing or not readable, and files that hold no data."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["BUNDLED_PREFIX", "data_file", "data_folder", "is_bundled", "refuse_placeholder", "unreadable"]

BUNDLED_PREFIX = "sklearn:"
"""Start of a `data.path` that names a set of scikit-learn instead of a file."""

_GIT_LFS = b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"
_GIT_ANNEX = (b"/annex/objects/",)
_WEB_PAGE = b"<!doctype html", b"<html"


def is_bundled(path: str) -> bool:
    """Return whether `data.path` names a set that an installed package contains, the same on every machine."""
    return path.startswith(BUNDLED_PREFIX)


def data_folder(value: str) -> Path:
    """Return the folder that `data.path` names. It exists, and this process may list its files and enter it.

    Args:
        value: The path as the user wrote it; a leading `~` is expanded.

    Raises:
        DataError: There is no such folder, or it is not readable.
    """
    path = _existing(value, "folder", "folder")
    try:
        os.scandir(path).close()
        os.stat(os.path.join(path, "."))  # a Path drops the dot
    except OSError as error:
        raise _not_readable(value, error) from None
    return path


def data_file(value: str, *, or_folder: bool = False) -> Path:
    """Return the file that `data.path` names. It exists, is readable and is not a placeholder for the data.

    Args:
        value: The path as the user wrote it; a leading `~` is expanded.
        or_folder: Whether it may also be a folder; see `data_folder`.

    Raises:
        DataError: There is no such file, it is not readable, or it is a placeholder; see `refuse_placeholder`.
    """
    if or_folder and os.path.isdir(os.path.expanduser(value)):
        return data_folder(value)
    path = _existing(value, "file", "file or folder" if or_folder else "file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise _not_readable(value, error) from None
    refuse_placeholder(path)
    return path


def _existing(value: str, kind: str, noun: str) -> Path:
    path, hint = Path(value), ""
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) if kind == "folder" else stat.S_ISREG(mode):
            return path
        hint = f"It is a file. Name its folder: data.path={path.parent}" if stat.S_ISREG(mode) else ""
    except (FileNotFoundError, NotADirectoryError, RuntimeError, ValueError):
        pass  # RuntimeError: ~name of an unknown user; ValueError: a zero byte in the path
    except OSError as error:
        raise _not_readable(value, error) from None
    if value == "memory":
        hint = "Pass data in memory as dataset=config.data.from_memory(...)."
    hint = hint or f"Check the path. It resolves to {path.absolute()}."
    raise DataError([ValidationIssue("data.path", f"must be an existing {noun}", hint, value)])


def _not_readable(value: str, error: OSError) -> DataError:
    hint = "Check the path, its permissions and those of the folders above it."
    message = f"must be readable ({error.strerror or error})"
    return DataError([ValidationIssue("data.path", message, hint, value)])


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the DataError for a file that could not be read because of `error`."""
    message = f"cannot be read ({error.strerror or error})"
    return DataError([ValidationIssue(str(path), message, "Check the path and its permissions.")])


def refuse_placeholder(path: Path) -> None:
    """Refuse a file that stands in place of the data: a pointer of Git LFS or git-annex, or a web page.

    Raises:
        DataError: The file is such a placeholder, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    except OSError as error:
        raise unreadable(path, error) from None
    name = shlex.quote(path.name)
    if start.startswith(_GIT_LFS):
        message, hint = "must be the data, not a pointer of Git LFS", "Run `git lfs pull` in the folder of the file."
    elif start.startswith(_GIT_ANNEX):
        message, hint = (
            "must be the data, not a pointer of git-annex",
            f"Run `git annex get {name}` in the folder of the file.",
        )
    elif start.startswith(_WEB_PAGE):
        message = "must be the data, not a web page"
        hint = 'Download the file itself; websites with code or data sets offer it as "raw" or "download".'
    else:
        return
    raise DataError([ValidationIssue(str(path), message, hint)])
