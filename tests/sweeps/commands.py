"""Running `lagvae` in the process of a test, which saves the seconds that a new process needs to import torch."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from processes import Ended

from sweeps.cli.app import main

__all__ = ["check_rejected", "files_below", "invoke"]


def invoke(*arguments: str, folder: Path, without: tuple[str, ...] = ("ray",)) -> Ended:
    """Run `lagvae ARGUMENTS` in `folder`, where importing one of the packages `without` is an error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["lagvae", *arguments])
        for package in without:
            patch.setitem(sys.modules, package, None)
        with pytest.raises(SystemExit) as caught:
            main()
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return Ended(code or 0, out.getvalue(), err.getvalue())


def check_rejected(ended: Ended, *fragments: str) -> None:
    """Check that a command rejected its input with one message that contains `fragments`, and printed nothing else."""
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert [line.startswith("lagvae: ") for line in ended.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in ended.stderr
    for fragment in fragments:
        assert fragment in ended.stderr


def files_below(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below `folder` by path; None for a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}
