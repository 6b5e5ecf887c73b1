"""A Gaussian decoder whose variance is estimated instead of fixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from lagvae_core.data import VectorDomain
from lagvae_core.models.decoder import Decoder, DecoderOptions
from lagvae_core.models.mlp import MlpModel
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, needs_batch_statistics
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["SigmaVae"]


class SigmaVae(Strategy):
    """The variance sigma^2 of the Gaussian decoder is estimated, so that KL and reconstruction are in balance.

    Source: Rybkin et al. 2021. A fixed sigma is a KL weight of sigma^2 in disguise; if sigma^2 exceeds the largest
    eigenvalue of the covariance of the data, a linear VAE collapses. With `mode` `optimal`, sigma^2 is the value with
    the largest likelihood, the mean squared error of the training batch over examples and features. With `learned`, one
    log sigma is a parameter of the decoder.

    This replaces `model.sigma_mode`; `model.sigma` is the initial value of `learned`.

    - Evaluation uses a sigma that depends on training alone: the parameter, or the running average of the squared
      errors of the training batches (batch n has the weight max(0.05, 1 / n)), which is kept and restored with the best
      weights. The published code evaluates with the error of the evaluated batch, which is no likelihood.
    - log sigma has the soft lower bound of the published code: -6 + softplus(log sigma + 6).
    - One sigma is shared by all features, as in the published code.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"decoder"})
    paper: ClassVar[str] = (
        "Rybkin, Daniilidis & Levine 2021, Simple and Effective VAE Training with Calibrated Decoders"
    )
    traits: ClassVar[frozenset[Trait]] = frozenset(
        {Trait.GAUSSIAN_LIKELIHOOD, Trait.WORKS_WITHOUT_Z, Trait.BATCH_STATISTICS}
    )

    kind: Literal["sigma_vae"] = "sigma_vae"
    mode: Annotated[
        Literal["optimal", "learned"],
        Field(description="estimate of sigma: the error of each batch, or a parameter"),
        Tunable(choices=("optimal", "learned")),
    ] = "optimal"

    def has(self, trait: Trait) -> bool:
        """Return whether the strategy has `trait`; a learned sigma needs no batch statistics."""
        return super().has(trait) and (trait is not Trait.BATCH_STATISTICS or self.mode == "optimal")

    def build(self, context: BuildContext) -> dict[str, Any]:
        def decoder(model: MlpModel, domain: VectorDomain, stream: torch.Generator, options: DecoderOptions) -> Decoder:
            return model.model_copy(update={"sigma_mode": self.mode}).decoder(domain, stream, options)

        return {"decoder": decoder}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.has(Trait.BATCH_STATISTICS):
            yield from needs_batch_statistics(self.kind, None, 2, context)
