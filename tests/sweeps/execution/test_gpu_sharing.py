"""How many runs share a GPU: by hand, and in a sweep on a Ray that believes it has GPUs."""

from __future__ import annotations

import pytest
import yaml
from processes import lagvae
from worlds import spec_of, sweep

from lagvae_core.errors import ConfigError
from lagvae_core.runtime import CONTEXT_BYTES
from sweeps.cli.live_display import Display
from sweeps.execution.gpu_sharing import MemoryEstimate, gpu_share_for, rehearsal
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
def test_runs_that_a_device_holds(peak, device, runs):
    assert MemoryEstimate("vae", peak, device).runs == runs


def test_the_most_demanding_arm_decides():
    few, many = MemoryEstimate("sa_vae", 30 * GIB, 80 * GIB), MemoryEstimate("vae", 2 * GIB, 80 * GIB)
    assert gpu_share_for([many]) == 1 / 16
    assert gpu_share_for([many, few]) == 0.5
    assert gpu_share_for([many, MemoryEstimate("vae", 0, 80 * GIB, "it failed")]) == 1.0


def test_without_a_device_that_pytorch_sees_nothing_is_known():
    config = spec_of().trial_config(spec_of().arms[0], spec_of().arms[0].probe(), seed=0)
    answer = MemoryEstimate("vae", **rehearsal({"config": config.model_dump(mode="json")}))
    assert answer.error == "PyTorch sees no CUDA device there"
    assert answer.runs == 1


def test_a_spec_says_auto_or_a_number():
    assert spec_of(resources={"gpus": "auto"}).resources.gpus == "auto"
    assert spec_of(resources={"gpus": 0.25}).resources.gpu_share == 0.25
    for wrong in ("all", -1, float("nan")):
        with pytest.raises(ConfigError, match=r"resources\.gpus must"):
            spec_of(resources={"gpus": wrong})


WITH_A_GPU = """
import functools
import cluster.connection as connection
start = connection._start
def with_gpus(address, cpus):
    import ray
    ray.init = functools.partial(ray.init, num_gpus=1)
    return start(address, cpus)
connection._start = with_gpus
"""

REHEARSED = """
import sweeps.execution.gpu_sharing as calibration
def rehearsal(setting):
    import ray
    assert len(ray.get_gpu_ids()) == 1
    return {"peak_bytes": 2**30 * (1 + len(setting["config"]["strategies"])), "device_bytes": 8 * 2**30}
calibration.rehearsal = rehearsal
import sweeps.execution.driver as driver
calibrated = driver._calibrated
def told(*given):
    spec = calibrated(*given)
    print("share", spec.resources.gpus, flush=True)
    return spec
driver._calibrated = told
"""


def test_a_sweep_packs_its_runs_by_what_was_rehearsed(tmp_path):
    search = {"sampler": "random", "configurations": 1, "seeds": 1, "seed": 0}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(resources={"gpus": "auto"}, search=search)))
    ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=WITH_A_GPU + REHEARSED)
    assert ended.returncode == 0, ended.stderr
    assert "gpus: auto, 2 runs share a GPU: beta takes 2.0 of 8.0 GiB" in ended.stderr
    assert "2 runs at a time on" in ended.stderr
    assert "share 0.5" in ended.stdout
    rows = ResultsFolder(str(tmp_path / "results"), "tiny").runs()
    assert [row["status"] for row in rows] == ["finished"] * 2
    arms = sweep()["arms"] | {"free_bits": ["free_bits"]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(resources={"gpus": "auto"}, search=search, arms=arms)))
    ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=WITH_A_GPU + REHEARSED)
    assert "2 runs share a GPU: free_bits takes 2.0 of 8.0 GiB" in ended.stderr, "beta has nothing left to run"


@pytest.mark.parametrize(
    ("demands", "said"),
    [
        ([], "gpus: auto, no GPU found: runs use the CPU"),
        (
            [MemoryEstimate("vae", 60 * GIB, 80 * GIB)],
            "gpus: auto, each run has a GPU to itself: vae takes 60.0 of 80.0 GiB",
        ),
        (
            [MemoryEstimate("vae", 0, 0, "E: x")],
            "gpus: auto, each run has a GPU to itself: the memory of vae is unknown (E: x)",
        ),
    ],
)
def test_what_is_said_of_it(estimates, said, capsys):
    Display().on_memory_estimated(estimates)
    assert capsys.readouterr().err == f"{said}\n"


def test_what_no_node_holds_is_refused_and_not_waited_for(tmp_path):
    """The rehearsal would wait for ever for so many cores."""
    resources = {"gpus": "auto", "cpus": 64}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(resources=resources)))
    believes = "import sweeps.execution.driver as driver\ndriver.this_machine = lambda: driver.Node(64, 1.0)\n"
    two_cores = "start_more = connection._start\nconnection._start = lambda address, cpus: start_more(address, 2)\n"
    ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=WITH_A_GPU + believes + two_cores)
    assert ended.returncode == 2, ended.stderr
    assert "resources.cpus must be at most the 2 cores there are, but is 64." in ended.stderr
