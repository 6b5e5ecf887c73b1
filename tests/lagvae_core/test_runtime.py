import pytest
import torch
from helpers import rejects

from lagvae_core.runtime import choose_device


def test_auto_is_a_cuda_device_if_there_is_one(monkeypatch):
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto") == torch.device(device)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "tpu5"])
def test_unavailable_and_unknown_devices_are_rejected(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with rejects("device") as issues:
        choose_device(name)
    assert issues[0].value == name
    assert issues[0].hint != ""
