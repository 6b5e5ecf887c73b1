"""How many runs share a GPU: examples computed by hand, and sweeps on a Ray that is started with GPUs."""

from __future__ import annotations

import pytest
import yaml
from helpers import rejects
from processes import lagvae
from worlds import spec_of, sweep

from lagvae_core.runtime import CONTEXT_BYTES
from sweeps.cli.live_display import Display
from sweeps.execution.gpu_sharing import MemoryEstimate, estimate_on_gpu, gpu_share_for
from sweeps.storage.table import ResultsFolder

GIB = 2**30


@pytest.mark.parametrize(
    ("peak", "device", "runs"),
    [
        (8 * GIB, 80 * GIB, 7),
        (30 * GIB, 80 * GIB, 2),
        (40 * GIB, 80 * GIB, 1),
        (90 * GIB, 80 * GIB, 1),
        (GIB // 8, 80 * GIB, 16),
        (0, 2 * CONTEXT_BYTES, 2),
    ],
)
def test_number_of_runs_that_fit_on_a_gpu(peak, device, runs):
    assert MemoryEstimate("vae", peak, device).runs == runs


def test_the_largest_arm_decides():
    large, small = MemoryEstimate("sa_vae", 30 * GIB, 80 * GIB), MemoryEstimate("vae", 2 * GIB, 80 * GIB)
    assert gpu_share_for([small]) == 1 / 16
    assert gpu_share_for([small, large]) == 0.5
    assert gpu_share_for([small, MemoryEstimate("vae", 0, 80 * GIB, "it failed")]) == 1.0


def test_without_a_cuda_device_there_is_no_estimate():
    config = spec_of().trial_config(spec_of().arms[0], spec_of().arms[0].probe(), seed=0)
    estimate = MemoryEstimate("vae", **estimate_on_gpu(config.model_dump(mode="json")))
    assert estimate.error != ""
    assert estimate.runs == 1


def test_gpus_are_auto_or_a_number():
    assert spec_of(resources={"gpus": "auto"}).resources.gpus == "auto"
    assert spec_of(resources={"gpus": 0.25}).resources.gpu_share == 0.25
    for wrong in ("all", -1, float("nan")):
        with rejects("resources.gpus"):
            spec_of(resources={"gpus": wrong})


RAY_WITH_A_GPU = """
import functools
import cluster.connection as connection
start = connection._start
def start_with_gpu(cpus, scratch):
    import ray
    ray.init = functools.partial(ray.init, num_gpus=1)
    start(cpus, scratch)
connection._start = start_with_gpu
"""

FIXED_ESTIMATES = """
import sweeps.execution.gpu_sharing as gpu_sharing
def estimate_on_gpu(config, plugins):
    import ray
    assert len(ray.get_gpu_ids()) == 1
    return {"peak_bytes": 2**30 * (1 + len(config["strategies"])), "device_bytes": 8 * 2**30}
gpu_sharing.estimate_on_gpu = estimate_on_gpu
import sweeps.execution.driver as driver
with_gpu_share = driver._with_gpu_share
def print_share(*arguments):
    spec = with_gpu_share(*arguments)
    print("share", spec.resources.gpus, flush=True)
    return spec
driver._with_gpu_share = print_share
"""


@pytest.mark.slow
def test_a_sweep_shares_its_gpu_by_the_estimates_of_the_arms_with_missing_runs(tmp_path):
    search = {"sampler": "random", "configurations": 1, "seeds": 1, "seed": 0}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(resources={"gpus": "auto"}, search=search)))
    ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=RAY_WITH_A_GPU + FIXED_ESTIMATES)
    assert ended.returncode == 0, ended.stderr
    assert "2 runs share a GPU: beta uses 2.0 of 8.0 GiB" in ended.stderr
    assert "2 runs at a time on" in ended.stderr
    assert "share 0.5" in ended.stdout
    rows = ResultsFolder(str(tmp_path / "results"), "tiny").runs()
    assert [row["status"] for row in rows] == ["finished"] * 2
    arms = sweep()["arms"] | {"free_bits": ["free_bits"]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(resources={"gpus": "auto"}, search=search, arms=arms)))
    ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=RAY_WITH_A_GPU + FIXED_ESTIMATES)
    assert "2 runs share a GPU: free_bits uses 2.0 of 8.0 GiB" in ended.stderr, "beta has no missing run"


@pytest.mark.parametrize(
    ("estimates", "line"),
    [
        ([], "gpus: auto, no GPU found: runs use the CPU"),
        (
            [MemoryEstimate("vae", 60 * GIB, 80 * GIB)],
            "gpus: auto, each run has a GPU to itself: vae uses 60.0 of 80.0 GiB",
        ),
        (
            [MemoryEstimate("vae", 0, 0, "E: x")],
            "gpus: auto, each run has a GPU to itself: the memory of vae is unknown (E: x)",
        ),
    ],
)
def test_the_display_prints_the_estimates(estimates, line, capsys):
    Display().on_memory_estimated(estimates)
    assert capsys.readouterr().err == f"{line}\n"


def test_a_run_that_no_node_holds_is_rejected_before_its_memory_is_estimated(tmp_path):
    """The estimate would wait forever for so many cores."""
    resources = {"gpus": "auto", "cpus": 64}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(resources=resources)))
    many_cores = (
        "import sweeps.execution.driver as driver\ndriver.local_capacity = lambda: driver.NodeCapacity(64, 1.0)\n"
    )
    two_cores = "start_all = connection._start\nconnection._start = lambda cpus, scratch: start_all(2, scratch)\n"
    ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=RAY_WITH_A_GPU + many_cores + two_cores)
    assert ended.returncode == 2, ended.stderr
    assert "resources.cpus: " in ended.stderr
    assert "got 64" in ended.stderr
