"""The folder of a sweep on a local disk, network file system or object store. Only one driver at a time uses it."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.fs

from lagvae_core.errors import ConfigError, StoreError, ValidationIssue
from lagvae_core.files import write_atomically
from sweeps.storage.lease import LeaseHeldError, WaitingCallback, leased
from sweeps.storage.locks import lock_file
from sweeps.storage.mounts import is_local_filesystem

__all__ = [
    "PATIENCE_SECONDS",
    "FileVersion",
    "FolderFile",
    "SweepFolder",
    "check_uri",
    "checkpoint_name",
    "model_name",
]

PATIENCE_SECONDS = 120.0
"""How long a running sweep retries a failed access to its results, in order to survive short outages [s]."""

READERS = 16
"""Maximum number of files that are read concurrently."""

READ_AHEAD = 256
"""Maximum number of files that are held in memory before the caller consumes them."""

LOCAL = pyarrow.fs.LocalFileSystem()

T = TypeVar("T")


@functools.lru_cache(maxsize=8)
def _open_uri(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a URI, and the path in this file system.

    If the URI names an S3 bucket without its region, the region is looked up over the network.

    Raises:
        ConfigError: The URI is not usable.
        OSError: The object store does not answer.
    """
    try:
        filesystem, root = pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        message, hint = f"must be a usable URI ({error})", "Use a path, or a URI such as s3://BUCKET/results."
        raise ConfigError([ValidationIssue("--results", message, hint, uri)]) from None
    return filesystem, root


def check_uri(uri: str) -> None:
    """Check that a URI is usable. Whether this machine can reach its object store is not checked.

    Raises:
        ConfigError: The URI is not usable.
    """
    with contextlib.suppress(OSError):
        _open_uri(uri)


class FileVersion(NamedTuple):
    """What differs between two versions of a file, as far as a list of its folder shows.

    `inode` distinguishes versions of equal size that were written within the resolution of the time; it is 0 on an
    object store.
    """

    modified_ns: int
    size: int
    inode: int = 0


@dataclass(frozen=True)
class SweepFolder:
    """`<results>/<sweep>` with runs/*.parquet, curves/*.parquet, spec.yaml, checkpoints/, models/ and evaluations/.

    On a file system, each file is written under a temporary name, flushed and renamed, so that no reader sees an
    incomplete file. An object store always replaces an object as a whole. A link below the folder that leads out of it
    is not followed; the folder itself may be a link.

    Args:
        results: A local path, or a URI that pyarrow knows (file://, s3://, gs://).
        sweep: Name of the sweep.
        patience: How long a failed access is retried before a StoreError is raised [s].
        guard: Called before each write and removal; may raise an exception to prevent it.
    """

    results: str
    sweep: str
    patience: float = 0.0
    guard: Callable[[], None] = lambda: None

    @property
    def local_path(self) -> Path | None:
        """Path of the folder on this machine; None on an object store."""
        filesystem, root = self._filesystem()
        return Path(root) if isinstance(filesystem, pyarrow.fs.LocalFileSystem) else None

    @property
    def root(self) -> str:
        """`results` as an absolute path or URI, which is also valid in workers with a different working directory."""
        return self.results if "://" in self.results else _absolute(self.results)

    def prepare(self) -> None:
        """Create the folder and check that it is writable.

        Raises:
            ConfigError: The folder is not writable.
        """
        for part in ("runs", "curves", "checkpoints"):
            self.prove_writable(part)

    def prove_writable(self, part: str) -> None:
        """Create the subfolder `part`, and prove that it is writable by writing a temporary file to it.

        Raises:
            ConfigError: The subfolder is not writable, or is a link that leads out of the folder.
        """
        self._check(part)
        try:
            filesystem, root = self._filesystem()
            filesystem.create_dir(f"{root}/{part}", recursive=True)
            self._write(f"{part}/.probe", b"")
            filesystem.delete_file(f"{root}/{part}/.probe")
        except OSError as error:
            message, hint = f"must be writable ({_reason(error)})", "Choose a different folder with --results."
            raise ConfigError([ValidationIssue("--results", message, hint, self.results)]) from None

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name` as a whole, creating its folder if necessary.

        Raises:
            StoreError: The file cannot be written.
        """
        self._retry(f"{name} cannot be written", lambda: self._write(name, content))

    def read(self, name: str) -> bytes | None:
        """Return the content of the file `name`; None if it does not exist.

        Raises:
            StoreError: The file cannot be read.
        """
        return self._retry(f"{name} cannot be read", lambda: self._read(name))

    def read_each(
        self, names: Sequence[str], on_failure: Callable[[str, str], None] | None = None
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield each of `names` in order, with the content of the file, or None if the file does not exist.

        Several files are read concurrently, because each read takes a round trip to the storage.

        Args:
            names: Names of the files.
            on_failure: Called with the name of each file that cannot be read and the reason; the file is then left out.
                None to raise the error.

        Raises:
            StoreError: A file cannot be read.
        """
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(names), READ_AHEAD):
                chunk = names[start : start + READ_AHEAD]
                futures = deque(readers.submit(self._read, name) for name in chunk)
                for name in chunk:
                    try:
                        content = futures.popleft().result()  # and keep no file that the caller has consumed
                    except OSError:
                        try:
                            content = self.read(name)  # with retries, in this thread so that Ctrl-C interrupts them
                        except StoreError as error:
                            if on_failure is None or not isinstance(error.__cause__, OSError):
                                raise
                            on_failure(name, _reason(error.__cause__))
                            continue
                    yield name, content

    def holds(self, name: str) -> bool:
        """Return whether the file `name` exists."""
        return bool(self._info(name).type == pyarrow.fs.FileType.File)

    def modified(self, name: str) -> int | None:
        """Return when the file `name` was last written [ns]; None if it does not exist.

        Raises:
            StoreError: The storage cannot be accessed.
        """
        info = self._info(name)
        return int(info.mtime_ns) if info.type == pyarrow.fs.FileType.File else None

    def holds_folder(self, name: str) -> bool:
        """Return whether the folder `name` exists."""
        return bool(self._info(name).type == pyarrow.fs.FileType.Directory)

    def remove(self, name: str) -> None:
        """Remove the file `name` if it exists.

        Raises:
            StoreError: The file cannot be removed.
        """
        self._retry(f"{name} cannot be removed", lambda: self._remove(name))

    def move(self, name: str, target: str) -> None:
        """Move the file `name` to `target`, creating its folder if necessary.

        Raises:
            StoreError: The file cannot be moved.
        """

        def move() -> None:
            self.guard()
            self._check(name.rpartition("/")[0] or ".")  # a link itself may be moved
            self._check(target)
            filesystem, root = self._filesystem()
            filesystem.create_dir(f"{root}/{target}".rpartition("/")[0], recursive=True)
            filesystem.move(f"{root}/{name}", f"{root}/{target}")

        self._retry(f"{name} cannot be moved", move)

    def folders(self) -> list[str]:
        """Return the names of the subfolders, sorted."""

        def list_folders() -> list[str]:
            filesystem, root = self._filesystem()
            entries = filesystem.get_file_info(pyarrow.fs.FileSelector(root.rstrip("/"), allow_not_found=True))
            return sorted(entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.Directory)

        return self._retry("the folder cannot be listed", list_folders)

    def files(self, part: str) -> list[str]:
        """Return the names of the files in the subfolder `part`, sorted; an empty list if there is no such folder."""

        self._check(part)

        def list_files() -> list[str]:
            filesystem, root = self._filesystem()
            if self.local_path is not None:
                names = _files_in(f"{root}/{part}")
            else:
                entries = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{root}/{part}", allow_not_found=True))
                names = [entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.File]
            return sorted(f"{part}/{name}" for name in names)

        return self._retry(f"{part} cannot be listed", list_files)

    def versions(self, part: str, names: Collection[str] | None = None) -> dict[str, FileVersion | None]:
        """Return the version of each file in the subfolder `part`, sorted by name, without reading the files.

        Args:
            part: Name of the subfolder.
            names: Names of the files, as `files` returns them; None for all.

        Returns:
            The versions by name; None for a file that does not exist or has just been removed.
        """
        self._check(part)

        def list_versions() -> dict[str, FileVersion | None]:
            filesystem, root = self._filesystem()
            if self.local_path is not None:
                listed = names if names is not None else [f"{part}/{name}" for name in _files_in(f"{root}/{part}")]
                return {name: _version_of(f"{root}/{name}") for name in sorted(listed)}
            entries = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{root}/{part}", allow_not_found=True))
            stored = {
                f"{part}/{entry.base_name}": FileVersion(int(entry.mtime_ns), int(entry.size))
                for entry in entries
                if entry.type == pyarrow.fs.FileType.File
            }
            return {name: stored.get(name) for name in sorted(stored if names is None else names)}

        return self._retry(f"{part} cannot be listed", list_versions)

    @contextmanager
    def locked(self, on_waiting: WaitingCallback = lambda host, seconds: None) -> Iterator[Callable[[], None]]:
        """Context manager. During the block this process is the only driver of the sweep.

        On a local disk, a file lock protects the folder. A network file system needs a lease in addition to the lock.
        On an object store, or on a file system without locks (Lustre without `-o flock`), only the lease protects it.

        Args:
            on_waiting: Called before this driver watches the lease of another driver.

        Yields:
            A guard function, which raises LeaseHeldError if another driver has taken over the lease.

        Raises:
            LeaseHeldError: Another driver runs the sweep.
            ConfigError: The file of the lock cannot be opened.
        """
        folder = self.local_path
        with contextlib.ExitStack() as stack:
            locked = folder is not None and stack.enter_context(lock_file(folder / ".driver.lock"))
            lease = None
            if folder is None or not (locked and is_local_filesystem(folder)):
                lease = stack.enter_context(
                    leased(replace(self, patience=0.0), alone_here=locked, on_waiting=on_waiting)
                )
            if folder is not None:
                # Remove temporary files and folders that a killed process left behind.
                for leftover in list(folder.glob("**/.*.tmp")):
                    with contextlib.suppress(OSError):  # files of another user may stay
                        if leftover.is_dir() and not leftover.is_symlink():
                            shutil.rmtree(leftover)
                        else:
                            leftover.unlink()

            def guard() -> None:
                if lease is not None and lease.lost():
                    raise LeaseHeldError(lease.taken_by, lost=True)

            yield guard

    def unsafe(self, name: str) -> str | None:
        """Return why the file or subfolder `name` must not be used, for a message; None if nothing is wrong with it.

        A link that leads out of the folder would let whoever wrote the folder choose files of whoever reads it.
        """
        filesystem, root = self._filesystem()
        if not isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            return None
        path = root
        for part in name.split("/"):
            path = f"{path}/{part}"
            if os.path.islink(path):
                target = os.path.realpath(path)
                if not Path(target).is_relative_to(os.path.realpath(root)):
                    return f"leads out of the folder of the sweep, to {target}"
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            return None  # it does not exist, or no longer
        return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is not a regular file"

    def _check(self, name: str) -> None:
        """Raise a ConfigError if the file or subfolder `name` must not be used."""
        reason = self.unsafe(name)
        if reason is not None:
            hint = "Remove it. A results folder, or the whole folder of a sweep, may be a link."
            raise ConfigError([ValidationIssue(f"{self.root}/{self.sweep}/{name}", reason, hint)])

    def _filesystem(self) -> tuple[pyarrow.fs.FileSystem, str]:
        filesystem, root = _open_uri(self.results) if "://" in self.results else (LOCAL, _absolute(self.results))
        return filesystem, f"{root.rstrip('/')}/{self.sweep}"

    def _write(self, name: str, content: bytes) -> None:
        self.guard()
        self._check(name)
        filesystem, root = self._filesystem()
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        else:
            with filesystem.open_output_stream(f"{root}/{name}") as stream:
                stream.write(content)

    def _read(self, name: str) -> bytes | None:
        self._check(name)
        filesystem, root = self._filesystem()
        try:
            with filesystem.open_input_stream(f"{root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def _remove(self, name: str) -> None:
        self.guard()
        self._check(name)
        filesystem, root = self._filesystem()
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}")

    def _info(self, name: str) -> pyarrow.fs.FileInfo:
        self._check(name)

        def get_info() -> pyarrow.fs.FileInfo:
            filesystem, root = self._filesystem()
            return filesystem.get_file_info(f"{root}/{name}")

        return self._retry(f"the status of {name} cannot be read", get_info)

    def _retry(self, failure: str, act: Callable[[], T]) -> T:
        """Call `act` until it succeeds; after `patience` seconds, raise a StoreError that reports `failure`."""
        deadline, pause = time.monotonic() + self.patience, 0.5
        while True:
            try:
                return act()
            except OSError as error:
                if time.monotonic() + pause > deadline:
                    raise StoreError(
                        f"Cannot access results in {self.root}: {failure} ({_reason(error)}). Check disk space, "
                        "permissions and the mount. Running the command again resumes the sweep."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 10.0)


@dataclass(frozen=True)
class FolderFile:
    """One file of a sweep's folder, with the interface through which training loads and saves checkpoints and models.

    Args:
        folder: The folder.
        name: Name of the file in the folder.
    """

    folder: SweepFolder
    name: str

    def load(self) -> bytes | None:
        """Return the content; None if the file does not exist."""
        return self.folder.read(self.name)

    def save(self, content: bytes) -> None:
        """Replace the content."""
        self.folder.write(self.name, content)


def checkpoint_name(run_id: str) -> str:
    """Return the name of a run's checkpoint in the folder."""
    return f"checkpoints/{run_id}.pt"


def model_name(run_id: str) -> str:
    """Return the name of a run's model in the folder."""
    return f"models/{run_id}.pt"


def _absolute(path: str) -> str:
    """Return `path` as an absolute path. Expands `~` too, because the shell does not expand it in `--results=~/x`."""
    return os.path.abspath(os.path.expanduser(path))


def _files_in(folder: str) -> list[str]:
    """Return the names of the files in a local folder, with those that another process removes in the meantime.

    Arrow leaves these out, so that its list could lack a file of which a copy has appeared under another name.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file() or not os.path.lexists(entry.path)]
    except FileNotFoundError:
        return []


def _version_of(path: str) -> FileVersion | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return FileVersion(status.st_mtime_ns, status.st_size, status.st_ino)


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()).rstrip(".")
