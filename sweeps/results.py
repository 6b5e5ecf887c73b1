"""The Parquet table: one typed row a run, one a run and epoch. Written by the driver alone, whole files at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from lagvae_core.errors import ConfigError, Mistake, StoreError
from lagvae_core.files import write_atomically
from sweeps.lease import Lease, Taken, Waiting, leased
from sweeps.mounts import on_own_disk
from sweeps.schema import CURVES_SCHEMA, RUNS_SCHEMA

__all__ = ["PATIENCE_SECONDS", "FolderFile", "ResultsFolder", "check_uri", "model_name", "stored_sweeps"]

PATIENCE_SECONDS = 120.0
"""How long a sweep that is running waits for a store that fails: a network that is mended, room that is made."""

KEYS = ("arm", "run_id", "seed")
"""What every row of a table says that has these columns."""

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
        raise ConfigError([Mistake("--results", uri, f"be a usable URI ({error})")]) from None
    return system, root


def check_uri(uri: str) -> None:
    """ConfigError if `uri` is none that can be used; whether its store answers may be seen elsewhere."""
    with contextlib.suppress(OSError):
        _opened(uri)


@dataclass(frozen=True)
class ResultsFolder:
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
            law = f"be a folder that can be written to ({_reason(error)})"
            raise ConfigError([Mistake("--results", self.results, law, "Choose another with --results.")]) from None

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name` as a whole; its folder is made."""
        self._insist(f"{name} cannot be written", lambda: self._write(name, content))

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
        return self._insist(f"{name} cannot be read", lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        system, root = self._filesystem()
        try:
            with system.open_input_stream(f"{root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def holds(self, name: str) -> bool:
        """Whether there is a file `name`."""
        return bool(self._type(name) == pyarrow.fs.FileType.File)

    def _type(self, name: str) -> pyarrow.fs.FileType:
        def look() -> pyarrow.fs.FileType:
            system, root = self._filesystem()
            return system.get_file_info(f"{root}/{name}").type

        return self._insist(f"{name} cannot be looked for", look)

    def remove(self, name: str) -> None:
        """Remove the file `name`, if there is one."""
        self._insist(f"{name} cannot be removed", lambda: self._remove(name))

    def _remove(self, name: str) -> None:
        self.guard()
        system, root = self._filesystem()
        with contextlib.suppress(FileNotFoundError):
            system.delete_file(f"{root}/{name}")

    def _insist(self, failure: str, act: Callable[[], T]) -> T:
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

    def exists(self) -> bool:
        """Whether the sweep has a table."""
        return bool(self._type("runs") == pyarrow.fs.FileType.Directory)

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
            if folder is None or not (locked and on_own_disk(folder)):
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
        except Taken as error:
            raise self._driven(f"another one on {error} is running it") from None

    def _driven(self, by: str) -> ConfigError:
        law = f"be driven by one process at a time, and {by}"
        return ConfigError([Mistake("the sweep", self.sweep, law, "Wait for it, or stop it.")])

    def write_run(self, row: Mapping[str, Any]) -> None:
        """Write the row of one run, replacing the one before."""
        self.write_table(f"runs/{row['run_id']}.parquet", _table([dict(row)], RUNS_SCHEMA))

    def write_curve(self, run: Mapping[str, Any], epochs: list[dict[str, Any]]) -> None:
        """Write the epochs of one run, replacing those before."""
        keys = {name: run[name] for name in ("sweep", "arm", "run_id", "config_id", "seed")}
        rows = [keys | epoch for epoch in epochs]
        self.write_table(f"curves/{run['run_id']}.parquet", _table(rows, CURVES_SCHEMA))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Replace the Parquet file `name` as a whole."""
        buffer = pa.BufferOutputStream()
        # A file is one row, or a few: a dictionary and statistics of each column are a third of it, and help nobody.
        pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_statistics=False)
        self.write(name, buffer.getvalue().to_pybytes())

    def runs(self) -> list[dict[str, Any]]:
        """Every row, in the order of arm, configuration and seed. A damaged file is passed over with a warning."""
        rows = self.rows("runs", RUNS_SCHEMA)
        return sorted(rows, key=lambda r: (r["arm"], r["configuration"] or 0, r["seed"]))

    def curves(self) -> list[dict[str, Any]]:
        """Every epoch of every run, by run and epoch."""
        return sorted(self.rows("curves", CURVES_SCHEMA), key=lambda r: (r["run_id"], r["epoch"]))

    def rows(self, part: str, schema: pa.Schema) -> list[dict[str, Any]]:
        """The rows of every file in the folder `part`, with the columns of `schema`."""
        rows: list[dict[str, Any]] = []
        for name in self._insist(f"{part} cannot be listed", lambda: self._names(part)):
            # What cannot be read now is no damage: whoever takes a row for missing repeats its run.
            if (content := self.read(name)) is None:
                continue
            path = f"{self.root}/{self.sweep}/{name}"
            try:
                # One small file after another, where setting threads to work takes as long as the reading.
                table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
            except (pa.ArrowInvalid, OSError) as error:
                warnings.warn(f"{path} is not readable as Parquet and is passed over ({error}).", stacklevel=2)
                continue
            empty = dict.fromkeys(schema.names)
            found = [empty | {k: _finite(v) for k, v in row.items() if k in empty} for row in table.to_pylist()]
            if any(row[key] is None for row in found for key in KEYS if key in empty):
                warnings.warn(f"{path} is no table of lagvae and is passed over.", stacklevel=2)
                continue
            rows += found
        return rows

    def folders(self) -> list[str]:
        """The names of the folders in it, in order."""

        def look() -> list[str]:
            system, root = self._filesystem()
            entries = system.get_file_info(pyarrow.fs.FileSelector(root.rstrip("/"), allow_not_found=True))
            return sorted(entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.Directory)

        return self._insist("it cannot be listed", look)

    def _names(self, part: str) -> list[str]:
        """The Parquet files of the folder `part`, in order."""
        system, root = self._filesystem()
        selector = pyarrow.fs.FileSelector(f"{root}/{part}", allow_not_found=True)
        files = [info for info in system.get_file_info(selector) if info.type == pyarrow.fs.FileType.File]
        names = [info.base_name for info in files]
        return sorted(f"{part}/{name}" for name in names if name.endswith(".parquet") and not name.startswith("."))


@dataclass(frozen=True)
class FolderFile:
    """One file of a sweep's folder, as a store that the training writes to."""

    folder: ResultsFolder
    name: str

    def load(self) -> bytes | None:
        return self.folder.read(self.name)

    def save(self, content: bytes) -> None:
        self.folder.write(self.name, content)


def model_name(run_id: str) -> str:
    return f"models/{run_id}.pt"


def stored_sweeps(results: str) -> list[str]:
    """The names of the sweeps below `results`, a path or URI."""
    return [name for name in ResultsFolder(results, "").folders() if ResultsFolder(results, name).exists()]


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"columns without a declaration: {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)


def _absolute(path: str) -> str:
    """As a shell would have it, which does not look at `--results=~/x`."""
    return os.path.abspath(os.path.expanduser(path))


def _finite(value: Any) -> Any:
    """Null in the place of NaN and infinity, which lagvae never writes."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()).rstrip(".")
