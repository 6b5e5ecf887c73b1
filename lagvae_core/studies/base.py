"""What every study is: plain data that measures a trained model, and says in typed columns and tables what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lagvae_core.columns import Column
from lagvae_core.config import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import Mistake
from lagvae_core.settings import Setting
from lagvae_core.trained import Trained

__all__ = ["Findings", "Study", "Table"]

Table = Mapping[str, Sequence[Any]]
"""Columns of one length by name: numbers, texts or lists of numbers."""


@dataclass(frozen=True)
class Findings:
    """`values`: one number for each column of the study, or None; `tables`: rows by the name of the table."""

    values: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


class Study(Setting, ABC):
    """A measurement of a trained model on request. Its fields are its options, its docstring what it measures.

    A subclass gives `kind` a literal default, `columns` the numbers that it finds, `tables` what each of its tables
    holds, a sentence by name, and `data_kinds` the kinds of data that it means something for.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    tables: ClassVar[Mapping[str, str]] = {}
    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text", "images", "reinflection"})
    kind: Any

    def mistakes(self, config: TrialConfig, dataset: Dataset) -> Iterator[Mistake]:
        """What forbids the measurement of a model of this configuration and these data; asked before anything runs."""
        yield from ()

    @abstractmethod
    def measure(self, trained: Trained, progress: Callable[[str, int, int], None]) -> Findings:
        """What it finds; `values` names exactly its `columns`. `progress` hears a phase, and how many of how many."""

    @classmethod
    def name(cls) -> str:
        return str(cls.model_fields["kind"].default)
