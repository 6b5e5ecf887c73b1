"""The training loss of a batch and the optimiser steps on it: every operation that a strategy's `Update` may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from lagvae_core.data import Batch
from lagvae_core.models.gaussian import Inference, Proposal
from lagvae_core.models.vae import Vae, frozen
from lagvae_core.randomness import Streams
from lagvae_core.runtime import SGD, Adam
from lagvae_core.settings import TrainingConfig
from lagvae_core.strategies.slots import ClipScope, Forward, Loss, TrainingComponents

__all__ = ["Learner", "StepTerms"]


@dataclass(frozen=True)
class StepTerms:
    """The loss of one optimiser step and the norms of its gradients before they are clipped.

    Args:
        total: Training objective [nats per example], with penalties.
        rec: Mean reconstruction term [nats].
        kl: Mean KL at weight 1 [nats].
        encoder_norm: Norm of the gradients of the encoder; None if none were computed.
        decoder_norm: Norm of the gradients of the decoder; None if none were computed.
    """

    total: float
    rec: float
    kl: float
    encoder_norm: float | None
    decoder_norm: float | None


class Learner:
    """A model, its training components, its training batches and one optimiser each for encoder and decoder.

    Attributes:
        components: The components that define the current loss; a pretraining stage has its own components.
        batches: The training batches of the current epoch, in stored order.
        learning_rate: Current learning rate of the decoder.
        encoder_steps: Number of optimiser steps of the encoder so far.
        decoder_steps: Number of optimiser steps of the decoder so far.
        after_step: Called after every optimiser step.
        watched: Whether `terms` is computed at every step.
        terms: The loss and the gradients of the last step.
    """

    def __init__(
        self,
        model: Vae,
        components: TrainingComponents,
        training: TrainingConfig,
        streams: Streams,
        batches: Sequence[Batch] = (),
    ) -> None:
        self.model = model
        self.components = components
        self.training = training
        self.streams = streams
        self.batches = batches
        self.learning_rate = training.learning_rate
        self.encoder_steps = 0
        self.decoder_steps = 0
        self.after_step: Callable[[], None] = lambda: None
        self.watched = False
        self.terms: StepTerms | None = None
        self._loss: Loss | None = None
        self._encoder = list(model.encoder_parameters())
        self._decoder = list(model.decoder_parameters())
        self.reset_optimisers()

    def reset_optimisers(self) -> None:
        """Replace both optimisers with new ones that have the current learning rate and an empty state."""
        self._encoder_optimiser = self._optimiser(self._encoder, self.learning_rate * self.components.encoder_rate)
        self._decoder_optimiser = self._optimiser(self._decoder, self.learning_rate)

    def _optimiser(self, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        group = [{"params": parameters}]  # torch rejects an empty list, and a language model has no encoder parameters
        if self.training.optimiser == "sgd":
            return SGD(group, lr=rate, momentum=self.training.momentum, foreach=True)
        return Adam(group, lr=rate, betas=self.training.adam_betas, foreach=True)

    def loss(self, batch: Batch, weight: float) -> Loss:
        """Return the training objective of `batch` at KL weight `weight`, with one posterior sample per example."""
        return self.loss_at(batch, self.model.infer(batch), weight)

    def loss_at(self, batch: Batch, inference: Inference, weight: float) -> Loss:
        """Return the training objective of `batch` with `inference` in place of the encoder's posterior."""
        model, components = self.model, self.components
        draw = inference.q.draw(self.noise(inference.q))
        rec, extra_term = components.decode(self, batch, draw.z_BSZ)
        kl = model.prior.kl(inference.kl_posterior, draw)
        total = components.objective(rec, kl, components.kl_share * weight)
        if extra_term is not None:
            total = total + extra_term
        forward = Forward(batch, inference, draw, rec, kl, weight, model, self.streams)
        for penalty in components.penalties:
            total = total + penalty(forward)
        loss = Loss(total, rec, kl)
        if self.watched:
            self._loss = loss
        return loss

    def kl_factor(self, weight: float) -> Tensor:
        """Return the factor of each example's KL in the objective, for an objective that is linear in the KL."""
        one = torch.ones(1, dtype=torch.float64, device=self.streams.device)
        return self.components.objective(torch.zeros_like(one), one[:, None], self.components.kl_share * weight)

    def history(self, batch: Batch) -> Any:
        """Return the decoder's input for one pass over `batch`; each call corrupts it with new draws."""
        return self.components.corrupt(batch.history, self.streams["corruption"])

    def noise(self, q: Proposal) -> Tensor:
        """Return standard normal noise [B, 1, Z] for one posterior sample per example."""
        examples, dimensions = q.size
        device = q.base.mean_BZ.device
        return torch.randn(examples, 1, dimensions, generator=self.streams["posterior"], device=device)

    def descend(self, loss: Loss, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Backpropagate `loss` and call `step`."""
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.step(encoder=encoder, decoder=decoder, clip_scope=clip_scope)

    def step(self, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Clip the stored gradients to `training.clip_norm`, step the chosen optimisers and clear all gradients.

        Args:
            encoder: Whether the encoder's optimiser steps.
            decoder: Whether the decoder's optimiser steps.
            clip_scope: `all` clips the joint norm of encoder and decoder, even if only one optimiser steps;
                `per_module` clips the norm of each separately. Defaults to `training.clip_scope`.
        """
        if self.watched and self._loss is not None:
            total, rec, kl = (term.detach() for term in (self._loss.total, self._loss.rec_B, self._loss.kl_BZ))
            norms = (_gradient_norm(group) for group in (self._encoder, self._decoder))
            self.terms = StepTerms(float(total), float(rec.mean()), float(kl.sum(1).mean()), *norms)
        self._loss = None
        scope = clip_scope or self.training.clip_scope
        groups = [self._encoder + self._decoder] if scope == "all" else [self._encoder, self._decoder]
        for group in groups:
            clip_grad_norm_(group, self.training.clip_norm, foreach=True)  # foreach: no synchronisation with the device
        if encoder:
            self._encoder_optimiser.step()
            self.encoder_steps += bool(self._encoder)
        if decoder:
            self._decoder_optimiser.step()
            self.decoder_steps += 1
        self._encoder_optimiser.zero_grad()
        self._decoder_optimiser.zero_grad()
        self.after_step()

    @contextmanager
    def inner_loop(self, *, decoder_gradients: bool) -> Iterator[None]:
        """Context manager for training only the encoder.

        Args:
            decoder_gradients: Whether gradients of the decoder are computed too, so that they count towards the clipped
                norm.
        """
        with nullcontext() if decoder_gradients else frozen(self._decoder):
            yield

    def observed(self, batch: Batch) -> Batch:
        """Return `batch` with newly drawn observations, for instance binarised pixels of grey images."""
        return batch.observed(self.streams["observation"])

    def random_batch(self) -> Batch:
        """Return a batch drawn uniformly from the `batches` that are large enough for the components."""
        while True:
            draw = torch.randint(len(self.batches), (1,), generator=self.streams["inner_batches"])
            batch = self.batches[int(draw)]
            if self.components.accepts(batch.size):
                return self.observed(batch)

    def random_examples(self, count: int) -> Batch:
        """Return `count` training examples, drawn uniformly without replacement from all `batches`."""
        places = [(number, row) for number, batch in enumerate(self.batches) for row in range(batch.size)]
        draw = torch.randperm(len(places), generator=self.streams["inner_batches"])[:count]
        chosen = [places[number] for number in draw.tolist()]
        return self.observed(self.batches[0].gather(self.batches, chosen))

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rate, the step counts and the state of both optimisers."""
        return {
            "learning_rate": self.learning_rate,
            "encoder_steps": self.encoder_steps,
            "decoder_steps": self.decoder_steps,
            "encoder_optimiser": self._encoder_optimiser.state_dict(),
            "decoder_optimiser": self._decoder_optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.learning_rate = state["learning_rate"]
        self.encoder_steps = state["encoder_steps"]
        self.decoder_steps = state["decoder_steps"]
        self._encoder_optimiser.load_state_dict(state["encoder_optimiser"])
        self._decoder_optimiser.load_state_dict(state["decoder_optimiser"])


def _gradient_norm(parameters: Sequence[nn.Parameter]) -> float | None:
    """Return the norm of all stored gradients; None if there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(get_total_norm(gradients)) if gradients else None
