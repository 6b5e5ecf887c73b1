"""The VAE module: encoder, posterior, prior and decoder.

An outer update is one optimiser step on the main objective, as opposed to inner encoder steps.
"""

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
    """Context manager within which no gradient is computed for `parameters`."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class Posterior(nn.Module):
    """Posterior slot: map from the encoder's Gaussian to q(z|x). This default, the plain VAE, is the identity.

    In train mode a subclass can use statistics of the batch; in eval mode q(z|x) must depend on x alone.
    """

    def forward(self, encoded: Gaussian) -> Inference:
        return Inference.plain(encoded)

    def generative_prior(self, prior: Prior) -> Prior:
        """Return the density from which z is drawn to generate from the model: by default the prior itself."""
        return prior

    def start(self, encoder: nn.Module) -> None:
        """Change the encoder's initialisation if the posterior requires it; called once, when the model is built."""

    def accepts(self, batch_size: int) -> bool:
        """Return whether training can use a batch of this size; batch statistics need more than one example."""
        return True

    def before_step(self, weight: float) -> None:
        """Prepare an outer update with KL weight `weight`; called once before each outer update."""

    def after_step(self) -> None:
        """Finish an outer update; called once after each outer update."""

    def after_epoch(self) -> None:
        """Finish an epoch; called once after its last outer update, before validation."""

    def progress(self) -> dict[str, Any]:
        """Return the state of schedules, which is not rolled back when the best weights are restored.

        State that must be rolled back belongs in parameters or buffers.
        """
        return {}

    def load_progress(self, state: dict[str, Any]) -> None:
        """Restore the state that `progress` returned."""
        assert not state, f"{type(self).__name__} has no progress to restore, got {sorted(state)}"


class Vae(nn.Module):
    """Variational autoencoder: p(x|z) p(z) and q(z|x).

    The parameters form two groups with one optimiser each. The encoder group is the inference network: encoder and
    posterior. The decoder group consists of the generative model (prior and decoder) and the auxiliary networks.

    Args:
        encoder: Map from a batch to a Gaussian.
        decoder: p(x|z).
        posterior: Map from the encoder's Gaussian to q(z|x).
        prior: p(z).
        auxiliaries: Networks used in training but not in evaluation.
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
        """Return q(z|x) of every example of `batch`."""
        return self.posterior(self.encoder(batch))  # type: ignore[no-any-return]

    def reconstruct(self, batch: Batch, history: Any, z_BSZ: Tensor) -> Tensor:
        """Return -log p(x|z), [B, S] [nats].

        Args:
            batch: The batch whose targets are scored.
            history: The past that the decoder reads: `batch.history`, or a corrupted version of it.
            z_BSZ: S samples of z per example.
        """
        return self.decoder(history, batch.targets, z_BSZ)  # type: ignore[no-any-return]

    def generative_prior(self) -> Prior:
        """Return the density from which z is drawn to generate from the model."""
        return self.posterior.generative_prior(self.prior)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the inference network."""
        yield from self.encoder.parameters()
        yield from self.posterior.parameters()

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of prior, decoder and auxiliary networks."""
        yield from self.decoder.parameters()
        yield from self.prior.parameters()
        yield from self.auxiliaries.parameters()
