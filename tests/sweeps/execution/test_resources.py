"""How many runs the nodes hold, and what each run is given, in numbers counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lagvae_core.errors import ConfigError
from lagvae_core.runtime import CONTEXT_BYTES, limit_gpu_memory
from sweeps.execution.resources import NodeCapacity, alone, capacity, nodes_of, share
from sweeps.spec.sweep import ResourceSpec


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "runs"),
    [
        (1, 0, NodeCapacity(4, 0), 4),
        (3, 0, NodeCapacity(8, 0), 2),
        (1, 1, NodeCapacity(16, 4), 4),
        (8, 1, NodeCapacity(16, 4), 2),
        (1, 0.25, NodeCapacity(16, 2), 8),
        (1, 0.1, NodeCapacity(64, 1), 10),
        # Two of 0.4 fit on each GPU; the fifth would lie on two.
        (1, 0.4, NodeCapacity(16, 2), 4),
        (1, 0.3, NodeCapacity(16, 1), 3),
        (1, 2, NodeCapacity(16, 5), 2),
        (1, 1, NodeCapacity(16, 0), 0),
        (4, 0, NodeCapacity(3, 0), 0),
    ],
)
def test_what_a_node_holds(cpus, gpus, node, runs):
    assert node.fits(ResourceSpec(cpus=cpus, gpus=gpus)) == runs


def test_cores_of_two_nodes_do_not_make_one_run():
    nodes = [NodeCapacity(0, 0), NodeCapacity(3, 0), NodeCapacity(3, 0)]
    assert capacity(ResourceSpec(cpus=2), nodes) == 2
    assert capacity(ResourceSpec(cpus=1), nodes) == 6
    assert capacity(ResourceSpec(cpus=1, concurrent=4), nodes) == 4
    with pytest.raises(
        ConfigError, match=r"resources\.cpus must be at most the 3 cores the largest node has, but is 4"
    ):
        capacity(ResourceSpec(cpus=4), nodes)


def test_a_cluster_without_workers_may_grow_to_what_the_sweep_says():
    head = [NodeCapacity(0, 0)]
    assert capacity(ResourceSpec(cpus=2, gpus=1, concurrent=6), head, grows=True) == 6
    with pytest.raises(ConfigError, match=r"or set resources\.concurrent to the runs that the cluster can grow to"):
        capacity(ResourceSpec(cpus=1), head, grows=True)
    with pytest.raises(ConfigError):
        capacity(ResourceSpec(cpus=1, concurrent=6), head)
    assert alone(ResourceSpec(cpus=2), head) == {"CPU": 2}


def test_all_that_is_too_much_is_told():
    with pytest.raises(ConfigError) as caught:
        capacity(ResourceSpec(cpus=9, gpus=2), [NodeCapacity(8, 1)])
    assert [issue.where for issue in caught.value.issues] == ["resources.cpus", "resources.gpus"]
    assert "there are" in str(caught.value)


def test_cores_and_gpus_that_lie_apart():
    with pytest.raises(
        ConfigError, match="resources must be on one node, and none has both, but is '8 cores and 1 GPUs'"
    ):
        capacity(ResourceSpec(cpus=8, gpus=1), [NodeCapacity(2, 1), NodeCapacity(8, 0)])


def test_alone_fits_on_one_node():
    nodes = [NodeCapacity(4, 2), NodeCapacity(8, 0)]
    assert share(ResourceSpec(cpus=2)) == {"CPU": 2}
    assert share(ResourceSpec(cpus=2, gpus=0.25)) == {"CPU": 2, "GPU": 0.25}
    assert alone(ResourceSpec(cpus=2), nodes) == {"CPU": 8}
    assert alone(ResourceSpec(cpus=2, gpus=0.25), nodes) == {"CPU": 2, "GPU": 1}
    assert alone(ResourceSpec(cpus=2, gpus=2), nodes) == {"CPU": 2, "GPU": 2}


def test_dead_nodes_hold_nothing():
    class Ray:
        def nodes(self):
            return [
                {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 1e9}},
                {"Alive": True, "Resources": {"memory": 1e9}},
                {"Alive": False, "Resources": {"CPU": 64.0}},
            ]

    assert nodes_of(Ray()) == [NodeCapacity(4, 1.0), NodeCapacity(0, 0.0)]


@pytest.mark.parametrize(
    ("share", "there", "told"),
    [
        (0.25, True, [0.2]),
        (1.0, True, [1.0]),
        (0.0625, True, [0.03125]),
        (0, True, []),
        (2, True, []),
        (0.25, False, []),
    ],
)
def test_a_worker_keeps_to_its_share_of_a_gpu_with_what_cuda_takes_counted_in(monkeypatch, share, there, told):
    heard: list[float] = []
    device = SimpleNamespace(total_memory=20 * CONTEXT_BYTES)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", heard.append)
    limit_gpu_memory(share)
    assert heard == pytest.approx(told)
