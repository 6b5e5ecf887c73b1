"""A prior that is a mixture of the posteriors of learned pseudo-inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import EOS, TokenBatch
from lagvae_core.models.gaussian import Gaussian, Prior, log_mixture
from lagvae_core.models.setting import TokenEncoder
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import Refusal, Setup, Strategy, Surroundings

__all__ = ["PseudoPrior", "VampPrior"]

INIT_MEAN = -0.05


class VampPrior(Strategy):
    """The prior is the mean of the posteriors of learned pseudo-inputs, sentences of free embeddings.

    Source: Tomczak & Welling 2018, with the constants of their published code.

    p(z) = (1/C) sum_c q(z | v_c), where each of the C = `components` pseudo-inputs v_c is `length` vectors that the
    encoder reads in the place of word embeddings. They learn with the decoder; the encoder learns through both sides of
    the KL, which is by Monte Carlo, log q(z|x) - log p(z) at the sample that is decoded and in evaluation at 100, and
    does not split over dimensions. Every update encodes all pseudo-inputs beside the batch: many long ones cost more
    than the batch itself. In evaluation their posteriors are computed once.

    - The prior meets the posterior as evaluation does: with running averages in the place of statistics of a batch,
      which it does not enter, and with no variance dropped.
    - `length` counts vectors, `<s>` and `</s>` included; null is the mean over the training sentences.
    - Vectors start from N(init_mean, init_std^2). With `init_from_data` they start as the encoder's embeddings of the
      training sentences nearest to `length`, cut or continued with `</s>` to it, under noise of deviation init_std.
    - The paper's pseudo-inputs are images, squashed into (0, 1); vectors before an LSTM need no bound. Their code drops
      constants that cancel between the two densities; here they stay. It holds log-variances in (-6, 2); here nothing
      does. It can take several samples of the KL an example; training here draws one, for every remedy.
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

    def parts(self, surroundings: Surroundings) -> dict[str, Any]:
        batches = [batch.read for batch in surroundings.train_batches if isinstance(batch, TokenBatch)]
        return {"prior": PseudoPrior(self, surroundings.token_model.embedding, batches)}

    def refusals(self, setup: Setup) -> Iterator[Refusal]:
        for other in setup.strategies:
            if other.kind == "iaf_posterior":
                yield Refusal(
                    "E14",
                    "vamp_prior mixes Gaussian posteriors, and under iaf_posterior those of the pseudo-inputs would be "
                    "flows, whose density at a foreign z costs an inversion; remove one of the two",
                )
            if getattr(other, "bow_input", False):
                yield Refusal(
                    "E-PSEUDO",
                    f"the pseudo-inputs of vamp_prior have no words, which {other.kind} with bow_input = true makes "
                    f"the encoder read; set {other.kind}.bow_input = false or remove one of the two",
                )
        if self.init_from_data and self.init_mean != INIT_MEAN:
            yield Refusal("E18", "vamp_prior.init_mean is an unused option with init_from_data = true; leave it out")


class PseudoPrior(Prior):
    """(1/C) sum_c q(z | v_c); v is `pseudo_LCE`, L vectors of each of C pseudo-inputs.

    It holds encoder and posterior without owning their parameters, which are in the model once.
    """

    def __init__(self, setting: VampPrior, embedding: int, batches: Sequence[TokenBatch]) -> None:
        super().__init__()
        length = setting.length or mean_length(batches)
        start_LCE = setting.init_std * torch.randn(length, setting.components, embedding)
        self.pseudo_LCE = nn.Parameter(start_LCE if setting.init_from_data else start_LCE + setting.init_mean)
        self._sentences_CL = sentences_near(length, setting.components, batches) if setting.init_from_data else None
        self._network: tuple[TokenEncoder, Posterior] | None = None
        self._settled: Gaussian | None = None

    def bind(self, encoder: nn.Module, posterior: nn.Module) -> None:
        assert isinstance(encoder, TokenEncoder)
        assert isinstance(posterior, Posterior)
        self._network = (encoder, posterior)
        if self._sentences_CL is not None:
            with torch.no_grad():
                self.pseudo_LCE.add_(encoder.embedding(self._sentences_CL.T))

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
        encoded, training = encoder.read(self.pseudo_LCE), posterior.training
        posterior.eval()  # the encoder stays as it is: on a GPU an LSTM in eval mode gives no gradient
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
