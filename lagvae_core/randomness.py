"""Named, independent random streams, so that switching one consumer on or off never shifts another's draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["Streams", "derive_seed", "example_noise"]

HOST_STREAMS = frozenset({"data_order", "inner_batches"})
"""Streams that decide what the host does next, so that drawing from them never waits for the device."""


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from `parts`; equal parts give equal seeds on every machine and Python version."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Streams:
    """One `torch.Generator` for each consumer, derived from the trial's seed by the consumer's name.

    The names in use: `data_order`, `posterior`, `dropout`, `corruption`, `inner_batches`, `auxiliary`,
    `variance_dropout`, `svi`, `observation`. Parameters are initialised under `initialising()`; evaluation draws come
    from `example_noise` and belong to no stream.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)
        self._generators: dict[str, torch.Generator] = {}

    def __getitem__(self, name: str) -> torch.Generator:
        if name not in self._generators:
            generator = torch.Generator("cpu" if name in HOST_STREAMS else self.device)
            generator.manual_seed(derive_seed(self.seed, name))
            self._generators[name] = generator
        return self._generators[name]

    @contextmanager
    def initialising(self, *what: str) -> Iterator[None]:
        """A block in which torch's global generator is seeded for parameter initialisation, and restored after.

        The model's own start has no name; whatever else is initialised is named by `what`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialise", *what))
            yield

    def state_dict(self) -> dict[str, Tensor]:
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore in place, so that whoever holds a stream goes on with it; one not in `state` was not yet used."""
        for name, generator in self._generators.items():
            generator.manual_seed(derive_seed(self.seed, name))
        for name, value in state.items():
            self[name].set_state(value.cpu())


def example_noise(seed: int, column: str, index: Tensor, samples: int, size: int) -> Tensor:
    """Standard normal draws [B, samples, size] (CPU) in which each example owns its row.

    Row b depends only on `seed`, `column` and the example's number `index[b]`, so that an evaluation does not change
    with the batch size or the order of the examples.
    """
    generator = torch.Generator()
    rows = []
    for number in index.tolist():
        generator.manual_seed(derive_seed(seed, column, number))
        rows.append(torch.randn(samples, size, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, samples, size)
