"""Waiting until all nodes of a cluster have joined."""

from __future__ import annotations

import time

from cluster.connection import ConnectionFailed, connect

__all__ = ["wait_for_nodes"]

PAUSE_SECONDS = 1.0


def wait_for_nodes(address: str, nodes: int, seconds: float) -> int:
    """Wait until at least `nodes` nodes are alive in the cluster at `address`.

    Returns:
        Number of nodes that are alive.

    Raises:
        ConnectionFailed: After `seconds`, no cluster answers at `address`, or nodes are still missing.
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
                hint = "See the logs of the missing nodes, or wait longer with --seconds."
                raise ConnectionFailed(f"Only {joined} of {nodes} nodes have joined the cluster at {address}. {hint}")
            time.sleep(PAUSE_SECONDS)
