"""Training callbacks. They do not affect the result of a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.models.vae import Vae
from lagvae_core.strategies.slots import TrainingComponents
from lagvae_core.training.learner import StepTerms

__all__ = ["StepTerms", "TrainingCallback", "TrainingEvent", "TrainingState", "evaluation_mode"]

TrainingEvent = Literal["start", "step", "update", "epoch"]
"""When a callback is called.

`start`: before the first update. `step`: after any optimiser step. `update`: after an outer update, which is one
optimiser step on the main objective together with the inner encoder steps before it. `epoch`: after the validation of
an epoch, before any decay of the learning rate.
"""


@dataclass(frozen=True)
class TrainingState:
    """The state of a trial that a callback receives at an event.

    `model` is still in training, so it should only be used inside `evaluation_mode`. A trial that resumes from a
    checkpoint repeats the events since that checkpoint (on a CPU, bit for bit) and omits no event.

    Attributes:
        event: The event.
        epoch: Number of the current or just validated epoch, from 1; 0 at the start.
        step: Number of completed outer updates.
        encoder_steps: Number of optimiser steps of the encoder so far.
        decoder_steps: Number of optimiser steps of the decoder so far.
        terms: The loss and the gradients of the last optimiser step; None before the first.
    """

    event: TrainingEvent
    run_id: str
    config: TrialConfig
    dataset: Dataset
    model: Vae
    components: TrainingComponents
    device: torch.device
    epoch: int
    step: int
    encoder_steps: int
    decoder_steps: int
    terms: StepTerms | None


TrainingCallback = Callable[[TrainingState], None]
"""A function that is called at every `TrainingEvent`."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context manager. Puts the model in eval mode without gradients, and restores the mode of every module at the end.

    Evaluation draws its noise from `example_noise`, so the random streams of training do not advance.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
