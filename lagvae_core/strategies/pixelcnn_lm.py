"""The PixelCNN language model: the decoder without z."""

from __future__ import annotations

from typing import ClassVar, Literal

from lagvae_core.strategies.base import LanguageModel
from lagvae_core.strategies.rules import Trait

__all__ = ["PixelCnnLm"]


class PixelCnnLm(LanguageModel):
    """The decoder alone, without z or encoder: the PixelCNN, a baseline for every VAE of images.

    Source: He et al. 2019, PixelCNN in Table 2.

    The model is the decoder of the plain VAE, without its feature maps of z; optimiser, learning rate and stopping are
    those of the trial. The latent space has 0 dimensions: `rec` = `nll_elbo` = `nll_iw` is the exact -log p(x), `iw_k`
    is 1, and all columns about z (`kl`, `mi`, `au` and so on) are null, not 0. `model.latent_dim` and `model.z_maps`
    have no effect. The network follows the class definitions in the published code, which run without z if the number
    of maps of z is set to 0; with the four maps of its configuration that path fails.
    """

    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Table 2"
    traits: ClassVar[frozenset[Trait]] = LanguageModel.traits | {Trait.IMAGES_ONLY}

    kind: Literal["pixelcnn_lm"] = "pixelcnn_lm"
