"""The processes of an embedded Ray, with stand-ins that are started as Ray starts its daemons."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cluster.processes import RayProcesses

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere Ray's reaper does this")


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], preexec_fn=lambda: None)


def test_daemons_do_not_receive_signals_to_the_group_of_the_driver_and_are_removed():
    with RayProcesses():
        daemon = start()
        assert os.getpgid(daemon.pid) == daemon.pid
    assert daemon.wait(10) == -signal.SIGKILL


def test_other_processes_are_left_alone():
    before = start()
    with RayProcesses():
        pass
    after = start()
    try:
        assert os.getpgid(after.pid) == os.getpgrp()
        assert before.poll() is None
    finally:
        for process in (before, after):
            process.kill()
            process.wait()
