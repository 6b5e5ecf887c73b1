"""Encoder, posterior, prior and decoder held together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lagvae_core.data import Batch
from lagvae_core.models.gaussian import Gaussian, Inference, Prior

__all__ = ["Posterior", "Vae", "frozen"]


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """A block in which no gradient is computed for `parameters`."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class Posterior(nn.Module):
    """The posterior slot: what is made of the encoder's mean and log-variance. The plain VAE leaves them as they are.

    In train mode it may use statistics of the batch; in eval mode q(z|x) must depend on x alone.
    """

    def forward(self, encoded: Gaussian) -> Inference:
        return Inference.plain(encoded)

    def generative_prior(self, prior: Prior) -> Prior:
        """The density of the decoder's input when the model is sampled from; the prior slot's own by default."""
        return prior

    def start(self, encoder: nn.Module) -> None:
        """Called once when the model is built, for a posterior that needs another start of the encoder."""

    def accepts(self, batch_size: int) -> bool:
        """Whether a batch of this size can be trained on now; statistics of a batch need companions."""
        return True

    def before_step(self, weight: float) -> None:
        """Called once before each outer update with the KL weight of that update."""

    def after_step(self) -> None:
        """Called once after each outer update."""

    def after_epoch(self) -> None:
        """Called once after the last update of an epoch, before validation."""

    def progress(self) -> dict[str, Any]:
        """State of the schedule, which a return to the best weights must not turn back; weights are buffers."""
        return {}

    def load_progress(self, state: dict[str, Any]) -> None:
        assert not state, f"{type(self).__name__} keeps no progress, but was given {sorted(state)}"


class Vae(nn.Module):
    """p(x|z) p(z) and q(z|x). Parameters fall into two groups, each with an optimiser of its own.

    The encoder's group holds the inference network, that of the decoder the generator: prior, decoder and the
    `auxiliaries`, further networks that training needs and measurement does not.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        posterior: Posterior,
        prior: Prior,
        auxiliaries: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self.prior = prior
        self.auxiliaries = nn.ModuleList(auxiliaries)
        posterior.start(encoder)
        prior.bind(encoder, posterior)

    def infer(self, batch: Batch) -> Inference:
        """q(z|x) for every example of `batch`."""
        return self.posterior(self.encoder(batch))  # type: ignore[no-any-return]

    def reconstruct(self, batch: Batch, history: Any, z_BSZ: Tensor) -> Tensor:
        """-log p(x|z) in nats, [B, S]; the decoder sees `history` as the past, the targets are the batch's own."""
        return self.decoder(history, batch.targets, z_BSZ)  # type: ignore[no-any-return]

    def generative_prior(self) -> Prior:
        return self.posterior.generative_prior(self.prior)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.encoder.parameters()
        yield from self.posterior.parameters()

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.decoder.parameters()
        yield from self.prior.parameters()
        yield from self.auxiliaries.parameters()
