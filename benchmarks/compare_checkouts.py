"""Compare two checkouts number by number: every strategy on every kind of data, bit for bit.

    python benchmarks/compare_checkouts.py BEFORE AFTER
    python benchmarks/compare_checkouts.py BEFORE AFTER --python .venv-before/bin/python --python .venv/bin/python

BEFORE and AFTER are folders of checkouts. In each, every strategy of its catalogue is trained for two epochs on small
data of every kind (synthetic, text in batches of constant length, padded text, reinflection, images, vectors), with its
defaults and fixed seeds. A record (configuration, identity, curve, metrics) must be equal in both, except for timings,
memory and messages. Prints one line per difference and a summary; exits with 1 if there is a difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SECTIONS: dict[str, dict[str, Any]] = {
    "synthetic": {
        "data": {
            "kind": "synthetic",
            "examples": 64,
            "heldout": 32,
            "vocabulary": 20,
            "length": 5,
            "hidden": 8,
            "embedding": 8,
        },
        "model": {"latent_dim": 2, "hidden": 8, "embedding": 8, "init_range": 0.3},
    },
    "text": {
        "data": {"kind": "text", "path": "text"},
        "model": {"latent_dim": 2, "hidden": 8, "embedding": 8, "init_range": 0.3},
    },
    "text padded": {
        "data": {"kind": "text", "path": "text", "batching": "padded", "partition": "resplit_random"},
        "model": {"latent_dim": 2, "hidden": 8, "embedding": 8, "init_range": 0.3},
    },
    "reinflection": {
        "data": {"kind": "reinflection", "path": "reinflection", "language": "made", "task": 1},
        "model": {"latent_dim": 2, "hidden": 8, "embedding": 8},
    },
    "images": {
        "data": {"kind": "images", "path": "images.npz"},
        "model": {"latent_dim": 2, "kernels": [3, 3, 3], "maps": 4, "encoder_maps": 4, "encoder_hidden": 8},
    },
    "vectors": {
        "data": {"kind": "vectors", "path": "vectors.npz"},
        "model": {"latent_dim": 2, "layers": 1, "width": 8},
    },
}
SHARED = {"training": {"epochs": 2, "batch_size": 16}, "evaluation": {"iw_samples": 8, "limit": 16}, "seed": 3}

RECORDS = """
import json, sys, torch
torch.set_num_threads(1)
from lagvae_core import TrialConfig, train
from lagvae_core.strategies import CATALOGUE

def essence(record):
    values = record.to_json()
    cost = {name: value for name, value in values["cost"].items() if name.endswith("_steps")}
    curve = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in values["curve"]]
    texts = dict.fromkeys(("stop_reason", "warnings"))
    return {**values, "cost": cost, "curve": curve, **texts}

for name, sections in json.load(open("sections.json")).items():
    for kind in (None, *CATALOGUE):
        label = f"{name}: {kind or 'vae'}"
        try:
            config = TrialConfig.model_validate({**sections, "strategies": [kind] if kind else []})
        except ValueError:
            print(json.dumps([label, "refused"]), flush=True)
            continue
        data = config.data.load()
        print(json.dumps([label, config.config_id(data.fingerprint), essence(train(config, dataset=data))]), flush=True)
"""


def write_data(folder: Path) -> None:
    """Write small files of every kind, the same for both checkouts."""
    draw, words = random.Random(0), [f"w{number}" for number in range(20)]
    (folder / "text").mkdir()
    for split, count in (("train", 96), ("valid", 32), ("test", 32)):
        lines = (f"{draw.randrange(2)}\t{' '.join(draw.choices(words, k=draw.randint(3, 6)))}" for _ in range(count))
        (folder / "text" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "reinflection").mkdir()
    for split, count in (("train", 64), ("dev", 32), ("test", 32)):
        rows = []
        for _ in range(count):
            stem, case = "".join(draw.choices("abcd", k=4)), draw.choice(["GEN", "DAT"])
            rows.append(f"{stem}\tpos=N,case={case}\t{stem}{'s' if case == 'GEN' else 'e'}")
        (folder / "reinflection" / f"made-task1-{split}").write_text("\n".join(rows) + "\n")
    generator = np.random.default_rng(0)
    sizes = (("train", 64), ("valid", 32), ("test", 32))
    arrays = {split: generator.integers(0, 256, (count, 1, 6, 6), dtype=np.uint8) for split, count in sizes}
    np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
    vectors = {split: generator.normal(size=(count, 6)) for split, count in sizes}
    np.savez(folder / "vectors.npz", **vectors)  # type: ignore[arg-type]


def records_of(checkout: Path, python: str, folder: Path) -> dict[str, Any]:
    """Return the records of a checkout, by kind of data and strategy."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "LAGVAE_CACHE": str(folder / "cache")}
    done = subprocess.run([python, "-c", RECORDS], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return {line[0]: line[1:] for line in map(json.loads, done.stdout.decode().splitlines())}


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Return the places at which two JSON values differ. Floats must be equal to the last bit."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted({*before, *after})
        return [line for name in names for line in differences(before.get(name), after.get(name), f"{where}.{name}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for number, (one, other) in pairs for line in differences(one, other, f"{where}[{number}]")]
    return [] if before == after else [f"{where}: {before!r} -> {after!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--python",
        action="append",
        help="interpreter of a checkout, given once for each; by default the running interpreter",
    )
    parser.add_argument("--only", choices=SECTIONS, help="compare only this kind of data")
    chosen = parser.parse_args()
    pythons = chosen.python or [sys.executable] * 2
    sections = {name: values | SHARED for name, values in SECTIONS.items() if chosen.only in (None, name)}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        Path(folder, "sections.json").write_text(json.dumps(sections))
        before = records_of(chosen.before, pythons[0], Path(folder))
        after = records_of(chosen.after, pythons[1], Path(folder))
    unequal = 0
    for label in {**before, **after}:
        lines = differences(before.get(label), after.get(label))
        unequal += bool(lines)
        for line in lines[:5]:
            print(f"{label}{line}")
    trained = sum(len(record) > 1 for record in before.values())
    print(f"{trained} records and {len(before) - trained} refusals compared, {unequal} differ")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
