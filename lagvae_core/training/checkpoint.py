"""All state of a trial to one file and back: atomically, bit-exact, and without running anything that the file says."""

from __future__ import annotations

import hashlib
import io
import pickle
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from lagvae_core.errors import CheckpointError
from lagvae_core.files import write_atomically
from lagvae_core.training.record import TrialRecord

__all__ = ["CheckpointManager", "CheckpointStore", "FileCheckpoint", "decode", "encode", "has_weights_of"]

FORMAT = 1
DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointStore(Protocol):
    """Where a trial's one checkpoint lives. `save` replaces it as a whole or not at all."""

    def load(self) -> bytes | None: ...

    def save(self, content: bytes) -> None: ...


class FileCheckpoint:
    """A checkpoint in a local file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def load(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def save(self, content: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, content)


def encode(state: dict[str, Any]) -> bytes:
    """`state` (tensors and plain values) as bytes: their SHA-256, then torch's own format, which checks nothing."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def decode(
    content: bytes,
    identity: str | None,
    *,
    what: str = "checkpoint",
    hint: str = "Remove it to start the trial anew.",
    instead: str = "Give each trial a checkpoint of its own.",
) -> dict[str, Any]:
    """The state that was encoded for the trial `identity` (of any trial, if None), on the CPU.

    `what` the bytes are, the `remedy` where they are no good and that for another trial's, `instead`, stand in the
    messages.

    Raises:
        CheckpointError: the bytes are damaged, of another format, or of another trial.
    """
    if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
        raise CheckpointError(f"The {what} is damaged (its checksum is wrong). {hint}")
    try:
        loaded: Any = torch.load(io.BytesIO(content[DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise CheckpointError(f"The {what} is damaged ({error}). {hint}") from None
    state: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    if state.get("format") != FORMAT:
        found = state.get("format")
        raise CheckpointError(f"A {what} must have format {FORMAT}, but this one has {found}. {hint}")
    if identity is not None and state.get("identity") != identity:
        raise CheckpointError(
            f"A {what} must belong to its trial {identity}, but this one is of {state.get('identity')}. {instead}"
        )
    restored: dict[str, Any] = state
    return restored


def has_weights_of(model_store: CheckpointStore, run_id: str) -> bool:
    """Whether the weights of this very trial are there."""
    content = model_store.load()
    try:
        return content is not None and bool(decode(content, run_id))
    except CheckpointError:
        return False


class Resumable(Protocol):
    """A trial, as far as it is kept."""

    run_id: str

    def state_dict(self) -> dict[str, Any]: ...


class CheckpointManager:
    """Saves the trial's state when it is due."""

    def __init__(self, trial: Resumable, store: CheckpointStore | None, seconds: float) -> None:
        self._trial, self._store, self._seconds = trial, store, seconds
        self._last = time.monotonic()

    def save_if_due(self) -> None:
        if self._store is not None and time.monotonic() - self._last >= self._seconds:
            self.save()

    def save(self, record: TrialRecord | None = None) -> None:
        if self._store is None:
            return
        state = self._trial.state_dict() if record is None else {"identity": self._trial.run_id}
        self._store.save(encode({**state, "record": record and record.to_json()}))
        self._last = time.monotonic()
