"""Checkpoints: the complete state of a trial in one file. It is written atomically, and loading it executes no code."""

from __future__ import annotations

import hashlib
import io
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from lagvae_core.errors import CheckpointError
from lagvae_core.files import write_atomically
from lagvae_core.training.record import TrialRecord

__all__ = [
    "CheckpointManager",
    "CheckpointStore",
    "FileCheckpoint",
    "MemoryCheckpoint",
    "decode",
    "encode",
    "has_weights_of",
]

FORMAT = 1
DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointStore(Protocol):
    """Storage of one object, such as the checkpoint of a trial."""

    def load(self) -> bytes | None:
        """Return the stored content; None if there is none."""

    def save(self, content: bytes) -> None:
        """Replace the whole content atomically."""


class FileCheckpoint:
    """A `CheckpointStore` in a local file. Missing folders are created on the first save."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def load(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def save(self, content: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, content)


class MemoryCheckpoint:
    """A `CheckpointStore` in memory; `content` is None until something is saved."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def load(self) -> bytes | None:
        return self.content

    def save(self, content: bytes) -> None:
        self.content = content


def encode(state: dict[str, Any]) -> bytes:
    """Return `state` (tensors and plain values) as bytes: a SHA-256 digest, then the format of `torch.save`.

    The digest is needed because the format of `torch.save` has no checksum.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def decode(
    content: bytes,
    identity: str | None,
    *,
    what: str = "checkpoint",
    hint: str = "Remove it to start the trial from scratch.",
    mismatch_hint: str = "Use a separate checkpoint file for each trial.",
) -> dict[str, Any]:
    """Return the state that `encode` was given, with all tensors on the CPU.

    Args:
        content: The bytes that `encode` returned.
        identity: Run ID of the trial to which the state must belong; None accepts any trial.
        what: Name of `content` in messages.
        hint: Advice in the message if the content cannot be read.
        mismatch_hint: Advice in the message if the content belongs to a different trial.

    Raises:
        CheckpointError: The content is damaged, has a different format, or belongs to a different trial.
    """
    if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
        raise CheckpointError(f"The {what} is damaged (wrong checksum). {hint}")
    try:
        loaded: Any = torch.load(io.BytesIO(content[DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise CheckpointError(f"The {what} is damaged ({error}). {hint}") from None
    state: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    if state.get("format") != FORMAT:
        raise CheckpointError(f"The {what} has format {state.get('format')}, but must have format {FORMAT}. {hint}")
    if identity is not None and state.get("identity") != identity:
        owner = state.get("identity")
        raise CheckpointError(f"The {what} belongs to trial {owner}, not to {identity}. {mismatch_hint}")
    return state


def has_weights_of(model_store: CheckpointStore, run_id: str) -> bool:
    """Return whether the store holds readable weights of this trial."""
    content = model_store.load()
    try:
        return content is not None and bool(decode(content, run_id))
    except CheckpointError:
        return False


class CheckpointManager:
    """Saves the state of a trial at intervals, and its record at the end.

    Args:
        state: Function that returns the current state of the trial.
        store: Where the checkpoint is saved; if None, nothing is saved.
        seconds: Shortest time between two saves by `save_if_due` [s].
    """

    def __init__(self, state: Callable[[], dict[str, Any]], store: CheckpointStore | None, seconds: float) -> None:
        self._state, self._store, self._seconds = state, store, seconds
        self._last_save = time.monotonic()

    def save_if_due(self) -> None:
        """Save the state if the last save was at least `seconds` ago."""
        if self._store is not None and time.monotonic() - self._last_save >= self._seconds:
            self.save()

    def save(self) -> None:
        """Save the state of a trial that has not ended."""
        if self._store is not None:
            self._store.save(encode({**self._state(), "record": None}))
            self._last_save = time.monotonic()

    def save_record(self, record: TrialRecord) -> None:
        """Replace the state with the record of a trial that has ended."""
        if self._store is not None:
            self._store.save(encode({"identity": record.run_id, "record": record.to_json()}))
