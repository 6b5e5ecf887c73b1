"""Train one trial with a checkpoint after every update. The test kills this process.

resume_script.py FOLDER THREADS
"""

import json
import sys
from pathlib import Path

from lagvae_core import train
from lagvae_core.config.trial import parse_trial
from lagvae_core.files import write_atomically
from lagvae_core.training.checkpoint import FileCheckpoint

CONFIG = {
    "data": {
        "kind": "synthetic",
        "examples": 256,
        "heldout": 32,
        "vocabulary": 1000,
        "length": 8,
        "hidden": 16,
        "embedding": 16,
    },
    "model": {"latent_dim": 4, "hidden": 48, "embedding": 32, "init_range": 0.1},
    "training": {"batch_size": 32, "epochs": 4, "optimiser": "adam", "learning_rate": 0.003},
    "strategies": [{"kind": "aggressive", "max_inner": 6, "check": 2, "mi_tol": 0.01}, "kl_linear_epoch"],
    "evaluation": {"iw_samples": 10},
}


def main(folder: Path, threads: int) -> None:
    store = FileCheckpoint(folder / "trial.pt")
    record = train(parse_trial(CONFIG), checkpoint=store, checkpoint_seconds=0.0, threads=threads)
    write_atomically(folder / "record.json", json.dumps(record.to_json()).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
