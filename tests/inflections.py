"""Words of an invented language: files of the shared task, a tiny trial of them."""

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
    """Every form of every stem to every other, as lines of task 3."""
    forms = [(stem, case, stem + suffix) for stem in stems for case, suffix in SUFFIXES.items()]
    pairs = itertools.permutations(forms, 2)
    number = {True: ",num=SG", False: ""}
    return [
        f"{source}\tpos=N,case={case}{number[len(stem) > 2]}\t{target}"
        for (stem, _, source), (other, case, target) in pairs
        if stem == other
    ]


def write(folder: Path, **files: str | bytes) -> str:
    """The files of task 3 of the language `tiny`, those named (train, dev, test) with other contents."""
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
    with tempfile.TemporaryDirectory() as folder:
        data = tiny(path=write(Path(folder))).data
        return data.load()  # type: ignore[return-value]


def tiny(*strategies: str | dict[str, Any], path: str = "somewhere", seed: int = 0, **model: Any) -> TrialConfig:
    """A configuration that trains in a few tenths of a second; `model` changes the model's fields."""
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
    return train(config, dataset=dataset(), **options)


def trial_of(config: TrialConfig) -> Trial:
    return Trial(config, dataset(), torch.device("cpu"))
