"""Model of vectors: fully connected encoder and decoder, with a choice of likelihood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import VectorBatch, VectorDomain
from lagvae_core.errors import ValidationIssue
from lagvae_core.models.decoder import Decoder, DecoderOptions, Skip
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Likelihood,
    LikelihoodName,
    Multinomial,
    NegativeBinomial,
    Poisson,
    SigmaMode,
    StudentT,
    Totals,
)
from lagvae_core.models.likelihoods import Gaussian as GaussianLikelihood
from lagvae_core.models.model_config import Features, ModelConfig

__all__ = ["MlpDecoder", "MlpEncoder", "MlpModel"]

SMALL_WIDTH = 1024
"""Layers with fewer units than this are faster on one core than on several cores."""

Activation = Literal["relu", "elu", "gelu", "tanh", "softplus"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}

_OPTIONS: dict[str, tuple[LikelihoodName, ...]] = {
    "sigma": ("gaussian", "student_t"),
    "sigma_mode": ("gaussian", "student_t"),
    "degrees": ("student_t",),
    "totals": ("poisson", "negative_binomial"),
}
"""Likelihoods for which a field has an effect."""


class MlpModel(ModelConfig):
    """Fully connected encoder and decoder of vectors. With `layers` 0 both are linear: the linear VAE.

    The encoder has `layers` hidden layers, followed by a linear layer to mean and log-variance; the decoder has as
    many, followed by a linear layer to one number per feature, the parameter of the likelihood:

    - `gaussian`: N(f(z), sigma^2 I). `sigma_mode` `fixed`: sigma is `sigma`. `learned`: one sigma for all features is a
      parameter that starts at `sigma`. `optimal`: sigma^2 is the mean squared error of the training batch, and in
      evaluation its running average over training (Rybkin et al. 2021).
    - `student_t`: f(z) + sigma * t, with `degrees` degrees of freedom; sigma is `fixed` or `learned`.
    - `bernoulli`: for values 0 and 1.
    - `poisson` and `negative_binomial`: for counts, with the means exp(f(z)), or with `totals: observed` the total of
      the vector times softmax(f(z)). The latter is a likelihood given the total, not comparable with the former.
      `negative_binomial` has one learned dispersion per feature.
    - `multinomial`: for counts, given their total, with the probabilities softmax(f(z)).

    The encoder of counts reads log(1 + x) if the likelihood is one of counts. sigma is in the units that the model
    sees, those of the standardised data. All layers have PyTorch's initialisation. With `norm: batch` a batch of one
    example is normalised with the running averages.

    With the Gaussian likelihood and `layers` 0 the best model is probabilistic PCA (Lucas et al. 2019); strategy `ppca`
    is this model in closed form.
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"vectors", "linear_gaussian"})

    kind: Literal["mlp"] = "mlp"
    layers: Annotated[
        int,
        Field(ge=0, le=64, description="hidden layers (of a Transformer: blocks) of the encoder, and of the decoder"),
    ] = 2
    width: Annotated[
        int, Field(ge=1, le=65536, description="units of a hidden layer (of a Transformer: size of all hidden states)")
    ] = 128
    activation: Annotated[Activation, Field(description="activation function of the hidden layers")] = "relu"
    norm: Annotated[
        Literal["none", "batch", "layer"], Field(description="normalisation of the hidden layers before activation")
    ] = "none"
    likelihood: Annotated[LikelihoodName, Field(description="distribution of the features given z")] = "gaussian"
    sigma: Annotated[
        float, Field(gt=0, description="scale of the noise of gaussian and student_t; the initial one if not fixed")
    ] = 1.0
    sigma_mode: Annotated[SigmaMode, Field(description="how that scale is determined")] = "fixed"
    degrees: Annotated[float, Field(gt=1, description="degrees of freedom of student_t")] = 5.0
    totals: Annotated[
        Totals, Field(description="means of counts: exp(f(z)), or the total of the vector times softmax(f(z))")
    ] = "none"

    @model_validator(mode="after")
    def _check_likelihood(self) -> MlpModel:
        for name, likelihoods in _OPTIONS.items():
            default = type(self).model_fields[name].default
            if self.likelihood not in likelihoods and getattr(self, name) != default:
                used = " and ".join(likelihoods)
                raise ValueError(f"must have {name} = {default}, because {name} has an effect on {used} only")
        if self.likelihood == "student_t" and self.sigma_mode == "optimal":
            raise ValueError("must have sigma_mode = fixed or learned with student_t, whose best sigma has no formula")
        return self

    @property
    def small(self) -> bool:
        return self.width < SMALL_WIDTH

    @property
    def has_gaussian_likelihood(self) -> bool:
        return self.likelihood == "gaussian"

    def domain_issues(self, domain: Any) -> Iterator[ValidationIssue]:
        likelihood = LIKELIHOODS[self.likelihood]
        if domain.values not in likelihood.values:
            kinds = {"binary": "values 0 and 1", "counts": "whole numbers from 0", "real": "numbers"}
            wanted = kinds["counts" if "counts" in likelihood.values else "binary"]
            fitting = [name for name, other in LIKELIHOODS.items() if domain.values in other.values]
            message = f"must fit the data, which contain other values than {wanted}"
            hint = f"Choose {' or '.join(fitting)}, or convert the data."
            yield ValidationIssue("model.likelihood", message, hint, self.likelihood)
        elif "real" not in likelihood.values and domain.is_standardised:
            message = "must be gaussian or student_t for standardised data"
            yield ValidationIssue("model.likelihood", message, "Set data.standardise=none.", self.likelihood)

    def new_likelihood(self, domain: VectorDomain) -> Likelihood:
        """Return the likelihood with its initial parameters."""
        match self.likelihood:
            case "gaussian":
                return GaussianLikelihood(self.sigma, self.sigma_mode)
            case "student_t":
                return StudentT(self.sigma, self.sigma_mode, self.degrees)
            case "bernoulli":
                return Bernoulli()
            case "poisson":
                return Poisson(self.totals)
            case "negative_binomial":
                return NegativeBinomial(self.totals, domain.features)
            case "multinomial":
                return Multinomial()

    def encoder(self, domain: VectorDomain, features: Features | None) -> MlpEncoder:
        assert features is None, "the encoder of vectors takes no additional features"
        return MlpEncoder(self, domain)

    def decoder(self, domain: VectorDomain, stream: torch.Generator, options: DecoderOptions) -> MlpDecoder:
        return MlpDecoder(self, domain, stream, options.skip)


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that uses its running averages for a batch of one row, whose variance is 0."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) > 1:
            return super().forward(x)
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class _Layer(nn.Sequential):
    """Hidden layer: linear, normalisation, activation."""

    def __init__(self, inputs: int, config: MlpModel) -> None:
        norm = {"none": None, "batch": _BatchNorm, "layer": nn.LayerNorm}[config.norm]
        parts = [nn.Linear(inputs, config.width), ACTIVATIONS[config.activation]()]
        super().__init__(*(parts if norm is None else (parts[0], norm(config.width), parts[1])))


class MlpEncoder(nn.Module):
    """Fully connected encoder.

    Args:
        config: Sizes.
        domain: Number of features.
    """

    def __init__(self, config: MlpModel, domain: VectorDomain) -> None:
        super().__init__()
        self._of_counts = LIKELIHOODS[config.likelihood].of_counts
        widths = [domain.features, *(config.width for _ in range(config.layers))]
        self.layers = nn.Sequential(*(_Layer(inputs, config) for inputs in widths[:-1]))
        self.to_latent = nn.Linear(widths[-1], 2 * config.latent_dim)

    def forward(self, batch: VectorBatch) -> Gaussian:
        """Return the encoder's Gaussian, the input of the posterior slot: both parameters [B, Z]."""
        return self.read(self.inputs(batch))

    def inputs(self, batch: VectorBatch) -> Tensor:
        """Return what the first layer reads, [B, X]: the values, or log(1 + x) with a likelihood of counts."""
        x_BX = batch.x_BX.to(self.to_latent.weight)
        return x_BX.log1p() if self._of_counts else x_BX

    def read(self, inputs_BX: Tensor) -> Gaussian:
        """Return the encoder's Gaussian for inputs of the first layer."""
        mean, logvar = self.to_latent(self.layers(inputs_BX)).chunk(2, 1)
        return Gaussian(mean, logvar)


class MlpDecoder(Decoder):
    """Fully connected p(x|z). It reads z alone and is not autoregressive.

    Args:
        config: Sizes and likelihood.
        domain: Number of features, and the scale of the standardisation, by which densities of standardised values are
            converted to the units of the data.
        stream: Random generator of the dropout, of which there is none.
        skip: Skip connections of z to the output layer, or to every layer after the first.
    """

    def __init__(self, config: MlpModel, domain: VectorDomain, stream: torch.Generator, skip: Skip | None) -> None:
        super().__init__(stream)
        self.log_scale = domain.log_scale
        self.likelihood = config.new_likelihood(domain)
        latent, width = config.latent_dim, config.width
        self._skips = [
            skip is not None and (skip.everywhere or number == config.layers) and number > 0
            for number in range(config.layers + 1)
        ]
        extra = latent if skip is not None and skip.kind == "concat" else 0
        inputs = [(width if number else latent) + extra * use for number, use in enumerate(self._skips)]
        self.layers = nn.ModuleList(_Layer(size, config) for size in inputs[:-1])
        self.output = nn.Linear(inputs[-1], domain.features)
        added = [use and skip is not None and skip.kind == "add" for use in self._skips]
        self.skips = nn.ModuleDict(
            {str(number): nn.Linear(latent, width, bias=False) for number, use in enumerate(added) if use}
        )

    def forward(self, history: None, targets: Tensor, z_BSZ: Tensor) -> Tensor:
        outputs_BSX = self.outputs(z_BSZ)
        return self.log_scale - self.likelihood.log_prob(outputs_BSX, targets.to(outputs_BSX))

    def outputs(self, z_BSZ: Tensor) -> Tensor:
        """Return the parameter of the likelihood of each feature, [B, S, X]."""
        z_RZ = z_BSZ.flatten(0, 1)
        h_RW = z_RZ
        for number, layer in enumerate((*self.layers, self.output)):
            if str(number) in self.skips:
                h_RW = h_RW + self.skips[str(number)](z_RZ)
            elif self._skips[number]:
                h_RW = torch.cat([h_RW, z_RZ], 1)
            h_RW = layer(h_RW)
        return h_RW.view(*z_BSZ.shape[:2], -1)
