"""Ray workers that share imported modules, so that a thousand idle workers fit on one machine.

A worker process of Ray Tune holds some 230 MB, nearly all of it modules. Here one process imports the modules and
forks. Each worker is such a fork and holds some 25 MB. After the fork it runs what Ray would have run: the same
`default_worker.py` with its arguments, environment and files.

`forked_workers(folder)` starts the forking process and returns the script that Ray must run in place of its
`default_worker.py`; the script requests a worker and ends. Use it to measure what a driver costs, not for training:
a process that uses CUDA or threads must not be forked.
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
REQUEST_BYTES = 1 << 20

MCL_CURRENT, MCL_ONFAULT = 1, 4
"""Flags of mlockall: lock the pages that are mapped now, each when it is first accessed."""

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
"""Environment that stops idle workers from reporting on themselves. Each report costs 0.2 % of a core, so a thousand
workers would occupy the cores of a small machine."""

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from forked_workers import request_worker
request_worker({path!r})
"""


@contextmanager
def forked_workers(folder: Path) -> Iterator[Path]:
    """Context manager in which a process forks workers; yields the script that Ray runs for a worker."""
    path, script = str(folder / "forking"), folder / "worker.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent), path=path))
    # The process is not started by a worker, because Ray ends the processes that a worker leaves behind.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}  # one heap for each of 20 threads takes 10 MB per worker
    # Ray kills the process group of a worker that ends, so neither the process nor a worker may share the caller's.
    with subprocess.Popen([sys.executable, __file__, path], env=environment, process_group=0) as forking:
        try:
            yield script
        finally:
            forking.terminate()


def request_worker(path: str) -> None:
    """Request a worker with the arguments, environment and files of this process."""
    request = {"argv": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        socket.send_fds(line, [json.dumps(request).encode() + b"\0"], [0, 1, 2])
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
        content, files, _, _ = socket.recv_fds(line, REQUEST_BYTES, 3)
        while not content.endswith(b"\0"):
            content += line.recv(REQUEST_BYTES)
        request = json.loads(content[:-1]) | {"turn": f"{path}.turn"}
        if not ready:
            # Ray's library reads token and job from the environment when it is loaded.
            os.environ.update(request["environment"] | QUIET)
            _import()
            ready = True
        if os.fork() == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            line.close()
            _become(request, files)
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
    # Otherwise a trial without results polls for them five times a second.
    importlib.import_module("ray.train._internal.session")._RESULT_FETCH_TIMEOUT = 30.0
    gc.collect()
    gc.freeze()  # a collection would write to every object and thereby copy its page
    # If memory is short, the kernel must not search for pages shared among a thousand processes; it takes too long.
    libc = ctypes.CDLL(None)
    libc.mlockall(MCL_CURRENT | MCL_ONFAULT)
    # Most copied pages are changed equally in all forks; with this flag the kernel merges equal pages.
    libc.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)


def _become(request: dict[str, object], files: list[int]) -> None:
    import runpy

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environment"] | QUIET)  # type: ignore[operator]
    from ray._private import worker
    from ray._private.workers import default_worker

    # Forks draw equal random numbers and give their first object the same name, so they connect one after the other.
    worker.connect = functools.partial(_in_turn, str(request["turn"]), worker.connect)
    # If a thousand processes share two cores, switching threads every 5 ms costs more than everything else.
    sys.setswitchinterval(2.0)
    sys.argv = [default_worker.__file__, *request["argv"]]  # type: ignore[misc]
    try:
        runpy.run_path(default_worker.__file__, run_name="__main__")
    finally:
        os._exit(0)  # shutting down the interpreter would also write to every object


def _in_turn(file: str, connect: Callable[..., None], *args: object, **kwargs: object) -> None:
    with open(file, "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        connect(*args, **kwargs)


if __name__ == "__main__":
    _fork(sys.argv[1])
