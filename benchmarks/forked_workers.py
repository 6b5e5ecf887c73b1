"""Ray workers that share what they have imported, so that a thousand idle ones fit on one machine.

A worker process of Ray Tune holds some 230 MB of its own, nearly all of it modules. Here one process imports them and
forks; each worker is a fork of it, holds some 25 MB of its own, and is from then on what Ray started: the same
`default_worker.py` with its arguments, environment and files.

`forked_workers(folder)` starts that process, and gives the script that Ray shall run in the place of its
`default_worker.py`; it hands the worker over and ends. For measuring what a driver does, not for training: a process
that uses CUDA or threads must not be forked.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODULES = (
    "torch",
    "pandas",
    "pyarrow.parquet",
    "ray.tune",
    "lagvae_core.training.trial",
    "sweeps.execution.driver",
    "sweeps.execution.worker",
)
ORDER_BYTES = 1 << 20

MCL_CURRENT, MCL_ONFAULT = 1, 4
"""What is there, as soon as it is touched."""

PR_SET_MEMORY_MERGE = 67

QUIET = {
    "RAY_task_events_report_interval_ms": "0",
    "RAY_ray_events_report_interval_ms": "3600000",
    "RAY_metrics_report_interval_ms": "3600000",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_core_worker_internal_heartbeat_ms": "30000",
    "RAY_io_context_event_loop_lag_collection_interval_ms": "0",
    "RAY_io_context_monitor_probe_interval_ms": "0",
    "RAY_grpc_client_channel_backup_poll_interval_ms": "0",
    "RAY_grpc_client_check_connection_status_interval_milliseconds": "30000",
}
"""An idle worker wakes up to report on itself, a fifth of a percent of a core: a thousand would leave no other work a
core of a small machine."""

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from forked_workers import ask
ask({path!r})
"""


@contextmanager
def forked_workers(folder: Path) -> Iterator[Path]:
    """A block in which a process forks workers; gives the script that stands for a worker."""
    path, script = str(folder / "forking"), folder / "worker.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent), path=path))
    # Not of Ray's making: what a worker leaves behind, Ray ends with it.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}  # a heap for each of its twenty threads is 10 MB a worker
    with subprocess.Popen([sys.executable, __file__, path], env=environment) as forking:
        try:
            yield script
        finally:
            forking.terminate()


def ask(path: str) -> None:
    """Be a worker, in another process."""
    order = {"argv": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        socket.send_fds(line, [json.dumps(order).encode() + b"\0"], [0, 1, 2])
        line.recv(1)


def _fork(path: str) -> None:
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)
    ready = False
    while True:
        line, _ = listener.accept()
        content, files, _, _ = socket.recv_fds(line, ORDER_BYTES, 3)
        while not content.endswith(b"\0"):
            content += line.recv(ORDER_BYTES)
        order = json.loads(content[:-1]) | {"turn": f"{path}.turn"}
        if not ready:
            # Ray's library reads its token and its job from the environment when it is loaded.
            os.environ.update(order["environment"] | QUIET)
            _import()
            ready = True
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            line.close()
            _become(order, files)
        for file in files:
            os.close(file)
        line.send(b"1")
        line.close()


def _import() -> None:
    import ctypes
    import gc
    import importlib

    for name in (*MODULES, "ray._private.workers.default_worker"):
        importlib.import_module(name)
    # A trial that has nothing to tell looks five times a second whether it has.
    importlib.import_module("ray.train._internal.session")._RESULT_FETCH_TIMEOUT = 30.0
    gc.collect()
    gc.freeze()  # a collection would write into every object, and so copy it
    # Where memory is short, the kernel must not look for what is shared among a thousand, which takes it forever.
    libc = ctypes.CDLL(None)
    libc.mlockall(MCL_CURRENT | MCL_ONFAULT)
    # What the forks copy they mostly change alike; a kernel that was told to look for it holds it once.
    libc.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)


def _become(order: dict[str, object], files: list[int]) -> None:
    import runpy

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(order["environment"] | QUIET)  # type: ignore[operator]
    from ray._private import worker
    from ray._private.workers import default_worker

    # Forks draw the same random numbers, and name their first object alike: one must be gone before the next is made.
    worker.connect = functools.partial(_in_turn, str(order["turn"]), worker.connect)
    # Where a thousand wait for two cores, a thread that asks for the interpreter every 5 ms costs more than all else.
    sys.setswitchinterval(2.0)
    sys.argv = [default_worker.__file__, *order["argv"]]  # type: ignore[misc]
    try:
        runpy.run_path(default_worker.__file__, run_name="__main__")
    finally:
        os._exit(0)  # to take the interpreter down writes into every object, too


def _in_turn(file: str, connect: Callable[..., None], *given: object, **named: object) -> None:
    with open(file, "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        connect(*given, **named)


if __name__ == "__main__":
    _fork(sys.argv[1])
