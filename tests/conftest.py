"""Fixtures and settings for all tests."""

import signal

import pytest
import torch

# A script's background processes ignore interrupts, and their children inherit that. Some tests send interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def quiet_machine(tmp_path_factory):
    """Use one thread, and a cache folder for the session instead of the user's cache."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
