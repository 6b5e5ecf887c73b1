"""Standard streams that are closed, full, or lack a character."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import pytest
import typer

from sweeps.cli import streams
from sweeps.cli.app import main


@pytest.fixture(params=[0, -1], ids=["unbuffered", "buffered"])
def full(request) -> Iterator[io.TextIOWrapper]:
    """A stream on a device that is full."""
    with contextlib.suppress(OSError), open("/dev/full", "wb", request.param) as raw:
        yield io.TextIOWrapper(raw, write_through=request.param == 0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"), [(["--help"], 1, "stdout: "), (["strategies", "nix"], 2, "NAME: ")]
)
def test_a_full_stdout_is_one_sentence(monkeypatch, capsys, full, arguments, code, words):
    monkeypatch.setattr(sys, "stdout", full)
    monkeypatch.setattr(sys, "argv", ["lagvae", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lagvae: {words}")


def test_another_error_of_the_system_is_not_mistaken_for_stdout():
    with pytest.raises(BrokenPipeError), streams.check_stdout():
        raise BrokenPipeError


def test_messages_that_stderr_cannot_take_are_dropped(monkeypatch, full):
    monkeypatch.setattr(sys, "stderr", full)
    streams.prepare_streams()
    print("lost", file=sys.stderr)
    sys.stderr.flush()


def test_characters_that_an_encoding_lacks_are_replaced(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    streams.prepare_streams()
    print("1 ± 2 自")
    sys.stdout.flush()
    assert raw.getvalue() == b"1 ? 2 ?\n"


def test_closed_streams_and_the_versions(tmp_path):
    """The file that a command opens first must not take the place of a closed stream."""
    command = f"'{sys.executable}' -m sweeps --version"
    script = f"{command} >&- 2>&- <&-; echo $?; {command}"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    code, own, others = ended.stdout.splitlines()
    assert (code, own, ended.stderr) == ("0", f"lagvae {version('lagvae')}", "")
    for name, package in (("torch", "torch"), ("Ray", "ray")):
        assert f"{name} {version(package)}" in others


def test_a_failed_command_keeps_its_code(monkeypatch, full):
    monkeypatch.setattr(sys, "stdout", full)
    streams.prepare_streams()

    def fail() -> None:
        with contextlib.suppress(OSError):
            print("text")
        raise typer.Exit(130)

    with pytest.raises(typer.Exit) as ended, streams.check_stdout():
        fail()
    assert ended.value.exit_code == 130
