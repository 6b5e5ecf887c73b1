"""The standard streams of the command: closed, full, or with an encoding that lacks a character."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

import typer

__all__ = ["check_stdout", "prepare_streams"]


class _Stream(io.TextIOWrapper):
    """A standard stream. It replaces characters that its encoding lacks, and remembers why it could not be written.

    Args:
        stream: The stream to replace.
        lossy: Whether to drop what cannot be written instead of raising an error.
    """

    def __init__(self, stream: io.TextIOWrapper, *, lossy: bool) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="replace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self.failure: OSError | None = None
        self._lossy = lossy
        self._replaced = stream  # If it were deleted, it would close the shared buffer.

    def write(self, text: str) -> int:
        with self._noted():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._noted():
            super().flush()

    def close(self) -> None:
        """Flush only. The buffer is shared, and belongs to the process."""
        self.flush()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            if not self._lossy:
                raise


def prepare_streams() -> None:
    """Make the standard streams of this process usable.

    A stream that the caller closed (`>&-`) becomes the null device. Otherwise, the next file to be opened would get its
    file descriptor and receive its output. What stderr cannot take is dropped, so that a full disk under a log never
    ends a training.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _Stream(sys.stdout, lossy=False)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Stream(sys.stderr, lossy=True)


@contextlib.contextmanager
def check_stdout() -> Iterator[None]:
    """Context manager for a command that writes to stdout.

    If the reader of stdout closes the pipe early, as `head` does, the command exits with code 0. If stdout cannot be
    written for another reason, such as a full disk, the command prints this reason and exits with code 1. A command
    that fails for a reason of its own keeps its exit code.

    Raises:
        typer.Exit: stdout cannot be written, and the command did not fail otherwise.
    """
    try:
        yield
    except OSError:
        if (failure := _failure_of_stdout()) is None:
            raise
    except BaseException as error:
        if (failure := _failure_of_stdout()) is None or getattr(error, "exit_code", 1) != 0:
            raise
    else:
        if (failure := _failure_of_stdout()) is None:
            return
    if isinstance(failure, BrokenPipeError):
        raise typer.Exit(0) from None
    print(f"lagvae: stdout: cannot be written ({failure.strerror}). Free disk space, or redirect it.", file=sys.stderr)
    raise typer.Exit(1) from None


def _failure_of_stdout() -> OSError | None:
    """Flush stdout, and return the error if it could not be written. All further output is then discarded."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    failure: OSError | None = getattr(sys.stdout, "failure", None)
    if failure is not None:
        # Python flushes stdout again at exit. With the null device as stdout, that flush succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return failure
