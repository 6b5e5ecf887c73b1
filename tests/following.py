"""Following the command that a message gives as the remedy, in a shell, as a user does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def follow(hint, command):
    """Run the last part of `hint`, which begins with `command`."""
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command} is not installed")
    start = hint.rindex(": " + command) + 2
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", hint[start:]], check=True, env=env, timeout=60)
