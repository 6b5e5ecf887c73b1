"""Every remedy, one file each. A new one is imported here, and is then in the catalogue, the search and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from lagvae_core.strategies.agg_kl import AggKl
from lagvae_core.strategies.aggressive import Aggressive
from lagvae_core.strategies.base import Strategy
from lagvae_core.strategies.beta_vae import BetaVae
from lagvae_core.strategies.bn_vae import BnVae
from lagvae_core.strategies.delta_vae import DeltaVae
from lagvae_core.strategies.du_vae import DuVae
from lagvae_core.strategies.encoder_lr import EncoderLr
from lagvae_core.strategies.fisher import Fisher
from lagvae_core.strategies.free_bits import FreeBits
from lagvae_core.strategies.info_mmd import InfoMmd
from lagvae_core.strategies.kl_cyclical import KlCyclical
from lagvae_core.strategies.kl_exp import KlExp
from lagvae_core.strategies.kl_linear_epoch import KlLinearEpoch
from lagvae_core.strategies.kl_linear_iter import KlLinearIter
from lagvae_core.strategies.kl_sigmoid import KlSigmoid
from lagvae_core.strategies.mae import Mae
from lagvae_core.strategies.mdr import Mdr
from lagvae_core.strategies.multitask_bow import MultitaskBow
from lagvae_core.strategies.scale_vae import ScaleVae
from lagvae_core.strategies.soft_free_bits import SoftFreeBits

__all__ = [
    "CATALOGUE",
    "AggKl",
    "Aggressive",
    "AnyStrategy",
    "BetaVae",
    "BnVae",
    "DeltaVae",
    "DuVae",
    "EncoderLr",
    "Fisher",
    "FreeBits",
    "InfoMmd",
    "KlCyclical",
    "KlExp",
    "KlLinearEpoch",
    "KlLinearIter",
    "KlSigmoid",
    "Mae",
    "Mdr",
    "MultitaskBow",
    "ScaleVae",
    "SoftFreeBits",
    "Strategy",
]

CATALOGUE: dict[str, type[Strategy]] = {
    value.name(): value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Strategy) and value is not Strategy
}
"""Every strategy by its kind."""

if TYPE_CHECKING:
    AnyStrategy = Strategy
else:
    AnyStrategy = Annotated[Union[tuple(CATALOGUE.values())], Field(discriminator="kind")]  # noqa: UP007
