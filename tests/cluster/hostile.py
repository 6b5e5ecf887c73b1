"""Values for launch files: a minimal batch script, one with every field, and malicious texts."""

from __future__ import annotations

from typing import Any

__all__ = ["EVERYTHING", "HOSTILE", "SLURM"]

SLURM: dict[str, Any] = {"spec": "quickstart", "results": "/shared/results"}

EVERYTHING: dict[str, Any] = {
    "modules": ["cuda/12.4", "python"],
    "venv": "/shared/my env",
    "overrides": ["training.epochs=3", "name='it''s'"],
    "gpus": 4,
    "gpu_type": "a100",
    "partition": "gpu",
    "account": "p1",
    "qos": "low",
    "constraint": "ib",
    "interface": "ib0",
    "hours": 1.5,
}

HOSTILE = [
    "$(touch PWNED)",
    "`touch PWNED`",
    "'; touch PWNED; '",
    '"; touch PWNED; "',
    "x & touch PWNED",
    "x\ntouch PWNED\n",
    "x\r\n#SBATCH --uid=0",
    "x\x00y",
    "\u202egnp.exe",
    "x\u2028y",
    "{{x}}",
    "@VALUES@ @HEADER@",
    "a: b\n- c",
    "#SBATCH --uid=0",
    "*",
    "!!python/object:os.system",
    "&anchor *anchor",
    "../../etc/passwd",
    "~root/x",
    "-rf",
    "--help",
    "\\",
    "$HOME",
    "%n %(x)s",
    "ä漢字🙂",
    "x" * 300,
    "x" * 5000,
    "",
]
