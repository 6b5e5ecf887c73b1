"""The slots of a trial that strategies can fill, and the default component of each slot.

An outer update is one optimiser step on the main objective, as opposed to the inner steps that train the encoder alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from lagvae_core.data import Batch, Domain
from lagvae_core.metrics.encoding import EncodedSplit, Infer
from lagvae_core.metrics.likelihood import LogMean, LogWeight
from lagvae_core.models.decoder import Decoder, DecoderOptions, InputDropout, Past, Skip, UnitDropout
from lagvae_core.models.gaussian import Draw, Inference, NormalPrior, Prior, Proposal
from lagvae_core.models.model_config import Features, ModelConfig
from lagvae_core.models.vae import Posterior, Vae
from lagvae_core.randomness import Streams

__all__ = [
    "ClipScope",
    "ExtraMetrics",
    "Forward",
    "KlWeight",
    "Loss",
    "Measurement",
    "Objective",
    "Penalty",
    "Pretraining",
    "ReconstructionLoss",
    "Side",
    "Stateful",
    "Trainer",
    "TrainingComponents",
    "Update",
    "no_refinement",
]

ClipScope = Literal["all", "per_module"]
Side = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Loss:
    """The loss of one batch.

    Args:
        total: The scalar that the optimisers minimise.
        rec_B: Reconstruction loss of each example [nats].
        kl_BZ: KL of each example and dimension [nats].
    """

    total: Tensor
    rec_B: Tensor
    kl_BZ: Tensor


@dataclass(frozen=True)
class Forward:
    """The intermediate results of computing a loss, from which penalties are computed.

    Args:
        batch: The batch.
        inference: The posteriors of its examples.
        draw: The decoded samples of `inference.q`.
        rec_B: Reconstruction loss of each example [nats].
        kl_BZ: KL of each example and dimension [nats].
        weight: KL weight of the update.
        model: The model.
        streams: Random streams of the trial.
    """

    batch: Batch
    inference: Inference
    draw: Draw
    rec_B: Tensor
    kl_BZ: Tensor
    weight: float
    model: Vae
    streams: Streams

    @property
    def kl_posterior_draw(self) -> Draw:
        """Samples of `inference.kl_posterior`, drawn with the same noise as `draw`."""
        same = self.inference.kl_posterior is self.inference.q
        return self.draw if same else self.inference.kl_posterior.draw(self.draw.noise_BSZ)


class Trainer(Protocol):
    """The interface by which an `Update` trains the model, implemented by `lagvae_core.training.learner.Learner`."""

    model: Vae
    streams: Streams
    decoder_steps: int

    def loss(self, batch: Batch, weight: float) -> Loss:
        """Return the training objective of `batch` at KL weight `weight`."""

    def loss_at(self, batch: Batch, inference: Inference, weight: float) -> Loss:
        """Return the training objective of `batch` with `inference` instead of the encoder's posteriors."""

    def kl_factor(self, weight: float) -> Tensor:
        """Return the factor that multiplies an example's KL at KL weight `weight`, for objectives linear in the KL."""

    def history(self, batch: Batch) -> Any:
        """Return the previous words or pixels that the decoder reads in one pass, corrupted again at each call."""

    def noise(self, q: Proposal) -> Tensor:
        """Draw standard normal noise [B, 1, Z] for one posterior sample per example."""

    def step(self, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Update the selected parameters with their clipped gradients, and clear all gradients."""

    def descend(self, loss: Loss, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Compute the gradient of `loss` and update the selected parameters with it."""

    def inner_loop(self, *, decoder_gradients: bool) -> AbstractContextManager[None]:
        """Return a context in which only the encoder is trained."""

    def random_batch(self) -> Batch:
        """Return a stored batch, drawn uniformly."""

    def random_examples(self, count: int) -> Batch:
        """Return `count` training examples, drawn uniformly without replacement, if examples can be mixed freely."""


class Stateful:
    """A component whose state persists across steps and is stored in every checkpoint; by default it has no state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"{type(self).__name__} is stateless, got {sorted(state)}"


class KlWeight(Stateful):
    """The weight w(t) of the KL term at outer update t, counted from 0; by default it is 1 for all t."""

    def __call__(self, step: int) -> float:
        return 1.0


class Objective(Stateful):
    """The loss of a batch as a function of rec [B] and kl [B, Z], both in nats; by default mean(rec + w * kl)."""

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        return (rec_B + weight * kl_BZ.sum(1)).mean()

    def after_step(self, kl_BZ: Tensor) -> None:
        """Adapt to the KL of an outer update; called once after each outer update."""


class Update(Stateful):
    """One outer update; by default it updates encoder and decoder together in one step."""

    def __call__(self, learner: Trainer, batch: Batch, weight: float) -> Loss:
        loss = learner.loss(batch, weight)
        learner.descend(loss, encoder=True, decoder=True)
        return loss

    def after_epoch(self, validation: Mapping[str, Any]) -> None:
        """Adapt to the validation results of an epoch, by column name; called once after each epoch."""


class ReconstructionLoss(Stateful):
    """The reconstruction loss of a sampled z in training; by default rec [B] = -log p(x|z) of one pass [nats].

    A call returns rec and an additional term of the loss, which is a scalar or None.
    """

    def __call__(self, trainer: Trainer, batch: Batch, z_BSZ: Tensor) -> tuple[Tensor, Tensor | None]:
        return trainer.model.reconstruct(batch, trainer.history(batch), z_BSZ).mean(1), None


class Penalty(nn.Module, ABC):
    """An additional term of the training loss. If a penalty has parameters, the decoder's optimiser trains them."""

    least_batch: int = 1
    """Smallest batch that is used for training; smaller batches are skipped."""

    @abstractmethod
    def forward(self, forward: Forward) -> Tensor:
        """Return the term, a scalar [nats per example]."""


@dataclass(frozen=True)
class Pretraining:
    """Epochs that train encoder and decoder as a plain autoencoder, before the main training.

    The learning rate does not decay in these epochs, and their weights are never measured. After the last pretraining
    epoch, the decoder, the optimisers, the decay of the learning rate and all schedules start from scratch. The
    inference network keeps its weights.

    Args:
        epochs: Number of pretraining epochs.
    """

    epochs: int = 0

    def in_force(self, components: TrainingComponents, epoch: int) -> TrainingComponents:
        """Return the components that are used in `epoch`, counted from 0.

        In pretraining the loss is rec alone, without the objective, penalties, schedule and update procedure of
        `components`. The model and the input of the decoder are the same in all epochs.
        """
        if epoch >= self.epochs:
            return components
        autoencoder = replace(components, objective=_Reconstruction(), kl_weight=_NoWeight(), penalties=())
        return replace(autoencoder, decode=ReconstructionLoss(), update=Update(), refine=no_refinement)


class _Reconstruction(Objective):
    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        return rec_B.mean()


class _NoWeight(KlWeight):
    def __call__(self, step: int) -> float:
        return 0.0


@dataclass(frozen=True)
class Measurement:
    """The inputs from which ExtraMetrics are computed.

    Args:
        model: The model in eval mode.
        batches: The evaluated split.
        encoded: The encoding of the evaluated split.
        encoded_train: Returns the encoding of the training set, computed at the first call.
        importance_weighted: Returns the same bound as `nll_iw`, computed with another proposal.
        seed: Seed of all random draws in evaluation.
    """

    model: Vae
    batches: Sequence[Batch]
    encoded: EncodedSplit
    encoded_train: Callable[[], EncodedSplit]
    importance_weighted: Callable[[Infer], LogMean]
    seed: int = 0


class ExtraMetrics:
    """The columns that a strategy adds to the default columns, computed on the evaluated split."""

    def log_weights(self, encoded_train: Callable[[], EncodedSplit]) -> dict[str, LogWeight]:
        """Return additional importance weights by column name; they are averaged over the same samples as `nll_iw`."""
        return {}

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        """Return additional columns by name."""
        return {}


def default_encoder(model: ModelConfig, domain: Domain, features: Features | None) -> nn.Module:
    """Build the encoder of the plain VAE."""
    return model.encoder(domain, features)


def default_decoder(model: ModelConfig, domain: Domain, stream: torch.Generator, options: DecoderOptions) -> Decoder:
    """Build the decoder of the plain VAE."""
    return model.decoder(domain, stream, options)


def unchanged(history: Any, generator: torch.Generator) -> Any:
    """Return `history` unchanged: the plain VAE does not corrupt the input of the decoder."""
    return history


def no_initialisation(module: nn.Module, side: Side) -> None:
    """Do nothing: encoder and decoder of the plain VAE keep the weights that they were built with."""


def no_refinement(model: Vae, seed: int) -> Infer:
    """Return the encoder's posterior: the plain VAE does not refine it."""
    return model.infer


@dataclass(frozen=True)
class TrainingComponents:
    """The components of a trial, one per slot. Slots that no strategy fills keep the defaults of the plain VAE."""

    encoder: Callable[[Any, Any, Features | None], nn.Module] = default_encoder
    features: Features | None = None
    decoder: Callable[[Any, Any, torch.Generator, DecoderOptions], Decoder] = default_decoder
    past: Past = "seen"
    skip: Skip | None = None
    input_dropout: InputDropout | None = None
    corrupt: Callable[[Any, torch.Generator], Any] = unchanged
    decode: ReconstructionLoss = field(default_factory=ReconstructionLoss)
    posterior: Posterior = field(default_factory=Posterior)
    prior: Prior = field(default_factory=NormalPrior)
    kl_weight: KlWeight = field(default_factory=KlWeight)
    objective: Objective = field(default_factory=Objective)
    kl_share: float = 1.0
    penalties: tuple[Penalty, ...] = ()
    update: Update = field(default_factory=Update)
    refine: Callable[[Vae, int], Infer] = no_refinement
    encoder_rate: float = 1.0
    pretraining: Pretraining = field(default_factory=Pretraining)
    initialise: Callable[[nn.Module, Side], None] = no_initialisation
    extra_metrics: tuple[ExtraMetrics, ...] = ()

    SHARED: ClassVar[frozenset[str]] = frozenset({"penalties", "extra_metrics"})
    """Slots that several strategies can fill together."""

    def options(self, model: ModelConfig) -> DecoderOptions:
        """Return the options of the decoder, with the input dropout of `model` unless a strategy replaces it."""
        return DecoderOptions(self.input_dropout or UnitDropout(model.input_rate), self.past, self.skip)

    def accepts(self, batch_size: int) -> bool:
        """Return whether a batch of this size can currently be used for training."""
        return self.posterior.accepts(batch_size) and all(p.least_batch <= batch_size for p in self.penalties)

    def stateful(self) -> Iterator[tuple[str, Stateful]]:
        """Yield each stateful component with its slot; the checkpoint stores its state together with the model."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Stateful):
                yield entry.name, value
