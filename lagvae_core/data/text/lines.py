"""The lines of a text file: decompression, encoding and line ends."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import shlex
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from lagvae_core.data.files import refuse_placeholder, unreadable
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["COMPRESSIONS", "compression", "read_lines", "rewrite"]

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
"""Suffix and name of each kind of compression that is read; the name is also that of its command."""

_MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00"}
_MARKS = {"UTF-32": (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"), "UTF-16": (b"\xff\xfe", b"\xfe\xff")}
_BOM = "\ufeff"

_REFUSED = {
    "a zip archive": (b"PK\x03\x04", "unzip -p {path} > {path}.new && mv {path}.new {path}"),
    "compressed with zstd": (b"\x28\xb5\x2f\xfd", "zstd -dc < {path} > {path}.new && mv {path}.new {path}"),
    "a Parquet file": (b"PAR1", "mv {path} {parquet}"),
}
"""First bytes of files that are not text, and the command that makes them readable."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of each line, with its line end.

    A file that is compressed with gzip, bzip2 or xz is read as such, whatever its name. A newline ends a line; in a
    file without newlines, a carriage return does. A byte order mark at the start of a line is removed.

    Raises:
        DataError: The file cannot be read, is damaged, is not UTF-8, or holds something else than text.
    """
    refuse_placeholder(path)
    kind = compression(path)
    number, start = 0, 0
    try:
        with _open(path, kind) as file:
            for number, raw in enumerate(_split(file), start=1):
                if number == 1:
                    _check_start(path, kind, raw)
                yield number, _decode(path, kind, number, start, raw)
                start += len(raw)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, number, kind, error) from None
    except OSError as error:  # the modules gzip and bz2 raise it, without errno, for damaged content
        raise (unreadable(path, error) if error.errno else _damaged(path, number, kind, error)) from None


def _damaged(path: Path, number: int, kind: str | None, error: Exception) -> DataError:
    message = f"must be a complete and undamaged {kind} file ({error})"
    hint = f"Copy the file again and check it with {kind} -t."
    return DataError([ValidationIssue(f"{path}, after line {number}", message, hint)])


def rewrite(path: Path, command: str, kind: str | None = None) -> str:
    """Return the shell command that replaces a file by the output of `command`, which reads it from its input.

    Args:
        path: The file.
        command: A shell command from standard input to standard output.
        kind: Compression of the file, which is kept; None if it is plain.
    """
    name = shlex.quote(str(path))
    pipe = f"{command} < {name}" if kind is None else f"{kind} -dc < {name} | {command} | {kind}"
    return f"{pipe} > {name}.new && mv {name}.new {name}"


def compression(path: Path) -> str | None:
    """Return the compression of the file, by its first bytes, else by its suffix; None if it is plain.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(10)
    except OSError as error:
        raise unreadable(path, error) from None
    for kind, magic in _MAGIC.items():
        if start.startswith(magic) and (kind != "bzip2" or start[3:4].isdigit()):
            return kind
    return COMPRESSIONS.get(path.suffix.lower())


def _open(path: Path, kind: str | None) -> BinaryIO:
    openers: dict[str, Callable[[Path], Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    return cast(BinaryIO, openers[kind](path) if kind else path.open("rb"))


def _split(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file. If it has only one, carriage returns divide it into lines."""
    first = next(file, b"")
    second = next(file, None)
    if second is None:
        yield from first.splitlines(keepends=True)
    else:
        yield from itertools.chain((first, second), file)


def _check_start(path: Path, kind: str | None, raw: bytes) -> None:
    """Refuse a file whose first bytes show that it is not UTF-8 text."""
    for encoding, marks in _MARKS.items():
        if raw.startswith(marks):
            command = rewrite(path, f"iconv -f {encoding} -t UTF-8", kind)
            issue = ValidationIssue(str(path), f"must be UTF-8 text, not {encoding}", f"Convert the file: {command}")
            raise DataError([issue])
    for content, (magic, command) in _REFUSED.items():
        if raw.startswith(magic):
            name, parquet = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".parquet")))
            hint = f"Convert the file: {command.format(path=name, parquet=parquet)}"
            raise DataError([ValidationIssue(str(path), f"must be text, and is {content}", hint)])


def _decode(path: Path, kind: str | None, number: int, start: int, raw: bytes) -> str:
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        where = f"{path}, line {number}, byte offset {start + error.start}"
        command = rewrite(path, "iconv -f CP1252 -t UTF-8", kind)
        hint = f"If its encoding is Latin-1 or Windows-1252, convert the file: {command}"
        raise DataError([ValidationIssue(where, "must be UTF-8 text", hint)]) from None
    if "\0" in line:
        where = f"{path}, line {number}, byte offset {start + raw.index(0)}"
        command = rewrite(path, f"iconv -f {'UTF-16BE' if raw.startswith(bytes(1)) else 'UTF-16LE'} -t UTF-8", kind)
        hint = f"If its encoding is UTF-16, convert the file: {command}"
        raise DataError([ValidationIssue(where, "must be text without zero bytes", hint)])
    return line.removeprefix(_BOM)
