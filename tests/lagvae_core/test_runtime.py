import pytest
import torch
from helpers import rejects

from lagvae_core.runtime import choose_device


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
