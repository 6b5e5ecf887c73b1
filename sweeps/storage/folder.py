"""Where a sweep keeps its files: a folder on a disk, a share or an object store, which one driver at a time changes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs

from lagvae_core.errors import ConfigError, StoreError, ValidationIssue
from lagvae_core.files import write_atomically
from sweeps.storage.lease import Lease, LeaseHeldError, Waiting, leased
from sweeps.storage.mounts import is_local_filesystem

__all__ = ["PATIENCE_SECONDS", "FolderFile", "SweepFolder", "check_uri", "checkpoint_name", "model_name"]

PATIENCE_SECONDS = 120.0
"""How long a sweep that is running waits for a store that fails: a network that is mended, room that is made."""

READERS = 16
"""How many files are read at a time."""

READ_AHEAD = 256
"""How many files may lie in memory that nobody has asked for yet."""

LOCAL = pyarrow.fs.LocalFileSystem()

T = TypeVar("T")


@functools.lru_cache(maxsize=8)
def _opened(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URI and the path there; a bucket's region is asked for, once, where it is not given.

    Raises:
        ConfigError: it is no URI that can be used.
        OSError: the store does not answer.
    """
    try:
        system, root = pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError([ValidationIssue("--results", f"must be a usable URI ({error})", value=uri)]) from None
    return system, root


def check_uri(uri: str) -> None:
    """ConfigError if `uri` is none that can be used; whether its store answers may be seen elsewhere."""
    with contextlib.suppress(OSError):
        _opened(uri)


@dataclass(frozen=True)
class SweepFolder:
    """`<results>/<sweep>`: runs/*.parquet, curves/*.parquet, spec.yaml, checkpoints/, models/, evaluations/.

    `results` is a local path, or a URI that pyarrow knows (file://, s3://, gs://). On a local file system every file is
    written beside, flushed and renamed; an object store replaces objects as a whole by itself.

    `patience`, in seconds: what fails is tried again for so long, and then a StoreError. `guard` is called before
    anything is written or removed, and forbids it by an exception.
    """

    results: str
    sweep: str
    patience: float = 0.0
    guard: Callable[[], None] = lambda: None

    def _filesystem(self) -> tuple[pyarrow.fs.FileSystem, str]:
        system, root = _opened(self.results) if "://" in self.results else (LOCAL, _absolute(self.results))
        return system, f"{root.rstrip('/')}/{self.sweep}"

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine, or None on an object store."""
        system, root = self._filesystem()
        return Path(root) if isinstance(system, pyarrow.fs.LocalFileSystem) else None

    @property
    def root(self) -> str:
        """`results` as worker processes, which run elsewhere, find it."""
        return self.results if "://" in self.results else _absolute(self.results)

    def prepare(self) -> None:
        """Make the folder, and show that it can be written to; ConfigError if it cannot."""
        for part in ("runs", "curves", "checkpoints"):
            self.prove_writable(part)

    def prove_writable(self, part: str) -> None:
        """Make the folder `part`, and write in it; ConfigError if that fails."""
        try:
            system, root = self._filesystem()
            system.create_dir(f"{root}/{part}", recursive=True)
            self._write(f"{part}/.probe", b"")
            system.delete_file(f"{root}/{part}/.probe")
        except OSError as error:
            message = f"must be a folder that can be written to ({_reason(error)})"
            raise ConfigError(
                [ValidationIssue("--results", message, "Choose another with --results.", self.results)]
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name` as a whole; its folder is made."""
        self._retry(f"{name} cannot be written", lambda: self._write(name, content))

    def _write(self, name: str, content: bytes) -> None:
        self.guard()
        system, root = self._filesystem()
        if isinstance(system, pyarrow.fs.LocalFileSystem):
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        else:
            with system.open_output_stream(f"{root}/{name}") as stream:
                stream.write(content)

    def read(self, name: str) -> bytes | None:
        """The content of the file `name`, or None if there is none."""
        return self._retry(f"{name} cannot be read", lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        system, root = self._filesystem()
        try:
            with system.open_input_stream(f"{root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def read_each(self, names: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """Each of `names` with its content, in order; some are read at a time, as each costs a way to the store."""
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(names), READ_AHEAD):
                some = names[start : start + READ_AHEAD]
                readings = [readers.submit(self._read, name) for name in some]
                for name, reading in zip(some, readings, strict=True):
                    try:
                        content = reading.result()
                    except OSError:
                        content = self.read(name)  # patiently, and in this thread, which Ctrl-C reaches
                    yield name, content

    def holds(self, name: str) -> bool:
        """Whether there is a file `name`."""
        return bool(self._type(name) == pyarrow.fs.FileType.File)

    def holds_folder(self, name: str) -> bool:
        """Whether there is a folder `name`."""
        return bool(self._type(name) == pyarrow.fs.FileType.Directory)

    def _type(self, name: str) -> pyarrow.fs.FileType:
        def verify() -> pyarrow.fs.FileType:
            system, root = self._filesystem()
            return system.get_file_info(f"{root}/{name}").type

        return self._retry(f"{name} cannot be looked for", verify)

    def remove(self, name: str) -> None:
        """Remove the file `name`, if there is one."""
        self._retry(f"{name} cannot be removed", lambda: self._remove(name))

    def _remove(self, name: str) -> None:
        self.guard()
        system, root = self._filesystem()
        with contextlib.suppress(FileNotFoundError):
            system.delete_file(f"{root}/{name}")

    def _retry(self, failure: str, act: Callable[[], T]) -> T:
        deadline, pause = time.monotonic() + self.patience, 0.5
        while True:
            try:
                return act()
            except OSError as error:
                if time.monotonic() + pause > deadline:
                    raise StoreError(
                        f"The results in {self.root} must be at hand, but {failure} ({_reason(error)}). Look after "
                        "room, rights and the way to them; a sweep that is run again goes on where it stood."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    @contextmanager
    def locked(self, waiting: Waiting = lambda host, seconds: None) -> Iterator[Callable[[], None]]:
        """A block in which this process is the only driver of the sweep; ConfigError if another one is.

        The file system locks a folder. Where it has no locks (an object store, Lustre without `-o flock`) a lease
        stands for the lock, and on what is no disk of this machine beside it; `waiting` is told of a lease that is
        watched. What the block is given is a guard: it raises ConfigError once the lease was lost.
        """
        folder = self.local_path
        with contextlib.ExitStack() as held:
            locked = folder is not None and self._lock(held, folder / ".driver.lock")
            lease = None
            if folder is None or not (locked and is_local_filesystem(folder)):
                lease = self._lease(held, locked, waiting)
            if folder is not None:
                # What a killed process had written beside and not yet renamed.
                for leftover in folder.glob("**/.*.tmp"):
                    leftover.unlink(missing_ok=True)

            def guard() -> None:
                if lease is not None and lease.lost():
                    raise self._driven(f"one on {lease.taken_by} has taken it over")

            yield guard

    def _lock(self, held: contextlib.ExitStack, file: Path) -> bool:
        """Lock `file` until `held` ends; False if its file system has no locks."""
        lock = held.enter_context(file.open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._driven("another one is running it") from None
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                return False
            raise
        return True

    def _lease(self, held: contextlib.ExitStack, locked: bool, waiting: Waiting) -> Lease:
        try:
            return held.enter_context(leased(replace(self, patience=0.0), alone_here=locked, waiting=waiting))
        except LeaseHeldError as error:
            raise self._driven(f"another one on {error} is running it") from None

    def _driven(self, by: str) -> ConfigError:
        message = f"must be driven by one process at a time, and {by}"
        return ConfigError([ValidationIssue("the sweep", message, "Wait for it, or stop it.", self.sweep)])

    def folders(self) -> list[str]:
        """The names of the folders in it, in order."""

        def verify() -> list[str]:
            system, root = self._filesystem()
            entries = system.get_file_info(pyarrow.fs.FileSelector(root.rstrip("/"), allow_not_found=True))
            return sorted(entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.Directory)

        return self._retry("it cannot be listed", verify)

    def files(self, part: str) -> list[str]:
        """The names of the files in its folder `part`, in order; none if there is no such folder."""

        def verify() -> list[str]:
            system, root = self._filesystem()
            entries = system.get_file_info(pyarrow.fs.FileSelector(f"{root}/{part}", allow_not_found=True))
            names = [entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.File]
            return sorted(f"{part}/{name}" for name in names)

        return self._retry(f"{part} cannot be listed", verify)


@dataclass(frozen=True)
class FolderFile:
    """One file of a sweep's folder, as a store that the training writes to."""

    folder: SweepFolder
    name: str

    def load(self) -> bytes | None:
        return self.folder.read(self.name)

    def save(self, content: bytes) -> None:
        self.folder.write(self.name, content)


def checkpoint_name(run_id: str) -> str:
    return f"checkpoints/{run_id}.pt"


def model_name(run_id: str) -> str:
    return f"models/{run_id}.pt"


def _absolute(path: str) -> str:
    """As a shell would have it, which does not look at `--results=~/x`."""
    return os.path.abspath(os.path.expanduser(path))


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()).rstrip(".")
