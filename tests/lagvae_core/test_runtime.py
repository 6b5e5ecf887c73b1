import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import rejects

from lagvae_core.runtime import (
    choose_device,
    default_threads,
    eager_optimiser,
    peak_memory_bytes,
    peak_resident_bytes,
)


def test_auto_is_a_cuda_device_if_there_is_one(monkeypatch):
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto") == torch.device(device)


@pytest.mark.parametrize(
    ("name", "devices"),
    [("cuda", 0), ("cuda:1", 0), ("cuda:99", 2), ("cuda:2", 2), ("cuda:01", 2)]
    + [(name, count) for name in ("mps", "xpu", "meta", "vulkan", "cpu:1", "CUDA", "", "cuda:x") for count in (0, 2)],
)
def test_unavailable_and_unknown_devices_are_rejected(monkeypatch, name, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with rejects("--device") as issues:
        choose_device(name)
    assert issues[0].value == name
    assert issues[0].hint != ""


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_visible_devices_are_chosen_by_name(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(name) == torch.device(name)


def test_default_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for cores, expected in ((64, 8), (8, 8), (2, 2)):
        monkeypatch.setattr("lagvae_core.runtime.available_cores", lambda cores=cores: cores)
        assert default_threads(small=False) == expected
        assert default_threads(small=True) == 1


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_without_proc_the_peak_is_read_in_the_unit_of_the_platform(monkeypatch, platform, unit):
    def missing(path):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("lagvae_core.runtime.Path.read_text", missing)
    monkeypatch.setattr("lagvae_core.runtime.sys.platform", platform)
    monkeypatch.setattr("lagvae_core.runtime.resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=5))
    assert peak_memory_bytes(torch.device("cpu")) == 5 * unit


def test_the_peak_includes_memory_that_is_freed():
    before = peak_resident_bytes()
    block = bytearray(before + 2**24)
    del block
    assert before + 2**24 <= peak_resident_bytes() < 2**40


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_an_eager_optimiser_computes_the_same(optimiser):
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    weights, states = [], []
    for chosen in (optimiser, eager_optimiser(optimiser)):
        weight = torch.ones(3, requires_grad=True)
        used = chosen([weight], lr=0.1)
        for x in inputs:
            (weight * x).square().sum().backward()
            used.step()
            used.zero_grad()
        again = chosen([torch.ones(3, requires_grad=True)], lr=1.0)
        again.load_state_dict(used.state_dict())
        weights.append(weight.detach())
        states.append(again.state_dict())
    assert torch.equal(*weights)
    assert str(states[0]) == str(states[1])


def test_training_does_not_import_the_compiler():
    script = (
        "import sys; from lagvae_core import train; from lagvae_core.testing import tiny_trial; "
        "train(tiny_trial()); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
