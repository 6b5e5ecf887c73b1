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


SHARED_SCOPES = ("session", "module", "class")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that share a fixture in one process, so that it is set up only once, and machines one after another.

    Tests marked `nodes` mostly wait, so their process starts first. Those that lose machines have tight time limits;
    they come last in it, when the other processes have finished.
    """
    items.sort(key=lambda item: (item.get_closest_marker("nodes") is None, item.path.name == "test_lost_machines.py"))
    for item in items:
        if group := "nodes" if item.get_closest_marker("nodes") else shared_fixture(item):
            item.add_marker(pytest.mark.xdist_group(group))


def shared_fixture(item: pytest.Item) -> str | None:
    """Name the fixture with the widest scope that a test shares with others; None if it shares none of ours."""
    ours = [
        definitions[-1]
        for name, definitions in item._fixtureinfo.name2fixturedefs.items()
        if definitions[-1].baseid and name != quiet_machine.__name__
    ]
    shared = [(SHARED_SCOPES.index(f.scope), f.argname, f.baseid) for f in ours if f.scope in SHARED_SCOPES]
    if not shared:
        return None
    scope, name, baseid = min(shared)
    owner = {"session": "", "module": item.nodeid.split("::")[0], "class": item.nodeid.rpartition("::")[0]}
    return f"{owner[SHARED_SCOPES[scope]]}:{name}:{baseid}"
