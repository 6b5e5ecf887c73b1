"""The objects of one trial and their state in a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lagvae_core.config.trial import TrialConfig, data_warnings
from lagvae_core.data import Batch, Dataset, DataSource
from lagvae_core.errors import DataError
from lagvae_core.randomness import Streams
from lagvae_core.runtime import peak_memory_bytes
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.building import build_components, build_decoder, build_model
from lagvae_core.training.divergence import DivergenceRule
from lagvae_core.training.learner import Learner
from lagvae_core.training.learning_rate import DecayRule
from lagvae_core.training.measurement import Validation
from lagvae_core.training.record import EpochRecord, TrialRecord
from lagvae_core.training.selection import BestWeights
from lagvae_core.training.stopwatch import Stopwatch

__all__ = ["TrialState"]


class TrialState:
    """The objects of one trial and its position in the training.

    A trial has one or two stages: pretraining, if a strategy requires it, and then the trial proper. Each stage starts
    with new optimisers and the initial learning rate, and restarts learning-rate decay, divergence checks and the
    selection of the best weights.

    Attributes:
        components: Training components of the trial proper; `learner.components` are those of the current stage.
        epoch: Number of the current epoch, from 0, counted over both stages.
        position: Number of training batches of the current epoch that are done.
        step: Number of outer updates so far (optimiser steps on the main objective, as opposed to inner encoder steps).
        first_step: Number of outer updates before the current stage; schedules count from the start of the stage.
        skipped: Number of batches of the current epoch that were too small for the components.
        order: Indices of `train_batches` in the order of the current epoch.
        history: One tensor [loss, rec, kl, batch size] for each outer update of the current epoch.
        curve: One record for each epoch that has ended.
        stop_reason: Why training has reached the end of its schedule; "" until then.
    """

    first_step: int
    decay: DecayRule
    divergence: DivergenceRule
    best: BestWeights

    def __init__(self, config: TrialConfig, dataset: Dataset, device: torch.device) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.run_id = config.run_id(dataset.fingerprint)
        self.streams = Streams(config.seed, device)
        issues = [*config.model.domain_issues(dataset.domain)]
        if issues:
            raise DataError(issues)
        train_batches = self.partition(0)
        self.validation = Validation(config, dataset, device)
        self.components = build_components(config, dataset.domain, train_batches, self.streams)
        self.model = build_model(config, dataset.domain, self.components, self.streams).to(device)
        self.learner = Learner(self.model, self.components, config.training, self.streams, train_batches)
        self.epoch = self.position = self.step = self.skipped = 0
        self.order: list[int] = []
        self.history: list[Tensor] = []
        self.curve: list[EpochRecord] = []
        self.stopwatch = Stopwatch()
        self.stop_reason = ""
        self._untrained_progress = copy.deepcopy(self.model.posterior.progress())
        self.begin_stage()

    @property
    def train_batches(self) -> Sequence[Batch]:
        """The training batches of the current epoch, in stored order."""
        return self.learner.batches

    def partition(self, epoch: int) -> list[Batch]:
        """Return the training batches of `epoch` (from 0). They depend only on the configuration, data and seed."""
        source: DataSource = self.config.data
        batches = source.train_batches(self.dataset.train, self.config.training.batch_size, self.config.seed, epoch)
        return [batch.to(self.device) for batch in batches]

    def begin_stage(self) -> None:
        """Begin a stage at the current epoch, with new optimisers and criteria. The weights do not change."""
        training = self.config.training
        self.first_step = self.step
        self.learner.components = self.components.pretraining.in_force(self.components, self.epoch)
        self.learner.learning_rate = training.learning_rate
        self.learner.reset_optimisers()
        self.decay = DecayRule(
            patience=training.decay_patience,
            min_epoch=training.decay_min_epoch,
            max_decays=training.max_decays,
            against=training.decay_reference,
        )
        self.divergence = DivergenceRule(training.kl_explode, self.dataset.domain.loss_floor)
        self.best = BestWeights()

    def end_pretraining(self) -> None:
        """Begin the trial proper with a newly initialised decoder and with the posterior's schedules reset."""
        with self.streams.initialising("second decoder"):
            decoder = build_decoder(self.config, self.dataset.domain, self.components, self.streams)
            self.components.initialise(decoder, "decoder")
        self.model.decoder.load_state_dict(decoder.state_dict())
        self.model.posterior.load_progress(self._untrained_progress)
        self.begin_stage()

    def best_weights(self) -> bytes:
        """Return the best weights and the configuration as bytes that `TrainedModel` can load."""
        config = self.config.model_dump_json()
        return checkpoints.encode({"identity": self.run_id, "config": config, "model": self.best.weights})

    def record(self, status: str, reason: str, metrics: dict[str, Any] | None = None) -> TrialRecord:
        """Return the record of this trial in its current state."""
        metrics = metrics or {}
        trained = self.epoch - self.components.pretraining.epochs if status == "finished" else None
        warnings = (
            *data_warnings(self.dataset.report),
            *self.config.warnings(len(self.train_batches), trained),
            *self.config.result_warnings(metrics),
        )
        return TrialRecord(
            config=self.config,
            run_id=self.run_id,
            config_id=self.config.config_id(self.dataset.fingerprint),
            data_fingerprint=self.dataset.fingerprint,
            status=status,
            stop_reason=reason,
            metrics=metrics,
            curve=self.curve,
            cost={
                "seconds": sum(self.stopwatch.seconds.values()),
                **{f"seconds_{phase}": value for phase, value in self.stopwatch.seconds.items()},
                "cpu_seconds_train": self.stopwatch.cpu_seconds,
                "encoder_steps": self.learner.encoder_steps,
                "decoder_steps": self.learner.decoder_steps,
                "peak_memory_bytes": peak_memory_bytes(self.device),
            },
            data=self.dataset.report,
            warnings=tuple(map(str, warnings)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state to store in a checkpoint: everything that affects the rest of the trial or its record."""
        return {
            "identity": self.run_id,
            "model": self.model.state_dict(),
            "posterior_progress": self.model.posterior.progress(),
            "learner": self.learner.state_dict(),
            "streams": self.streams.state_dict(),
            "parts": {name: component.state_dict() for name, component in self.components.stateful()},
            "decay": self.decay.state_dict(),
            "divergence": self.divergence.state_dict(),
            "place": [self.epoch, self.position, self.step, self.first_step, self.skipped],
            "order": self.order,
            "history": torch.stack(self.history) if self.history else None,
            "curve": [record.values for record in self.curve],
            "best": self.best.state_dict(),
            "seconds": self.stopwatch.seconds,
            "cpu_seconds": self.stopwatch.cpu_seconds,
            "stop_reason": self.stop_reason,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.model.posterior.load_progress(state["posterior_progress"])
        self.learner.load_state_dict(state["learner"])
        self.streams.load_state_dict(state["streams"])
        for name, component in self.components.stateful():
            component.load_state_dict(state["parts"][name])
        self.decay.load_state_dict(state["decay"])
        self.divergence.load_state_dict(state["divergence"])
        self.epoch, self.position, self.step, self.first_step, self.skipped = state["place"]
        self.learner.components = self.components.pretraining.in_force(self.components, self.epoch)
        self.order = state["order"]
        self.history = [] if state["history"] is None else list(state["history"].to(self.device))
        self.curve = [EpochRecord(values) for values in state["curve"]]
        self.best.load_state_dict(state["best"])
        self.stopwatch.seconds = state["seconds"]
        self.stopwatch.cpu_seconds = state["cpu_seconds"]
        self.stop_reason = state["stop_reason"]
