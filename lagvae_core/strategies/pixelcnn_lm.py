"""The language model of pixels that a collapsed VAE of images comes down to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from lagvae_core.strategies.base import ConfigContext, Incompatibility, LanguageModel, images_only

__all__ = ["PixelCnnLm"]


class PixelCnnLm(LanguageModel):
    """The decoder alone, without z and without an encoder: the PixelCNN against which every VAE of images is held.

    Source: He et al. 2019, PixelCNN in Table 2.

    The decoder of the plain VAE without its maps of z; optimiser, learning rate and stopping are those of the trial. It
    is a model with a latent space of no dimensions: `rec` = `nll_elbo` = `nll_iw` is the exact -log p(x), `iw_k` is 1,
    and what speaks of z (`kl`, `mi`, `au` and their kin) is null, not 0. `model.latent_dim` and `model.z_maps` have no
    meaning here. The published code has this path, but it cannot run; the network is what its classes make.
    """

    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Table 2"

    kind: Literal["pixelcnn_lm"] = "pixelcnn_lm"

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from self.latent_strategies(context)
        yield from images_only("pixelcnn_lm", context)
