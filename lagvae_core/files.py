"""Files and folders that are written as a whole or not at all."""

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
    """Replace the file `path` by `content` as a whole.

    The content goes to a temporary file in the same folder, is flushed to the disk and takes the name `path`. A reader
    therefore sees the old content or the new content, even if a process or the machine stops at any point. Of several
    writers at once, on any machines, the last one wins.

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
    """Context manager that fills a temporary folder, which takes the name `folder` at the end of the block.

    The block should write its files with `write_synced`. Of several writers at once the first one wins, and the
    temporary folders of the others are removed, as is the folder of a block that raises. `folder` itself is never
    changed if it exists and is not empty.

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
        folder: A folder that exists.
        probe: Name of the file, so that callers can avoid a collision.

    Raises:
        OSError: The folder does not exist, or this process may not write in it.
    """
    path = folder / probe
    path.touch()
    path.unlink()


def _temporary_path(path: Path) -> Path:
    """A new name in the same folder; it does not contain the old name, which may be as long as names can be."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")
