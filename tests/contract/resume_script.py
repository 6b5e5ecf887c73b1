"""Start one tiny trial of every strategy and interrupt it, or resume all of them.

    resume_script.py begin|finish FOLDER

`begin` writes a checkpoint of each strategy to FOLDER, and `finish` writes its record there.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers import InterruptionError, Interruptions, run, tiny

from lagvae_core.strategies import CATALOGUE
from lagvae_core.training.checkpoint import FileCheckpoint

PLACE = ("train", 2, 2)
"""The update that is interrupted: its state is not saved."""


def main(what: str, folder: Path) -> None:
    torch.set_num_threads(1)
    for kind in CATALOGUE:
        store = FileCheckpoint(folder / f"{kind}.pt")
        if what == "finish":
            (folder / f"{kind}.json").write_text(json.dumps(run(tiny(kind), checkpoint=store).to_json()))
            continue
        stop = Interruptions(lambda place: (place.phase, place.epoch, place.done) == PLACE)
        try:
            run(tiny(kind), checkpoint=store, checkpoint_seconds=0.0, progress=stop)
        except InterruptionError:
            continue
        raise AssertionError(f"{kind} never reached {PLACE}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
