"""An invented language: files of the shared task, and a tiny trial on them."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch

from lagvae_core import TrialConfig, TrialRecord, train
from lagvae_core.config.trial import parse_trial
from lagvae_core.data.reinflection.arrays import InflectionDataset
from lagvae_core.training.trial import Trial

STEMS = ["ab", "abi", "bo", "dobi", "ga", "gido", "ödü", "oga", "iba", "gab", "dag", "bid"]
SUFFIXES = {"NOM": "", "GEN": "in", "DAT": "a"}
MODEL = {"latent_dim": 3, "hidden": 8, "embedding": 5, "tag_embedding": 4}
TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}


def rows(stems: list[str]) -> list[str]:
    """Return the lines of task 3 that lead from every form of each stem to every other form of it."""
    forms = [(stem, case, stem + suffix) for stem in stems for case, suffix in SUFFIXES.items()]
    pairs = itertools.permutations(forms, 2)
    number = {True: ",num=SG", False: ""}
    return [
        f"{source}\tpos=N,case={case}{number[len(stem) > 2]}\t{target}"
        for (stem, _, source), (other, case, target) in pairs
        if stem == other
    ]


def write(folder: Path, **files: str | bytes) -> str:
    """Write the files of task 3 for the language `tiny` and return their folder.

    `files` replaces the contents of the files train, dev or test.
    """
    contents: dict[str, str | bytes] = {
        "train": "\n".join(rows(STEMS[:8])) + "\n",
        "dev": "\n".join(rows(STEMS[8:10])) + "\n",
        "test": "\n".join(rows(STEMS[10:])) + "\n",
    }
    for suffix, content in {**contents, **files}.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"tiny-task3-{suffix}").write_bytes(raw)
    return str(folder)


@functools.cache
def dataset() -> InflectionDataset:
    """Return the data of the files that `write` writes; they are loaded once per process."""
    with tempfile.TemporaryDirectory() as folder:
        data = tiny(path=write(Path(folder))).data
        return data.load()  # type: ignore[return-value]


def tiny(*strategies: str | dict[str, Any], path: str = "somewhere", seed: int = 0, **model: Any) -> TrialConfig:
    """Return a configuration that trains in a few tenths of a second; `model` changes fields of the model."""
    return parse_trial(
        {
            "data": {"kind": "reinflection", "path": path, "language": "tiny"},
            "model": {**MODEL, **model},
            "training": TRAINING,
            "evaluation": {"iw_samples": 8},
            "strategies": list(strategies),
            "seed": seed,
        }
    )


def run(config: TrialConfig, **options: Any) -> TrialRecord:
    """Train `config` on `dataset()`; `options` are arguments of `train`."""
    return train(config, dataset=dataset(), **options)


def trial_of(config: TrialConfig) -> Trial:
    """Return the untrained trial of `config` on `dataset()`."""
    return Trial(config, dataset(), torch.device("cpu"))
