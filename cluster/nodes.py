"""Waiting until all nodes of a cluster have joined."""

from __future__ import annotations

import time

from cluster.connection import ConnectionFailed, connect

__all__ = ["wait_for_nodes"]

PAUSE_SECONDS = 1.0


def wait_for_nodes(address: str, nodes: int, seconds: float) -> int:
    """Wait until `nodes` living nodes have joined the cluster at `address`, and tell how many have.

    Raises:
        ConnectionFailed: after `seconds` no cluster answers there, or nodes are missing.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _wait_connected(address, nodes, deadline)
        except ConnectionFailed:
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)


def _wait_connected(address: str, nodes: int, deadline: float) -> int:
    with connect(address) as ray:
        while True:
            joined = len([node for node in ray.nodes() if node["Alive"]])
            if joined >= nodes:
                return joined
            if time.monotonic() > deadline:
                hint = "The others' logs say why; --seconds gives them more time."
                raise ConnectionFailed(f"{nodes} nodes must join the cluster at {address}, but {joined} did. {hint}")
            time.sleep(PAUSE_SECONDS)
