"""Named, independent random streams, one per consumer. Adding or removing a consumer never changes another's draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["Streams", "derive_seed", "example_noise"]

HOST_STREAMS = frozenset({"data_order", "inner_batches"})
"""Streams on the CPU. The host uses their draws to choose the next batch, and must not wait for the device."""


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed. Equal `parts` give equal seeds on every machine and Python version."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Streams:
    """One `torch.Generator` per consumer, seeded from the trial's seed and the consumer's name.

    The names in use are `data_order`, `posterior`, `dropout`, `corruption`, `inner_batches`, `auxiliary`,
    `variance_dropout`, `svi` and `observation`. Parameters are initialised inside `initialising()`.
    Evaluation draws come from `example_noise` and belong to no stream.

    Args:
        seed: Seed of the trial.
        device: Device of the generators. The generators of `HOST_STREAMS` are always on the CPU.
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
        """Context manager that seeds torch's global generator for the initialisation of parameters.

        The state of the generator is restored at the end of the block.

        Args:
            what: Name of the part that is initialised; empty for the model itself.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialise", *what))
            yield

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of every stream that has been used."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the streams in place, so that references to a generator remain valid.

        A stream that is missing from `state` was unused when the state was saved, so it restarts from its seed.
        """
        for name, generator in self._generators.items():
            generator.manual_seed(derive_seed(self.seed, name))
        for name, value in state.items():
            self[name].set_state(value.cpu())


def example_noise(seed: int, column: str, index: Tensor, samples: int, size: int) -> Tensor:
    """Return standard normal draws that depend on the example, but not on its batch.

    Args:
        seed: Seed of the evaluation.
        column: Purpose of the draws.
        index: int64 [B], the indices of the examples in their split.
        samples: Draws per example.
        size: Dimensions per draw.

    Returns:
        Float tensor [B, samples, size] on the CPU. Row b depends only on `seed`, `column` and `index[b]`, so an
        evaluation does not change with the batch size or with the order of the examples.
    """
    generator = torch.Generator()
    rows = []
    for number in index.tolist():
        generator.manual_seed(derive_seed(seed, column, number))
        rows.append(torch.randn(samples, size, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, samples, size)
