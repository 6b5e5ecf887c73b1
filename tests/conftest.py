"""Fixtures and settings for all tests."""

import functools
import signal
from collections.abc import Iterator

import pytest
import torch
import typer.main

# A script's background processes ignore interrupts, those of `nohup` ignore hangups, and their children inherit that.
# Some tests send these signals.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def quiet_machine(tmp_path_factory):
    """Use one thread, and a cache folder for the session instead of the user's cache."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Tests run hundreds of commands in a process. Building the command each time takes half of the time of `plan`.
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Run tests that share fixtures in one process, so that each is set up only once, and machines one after another.

    Such groups start first, and single tests fill the other processes. Tests marked `nodes` mostly wait, so they are
    the first group; those that lose machines have tight time limits and are its last, when the rest has finished.
    """
    items.sort(key=lambda item: (item.get_closest_marker("nodes") is None, item.path.name == "test_lost_machines.py"))
    groups: dict[str, str] = {}
    for item in items:
        shared = shared_fixtures(item)
        merged = {groups.get(fixture, fixture) for fixture in shared}
        groups |= dict.fromkeys(shared, min(merged, default=""))
        groups |= {fixture: min(merged) for fixture, group in groups.items() if group in merged}
    for item in items:
        if group := "nodes" if item.get_closest_marker("nodes") else groups.get(min(shared_fixtures(item), default="")):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    yield  # a wrapper runs before the hook that reads the groups


def shared_fixtures(item: pytest.Item) -> list[str]:
    """Name the fixtures of these tests that a test shares with others, each with the node that it belongs to."""
    owners = {"session": "", "module": item.nodeid.split("::")[0], "class": item.nodeid.rpartition("::")[0]}
    definitions = [definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values()]
    return [
        f"{owners[fixture.scope]}:{fixture.argname}:{fixture.baseid}"
        for fixture in definitions
        if fixture.baseid and fixture.scope in owners and fixture.argname != quiet_machine.__name__
    ]
