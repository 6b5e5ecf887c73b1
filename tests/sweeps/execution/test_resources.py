"""How many runs the nodes hold and what each run occupies, for examples counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import rejects

from lagvae_core.runtime import CONTEXT_BYTES, limit_gpu_memory
from sweeps.execution.resources import (
    NodeCapacity,
    check_fits,
    cluster_nodes,
    concurrent_runs,
    exclusive_resources,
    local_capacity,
    shared_resources,
)
from sweeps.spec.sections import ResourceSpec


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "runs"),
    [
        (1, 0, NodeCapacity(4, 0), 4),
        (3, 0, NodeCapacity(8, 0), 2),
        (1, 1, NodeCapacity(16, 4), 4),
        (8, 1, NodeCapacity(16, 4), 2),
        (1, 0.25, NodeCapacity(16, 2), 8),
        (1, 0.1, NodeCapacity(64, 1), 10),
        # Two runs of 0.4 fit on each GPU; a fifth run would lie on two GPUs.
        (1, 0.4, NodeCapacity(16, 2), 4),
        (1, 0.3, NodeCapacity(16, 1), 3),
        (1, 2, NodeCapacity(16, 5), 2),
        (1, 1, NodeCapacity(16, 0), 0),
        (4, 0, NodeCapacity(3, 0), 0),
    ],
)
def test_number_of_runs_that_fit_on_a_node(cpus, gpus, node, runs):
    assert node.fits(ResourceSpec(cpus=cpus, gpus=gpus)) == runs


def test_the_capacity_of_this_machine_is_what_this_process_may_use(monkeypatch):
    monkeypatch.setattr("sweeps.execution.resources.available_cores", lambda: 3)
    assert local_capacity().cpus == 3


def test_a_run_does_not_use_cores_of_two_nodes():
    nodes = [NodeCapacity(0, 0), NodeCapacity(3, 0), NodeCapacity(3, 0)]
    assert concurrent_runs(ResourceSpec(cpus=2), nodes) == 2
    assert concurrent_runs(ResourceSpec(cpus=1), nodes) == 6
    assert concurrent_runs(ResourceSpec(cpus=1, concurrent=4), nodes) == 4
    with rejects("resources.cpus") as issues:
        concurrent_runs(ResourceSpec(cpus=4), nodes)
    assert "3 cores of the largest node" in issues[0].message
    assert (issues[0].value, issues[0].hint) == (4, "Lower resources.cpus.")


def test_a_growing_cluster_without_workers_is_assumed_to_reach_the_limit_of_the_sweep():
    head = [NodeCapacity(0, 0)]
    assert concurrent_runs(ResourceSpec(cpus=2, gpus=1, concurrent=6), head, grows=True) == 6
    with rejects("resources.cpus") as issues:
        concurrent_runs(ResourceSpec(cpus=1), head, grows=True)
    assert "resources.concurrent" in issues[0].hint
    with rejects("resources.cpus"):
        concurrent_runs(ResourceSpec(cpus=1, concurrent=6), head)
    assert exclusive_resources(ResourceSpec(cpus=2), head) == {"CPU": 2}


def test_cores_and_gpus_are_reported_together():
    with rejects("resources.cpus", "resources.gpus") as issues:
        concurrent_runs(ResourceSpec(cpus=9, gpus=2), [NodeCapacity(8, 1)])
    assert [issue.value for issue in issues] == [9, 2]


def test_cores_and_gpus_must_be_on_one_node():
    with rejects("resources") as issues:
        concurrent_runs(ResourceSpec(cpus=8, gpus=1), [NodeCapacity(2, 1), NodeCapacity(8, 0)])
    assert issues[0].value == "8 cores and 1 GPUs"


def test_with_gpus_auto_only_the_cores_are_checked():
    check_fits(ResourceSpec(cpus=2, gpus="auto"), [NodeCapacity(2, 0)])
    with rejects("resources.cpus"):
        check_fits(ResourceSpec(cpus=3, gpus="auto"), [NodeCapacity(2, 0)])
    with rejects("resources.gpus"):
        check_fits(ResourceSpec(cpus=2, gpus=1), [NodeCapacity(2, 0)])


def test_resources_of_shared_and_exclusive_runs():
    nodes = [NodeCapacity(4, 2), NodeCapacity(8, 0)]
    assert shared_resources(ResourceSpec(cpus=2)) == {"CPU": 2}
    assert shared_resources(ResourceSpec(cpus=2, gpus=0.25)) == {"CPU": 2, "GPU": 0.25}
    assert exclusive_resources(ResourceSpec(cpus=2), nodes) == {"CPU": 8}
    assert exclusive_resources(ResourceSpec(cpus=2, gpus=0.25), nodes) == {"CPU": 2, "GPU": 1}
    assert exclusive_resources(ResourceSpec(cpus=2, gpus=2), nodes) == {"CPU": 2, "GPU": 2}


def test_dead_nodes_are_ignored():
    class Ray:
        def nodes(self):
            return [
                {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 1e9}},
                {"Alive": True, "Resources": {"memory": 1e9}},
                {"Alive": False, "Resources": {"CPU": 64.0}},
            ]

    assert cluster_nodes(Ray()) == [NodeCapacity(4, 1.0), NodeCapacity(0, 0.0)]


@pytest.mark.parametrize(
    ("share", "available", "fractions"),
    [
        (0.25, True, [0.2]),
        (1.0, True, [1.0]),
        (0.0625, True, [0.03125]),
        (0, True, []),
        (2, True, []),
        (0.25, False, []),
    ],
)
def test_a_worker_limits_itself_to_its_share_of_a_gpu_including_the_cuda_context(
    monkeypatch, share, available, fractions
):
    limits: list[float] = []
    device = SimpleNamespace(total_memory=20 * CONTEXT_BYTES)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    limit_gpu_memory(share)
    assert limits == pytest.approx(fractions)
