"""The language model that a collapsed VAE comes down to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lagvae_core.columns import LATENT_COLUMNS
from lagvae_core.data import Batch, TextDomain
from lagvae_core.models.decoder import Wiring
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.lstm import LstmDecoder, LstmModel
from lagvae_core.models.setting import Features
from lagvae_core.strategies.base import Refusal, Setup, Strategy, Surroundings, lstm_only, text_only

__all__ = ["LstmLm", "NoEncoder"]


class LstmLm(Strategy):
    """The decoder alone, without z and without an encoder: the LSTM language model against which every VAE is held.

    Source: He et al. 2019, LSTM-LM in Table 1.

    The decoder of the plain VAE with z taken out of its input and a start state of 0; dropout, optimiser, learning rate
    and stopping are those of the trial. It is a model with a latent space of no dimensions: `rec` = `nll_elbo` =
    `nll_iw` is the exact -log p(x), `iw_k` is 1, and what speaks of z (`kl`, `mi`, `au` and their kin) is null, not 0.
    So it stands on no front that has one of these as an axis. A VAE that ignores z has this likelihood, and one whose
    `nll_iw` is not below it has gained nothing by z. `model.latent_dim` has no meaning here.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})
    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Table 1"
    unmeasured: ClassVar[frozenset[str]] = frozenset({*LATENT_COLUMNS, "valid_kl", "valid_mi", "valid_au"})
    latent: ClassVar[bool] = False

    kind: Literal["lstm_lm"] = "lstm_lm"

    def parts(self, surroundings: Surroundings) -> dict[str, Any]:
        return {"encoder": NoEncoder, "decoder": decoder_without_z}

    def refusals(self, setup: Setup) -> Iterator[Refusal]:
        for other in setup.strategies:
            if other.latent:
                yield Refusal(
                    "E10", f"lstm_lm has no latent variable that {other.kind} could act on; remove one of the two"
                )
        yield from text_only("lstm_lm", setup)
        yield from lstm_only("lstm_lm", setup)


class NoEncoder(nn.Module):
    """q(z|x) over no dimensions, whatever x is."""

    nothing: Tensor

    def __init__(self, setting: LstmModel, domain: TextDomain, features: Features | None = None) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(0), persistent=False)

    def forward(self, batch: Batch) -> Gaussian:
        nothing_BZ = self.nothing.expand(batch.size, 0)
        return Gaussian(nothing_BZ, nothing_BZ)


def decoder_without_z(setting: LstmModel, domain: TextDomain, stream: torch.Generator, wiring: Wiring) -> LstmDecoder:
    return LstmDecoder(setting.model_copy(update={"latent_dim": 0}), domain.vocabulary, stream, wiring)
