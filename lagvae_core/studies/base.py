"""What every study is: plain data that measures a trained model, and says in typed columns and tables what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import FrozenConfig
from lagvae_core.strategies.base import Trait
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Findings", "Study", "Table", "needs_z", "straight_line", "without_z"]

Table = Mapping[str, Sequence[Any]]
"""Columns of one length by name: numbers, texts or lists of numbers."""


@dataclass(frozen=True)
class Findings:
    """`values`: one number for each column of the study, or None; `tables`: rows by the name of the table."""

    values: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


class Study(FrozenConfig, ABC):
    """A measurement of a trained model on request. Its fields are its options, its docstring what it measures.

    A subclass gives `kind` a literal default, `columns` the numbers that it finds, `tables` what each of its tables
    holds, a sentence by name, and `data_kinds` the kinds of data that it means something for.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    tables: ClassVar[Mapping[str, str]] = {}
    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text", "images", "reinflection"})
    kind: Any

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        """What forbids the measurement of a model of this configuration and these data; asked before anything runs."""
        yield from ()

    @abstractmethod
    def measure(self, trained: TrainedModel, progress: Callable[[str, int, int], None]) -> Findings:
        """What it finds; `values` names exactly its `columns`. `progress` hears a phase, and how many of how many."""

    def require(self, config: TrialConfig, dataset: Dataset) -> None:
        """Whether it may measure a model of this configuration and these data.

        Raises:
            ConfigError: it may not; all `mistakes`, and a kind of data that it means nothing for.
        """
        kind, known = config.data.kind, self.data_kinds
        if kind not in known:
            hint = f"It measures models of {' and '.join(sorted(known))}."
            raise ConfigError([ValidationIssue("study", f"must be one for data of kind {kind}", hint, self.kind)])
        if issues := [*self.issues(config, dataset)]:
            raise ConfigError(issues)

    @classmethod
    def name(cls) -> str:
        return str(cls.model_fields["kind"].default)


def needs_z(study: Study, config: TrialConfig) -> Iterator[ValidationIssue]:
    """The mistake of a model without a latent variable, where a study means nothing without one."""
    stack = "+".join(strategy.kind for strategy in config.strategies)
    if without_z(config):
        hint = "Measure a model that has one."
        yield ValidationIssue("study", f"must be one for a model without z, as that of {stack}", hint, study.kind)


def without_z(config: TrialConfig) -> bool:
    """Return whether the model of this configuration has no latent variable."""
    return any(strategy.has(Trait.NO_LATENT_VARIABLE) for strategy in config.strategies)


def straight_line(first_PZ: Tensor, second_PZ: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """a [A] = 0, 1/steps, ..., 1 and (1 - a) first + a second, [P, A, Z], float64: both ends and what lies between."""
    a_A = torch.arange(steps + 1, dtype=torch.float64) / steps
    return a_A, (1 - a_A)[:, None] * first_PZ[:, None] + a_A[:, None] * second_PZ[:, None]
