"""The function `train`, which turns a configuration into a record, and the training loop of all models.

Training can be resumed at every outer update (one optimiser step on the main objective, as opposed to inner encoder
steps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Batch, Dataset
from lagvae_core.errors import Diverged, Interrupted
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.runtime import default_threads, torch_threads
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.callbacks import TrainingCallback, TrainingEvent, TrainingState
from lagvae_core.training.checkpoint import CheckpointManager, CheckpointStore, has_weights_of
from lagvae_core.training.divergence import check_finite
from lagvae_core.training.measurement import TrainingMeans, epoch_columns
from lagvae_core.training.record import EpochRecord, Progress, TrialRecord
from lagvae_core.training.state import TrialState

__all__ = ["Report", "Trial", "train"]

Report = Callable[[EpochRecord], str | None]
"""Called with the record of each epoch; training ends if it returns "stop"."""


def train(
    config: TrialConfig,
    *,
    report: Report = lambda record: None,
    progress: Callable[[Progress], None] = lambda progress: None,
    checkpoint: CheckpointStore | None = None,
    checkpoint_seconds: float = 30.0,
    reported: int | None = None,
    model_store: CheckpointStore | None = None,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    dataset: Dataset | None = None,
    callback: TrainingCallback | None = None,
) -> TrialRecord:
    """Train and measure one configuration.

    Args:
        config: Configuration of the trial.
        report: Called with the record of each epoch, after the state has been saved if a save was due. If it returns
            "stop", the trial ends as `stopped_early` and is not measured.
        progress: Called after each training batch, each validated batch and each evaluated batch. It should be fast. If
            it raises `Interrupted`, the state is saved before the exception leaves `train`; during a validation, this
            happens at the end of the epoch, after `report`.
        checkpoint: Where the state of the trial is stored. If it holds the state of this trial, training resumes from
            that state; on a CPU, all results except times are bit-identical to those of an uninterrupted trial. If it
            holds the record of this trial, that record is returned.
        checkpoint_seconds: Shortest time between two saves to `checkpoint` [s]; 0 saves after every update. The state
            is also saved before the final measurement, and replaced by the record at the end.
        reported: Number of epochs that the caller has received from earlier attempts. If the trial resumes, `report` is
            first called with the later epochs that the checkpoint contains. None: it has received all of them.
        model_store: Where the best weights of a finished trial are stored, before its record is saved. A trial with a
            finished record but without weights in this store is trained again from scratch.
        device: Device of the model and of the training batches.
        threads: Number of CPU threads; by default, 1 for a small model, otherwise PyTorch's number, but never more
            than the cores that this process may use. PyTorch's number is restored at the end.
        dataset: Result of `config.data.load()`; if None, the data set is loaded.
        callback: Called at every `TrainingEvent`; it cannot affect results. It is called before the state is saved, so
            a resumed trial may repeat events but never omits one.

    Returns:
        The record, with status finished, stopped_early or diverged. In every other case an exception is raised.

    Raises:
        CheckpointError: `checkpoint` holds damaged content, or the content of a different trial.
        UserError: The data cannot be loaded, or every training batch is too small for a strategy.
        Interrupted: `progress` raised it.

    Example:
        >>> config = TrialConfig.model_validate({"strategies": ["aggressive"], "training": {"epochs": 2}})
        >>> train(config).metrics["nll_iw"]
    """
    with torch_threads(threads or default_threads(config.model.small)):
        trial = Trial(config, dataset or config.data.load(), torch.device(device), callback)
        stored = checkpoint.load() if checkpoint is not None else None
        missed: list[EpochRecord] = []
        if stored is not None:
            state = checkpoints.decode(stored, trial.run_id)
            if state["record"] is None:
                trial.load_state_dict(state)
                missed = trial.curve[reported:] if reported is not None else []
            else:
                record = TrialRecord.from_json(state["record"])
                if model_store is None or record.status != "finished" or has_weights_of(model_store, trial.run_id):
                    return record
        checkpoint_manager = CheckpointManager(trial.state_dict, checkpoint, checkpoint_seconds)
        try:
            early_stop = trial.fit(report, progress, checkpoint_manager, missed)
            if early_stop:
                record = trial.record("stopped_early", early_stop)
            else:
                metrics = trial.measure(progress)
                record = trial.record("finished", trial.stop_reason, metrics)
                if model_store is not None:
                    model_store.save(trial.best_weights())
        except Diverged as error:
            record = trial.record("diverged", f"{error}.")
        checkpoint_manager.save_record(record)
        return record


def _stopped_after(record: EpochRecord) -> str:
    return f"stopped early after epoch {record.epoch} (scheduler)."


class _DeferredInterrupt:
    """A progress function that catches `Interrupted`, so that its caller can raise it later.

    Args:
        progress: The progress function that may raise `Interrupted`.

    Attributes:
        error: The first exception that was caught; None if there was none.
    """

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self.error: Interrupted | None = None
        self._progress = progress

    def __call__(self, place: Progress) -> None:
        try:
            self._progress(place)
        except Interrupted as error:
            self.error = self.error or error


class Trial(TrialState):
    """One trial: its objects, the training loop and the measurement.

    Args:
        config: Configuration of the trial.
        dataset: Data of the trial.
        device: Device of the model and of the batches.
        callback: Called at every `TrainingEvent`.

    Raises:
        DataError: Every training batch is too small for the batch statistics of a strategy.
    """

    def __init__(
        self, config: TrialConfig, dataset: Dataset, device: torch.device, callback: TrainingCallback | None = None
    ) -> None:
        super().__init__(config, dataset, device)
        self.callback = callback
        if callback is not None:
            self.learner.after_step = lambda: self._notify("step")
            self.learner.watched = True

    def fit(
        self,
        report: Report = lambda record: None,
        progress: Callable[[Progress], None] = lambda progress: None,
        checkpoint_manager: CheckpointManager | None = None,
        missed: Sequence[EpochRecord] = (),
    ) -> str:
        """Train to the end of the schedule, or until `report` returns "stop".

        Args:
            report: Called with the record of each epoch.
            progress: Called after each training batch and each validated batch.
            checkpoint_manager: Saves the state after an update or epoch if a save is due, and at the end of the
                schedule; if None, nothing is saved.
            missed: Records of ended epochs with which `report` is called first.

        Returns:
            The reason for an early stop; "" if training reached the end of the schedule.

        Raises:
            Diverged: Training diverged.
        """
        checkpoint_manager = checkpoint_manager or CheckpointManager(self.state_dict, None, 0.0)
        progress = self._untimed(progress)
        if self.epoch == self.position == 0:
            self._notify("start")
        for record in missed:
            if report(record) == "stop":
                return _stopped_after(record)
        while not self.stop_reason:
            for place in self.updates():
                try:
                    progress(place)
                except Interrupted:
                    checkpoint_manager.save()
                    raise
                checkpoint_manager.save_if_due()
            validating = _DeferredInterrupt(progress)
            record = self.validate(validating)
            self._notify("epoch")
            self.end_epoch(record)
            checkpoint_manager.save_if_due()
            if report(record) == "stop":
                return _stopped_after(record)
            if validating.error is not None:
                checkpoint_manager.save()
                raise validating.error
        checkpoint_manager.save()
        return ""

    def updates(self) -> Iterator[Progress]:
        """Train for the rest of the current epoch. Each item of the iterator follows one training batch.

        The iterator can be abandoned after any item. A new iterator continues with the next batch, even if it belongs
        to another `Trial` that has loaded the state of this one.

        Yields:
            The position in the epoch after each batch.

        Raises:
            Diverged: A training loss of the epoch is not finite.
        """
        self.model.train()
        if self.config.data.partition == "resplit_random":
            self.learner.batches = self.partition(self.epoch)
        if self.position == 0:
            draw = torch.randperm(len(self.train_batches), generator=self.streams["data_order"])
            self.order, self.history, self.skipped = draw.tolist(), [], 0
        self.stopwatch.start()
        while self.position < len(self.order):
            batch = self.train_batches[self.order[self.position]]
            self.train_batch(self.learner.observed(batch))
            self.position += 1
            self._notify("update")
            self.stopwatch.charge("train")
            yield Progress("train", self.epoch + 1, self.position, len(self.order))
        self.model.posterior.after_epoch()
        losses = torch.stack([terms[0] for terms in self.history]).cpu()
        check_finite(losses, self.step - len(losses))
        self.stopwatch.charge("train")

    def train_batch(self, batch: Batch) -> None:
        """Do one outer update on `batch`, or skip it if it is too small. The model must be in train mode."""
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

    def _notify(self, event: TrainingEvent) -> None:
        """Call the callback; its time does not count as training time."""
        if self.callback is None:
            return
        state = TrainingState(
            event=event,
            run_id=self.run_id,
            config=self.config,
            dataset=self.dataset,
            model=self.model,
            components=self.components,
            device=self.device,
            epoch=0 if event == "start" else self.epoch + 1,
            step=self.step,
            encoder_steps=self.learner.encoder_steps,
            decoder_steps=self.learner.decoder_steps,
            terms=self.learner.terms,
        )
        with self.stopwatch.paused():
            self.callback(state)

    def _untimed(self, progress: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """Return `progress` as a function whose time is not charged to any phase."""

        def call(place: Progress) -> None:
            with self.stopwatch.paused():
                progress(place)

        return call

    def validate(self, progress: Callable[[Progress], None] = lambda progress: None) -> EpochRecord:
        """Measure the validation split and return the record of the current epoch.

        Args:
            progress: Called after each validated batch. It must not raise `Interrupted`: the end of the training
                epoch was already applied to the model, so a state that is saved now would apply it twice.

        Raises:
            Diverged: A divergence criterion is met.
        """
        total = len(self.dataset.valid)

        def on_examples(done: int) -> None:
            progress(Progress("validate", self.epoch + 1, done, total))

        self.stopwatch.start()
        components = self.learner.components
        encoded = self.validation.encode(self.model, components, on_examples)
        weight = components.kl_weight(self.step - self.first_step - 1)
        rec, kl = float(encoded.rec_N.mean()), float(encoded.kl_train_N.mean())
        evaluated_kl = float(encoded.kl_ND.sum(1).mean())
        self.divergence.after_epoch(self.epoch + 1, kl, rec + kl, weight, evaluated_kl)
        columns = self.validation.columns(self.model, encoded)
        self.stopwatch.charge("validate")
        means = TrainingMeans.of(self.history)
        return EpochRecord(
            {
                "epoch": self.epoch + 1,
                "step": self.step,
                "train_loss": means.loss,
                "train_rec": means.rec,
                "train_kl": means.kl if columns["valid_kl"] is not None else None,
                "kl_weight": weight if columns["valid_kl"] is not None else None,
                "learning_rate": self.learner.learning_rate,
                **columns,
                "encoder_steps": self.learner.encoder_steps,
                "decoder_steps": self.learner.decoder_steps,
                "skipped_batches": self.skipped,
                "seconds": sum(self.stopwatch.seconds.values()),
            }
        )

    def end_epoch(self, record: EpochRecord) -> None:
        """Advance to the next epoch. Keep the best weights, and decay the learning rate or stop training if due."""
        self.curve.append(record)
        self.epoch += 1
        self.position = 0
        training, pretraining = self.config.training, self.components.pretraining.epochs
        if self.epoch <= pretraining:
            if self.epoch == pretraining:
                self.end_pretraining()
            return
        loss: float = record["valid_loss"]
        self.best.after_epoch(record.epoch, loss, self.model)
        self.components.update.after_epoch({"mi_batch": record["valid_mi_batch"]})
        action = self.decay.after_epoch(self.epoch - pretraining - 1, loss)
        if action == "decay":
            if training.reload_best_on_decay:
                self.best.restore(self.model)
            self.learner.learning_rate *= training.decay_factor
            self.learner.reset_optimisers()
        if action == "stop":
            self.stop_reason = f"reached decay number {training.max_decays} of the learning rate."
        elif self.epoch >= self.config.epochs:
            before = f", after {pretraining} epochs of pretraining" if pretraining else ""
            self.stop_reason = f"all {training.epochs} epochs are trained{before}."

    def measure(self, progress: Callable[[Progress], None] = lambda progress: None) -> dict[str, Any]:
        """Load the best weights into the model and return its metrics by column.

        Args:
            progress: Called after each evaluated batch.
        """
        self.stopwatch.start()
        self.best.restore(self.model)
        evaluation = self.config.evaluation
        progress = self._untimed(progress)
        metrics = evaluate(
            self.model,
            self.components,
            self.dataset,
            getattr(self.dataset, evaluation.split),
            evaluation,
            self.device,
            lambda phase, done, total: progress(Progress(phase, self.epoch, done, total)),
        )
        self.stopwatch.charge("evaluate")
        return metrics | epoch_columns(self.curve, self.best.epoch)
