"""All strategies, one per file.

A new strategy is imported here. The catalogue, the search and the table then include it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from lagvae_core.strategies.ae_pretrain import AePretrain
from lagvae_core.strategies.af_prior import AfPrior
from lagvae_core.strategies.agg_kl import AggKl
from lagvae_core.strategies.aggressive import Aggressive
from lagvae_core.strategies.base import Strategy
from lagvae_core.strategies.beta_vae import BetaVae
from lagvae_core.strategies.bn_vae import BnVae
from lagvae_core.strategies.cnn_decoder import CnnDecoder
from lagvae_core.strategies.contiguous_dropout import ContiguousDropout
from lagvae_core.strategies.delta_vae import DeltaVae
from lagvae_core.strategies.du_vae import DuVae
from lagvae_core.strategies.embedding_dropout import EmbeddingDropout
from lagvae_core.strategies.encoder_lr import EncoderLr
from lagvae_core.strategies.fisher import Fisher
from lagvae_core.strategies.fraternal_dropout import FraternalDropout
from lagvae_core.strategies.free_bits import FreeBits
from lagvae_core.strategies.historyless import Historyless
from lagvae_core.strategies.iaf_posterior import IafPosterior
from lagvae_core.strategies.info_mmd import InfoMmd
from lagvae_core.strategies.kl_cyclical import KlCyclical
from lagvae_core.strategies.kl_exp import KlExp
from lagvae_core.strategies.kl_linear_epoch import KlLinearEpoch
from lagvae_core.strategies.kl_linear_iter import KlLinearIter
from lagvae_core.strategies.kl_sigmoid import KlSigmoid
from lagvae_core.strategies.lstm_lm import LstmLm
from lagvae_core.strategies.mae import Mae
from lagvae_core.strategies.mdr import Mdr
from lagvae_core.strategies.mog_prior import MogPrior
from lagvae_core.strategies.multitask_bow import MultitaskBow
from lagvae_core.strategies.offset_init import OffsetInit
from lagvae_core.strategies.pixelcnn_lm import PixelCnnLm
from lagvae_core.strategies.sa_vae import SaVae
from lagvae_core.strategies.scale_vae import ScaleVae
from lagvae_core.strategies.skip_vae import SkipVae
from lagvae_core.strategies.soft_free_bits import SoftFreeBits
from lagvae_core.strategies.vamp_prior import VampPrior
from lagvae_core.strategies.word_dropout import WordDropout

__all__ = [
    "CATALOGUE",
    "AePretrain",
    "AfPrior",
    "AggKl",
    "Aggressive",
    "AnyStrategy",
    "BetaVae",
    "BnVae",
    "CnnDecoder",
    "ContiguousDropout",
    "DeltaVae",
    "DuVae",
    "EmbeddingDropout",
    "EncoderLr",
    "Fisher",
    "FraternalDropout",
    "FreeBits",
    "Historyless",
    "IafPosterior",
    "InfoMmd",
    "KlCyclical",
    "KlExp",
    "KlLinearEpoch",
    "KlLinearIter",
    "KlSigmoid",
    "LstmLm",
    "Mae",
    "Mdr",
    "MogPrior",
    "MultitaskBow",
    "OffsetInit",
    "PixelCnnLm",
    "SaVae",
    "ScaleVae",
    "SkipVae",
    "SoftFreeBits",
    "Strategy",
    "VampPrior",
    "WordDropout",
]

CATALOGUE: dict[str, type[Strategy]] = {
    value.name(): value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Strategy) and value is not Strategy
}
"""The classes of all strategies by `kind`."""

if TYPE_CHECKING:
    AnyStrategy = Strategy
else:
    AnyStrategy = Annotated[Union[tuple(CATALOGUE.values())], Field(discriminator="kind")]  # noqa: UP007
