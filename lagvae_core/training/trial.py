"""train(config): the training loop, the only one. From a configuration to a record, resumable at any update."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Batch, Dataset
from lagvae_core.errors import DataError, Diverged, ValidationIssue
from lagvae_core.evaluation.data_specific_metrics import data_specific_metrics
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, evaluate, on_device, posterior_columns
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.randomness import Streams
from lagvae_core.runtime import peak_memory_bytes
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.building import build_decoder, build_model
from lagvae_core.training.callbacks import TrainingCallback, TrainingEvent, TrainingState
from lagvae_core.training.checkpoint import CheckpointManager, CheckpointStore, has_weights_of
from lagvae_core.training.divergence import DivergenceRule, check_finite
from lagvae_core.training.learner import Learner
from lagvae_core.training.learning_rate import DecayRule
from lagvae_core.training.record import EpochRecord, Progress, TrialRecord

__all__ = ["Report", "Trial", "train"]

Report = Callable[[EpochRecord], str | None]


def train(
    config: TrialConfig,
    *,
    report: Report = lambda record: None,
    progress: Callable[[Progress], None] = lambda progress: None,
    checkpoint: CheckpointStore | None = None,
    checkpoint_seconds: float = 30.0,
    model_store: CheckpointStore | None = None,
    device: torch.device | str = "cpu",
    dataset: Dataset | None = None,
    callback: TrainingCallback | None = None,
) -> TrialRecord:
    """Train and measure one configuration.

    Args:
        report: hears every epoch; the answer "stop" ends the trial as `stopped_early`, unmeasured.
        progress: hears every update and every evaluated batch; be quick.
        checkpoint: where the state is kept, every `checkpoint_seconds` and before the final measurement. A trial that
            finds its own there goes on from it, and ends with the record, bit for bit on a CPU, that it would have had
            uninterrupted. The last checkpoint holds the finished record.
        kept: where the best weights of a finished trial are left, before its last checkpoint is. A trial that finds its
            finished record but no such weights is trained anew.
        dataset: `config.data.load()`, where it is at hand.
        watch: looks on at each moment of the training, and is heard of in no number of the record. A moment is told
            before a checkpoint of it is saved, so that an interruption may repeat moments, but never leaves one out.

    Returns:
        The record; status finished, stopped_early or diverged. Every other end is an exception.
    """
    trial = Trial(config, dataset or config.data.load(), torch.device(device))
    trial.callback = callback
    stored = checkpoint.load() if checkpoint is not None else None
    if stored is not None:
        state = checkpoints.decode(stored, trial.run_id)
        if state["record"] is None:
            trial.load_state_dict(state)
        else:
            record = TrialRecord.from_json(state["record"])
            if model_store is None or record.status != "finished" or has_weights_of(model_store, trial.run_id):
                return record
    checkpoint_manager = CheckpointManager(trial, checkpoint, checkpoint_seconds)
    try:
        stopped = trial.fit(report, progress, checkpoint_manager)
        if stopped:
            record = trial.record("stopped_early", stopped)
        else:
            metrics = trial.measure(progress)
            record = trial.record("finished", trial.stop_reason, metrics)
            if model_store is not None:
                model_store.save(trial.best_weights())
    except Diverged as error:
        record = trial.record("diverged", f"{error}.")
    checkpoint_manager.save(record)
    return record


class Trial:
    """The living objects of one trial, and where it stands: `epoch` (from 0) and `position` in that epoch.

    `step` counts the outer updates; the schedules count theirs from `first_step`, which is that of the trial proper
    once a pretraining is over. `parts` are those of the trial proper, `learner.parts` those in force.
    """

    first_step: int
    decay: DecayRule
    divergence: DivergenceRule
    best: dict[str, Any]

    def __init__(self, config: TrialConfig, dataset: Dataset, device: torch.device) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.run_id = config.run_id(dataset.fingerprint)
        self.streams = Streams(config.seed, device)
        self.train_batches = self._partition(0)
        self.valid_batches = on_device(dataset.valid, ENCODE_BATCH, device)
        groups = dataset.valid.batches(config.evaluation.mi_batch_size)
        self.valid_groups = [batch.index_B for batch in groups]
        context = BuildContext(
            config.model.latent_dim,
            len(self.train_batches),
            streams=self.streams,
            domain=dataset.domain,
            model=config.model,
            train_batches=self.train_batches,
        )
        with self.streams.initialising("parts"):
            components = assemble(config.strategies, context)
        self.components = replace(
            components, extra_metrics=(*components.extra_metrics, *data_specific_metrics(config.data.kind))
        )
        largest = max(batch.size for batch in self.train_batches)
        if not self.components.accepts(largest):
            stack = "+".join(strategy.kind for strategy in config.strategies)
            message = f"must be large enough for the batch statistics of {stack}"
            hint = (
                "Batches of text may hold one sentence length each; give more data, or lower the strategy's smallest "
                "batch."
            )
            raise DataError([ValidationIssue("the largest training batch", message, hint, largest)])
        self.model = build_model(config, dataset.domain, self.components, self.streams).to(device)
        self.learner = Learner(self.model, self.components, config.training, self.streams)
        self.learner.batches = self.train_batches
        self.callback: TrainingCallback | None = None
        self.epoch = self.position = self.step = self.skipped = 0
        self.order: list[int] = []
        self.history: list[Tensor] = []
        self.curve: list[EpochRecord] = []
        self.seconds = {"train": 0.0, "validate": 0.0, "evaluate": 0.0}
        self.cpu_seconds = 0.0
        self.stop_reason = ""
        self._untrained_progress = copy.deepcopy(self.model.posterior.progress())
        self._begin()

    # --- training ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        report: Report = lambda record: None,
        progress: Callable[[Progress], None] = lambda progress: None,
        checkpoint_manager: CheckpointManager | None = None,
    ) -> str:
        """Train to the end of the schedule, or until `report` answers "stop": then the reason, else "".

        Without a `keeper` nothing is saved on the way.
        """
        checkpoint_manager = checkpoint_manager or CheckpointManager(self, None, 0.0)
        if self.callback is not None:
            self.learner.after_step = lambda: self._notify("step")
        if self.epoch == self.position == 0:
            self._notify("start")
        while not self.stop_reason:
            self._train_epoch(progress, checkpoint_manager)
            record = self._validate()
            self._notify("epoch")
            self._end_epoch(record)
            checkpoint_manager.save_if_due()
            if report(record) == "stop":
                return f"stopped after epoch {record.epoch} at the scheduler's word."
        checkpoint_manager.save()
        return ""

    def _partition(self, epoch: int) -> list[Batch]:
        """The training batches of `epoch` (from 0); a function of configuration, data and seed, never of the past."""
        config = self.config
        train: Any = self.dataset.train  # the source cuts what it loaded
        batches = config.data.train_batches(train, config.training.batch_size, config.seed, epoch)
        return [batch.to(self.device) for batch in batches]

    def _train_epoch(self, progress: Callable[[Progress], None], checkpoint_manager: CheckpointManager) -> None:
        self.model.train()
        if self.config.data.partition == "resplit_random":
            self.train_batches = self.learner.batches = self._partition(self.epoch)
        if self.position == 0:
            draw = torch.randperm(len(self.train_batches), generator=self.streams["data_order"])
            self.order, self.history, self.skipped = draw.tolist(), [], 0
        started, cpu_started = time.monotonic(), time.process_time()
        while self.position < len(self.order):
            self._train_batch(self.learner.observed(self.train_batches[self.order[self.position]]))
            self.position += 1
            self._notify("update")
            progress(Progress("train", self.epoch + 1, self.position, len(self.order)))
            started, cpu_before = self._clock("train", started), cpu_started
            cpu_started = time.process_time()
            self.cpu_seconds += cpu_started - cpu_before
            checkpoint_manager.save_if_due()
        self.model.posterior.after_epoch()
        losses = torch.stack([entry[0] for entry in self.history]).cpu()
        check_finite(losses, self.step - len(losses))

    def _train_batch(self, batch: Batch) -> None:
        posterior, components = self.model.posterior, self.learner.components
        if not components.accepts(batch.size):
            self.skipped += 1
            return
        weight = components.kl_weight(self.step - self.first_step)
        posterior.before_step(weight)
        loss = components.update(self.learner, batch, weight)
        kl = loss.kl_BZ.detach()
        components.objective.after_step(kl)
        posterior.after_step()
        self.step += 1
        terms = (loss.total.detach(), loss.rec_B.detach().mean(), kl.sum(1).mean())
        self.history.append(torch.stack((*terms, terms[0].new_tensor(float(batch.size)))))

    def _notify(self, moment: TrainingEvent) -> None:
        """Let the watcher look on. Its time in the midst of the training is none of the training's."""
        if self.callback is None:
            return
        started, cpu_started = time.monotonic(), time.process_time()
        epoch = 0 if moment == "start" else self.epoch + 1
        steps = self.step, self.learner.encoder_steps, self.learner.decoder_steps
        seen = self.run_id, self.config, self.dataset, self.model, self.components, self.device
        self.callback(TrainingState(moment, *seen, epoch, *steps))
        if moment in ("step", "update"):
            self.seconds["train"] -= time.monotonic() - started
            self.cpu_seconds -= time.process_time() - cpu_started

    def _validate(self) -> EpochRecord:
        started = time.monotonic()
        self.model.eval()
        seed = self.config.evaluation.seed
        components = self.learner.components
        encoded = encode_split(self.model, self.valid_batches, seed, infer=components.refine(self.model, seed))
        weight = components.kl_weight(self.step - self.first_step - 1)
        kl_posterior, rec = float(encoded.kl_train_N.mean()), float(encoded.rec_N.mean())
        self.divergence.after_epoch(
            self.epoch + 1, kl_posterior, rec + kl_posterior, weight, float(encoded.kl_ND.sum(1).mean())
        )
        columns = posterior_columns(self.model, encoded, self.valid_groups)
        self._clock("validate", started)
        history = torch.stack(self.history).double().cpu()
        size = history[:, 3]
        mean = (history[:, :3] * size[:, None]).sum(0) / size.sum()
        return EpochRecord(
            {
                "epoch": self.epoch + 1,
                "step": self.step,
                "train_loss": float(mean[0]),
                "train_rec": float(mean[1]),
                "train_kl": float(mean[2]) if columns["kl"] is not None else None,
                "kl_weight": weight,
                "learning_rate": self.learner.learning_rate,
                "valid_loss": columns["rec"] + float(encoded.kl_train_N.mean()),
                "valid_nll_elbo": columns["nll_elbo"],
                "valid_kl": columns["kl"],
                "valid_mi": columns["mi"],
                "valid_mi_batch": columns["mi_batch"],
                "valid_kl_agg": columns["kl_agg"],
                "valid_au": columns["au"],
                "encoder_steps": self.learner.encoder_steps,
                "decoder_steps": self.learner.decoder_steps,
                "skipped_batches": self.skipped,
                "seconds": sum(self.seconds.values()),
            }
        )

    def _end_epoch(self, record: EpochRecord) -> None:
        """What follows from the validation: best weights, the procedure's own rule, decay, stop."""
        self.curve.append(record)
        self.epoch += 1
        self.position = 0
        training, pretraining = self.config.training, self.components.pretraining.epochs
        if self.epoch <= pretraining:
            if self.epoch == pretraining:
                self._leave_pretraining()
            return
        loss: float = record["valid_loss"]
        if loss < self.best["valid_loss"]:
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": record.epoch, "valid_loss": loss, "model": weights}
        self.components.update.after_epoch({"mi_batch": record["valid_mi_batch"]})
        verdict = self.decay.after_epoch(self.epoch - pretraining - 1, loss)
        if verdict == "decay":
            if training.reload_best_on_decay:
                self.model.load_state_dict(self.best["model"])
            self.learner.learning_rate *= training.decay_factor
            self.learner.fresh_optimisers()
        if verdict == "stop":
            self.stop_reason = f"decay number {training.max_decays} of the learning rate came due."
        elif self.epoch >= self.config.epochs:
            before = f", after {pretraining} of pretraining" if pretraining else ""
            self.stop_reason = f"all {training.epochs} epochs are trained{before}."

    def _begin(self) -> None:
        """Stand before the first update of the pretraining or of the trial proper: nothing is known but the weights."""
        training = self.config.training
        self.first_step = self.step
        self.learner.components = self.components.pretraining.in_force(self.components, self.epoch)
        self.learner.learning_rate = training.learning_rate
        self.learner.fresh_optimisers()
        self.decay = DecayRule(
            training.decay_patience, training.decay_min_epoch, training.max_decays, training.decay_reference
        )
        self.divergence = DivergenceRule(training.kl_explode)
        self.best = {"epoch": 0, "valid_loss": float("inf"), "model": {}}

    def _leave_pretraining(self) -> None:
        """Begin the trial proper: the decoder from other weights than its first, the posterior's schedule anew."""
        with self.streams.initialising("second decoder"):
            fresh = build_decoder(self.config, self.dataset.domain, self.components, self.streams)
            self.components.initialise(fresh, "decoder")
        self.model.decoder.load_state_dict(fresh.state_dict())
        self.model.posterior.load_progress(self._untrained_progress)
        self._begin()

    # --- measuring --------------------------------------------------------------------------------------------------

    def measure(self, progress: Callable[[Progress], None]) -> dict[str, Any]:
        """The metric columns of the best weights."""
        started = time.monotonic()
        self.model.load_state_dict(self.best["model"])
        dataset, setting = self.dataset, self.config.evaluation
        metrics = evaluate(
            self.model,
            self.components,
            dataset,
            getattr(dataset, setting.split),
            setting,
            self.device,
            lambda phase, done, total: progress(Progress(phase, self.epoch, done, total)),
        )
        self._clock("evaluate", started)
        best = self.curve[self.best["epoch"] - 1]
        chosen = ("valid_loss", "valid_nll_elbo", "valid_kl", "valid_mi", "valid_au")
        return metrics | {"best_epoch": best.epoch, "epochs": self.epoch} | {name: best[name] for name in chosen}

    def best_weights(self) -> bytes:
        """Return the best weights and the configuration as bytes that `TrainedModel` can load."""
        config = self.config.model_dump_json()
        return checkpoints.encode({"identity": self.run_id, "config": config, "model": self.best["model"]})

    def record(self, status: str, reason: str, metrics: dict[str, Any] | None = None) -> TrialRecord:
        return TrialRecord(
            config=self.config,
            run_id=self.run_id,
            config_id=self.config.config_id(self.dataset.fingerprint),
            data_fingerprint=self.dataset.fingerprint,
            status=status,
            stop_reason=reason,
            metrics=metrics or {},
            curve=self.curve,
            cost={
                "seconds": sum(self.seconds.values()),
                **{f"seconds_{phase}": value for phase, value in self.seconds.items()},
                "cpu_seconds_train": self.cpu_seconds,
                "encoder_steps": self.learner.encoder_steps,
                "decoder_steps": self.learner.decoder_steps,
                "peak_memory_bytes": peak_memory_bytes(self.device),
            },
            data=self.dataset.report,
            warnings=self.config.warnings(),
        )

    def _clock(self, phase: str, started: float) -> float:
        now = time.monotonic()
        self.seconds[phase] += now - started
        return now

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the trial depends on, and what the record will tell of the past."""
        return {
            "identity": self.run_id,
            "model": self.model.state_dict(),
            "posterior_progress": self.model.posterior.progress(),
            "learner": self.learner.state_dict(),
            "streams": self.streams.state_dict(),
            "parts": {name: part.state_dict() for name, part in self.components.stateful()},
            "decay": self.decay.state_dict(),
            "divergence": self.divergence.state_dict(),
            "place": [self.epoch, self.position, self.step, self.first_step, self.skipped],
            "order": self.order,
            "history": torch.stack(self.history) if self.history else None,
            "curve": [record.values for record in self.curve],
            "best": self.best,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "stop_reason": self.stop_reason,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.model.posterior.load_progress(state["posterior_progress"])
        self.learner.load_state_dict(state["learner"])
        self.streams.load_state_dict(state["streams"])
        for name, part in self.components.stateful():
            part.load_state_dict(state["parts"][name])
        self.decay.load_state_dict(state["decay"])
        self.divergence.load_state_dict(state["divergence"])
        self.epoch, self.position, self.step, self.first_step, self.skipped = state["place"]
        self.learner.components = self.components.pretraining.in_force(self.components, self.epoch)
        self.order = state["order"]
        self.history = [] if state["history"] is None else list(state["history"].to(self.device))
        self.curve = [EpochRecord(values) for values in state["curve"]]
        self.best = state["best"]
        self.seconds = state["seconds"]
        self.cpu_seconds = state["cpu_seconds"]
        self.stop_reason = state["stop_reason"]
