"""What holds for every test. This folder becomes importable by this file, for `helpers`."""

import signal

import pytest
import torch

# What is started in the background of a script ignores interrupts, and so would all that it starts; tests send some.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def quiet_machine(tmp_path_factory):
    """One thread, and generated data in a folder of their own instead of the user's cache."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
