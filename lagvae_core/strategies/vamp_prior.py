"""A prior that is a mixture of the posteriors of learned pseudo-inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import EOS, ImageBatch, ImageDomain, TokenBatch
from lagvae_core.models.gaussian import Gaussian, Prior, log_mixture
from lagvae_core.models.model_config import TokenEncoder
from lagvae_core.models.resnet import ResNetEncoder, running_statistics
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy, without_effect

__all__ = ["PseudoImages", "PseudoPrior", "PseudoSentences", "VampPrior"]

INIT_MEAN = -0.05

DARKEST = 0.02
"""The grey at which a black pixel of a training image starts, and the distance from white of a white one."""


class VampPrior(Strategy):
    """The prior is the mean of the posteriors of learned pseudo-inputs, sentences of free embeddings or grey images.

    Source: Tomczak & Welling 2018, with the constants of their published code.

    p(z) = (1/C) sum_c q(z | v_c), where each of the C = `components` pseudo-inputs v_c is `length` vectors that the
    encoder reads in the place of word embeddings, or an image whose greys are sigmoids of free numbers. They learn with
    the decoder; the encoder learns through both sides of the KL, which is by Monte Carlo, log q(z|x) - log p(z) at the
    sample that is decoded and in evaluation at 100, and does not split over dimensions. Every update encodes all
    pseudo-inputs beside the batch: many long ones cost more than the batch itself. In evaluation their posteriors are
    computed once.

    - The prior meets the posterior as evaluation does: with running averages in the place of statistics of a batch,
      which it does not enter, and with no variance dropped.
    - `length` counts vectors, `<s>` and `</s>` included; null is the mean over the training sentences.
    - Vectors start from N(init_mean, init_std^2). With `init_from_data` they start as the encoder's embeddings of the
      training sentences nearest to `length`, cut or continued with `</s>` to it, under noise of deviation init_std.
    - Their code cuts images off at 0 and 1; from its start below 0 no gradient would ever reach a pixel, hence
      sigmoids, which start from N(init_mean, init_std^2) too, or with `init_from_data` as training images with greys of
      at least 0.02 and at most 0.98. Vectors before an LSTM need no bound. Their code drops constants that cancel
      between the two densities; here they stay. It holds log-variances in (-6, 2); here nothing does. It can take
      several samples of the KL an example; training here draws one, for every remedy.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"prior"})
    paper: ClassVar[str] = "Tomczak & Welling 2018, VAE with a VampPrior"
    unmeasured: ClassVar[frozenset[str]] = frozenset({"kl_by_dimension"})

    kind: Literal["vamp_prior"] = "vamp_prior"
    components: Annotated[
        int, Field(ge=1, le=65536, description="pseudo-inputs"), Tunable(choices=(10, 50, 100, 500))
    ] = 500
    length: Annotated[
        int | None, Field(ge=1, le=65536, description="vectors of one; null: mean of the training set")
    ] = None
    init_mean: Annotated[float, Field(description="mean of the vectors at the start")] = INIT_MEAN
    init_std: Annotated[float, Field(ge=0, description="deviation of the vectors at the start")] = 0.01
    init_from_data: Annotated[bool, Field(description="start as embedded training sentences")] = False

    def build(self, context: BuildContext) -> dict[str, Any]:
        domain, batches = context.domain, context.train_batches
        if isinstance(domain, ImageDomain):
            return {"prior": PseudoImages(self, domain, [batch for batch in batches if isinstance(batch, ImageBatch)])}
        sentences = [batch.read for batch in batches if isinstance(batch, TokenBatch)]
        return {"prior": PseudoSentences(self, context.token_model.embedding, sentences)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if other.kind == "iaf_posterior":
                yield Incompatibility(
                    "E14",
                    "vamp_prior mixes Gaussian posteriors, and under iaf_posterior those of the pseudo-inputs would be "
                    "flows, whose density at a foreign z costs an inversion; remove one of the two",
                )
            if getattr(other, "bow_input", False):
                yield Incompatibility(
                    "E-PSEUDO",
                    f"the pseudo-inputs of vamp_prior have no words, which {other.kind} with bow_input = true makes "
                    f"the encoder read; set {other.kind}.bow_input = false or remove one of the two",
                )
        if context.data_kind == "images":
            yield from without_effect(self, "on images", "length")
        if self.init_from_data and self.init_mean != INIT_MEAN:
            yield Incompatibility(
                "E18", "vamp_prior.init_mean is an unused option with init_from_data = true; leave it out"
            )


class PseudoPrior(Prior):
    """(1/C) sum_c q(z | v_c). It holds encoder and posterior without owning their parameters, which are in the model.

    A subclass holds the pseudo-inputs v and makes `start` and `encoded`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: tuple[nn.Module, Posterior] | None = None
        self._settled: Gaussian | None = None

    @abstractmethod
    def start(self, encoder: nn.Module) -> None:
        """Called once when the model is built, for pseudo-inputs whose start needs the encoder."""

    @abstractmethod
    def encoded(self, encoder: nn.Module) -> Gaussian:
        """What the encoder says of the C pseudo-inputs, without the statistics of a batch."""

    def bind(self, encoder: nn.Module, posterior: nn.Module) -> None:
        assert isinstance(posterior, Posterior)
        self._network = (encoder, posterior)
        self.start(encoder)

    def train(self, mode: bool = True) -> Self:
        self._settled = None
        return super().train(mode)

    def components(self) -> Gaussian:
        """The C posteriors: in train mode as the parameters are now, in eval mode as they were when it began."""
        if self.training:
            return self._posteriors()
        if self._settled is None:
            with torch.no_grad():
                self._settled = self._posteriors()
        return self._settled

    def _posteriors(self) -> Gaussian:
        assert self._network is not None, "a prior of pseudo-inputs must be bound to its encoder first"
        encoder, posterior = self._network
        encoded, training = self.encoded(encoder), posterior.training
        posterior.eval()
        q = posterior(encoded).q
        posterior.train(training)
        assert isinstance(q, Gaussian), "pseudo-posteriors are Gaussians"
        return q

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        log_p_N = log_mixture(z_BSZ.flatten(0, 1), self.components())
        return log_p_N.view(z_BSZ.shape[:2]).to(z_BSZ)

    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        components = self.components()
        total = len(components.mean_BZ)
        chosen = torch.randint(total, (len(noise_NZ),), generator=generator, device=generator.device)
        return components.select(chosen).draw(noise_NZ[:, None]).z_BSZ[:, 0]


class PseudoSentences(PseudoPrior):
    """v is `pseudo_LCE`, L vectors of each of C pseudo-inputs."""

    def __init__(self, setting: VampPrior, embedding: int, batches: Sequence[TokenBatch]) -> None:
        super().__init__()
        length = setting.length or mean_length(batches)
        start_LCE = setting.init_std * torch.randn(length, setting.components, embedding)
        self.pseudo_LCE = nn.Parameter(start_LCE if setting.init_from_data else start_LCE + setting.init_mean)
        self._sentences_CL = sentences_near(length, setting.components, batches) if setting.init_from_data else None

    def start(self, encoder: nn.Module) -> None:
        assert isinstance(encoder, TokenEncoder)
        if self._sentences_CL is not None:
            with torch.no_grad():
                self.pseudo_LCE.add_(encoder.embedding(self._sentences_CL.T))

    def encoded(self, encoder: nn.Module) -> Gaussian:
        """The encoder's mode stays as it is: on a GPU an LSTM in eval mode gives no gradient."""
        assert isinstance(encoder, TokenEncoder)
        return encoder.read(self.pseudo_LCE)


class PseudoImages(PseudoPrior):
    """v is the sigmoid of `pseudo_CHW`."""

    def __init__(self, setting: VampPrior, domain: ImageDomain, batches: Sequence[ImageBatch]) -> None:
        super().__init__()
        start_CHW = setting.init_std * torch.randn(setting.components, domain.height, domain.width)
        if setting.init_from_data:
            grey_CHW = first_images(setting.components, batches).clamp(DARKEST, 1.0 - DARKEST)
            self.pseudo_CHW = nn.Parameter(start_CHW + grey_CHW.logit())
        else:
            self.pseudo_CHW = nn.Parameter(start_CHW + setting.init_mean)

    def start(self, encoder: nn.Module) -> None:
        assert isinstance(encoder, ResNetEncoder)

    def encoded(self, encoder: nn.Module) -> Gaussian:
        """Batch normalisation uses its running averages, which the pseudo-inputs do not enter."""
        assert isinstance(encoder, ResNetEncoder)
        with running_statistics(encoder):
            return encoder.read(self.pseudo_CHW.sigmoid())


def first_images(count: int, batches: Sequence[ImageBatch]) -> Tensor:
    """`count` images [C, H, W] in the order of `batches`, beginning anew where there are fewer."""
    rows = [row for batch in batches for row in batch.pixels_BHW.cpu()]
    return torch.stack([rows[number % len(rows)] for number in range(count)])


def mean_length(batches: Sequence[TokenBatch]) -> int:
    """The mean number of tokens of a sentence, `<s>` and `</s>` included, rounded; 1 without sentences."""
    sentences = sum(batch.size for batch in batches)
    tokens = sum(batch.units for batch in batches) + sentences
    return max(1, round(tokens / max(1, sentences)))


def sentences_near(length: int, count: int, batches: Sequence[TokenBatch]) -> Tensor:
    """`count` sentences [C, L], cut or continued with `</s>` to `length`: the nearest in length first, then in order.

    They begin anew where there are fewer.
    """
    lengths_N = torch.cat([batch.sizes_B for batch in batches])
    first_N = torch.tensor([batch.size for batch in batches]).cumsum(0)
    rows = []
    for number in (lengths_N - length).abs().argsort(stable=True)[:count].tolist():
        which = int(torch.searchsorted(first_N, number, right=True))
        batch = batches[which]
        words_L = batch.tokens_BL[number - int(first_N[which])][: min(length, int(lengths_N[number]))]
        rows.append(functional.pad(words_L, (0, length - len(words_L)), value=EOS).cpu())
    return torch.stack([rows[number % len(rows)] for number in range(count)])
