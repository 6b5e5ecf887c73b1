"""The Parquet table: one typed row a run, one a run and epoch. Written by the driver alone, whole files at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from lagvae_core.errors import ConfigError, Mistake
from lagvae_core.files import write_atomically
from sweeps.lease import Taken, leased
from sweeps.schema import CURVES_SCHEMA, RUNS_SCHEMA

__all__ = ["FolderFile", "ResultsFolder", "model_name", "stored_sweeps"]


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"columns without a declaration: {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)


@dataclass(frozen=True)
class ResultsFolder:
    """`<results>/<sweep>`: runs/*.parquet, curves/*.parquet, spec.yaml, checkpoints/, models/, evaluations/.

    `results` is a local path, or a URI that pyarrow knows (file://, s3://, gs://). On a local file system every file is
    written beside, flushed and renamed; an object store replaces objects as a whole by itself.
    """

    results: str
    sweep: str

    def _filesystem(self) -> tuple[pyarrow.fs.FileSystem, str]:
        if "://" in self.results:
            try:
                system, root = pyarrow.fs.FileSystem.from_uri(self.results)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
                raise ConfigError([Mistake("--results", self.results, f"be a usable URI ({error})")]) from None
        else:
            system, root = pyarrow.fs.LocalFileSystem(), os.path.abspath(self.results)
        return system, f"{root.rstrip('/')}/{self.sweep}"

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine, or None on an object store."""
        system, root = self._filesystem()
        return Path(root) if isinstance(system, pyarrow.fs.LocalFileSystem) else None

    @property
    def root(self) -> str:
        """`results` as worker processes, which run elsewhere, find it."""
        return self.results if "://" in self.results else os.path.abspath(self.results)

    def prepare(self) -> None:
        """Make the folder, and show that it can be written to; ConfigError if it cannot."""
        self.prove_writable("runs")
        system, root = self._filesystem()
        for part in ("curves", "checkpoints"):
            system.create_dir(f"{root}/{part}", recursive=True)

    def prove_writable(self, part: str) -> None:
        """Make the folder `part`, and write in it; ConfigError if that fails."""
        system, root = self._filesystem()
        try:
            system.create_dir(f"{root}/{part}", recursive=True)
            self.write(f"{part}/.probe", b"")
            system.delete_file(f"{root}/{part}/.probe")
        except OSError as error:
            law = f"be a folder that can be written to ({error.strerror or error})"
            raise ConfigError([Mistake("--results", self.results, law, "Choose another with --results.")]) from None

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name` as a whole; its folder is made."""
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
        system, root = self._filesystem()
        info = system.get_file_info(f"{root}/{name}")
        if info.type == pyarrow.fs.FileType.NotFound:
            return None
        with system.open_input_stream(f"{root}/{name}") as stream:
            return bytes(stream.read())

    def holds(self, name: str) -> bool:
        """Whether there is a file `name`."""
        system, root = self._filesystem()
        return bool(system.get_file_info(f"{root}/{name}").type == pyarrow.fs.FileType.File)

    def remove(self, name: str) -> None:
        system, root = self._filesystem()
        if system.get_file_info(f"{root}/{name}").type != pyarrow.fs.FileType.NotFound:
            system.delete_file(f"{root}/{name}")

    def exists(self) -> bool:
        system, root = self._filesystem()
        return bool(system.get_file_info(f"{root}/runs").type == pyarrow.fs.FileType.Directory)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which this process is the only driver of the sweep; ConfigError if another one is.

        The file system locks a folder. A lease stands for the lock where it cannot: on an object store, on Lustre
        mounted without `-o flock`, on NFS without its lock daemon.
        """
        folder = self.local_path
        with contextlib.ExitStack() as held:
            if folder is None or not self._lock(held, folder / ".driver.lock"):
                self._lease(held)
            if folder is not None:
                # What a killed process had written beside and not yet renamed.
                for leftover in folder.glob("**/.*.tmp"):
                    leftover.unlink(missing_ok=True)
            yield

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

    def _lease(self, held: contextlib.ExitStack) -> None:
        try:
            held.enter_context(leased(self))
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
        system, root = self._filesystem()
        selector = pyarrow.fs.FileSelector(f"{root}/{part}", allow_not_found=True)
        rows: list[dict[str, Any]] = []
        for info in sorted(system.get_file_info(selector), key=lambda i: i.path):
            if not info.base_name.endswith(".parquet") or info.base_name.startswith("."):
                continue
            try:
                # One small file after another, where setting threads to work takes as long as the reading.
                table = pq.ParquetFile(system.open_input_file(info.path)).read(use_threads=False)
            except (pa.ArrowInvalid, OSError) as error:
                warnings.warn(f"{info.path} is not readable as Parquet and is passed over ({error}).", stacklevel=2)
                continue
            empty = dict.fromkeys(schema.names)
            rows += [empty | {k: v for k, v in row.items() if k in empty} for row in table.to_pylist()]
        return rows


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
    system, root = ResultsFolder(results, "")._filesystem()
    entries = system.get_file_info(pyarrow.fs.FileSelector(root.rstrip("/"), allow_not_found=True))
    folders = [entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.Directory]
    return sorted(name for name in folders if ResultsFolder(results, name).exists())
