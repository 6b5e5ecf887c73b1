"""Waiting for nodes, with scripted answers instead of a cluster. test_slurm.py uses a real one."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace

import pytest

from cluster import nodes
from cluster.connection import ConnectionFailed
from cluster.nodes import wait_for_nodes


@pytest.fixture
def answers(monkeypatch):
    """Replace the cluster by a queue of answers: numbers of alive and dead nodes, or an error."""
    queue: list[tuple[int, int] | ConnectionFailed] = []

    def list_nodes() -> list[dict[str, bool]]:
        alive, dead = queue.pop(0)
        return [{"Alive": True}] * alive + [{"Alive": False}] * dead

    @contextlib.contextmanager
    def connect(address):
        assert address == "head:1"
        if isinstance(queue[0], ConnectionFailed):
            raise queue.pop(0)
        yield SimpleNamespace(nodes=list_nodes)

    monkeypatch.setattr(nodes, "connect", connect)
    monkeypatch.setattr(nodes, "PAUSE_SECONDS", 0.0)
    return queue


def test_waits_for_the_head_and_then_for_nodes_that_are_alive(answers):
    answers += [ConnectionFailed("not yet"), ConnectionFailed("not yet"), (1, 0), (1, 3), (2, 1)]
    assert wait_for_nodes("head:1", 2, 60.0) == 2
    assert answers == []


def test_the_error_counts_missing_nodes(answers):
    answers += [(1, 0)] * 3
    with pytest.raises(ConnectionFailed, match=r"1 of 3 .*head:1"):
        wait_for_nodes("head:1", 3, 0.0)


def test_the_error_names_a_head_that_does_not_answer():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=address):
            wait_for_nodes(address, 1, 0.0)
