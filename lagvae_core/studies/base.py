"""Base class of studies. A study is plain data; its result consists of typed columns and tables."""

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
from lagvae_core.errors import ValidationIssue
from lagvae_core.settings import FrozenConfig
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Findings", "Study", "StudyProgress", "Table", "needs_z", "straight_line", "without_z"]

Table = Mapping[str, Sequence[Any]]
"""Columns of equal length by name: numbers, texts or lists of numbers."""

StudyProgress = Callable[[str, int, int], None]
"""Called with the name of a phase, the number of items that are done and the total number of items."""


@dataclass(frozen=True)
class Findings:
    """The result of a study.

    Args:
        values: One number or None for each column of the study.
        tables: Tables by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


class Study(FrozenConfig, ABC):
    """A measurement of a trained model on request. Its fields are the options, and its docstring is the documentation.

    A subclass declares `kind` as a `Literal` with a default.

    Attributes:
        columns: Columns of the values that the study measures.
        tables: Description of the rows of each table, by name of the table.
        data_kinds: Kinds of data that the study supports; None for all.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    tables: ClassVar[Mapping[str, str]] = {}
    data_kinds: ClassVar[frozenset[str] | None] = None
    kind: Any

    def unsupported_data(self, config: TrialConfig) -> Iterator[ValidationIssue]:
        """Yield an issue if the study does not support the kind of data. Unlike `issues`, it needs only the config."""
        if self.data_kinds is not None and config.data.family_kind not in self.data_kinds:
            hint = f"Choose a model of {' or '.join(sorted(self.data_kinds))} data."
            yield ValidationIssue(self.name(), f"does not support {config.data.kind} data", hint)

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        """Yield the reasons why a model of this configuration, on supported data, cannot be measured.

        Callers check for issues before they train or measure anything.

        Args:
            config: Configuration of the model.
            dataset: Data of the model, of one of the `data_kinds`.
        """
        yield from ()

    @abstractmethod
    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        """Measure a model for which `issues` yields nothing.

        Args:
            trained: The model.
            progress: Called as the measurement proceeds.

        Returns:
            The findings; the keys of `values` are exactly the names of `columns`.
        """

    @classmethod
    def name(cls) -> str:
        """Return the kind of the study."""
        return str(cls.model_fields["kind"].default)


def needs_z(study: Study, config: TrialConfig) -> Iterator[ValidationIssue]:
    """Yield an issue if the model has no latent variable."""
    if without_z(config):
        stack = "+".join(strategy.kind for strategy in config.strategies)
        message = f"needs a model with a latent variable, but {stack} has none"
        yield ValidationIssue(study.name(), message, "Measure a different model.")


def without_z(config: TrialConfig) -> bool:
    """Return whether the model of this configuration has no latent variable."""
    return any("kl" in strategy.unmeasured for strategy in config.strategies)


def straight_line(first_PZ: Tensor, second_PZ: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Interpolate linearly between P pairs of points.

    Returns:
        a [A] = 0, 1/steps, ..., 1, and (1 - a) first + a second [P, A, Z], both in float64.
    """
    a_A = torch.arange(steps + 1, dtype=torch.float64) / steps
    return a_A, (1 - a_A)[:, None] * first_PZ[:, None] + a_A[:, None] * second_PZ[:, None]
