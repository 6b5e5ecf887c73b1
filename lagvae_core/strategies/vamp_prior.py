"""A mixture of the posteriors of learned pseudo-inputs as the prior."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import EOS, ImageBatch, ImageDomain, TokenBatch, VectorBatch, VectorDomain
from lagvae_core.models.gaussian import Gaussian, Prior, log_mixture
from lagvae_core.models.mlp import MlpEncoder
from lagvae_core.models.model_config import TokenEncoder
from lagvae_core.models.resnet import ResNetEncoder, running_statistics
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, without_effect
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["PseudoImages", "PseudoPrior", "PseudoSentences", "PseudoVectors", "VampPrior"]

INIT_MEAN = -0.05
"""Default of `init_mean`."""

DARKEST = 0.02
"""Initial grey value of a black pixel of a training image; that of a white pixel is 1 minus this value."""


class VampPrior(Strategy):
    """The prior is the mean of the posteriors of learned pseudo-inputs: sequences of embeddings, images or vectors.

    Source: Tomczak & Welling 2018, with the constants of their published code.

    p(z) = (1/C) sum_c q(z | v_c). Each of the C = `components` pseudo-inputs v_c is a sequence of `length` vectors that
    the encoder reads instead of word embeddings, an image whose grey values are sigmoids of free parameters, or a
    vector of free parameters that the first layer of the encoder reads. The pseudo-inputs are trained with the decoder;
    the encoder is trained through both densities in the KL. The KL is estimated by Monte Carlo, log q(z|x) - log p(z),
    in training at the decoded sample and in evaluation at 100 samples; it is not a sum over dimensions. Every update
    encodes all pseudo-inputs in addition to the batch; many long pseudo-inputs take more time than the batch.
    Evaluation computes the posteriors of the pseudo-inputs once.

    - The prior uses the posterior as evaluation does: with running averages instead of batch statistics, without
      contributing to these statistics, and without dropped variances.
    - `length` is the number of vectors, including `<s>` and `</s>`; null is the mean length of the training sentences.
    - Initial vectors are drawn from N(init_mean, init_std^2). With `init_from_data` they are the encoder's embeddings
      of the training sentences whose length is nearest to `length`, truncated or padded with `</s>` to this length,
      plus noise of standard deviation init_std.
    - The published code clamps the values of images to [0, 1], where a pixel outside receives no gradient; this
      implementation uses sigmoids, whose arguments are drawn from N(init_mean, init_std^2). The code starts grey values
      near the mean of the data: 0.05 +- 0.01 for MNIST and OMNIGLOT, 0.5 for Caltech 101 and Frey Faces, 0.4 for
      histopathology and CIFAR-10. The defaults here give 0.49, that of -0.05 being an option of the code which all of
      its data sets override; `init_mean` -2.944 and `init_std` 0.21 give 0.05 +- 0.01. With `init_from_data` the
      arguments are the logits of training images with grey values clamped to [0.02, 0.98], plus noise of standard
      deviation init_std. Vectors that an LSTM reads need no bound.
    - The published code drops constants that cancel between the two densities, bounds log-variances to (-6, 2), and can
      use several samples of the KL per example. This implementation keeps the constants, does not bound log-variances,
      and draws one sample in training, as for every strategy.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"prior"})
    paper: ClassVar[str] = "Tomczak & Welling 2018, VAE with a VampPrior"
    unmeasured: ClassVar[frozenset[str]] = frozenset({"kl_by_dimension"})
    traits: ClassVar[frozenset[Trait]] = frozenset(
        {Trait.KL_NOT_BY_DIMENSION, Trait.KL_SAMPLED, Trait.UNTESTED_WITH_INNER_LOOP}
    )

    kind: Literal["vamp_prior"] = "vamp_prior"
    components: Annotated[
        int, Field(ge=1, le=65536, description="number of pseudo-inputs"), Tunable(choices=(10, 50, 100, 500))
    ] = 500
    length: Annotated[
        int | None,
        Field(ge=1, le=65536, description="vectors per pseudo-input; null: mean length of the training sentences"),
    ] = None
    init_mean: Annotated[float, Field(description="mean of the initial vectors")] = INIT_MEAN
    init_std: Annotated[float, Field(ge=0, description="standard deviation of the initial vectors")] = 0.01
    init_from_data: Annotated[bool, Field(description="whether pseudo-inputs start as training examples")] = False

    def build(self, context: BuildContext) -> dict[str, Any]:
        domain, batches = context.domain, context.train_batches
        if isinstance(domain, ImageDomain):
            return {"prior": PseudoImages(self, domain, [batch for batch in batches if isinstance(batch, ImageBatch)])}
        if isinstance(domain, VectorDomain):
            return {"prior": PseudoVectors(self, domain, [b for b in batches if isinstance(b, VectorBatch)])}
        sentences = [batch.read for batch in batches if isinstance(batch, TokenBatch)]
        return {"prior": PseudoSentences(self, context.token_model.embedding_size, sentences)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.strategies:
            if other.has(Trait.FLOW_POSTERIOR):
                yield Incompatibility(
                    "E14",
                    f"vamp_prior mixes Gaussian posteriors, but with {other.kind} the posteriors of the pseudo-inputs "
                    "would be flows, whose densities require inverting the flow at each z; remove vamp_prior or "
                    f"{other.kind}",
                )
            if other.has(Trait.ENCODER_READS_BAG):
                yield Incompatibility(
                    "E-PSEUDO",
                    f"vamp_prior has pseudo-inputs without words, but {other.kind}.bow_input = true requires them; "
                    f"set {other.kind}.bow_input = false, or remove vamp_prior or {other.kind}",
                )
        if context.unit != "word":
            yield from without_effect(self, f"on {context.data_kind} data", "length")
        if self.init_from_data and self.init_mean != INIT_MEAN:
            yield Incompatibility("E18", "vamp_prior.init_mean has no effect with init_from_data = true; leave it out")


class PseudoPrior(Prior):
    """p(z) = (1/C) sum_c q(z | v_c). It refers to the encoder and the posterior, whose parameters belong to the model.

    A subclass holds the pseudo-inputs v and implements `start` and `encoded`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: tuple[nn.Module, Posterior] | None = None
        self._cached: Gaussian | None = None

    @abstractmethod
    def start(self, encoder: nn.Module) -> None:
        """Initialise pseudo-inputs whose initial values depend on the encoder; called once when the model is built."""

    @abstractmethod
    def encoded(self, encoder: nn.Module) -> Gaussian:
        """Return the encoder's Gaussians of the C pseudo-inputs, computed without batch statistics."""

    def bind(self, encoder: nn.Module, posterior: nn.Module) -> None:
        assert isinstance(posterior, Posterior)
        self._network = (encoder, posterior)
        self.start(encoder)

    def train(self, mode: bool = True) -> Self:
        self._cached = None
        return super().train(mode)

    def components(self) -> Gaussian:
        """Return the C posteriors; in eval mode they are computed once, at the first call."""
        if self.training:
            return self._posteriors()
        if self._cached is None:
            with torch.no_grad():
                self._cached = self._posteriors()
        return self._cached

    def _posteriors(self) -> Gaussian:
        assert self._network is not None, "call bind() before using a prior of pseudo-inputs"
        encoder, posterior = self._network
        encoded, training = self.encoded(encoder), posterior.training
        posterior.eval()
        q = posterior(encoded).q
        posterior.train(training)
        assert isinstance(q, Gaussian), "posteriors of pseudo-inputs must be Gaussians"
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
    """Pseudo-inputs `pseudo_LCE`: L vectors for each of C pseudo-inputs."""

    def __init__(self, config: VampPrior, embedding: int, batches: Sequence[TokenBatch]) -> None:
        super().__init__()
        length = config.length or mean_length(batches)
        start_LCE = config.init_std * torch.randn(length, config.components, embedding)
        self.pseudo_LCE = nn.Parameter(start_LCE if config.init_from_data else start_LCE + config.init_mean)
        self._sentences_CL = sentences_near(length, config.components, batches) if config.init_from_data else None

    def start(self, encoder: nn.Module) -> None:
        assert isinstance(encoder, TokenEncoder)
        if self._sentences_CL is not None:
            with torch.no_grad():
                self.pseudo_LCE.add_(encoder.embedding(self._sentences_CL.T))

    def encoded(self, encoder: nn.Module) -> Gaussian:
        """Encode in the current mode of the encoder, because cuDNN has no backward pass for an LSTM in eval mode."""
        assert isinstance(encoder, TokenEncoder)
        return encoder.read(self.pseudo_LCE)


class PseudoImages(PseudoPrior):
    """Pseudo-inputs that are the sigmoid of `pseudo_CHW`."""

    def __init__(self, config: VampPrior, domain: ImageDomain, batches: Sequence[ImageBatch]) -> None:
        super().__init__()
        start_CHW = config.init_std * torch.randn(config.components, domain.height, domain.width)
        if config.init_from_data:
            grey_CHW = first_images(config.components, batches).clamp(DARKEST, 1.0 - DARKEST)
            self.pseudo_CHW = nn.Parameter(start_CHW + grey_CHW.logit())
        else:
            self.pseudo_CHW = nn.Parameter(start_CHW + config.init_mean)

    def start(self, encoder: nn.Module) -> None:
        assert isinstance(encoder, ResNetEncoder)

    def encoded(self, encoder: nn.Module) -> Gaussian:
        """Encode with the running averages of batch normalisation, which stay unchanged."""
        assert isinstance(encoder, ResNetEncoder)
        with running_statistics(encoder):
            return encoder.read(self.pseudo_CHW.sigmoid())


class PseudoVectors(PseudoPrior):
    """Pseudo-inputs `pseudo_CX` of the encoder's first layer: C vectors."""

    def __init__(self, config: VampPrior, domain: VectorDomain, batches: Sequence[VectorBatch]) -> None:
        super().__init__()
        start_CX = config.init_std * torch.randn(config.components, domain.features)
        self.pseudo_CX = nn.Parameter(start_CX if config.init_from_data else start_CX + config.init_mean)
        self._batches = tuple(batches) if config.init_from_data else ()

    def start(self, encoder: nn.Module) -> None:
        assert isinstance(encoder, MlpEncoder)
        if self._batches:
            rows = [row for batch in self._batches for row in encoder.inputs(batch.to("cpu"))]
            with torch.no_grad():
                self.pseudo_CX.add_(torch.stack([rows[number % len(rows)] for number in range(len(self.pseudo_CX))]))
        self._batches = ()

    def encoded(self, encoder: nn.Module) -> Gaussian:
        """Encode with the running averages of batch normalisation, which stay unchanged."""
        assert isinstance(encoder, MlpEncoder)
        with running_statistics(encoder):
            return encoder.read(self.pseudo_CX)


def first_images(count: int, batches: Sequence[ImageBatch]) -> Tensor:
    """Return `count` images [C, H, W] in the order of `batches`, starting over if `batches` contain fewer."""
    rows = [row for batch in batches for row in batch.pixels_BHW.cpu()]
    return torch.stack([rows[number % len(rows)] for number in range(count)])


def mean_length(batches: Sequence[TokenBatch]) -> int:
    """Return the mean number of tokens of a sentence, including `<s>` and `</s>`, rounded; 1 without sentences."""
    sentences = sum(batch.size for batch in batches)
    tokens = sum(batch.units for batch in batches) + sentences
    return max(1, round(tokens / max(1, sentences)))


def sentences_near(length: int, count: int, batches: Sequence[TokenBatch]) -> Tensor:
    """Return `count` sentences [C, L], cut or padded with `</s>` to `length`.

    Sentences nearest in length come first, and ties keep their order; the list starts over if it is too short.
    """
    lengths_N = torch.cat([batch.sizes_B for batch in batches])
    first_N = torch.tensor([batch.size for batch in batches]).cumsum(0)
    rows = []
    for number in (lengths_N - length).abs().argsort(stable=True)[:count].tolist():
        batch_number = int(torch.searchsorted(first_N, number, right=True))
        batch = batches[batch_number]
        words_L = batch.tokens_BL[number - int(first_N[batch_number])][: min(length, int(lengths_N[number]))]
        rows.append(functional.pad(words_L, (0, length - len(words_L)), value=EOS).cpu())
    return torch.stack([rows[number % len(rows)] for number in range(count)])
