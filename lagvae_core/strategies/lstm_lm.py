"""The language model that a collapsed VAE comes down to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from lagvae_core.strategies.base import ConfigContext, Incompatibility, LanguageModel, lstm_only, text_only

__all__ = ["LstmLm"]


class LstmLm(LanguageModel):
    """The decoder alone, without z and without an encoder: the LSTM language model against which every VAE is held.

    Source: He et al. 2019, LSTM-LM in Table 1.

    The decoder of the plain VAE with z taken out of its input and a start state of 0; dropout, optimiser, learning rate
    and stopping are those of the trial. It is a model with a latent space of no dimensions: `rec` = `nll_elbo` =
    `nll_iw` is the exact -log p(x), `iw_k` is 1, and what speaks of z (`kl`, `mi`, `au` and their kin) is null, not 0.
    So it stands on no front that has one of these as an axis. A VAE that ignores z has this likelihood, and one whose
    `nll_iw` is not below it has gained nothing by z. `model.latent_dim` has no meaning here.
    """

    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Table 1"

    kind: Literal["lstm_lm"] = "lstm_lm"

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from self.latent_strategies(context)
        yield from text_only("lstm_lm", context)
        yield from lstm_only("lstm_lm", context)
