"""One training step: the loss of a batch and the descent on it; all that a procedure may do to the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lagvae_core.data import Batch
from lagvae_core.models.gaussian import Inference, Proposal
from lagvae_core.models.vae import Vae, frozen
from lagvae_core.randomness import Streams
from lagvae_core.settings import TrainingConfig
from lagvae_core.strategies.slots import ClipScope, Forward, Loss, TrainingComponents

__all__ = ["Learner", "clip_gradients"]


class Learner:
    """The model with its parts and its two optimisers; counts the steps that each has taken."""

    def __init__(self, model: Vae, components: TrainingComponents, training: TrainingConfig, streams: Streams) -> None:
        self.model = model
        self.components = components
        self.training = training
        self.streams = streams
        self.batches: Sequence[Batch] = ()
        self.learning_rate = training.learning_rate
        self.encoder_steps = 0
        self.decoder_steps = 0
        self.after_step: Callable[[], None] = lambda: None
        """Called after each step of an optimiser."""
        self._encoder = list(model.encoder_parameters())
        self._decoder = list(model.decoder_parameters())
        self.fresh_optimisers()

    def fresh_optimisers(self) -> None:
        """Both optimisers anew, without momentum or moments, at the current learning rate."""
        self._encoder_optimiser = self._optimiser(self._encoder, self.learning_rate * self.components.encoder_rate)
        self._decoder_optimiser = self._optimiser(self._decoder, self.learning_rate)

    def _optimiser(self, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        group = [{"params": parameters}]  # as a group, it may be empty: a language model has no encoder
        if self.training.optimiser == "sgd":
            return torch.optim.SGD(group, lr=rate, momentum=self.training.momentum, foreach=True)
        return torch.optim.Adam(group, lr=rate, betas=self.training.adam_betas, foreach=True)

    def loss(self, batch: Batch, weight: float) -> Loss:
        """The training objective of `batch` at KL weight `weight`, with one posterior sample an example."""
        return self.loss_at(batch, self.model.infer(batch), weight)

    def loss_at(self, batch: Batch, inference: Inference, weight: float) -> Loss:
        """The same with `inference` in the place of the encoder's."""
        model, components = self.model, self.components
        draw = inference.q.draw(self.noise(inference.q))
        rec, further = components.decode(self, batch, draw.z_BSZ)
        kl = model.prior.kl(inference.kl_posterior, draw)
        total = components.objective(rec, kl, components.kl_share * weight)
        if further is not None:
            total = total + further
        forward = Forward(batch, inference, draw, rec, kl, weight, model, self.streams)
        for penalty in components.penalties:
            total = total + penalty(forward)
        return Loss(total, rec, kl)

    def kl_factor(self, weight: float) -> Tensor:
        """What the objective multiplies the KL of an example by at KL weight `weight`, where it is linear in the KL."""
        one = torch.ones(1, dtype=torch.float64, device=self.streams.device)
        return self.components.objective(torch.zeros_like(one), one[:, None], self.components.kl_share * weight)

    def history(self, batch: Batch) -> Any:
        """What the decoder may see of the past in one pass, corrupted anew at each call."""
        return self.components.corrupt(batch.history, self.streams["corruption"])

    def noise(self, q: Proposal) -> Tensor:
        """Standard normal noise [B, 1, Z] for one posterior sample an example."""
        examples, dimensions = q.size
        device = q.base.mean_BZ.device
        return torch.randn(examples, 1, dimensions, generator=self.streams["posterior"], device=device)

    def descend(self, loss: Loss, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Step the named parameters against the gradient of `loss`, clipped to `training.clip_norm`.

        `clip_scope` (the recipe's own by default) says whose norm counts: `all`, that of encoder and decoder together,
        whether or not both step; `per_module`, each by its own.
        """
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.step(encoder=encoder, decoder=decoder, clip_scope=clip_scope)

    def step(self, *, encoder: bool, decoder: bool, clip_scope: ClipScope | None = None) -> None:
        """Step the named parameters against the gradients that they hold, clipped as said, and clear all gradients."""
        scope = clip_scope or self.training.clip_scope
        groups = [self._encoder + self._decoder] if scope == "all" else [self._encoder, self._decoder]
        for group in groups:
            clip_gradients(group, self.training.clip_norm)
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
        """A block in which only the encoder learns; without `decoder_gradients` none is computed for the decoder."""
        with nullcontext() if decoder_gradients else frozen(self._decoder):
            yield

    def observed(self, batch: Batch) -> Batch:
        """What training sees of `batch` this time."""
        return batch.observed(self.streams["observation"])

    def random_batch(self) -> Batch:
        """A stored batch, drawn uniformly from those that can be trained on now."""
        while True:
            draw = torch.randint(len(self.batches), (1,), generator=self.streams["inner_batches"])
            batch = self.batches[int(draw)]
            if self.components.accepts(batch.size):
                return self.observed(batch)

    def state_dict(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "encoder_steps": self.encoder_steps,
            "decoder_steps": self.decoder_steps,
            "encoder_optimiser": self._encoder_optimiser.state_dict(),
            "decoder_optimiser": self._decoder_optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learning_rate = state["learning_rate"]
        self.encoder_steps = state["encoder_steps"]
        self.decoder_steps = state["decoder_steps"]
        self._encoder_optimiser.load_state_dict(state["encoder_optimiser"])
        self._decoder_optimiser.load_state_dict(state["decoder_optimiser"])


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """Scale the gradients of `parameters` in place to a joint norm of at most `limit`; never reads the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or math.isinf(limit):
        return
    norms = torch._foreach_norm(gradients)
    factor = (limit / (torch.stack(norms).norm() + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
