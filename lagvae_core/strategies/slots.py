"""The slots of one trial: what a strategy may fill, and what stands in each where none does."""

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
    """The loss of one batch: the scalar that is descended, and its terms in nats an example, rec [B] and kl [B, Z]."""

    total: Tensor
    rec_B: Tensor
    kl_BZ: Tensor


@dataclass(frozen=True)
class Forward:
    """All that was computed on the way to the loss of a batch; what a penalty may use.

    `draw` holds the samples of `inference.q` that were decoded, `rec_B` and `kl_BZ` are nats an example, and `weight`
    is the KL weight of the update.
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
        """Samples of `inference.charged` from the same noise."""
        same = self.inference.kl_posterior is self.inference.q
        return self.draw if same else self.inference.kl_posterior.draw(self.draw.noise_BSZ)


class Trainer(Protocol):
    """What an update may do; `lagvae_core.training.learner.Learner` does it."""

    model: Vae
    streams: Streams
    decoder_steps: int

    def loss(self, batch: Batch, weight: float) -> Loss:
        """The training objective of `batch` at KL weight `weight`."""

    def loss_at(self, batch: Batch, inference: Inference, weight: float) -> Loss:
        """The training objective of `batch` with `inference` in the place of the encoder's."""

    def kl_factor(self, weight: float) -> Tensor:
        """What the objective multiplies the KL of an example by at KL weight `weight`, where it is linear in the KL."""

    def history(self, batch: Batch) -> Any:
        """What the decoder may see of the past in one pass, corrupted anew at each call."""

    def noise(self, q: Proposal) -> Tensor:
        """Standard normal noise [B, 1, Z] for one posterior sample an example."""

    def step(self, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Step the named parameters against the gradients that they hold, clipped, and clear all gradients."""

    def descend(self, loss: Loss, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Step the named parameters against the gradient of `loss`."""

    def inner_loop(self, *, decoder_gradients: bool) -> AbstractContextManager[None]:
        """A block in which only the encoder learns."""

    def random_batch(self) -> Batch:
        """A stored batch, drawn uniformly."""


class Stateful:
    """State that a part carries over steps, kept in every checkpoint. Without state, nothing to override."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"{type(self).__name__} keeps no state, but was given {sorted(state)}"


class KlWeight(Stateful):
    """The weight w(t) of the KL term at outer update t, counted from 0. Constant 1 by default."""

    def __call__(self, step: int) -> float:
        return 1.0


class Objective(Stateful):
    """The loss of a batch from rec [B] and kl [B, Z], both in nats: mean(rec + w * kl) by default."""

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        return (rec_B + weight * kl_BZ.sum(1)).mean()

    def after_step(self, kl_BZ: Tensor) -> None:
        """Called once after each outer update with that update's KL."""


class Update(Stateful):
    """One outer update: which parameters step, and how often. Encoder and decoder together, once, by default."""

    def __call__(self, learner: Trainer, batch: Batch, weight: float) -> Loss:
        loss = learner.loss(batch, weight)
        learner.descend(loss, encoder=True, decoder=True)
        return loss

    def after_epoch(self, validation: Mapping[str, Any]) -> None:
        """Called once an epoch with the validation columns of that epoch."""


class ReconstructionLoss(Stateful):
    """How a sampled z is decoded in training: one pass, rec [B] = -log p(x|z) in nats, by default.

    The second value is a further term of the loss, a scalar, or None.
    """

    def __call__(self, trainer: Trainer, batch: Batch, z_BSZ: Tensor) -> tuple[Tensor, Tensor | None]:
        return trainer.model.reconstruct(batch, trainer.history(batch), z_BSZ).mean(1), None


class Penalty(nn.Module, ABC):
    """A further term of the training loss. Its parameters, if it has any, learn with the decoder's optimiser."""

    least_batch: int = 1
    """Smaller batches are not trained on."""

    @abstractmethod
    def forward(self, forward: Forward) -> Tensor:
        """The term, a scalar in nats an example."""


@dataclass(frozen=True)
class Pretraining:
    """How many epochs before the first of the trial proper train encoder and decoder as a mere autoencoder.

    The learning rate does not decay in them, and no weights of theirs are measured. After the last the decoder starts
    anew; so do the optimisers, the decay of the learning rate and every schedule. The inference network stays as it is.
    """

    epochs: int = 0

    def in_force(self, components: TrainingComponents, epoch: int) -> TrainingComponents:
        """The `parts` that train in `epoch`, counted from 0.

        The loss of an autoencoder is rec alone, whatever objective, penalties, schedule and procedure follow. What
        makes the model, and what the decoder may see of the past, is the same throughout.
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
    """What a protocol may use: the model in eval mode, the measured split and its encoding.

    `importance_weighted(infer)` is the bound of `nll_iw` with another proposal; `encoded_train()` encodes the training
    set at the first call. `seed` is that of all evaluation draws.
    """

    model: Vae
    batches: Sequence[Batch]
    encoded: EncodedSplit
    encoded_train: Callable[[], EncodedSplit]
    importance_weighted: Callable[[Infer], LogMean]
    seed: int = 0


class ExtraMetrics:
    """Columns of a strategy's own beside the default ones, computed on the evaluated split."""

    def log_weights(self, encoded_train: Callable[[], EncodedSplit]) -> dict[str, LogWeight]:
        """Further importance weights by column name, averaged over the same samples as `nll_iw`."""
        return {}

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        """Further columns."""
        return {}


def default_encoder(model: ModelConfig, domain: Domain, features: Features | None) -> nn.Module:
    """The encoder slot of the plain VAE."""
    return model.encoder(domain, features)


def default_decoder(model: ModelConfig, domain: Domain, stream: torch.Generator, options: DecoderOptions) -> Decoder:
    """The decoder slot of the plain VAE."""
    return model.decoder(domain, stream, options)


def unchanged(history: Any, generator: torch.Generator) -> Any:
    """The corrupt slot of the plain VAE."""
    return history


def no_initialisation(module: nn.Module, side: Side) -> None:
    """The initialise slot of the plain VAE: encoder and decoder keep the start that they were built with."""


def no_refinement(model: Vae, seed: int) -> Infer:
    """The refine slot of the plain VAE: the encoder's word is final."""
    return model.infer


@dataclass(frozen=True)
class TrainingComponents:
    """The slots of one trial. A strategy returns those that it fills; the rest keep these defaults."""

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
    """Slots to which several strategies may add."""

    def options(self, model: ModelConfig) -> DecoderOptions:
        return DecoderOptions(self.input_dropout or UnitDropout(model.input_rate), self.past, self.skip)

    def accepts(self, batch_size: int) -> bool:
        """Whether a batch of this size can be trained on now."""
        return self.posterior.accepts(batch_size) and all(p.least_batch <= batch_size for p in self.penalties)

    def stateful(self) -> Iterator[tuple[str, Stateful]]:
        """The slots whose state goes into the checkpoint beside the model's, by name."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Stateful):
                yield entry.name, value
