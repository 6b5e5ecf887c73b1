import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lagvae_core.errors import CheckpointError, LagvaeError
from lagvae_core.files import write_atomically
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.checkpoint import FileCheckpoint, decode, encode

STATE = {
    "identity": "abc-0",
    "record": None,
    "model": {"weight": torch.arange(300.0).reshape(3, 100), "empty": torch.empty(0)},
    "numbers": [1, 2.5, True, None, "text", float("inf")],
    "streams": {"posterior": torch.Generator().get_state()},
}


class PowerCutError(OSError):
    """A simulated power cut."""


def fail(*_):
    raise PowerCutError


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "trial.pt"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(PowerCutError):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_first_write_leaves_no_file(tmp_path, monkeypatch, call):
    monkeypatch.setattr(os, call, fail)
    store = FileCheckpoint(tmp_path / "trial.pt")
    with pytest.raises(PowerCutError):
        store.save(b"new")
    assert list(tmp_path.iterdir()) == []
    assert store.load() is None


def test_concurrent_writers_never_mix_their_contents(tmp_path):
    """The writers can be on different machines and have the same process ID."""
    path, contents = tmp_path / "trial.pt", [b"a" * 100_000, b"b" * 300_000]

    def write_often(content):
        for _ in range(100):
            write_atomically(path, content)

    with ThreadPoolExecutor() as both:
        writers = [both.submit(write_often, content) for content in contents]
        while not all(writer.done() for writer in writers):
            if path.exists():
                assert path.read_bytes() in contents
        for writer in writers:
            writer.result()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_name_can_have_the_greatest_possible_length(tmp_path):
    path = tmp_path / ("n" * 255)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_content_is_on_the_disk_before_the_file_is_renamed(tmp_path, monkeypatch):
    path = tmp_path / "trial.pt"
    write_atomically(path, b"old")
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(("replace", a.read_bytes(), b)), replace(a, b)))
    write_atomically(path, b"new")
    assert order == ["fsync", ("replace", b"new", path)]


def test_the_temporary_file_of_a_killed_writer_is_not_read(tmp_path):
    store = FileCheckpoint(tmp_path / "trial.pt")
    (tmp_path / ".trial.pt.123.tmp").write_bytes(b"half of it")
    assert store.load() is None
    store.save(b"whole")
    assert store.load() == b"whole"


def test_a_file_checkpoint_creates_its_folder_and_holds_the_last_content(tmp_path):
    store = FileCheckpoint(str(tmp_path / "sweep with 'quotes'" / "runs" / "trial.pt"))
    assert store.load() is None
    store.save(b"one")
    store.save(b"two")
    assert store.load() == b"two"


def test_a_decoded_state_is_equal_bit_for_bit():
    restored = decode(encode(STATE), "abc-0")
    assert restored["numbers"] == STATE["numbers"]
    for name, value in STATE["model"].items():
        assert torch.equal(restored["model"][name], value)
        assert restored["model"][name].dtype == value.dtype
    assert torch.equal(restored["streams"]["posterior"], STATE["streams"]["posterior"])
    assert restored["record"] is None


def test_every_truncation_is_reported_as_damage():
    content = encode(STATE)
    for length in [*range(64), *range(64, len(content), 97), len(content) - 1]:
        with pytest.raises(CheckpointError, match=r"checkpoint is damaged .*Remove it"):
            decode(content[:length], "abc-0")


def test_a_flipped_bit_anywhere_is_reported_as_damage():
    content = encode(STATE)
    weights = content.find(torch.arange(300.0).numpy().tobytes())
    assert weights > 0
    for place in [*range(0, len(content), 53), weights + 401]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(CheckpointError, match="checkpoint is damaged"):
            decode(bytes(damaged), "abc-0")


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"PK\x03\x04", b"not a checkpoint " * 50, pickle.dumps([1, 2])])
def test_every_other_file_is_reported_as_damage(content):
    with pytest.raises(CheckpointError, match="checkpoint is damaged"):
        decode(content, "abc-0")


def test_a_checkpoint_of_a_different_trial_is_refused():
    with pytest.raises(CheckpointError) as caught:
        decode(encode(STATE), "abc-1")
    assert str(caught.value) == (
        "The checkpoint belongs to trial abc-0, not to abc-1. Use a separate checkpoint file for each trial."
    )


def test_a_checkpoint_with_a_different_format_is_refused(monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    content = encode(STATE)
    monkeypatch.undo()
    message = f"format {checkpoints.FORMAT + 1}, but must have format {checkpoints.FORMAT}"
    with pytest.raises(CheckpointError, match=message):
        decode(content, "abc-0")


@pytest.mark.parametrize("state", [{"identity": "abc-0"}, [1, 2], torch.ones(2)], ids=["no format", "list", "tensor"])
def test_a_torch_file_that_is_no_checkpoint_is_refused(state, monkeypatch):
    saved = torch.save
    monkeypatch.setattr(checkpoints.torch, "save", lambda _, buffer: saved(state, buffer))
    content = encode(STATE)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format None, but must have format 1"):
        decode(content, "abc-0")


class CreateFolder:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    target = tmp_path / "made by a checkpoint"
    pickle.loads(pickle.dumps(CreateFolder(str(target))))
    assert target.exists(), "unpickling must create the folder, or this test proves nothing"
    target.rmdir()
    with pytest.raises(CheckpointError, match="checkpoint is damaged"):
        decode(encode({**STATE, "code": CreateFolder(str(target))}), "abc-0")
    assert not target.exists()


def test_a_checkpoint_error_is_a_lagvae_error_and_a_value_error():
    assert issubclass(CheckpointError, LagvaeError)
    assert issubclass(CheckpointError, ValueError)
