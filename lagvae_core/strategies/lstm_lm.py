"""The language model of words: the decoder without z."""

from __future__ import annotations

from typing import ClassVar, Literal

from lagvae_core.strategies.base import LanguageModel
from lagvae_core.strategies.rules import Trait

__all__ = ["LstmLm"]


class LstmLm(LanguageModel):
    """The decoder alone, without z or encoder: the LSTM language model, a baseline for every VAE of text.

    Source: He et al. 2019, LSTM-LM in Table 1.

    The model is the decoder of the plain VAE, without z in its input and with an initial state of 0; dropout,
    optimiser, learning rate and stopping are those of the trial. With `model.kind: transformer` it is a Transformer
    language model, the baseline for VAEs with that decoder. The latent space has 0 dimensions: `rec` = `nll_elbo`
    = `nll_iw` is the exact -log p(x), `iw_k` is 1, and all columns about z (`kl`, `mi`, `au` and so on) are null, not
    0, so the arm is excluded from Pareto fronts over such a column. A VAE that ignores z has this likelihood; a VAE
    whose `nll_iw` is not lower has gained nothing from z. `model.latent_dim` has no effect.
    """

    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Table 1"
    traits: ClassVar[frozenset[Trait]] = LanguageModel.traits | {Trait.TEXT_ONLY}
    models: ClassVar[frozenset[str]] = frozenset({"lstm", "transformer"})

    kind: Literal["lstm_lm"] = "lstm_lm"
