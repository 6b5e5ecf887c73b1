"""Looking on while a trial trains, without leaving a trace in it."""

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

__all__ = ["TrainingCallback", "TrainingEvent", "TrainingState", "evaluation_mode"]

TrainingEvent = Literal["start", "step", "update", "epoch"]
"""`start`: before the first update. `step`: an optimiser stepped, perhaps one of many times in an outer update.
`update`: an outer update ended. `epoch`: an epoch was validated; its learning rate has not decayed yet."""


@dataclass(frozen=True)
class TrainingState:
    """What a watcher sees of a trial at a moment. The model is the one in training: look at it `undisturbed`.

    `epoch` is the one in progress or just ended, from 1, and 0 at the start; `step` counts the outer updates that have
    ended. A trial that goes on from a checkpoint passes the moments after it again, each bit for bit the same on a CPU,
    and leaves none out.
    """

    moment: TrainingEvent
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


TrainingCallback = Callable[[TrainingState], None]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A block with the model in eval mode and without gradients, after which each part is in the mode that it was in.

    Evaluation draws its noise from `example_noise`, so that no stream of the training moves.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
