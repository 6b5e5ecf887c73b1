"""Waiting for nodes, with a script of answers in the place of a cluster; test_slurm.py joins a real one."""

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
    """What the cluster answers, one after the other: how many nodes live and how many are dead, or an error."""
    queue: list[tuple[int, int] | ConnectionFailed] = []

    def living() -> list[dict[str, bool]]:
        alive, dead = queue.pop(0)
        return [{"Alive": True}] * alive + [{"Alive": False}] * dead

    @contextlib.contextmanager
    def connect(address):
        assert address == "head:1"
        if isinstance(queue[0], ConnectionFailed):
            raise queue.pop(0)
        yield SimpleNamespace(nodes=living)

    monkeypatch.setattr(nodes, "connect", connect)
    monkeypatch.setattr(nodes, "PAUSE_SECONDS", 0.0)
    return queue


def test_it_waits_for_the_head_and_then_for_living_nodes(answers):
    answers += [ConnectionFailed("not yet"), ConnectionFailed("not yet"), (1, 0), (1, 3), (2, 1)]
    assert wait_for_nodes("head:1", 2, 60.0) == 2
    assert answers == []


def test_missing_nodes_are_counted(answers):
    answers += [(1, 0)] * 3
    with pytest.raises(ConnectionFailed, match="3 nodes must join the cluster at head:1, but 1 did"):
        wait_for_nodes("head:1", 3, 0.0)


def test_a_head_that_never_answers_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=f"must answer at {address}"):
            wait_for_nodes(address, 1, 0.0)
