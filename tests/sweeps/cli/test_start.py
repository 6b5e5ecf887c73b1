"""Verbs that need no strategy, model or table start without torch and Ray."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import contextlib, io, json, sys
sys.modules |= {"torch": None, "ray": None}
from sweeps.cli.app import main
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lagvae", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            codes.append(ended.code)
print(codes)
"""
"""Runs verbs in one process in which importing torch or Ray is an error, and prints their exit codes."""

NOWHERE = ["--address", "http://127.0.0.1:1"]


def test_verbs_of_clusters_and_help_do_not_import_torch(tmp_path):
    without_error = [["--version"], ["--help"], ["run", "--help"], ["results", "--help"]]
    without_error += [["cluster", "render", target, "--fields"] for target in ("kuberay", "slurm", "ray-up")]
    without_cluster = [[verb, "mine", *NOWHERE] for verb in ("status", "logs", "stop")]
    without_cluster += [["list", *NOWHERE], ["cluster", "check", *NOWHERE, "--results", "/shared", "--data", "/data"]]
    command = [sys.executable, "-c", SCRIPT, json.dumps(without_error + without_cluster)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(ended.stdout) == [0] * len(without_error) + [2] * len(without_cluster), ended.stderr
