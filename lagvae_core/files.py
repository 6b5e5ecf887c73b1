"""Atomic writing: a file or folder is written as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["check_writable", "create_folder_atomically", "write_atomically", "write_synced"]


def write_atomically(path: Path, content: bytes) -> None:
    """Atomically replace the content of the file `path` with `content`.

    The content is written to a temporary file in the same folder and flushed to the disk; then the temporary file is
    renamed to `path`. A reader therefore sees either the old content or the new content, even if a process or the
    machine stops at any point. If several processes, on one or several machines, write the file at the same time, the
    last one to finish wins.

    Raises:
        OSError: The file cannot be written. The old content, if any, is unchanged.
    """
    temporary = _temporary_path(path)
    try:
        with write_synced(temporary) as file:
            file.write(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_synced(path: Path) -> Iterator[BinaryIO]:
    """Context manager that opens a new file for writing and flushes it to the disk at the end of the block."""
    with open(path, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def create_folder_atomically(folder: Path) -> Iterator[Path]:
    """Context manager that yields a temporary folder and renames it to `folder` at the end of the block.

    The block should write its files with `write_synced`. If several processes create the folder at the same time, the
    first one to finish wins, and the temporary folders of the others are removed. If the block raises, its temporary
    folder is removed as well. `folder` itself is never changed if it exists and is not empty.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(folder)
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: Path, probe: str = ".probe") -> None:
    """Check that files can be created in `folder`, by creating and removing one.

    Args:
        folder: The folder to check.
        probe: Name of the file to create. Callers can choose it to avoid a collision with other files.

    Raises:
        OSError: The folder does not exist, or this process may not write in it.
    """
    path = folder / probe
    path.touch()
    path.unlink()


def _temporary_path(path: Path) -> Path:
    """Return a new path in the same folder. Its name is short, because the name of `path` may be as long as allowed."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")
