"""Transformer encoder and decoder of a text VAE.

Shape suffixes: T predicted tokens, L tokens with `<s>` and `</s>`, R = B * S sequences, C width, N heads, D = C / N,
K keys (those of the past and of the T tokens).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lagvae_core.data import History, TextDomain, TokenBatch
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.models.decoder import DecoderOptions, DecoderState, Skip, TokenDecoder, TokenReader, dropout, with_skip
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.model_config import Features, TokenEncoder, TokenModel
from lagvae_core.models.projection import fused

__all__ = ["TransformerDecoder", "TransformerEncoder", "TransformerModel"]

SMALL_WIDTH = 128
"""Transformers with a smaller width than this are faster on one core than on several cores."""


class TransformerModel(TokenModel):
    """Pre-norm Transformer encoder and decoder.

    Source: Vaswani et al. 2017 (layers, scaled embeddings, sinusoidal positions), with the normalisation before each
    layer (Xiong et al. 2020) and GELU. The encoder reads the whole sentence; q(z|x) is computed from the mean over its
    tokens (`pool: mean`) or from the position of `<s>` (`pool: first`). The decoder reads the previous tokens and z,
    which enters in one of three ways:

    - `prefix`: a linear map of z is the position before `<s>`, to which all other positions can attend;
    - `embedding`: a linear map of z is added to every input embedding;
    - `memory`: each block maps z to a key and a value of its own, to which all positions can attend (Li et al. 2020,
      Optimus).

    Encoder, decoder and output layer share no weights. Embeddings are initialised from N(0, 1 / width) and multiplied
    by sqrt(width) when they are read; all other matrices have Glorot's uniform initialisation, and biases are 0.
    Sinusoidal positions set no limit on the length of a sentence.

    - Dropout acts on the outputs of the attention and feedforward layers of the decoder (`dropout`), on its input
      embeddings and on the input of its output layer, but not on attention weights. The encoder has no dropout, as in
      the LSTM of He et al. 2019.
    - Training uses Adam by default, because SGD with the learning rates of the LSTM does not train this model well.
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text"})
    training_defaults: ClassVar[Mapping[str, Any]] = {"optimiser": "adam", "learning_rate": 5e-4}

    kind: Literal["transformer"] = "transformer"
    layers: Annotated[
        int,
        Field(ge=1, le=128, description="hidden layers (of a Transformer: blocks) of the encoder, and of the decoder"),
    ] = 3
    width: Annotated[
        int,
        Field(
            ge=2,
            le=65536,
            multiple_of=2,
            description="units of a hidden layer (of a Transformer: size of all hidden states)",
        ),
    ] = 256
    heads: Annotated[int, Field(ge=1, le=1024, description="number of attention heads; it divides `width`")] = 8
    feedforward: Annotated[
        int | None, Field(ge=1, le=2**20, description="hidden units of the feedforward layers; null: 4 * `width`")
    ] = None
    latent: Annotated[
        Literal["prefix", "embedding", "memory"],
        Field(description="path of z into the decoder: position before `<s>`, input embeddings, or attention memory"),
    ] = "prefix"
    pool: Annotated[
        Literal["mean", "first"],
        Field(description="source of q(z|x) in the encoder: the mean over all tokens, or the position of `<s>`"),
    ] = "mean"
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="dropout rate of the decoder's attention and feedforward layers")
    ] = 0.1
    dropout_in: Annotated[float, Field(ge=0, lt=1, description="dropout rate of the decoder's input embeddings")] = 0.1
    dropout_out: Annotated[float, Field(ge=0, lt=1, description="dropout rate of the decoder's outputs")] = 0.0

    @model_validator(mode="after")
    def _check_heads(self) -> TransformerModel:
        if self.width % self.heads:
            hint = f"Choose a divisor of {self.width}, or another model.width."
            raise ConfigError(
                [ValidationIssue("model.heads", f"must divide model.width = {self.width}", hint, self.heads)]
            )
        return self

    def encoder(self, domain: TextDomain, features: Features | None) -> TransformerEncoder:
        return TransformerEncoder(self, domain.vocabulary, features)

    def decoder(self, domain: TextDomain, stream: torch.Generator, options: DecoderOptions) -> TransformerDecoder:
        return TransformerDecoder(self, domain.vocabulary, stream, options)

    @property
    def dropout_rates(self) -> Mapping[str, float]:
        return {**super().dropout_rates, "dropout": self.dropout}

    @property
    def embedding_size(self) -> int:
        return self.width

    @property
    def state_size(self) -> int:
        return self.width

    @property
    def small(self) -> bool:
        return self.width < SMALL_WIDTH


class KeyValues(NamedTuple):
    """Keys and values of one attention layer, [R, N, K, D] each."""

    keys: Tensor
    values: Tensor

    def then(self, later: KeyValues) -> KeyValues:
        return KeyValues(torch.cat([self.keys, later.keys], 2), torch.cat([self.values, later.values], 2))

    def select(self, index: Tensor) -> KeyValues:
        return KeyValues(self.keys[index], self.values[index])


class LinearWithSkip(nn.Module):
    """Linear layer that also reads z, if there is a skip connection: W [x; z] for `concat`, W (x + U z) for `add`."""

    def __init__(self, inputs: int, outputs: int, skip: Skip | None, latent: int) -> None:
        super().__init__()
        self._adds = skip is not None and skip.kind == "add"
        self.linear = nn.Linear(inputs, outputs)
        self.skip = nn.Linear(latent, inputs if self._adds else outputs, bias=False) if skip is not None else None

    def forward(self, x_RTC: Tensor, z_RZ: Tensor | None) -> Tensor:
        if self.skip is None or z_RZ is None:
            y: Tensor = self.linear(x_RTC)
        elif self._adds:
            y = self.linear(x_RTC + self.skip(z_RZ)[:, None])
        else:
            y = self.linear(x_RTC) + self.skip(z_RZ)[:, None]
        return y


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feedforward(norm(x)).

    Args:
        config: Sizes.
        rate: Dropout rate of both outputs.
        skip: Skip connection of z to both layers; None for none.
    """

    def __init__(self, config: TransformerModel, rate: float, skip: Skip | None = None) -> None:
        super().__init__()
        width, inner, latent = config.width, config.feedforward or 4 * config.width, config.latent_dim
        self._heads, self._rate = config.heads, rate
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = LinearWithSkip(width, 3 * width, skip, latent)
        self.merge = nn.Linear(width, width)
        self.enter = LinearWithSkip(width, inner, skip, latent)
        self.leave = nn.Linear(inner, width)

    def forward(
        self,
        x_RTC: Tensor,
        z_RZ: Tensor | None = None,
        past: KeyValues | None = None,
        read_RT: Tensor | None = None,
        stream: torch.Generator | None = None,
        *,
        causal: bool,
    ) -> tuple[Tensor, KeyValues]:
        """Return the output [R, T, C], and the keys and values of the past and of these T positions.

        Args:
            x_RTC: Input.
            z_RZ: What the skip connection reads.
            past: Keys and values to which all T positions attend as well.
            read_RT: True where attention can read; None for everywhere.
            stream: Random generator of dropout; None for no dropout.
            causal: Whether a position attends only to itself and to those before it.
        """
        projected = self.project(self.attention_norm(x_RTC), z_RZ)
        queries, keys, values = (heads_of(piece, self._heads) for piece in projected.chunk(3, 2))
        present = KeyValues(keys, values) if past is None else past.then(KeyValues(keys, values))
        seen_RNTD = attention(queries, present, read_RT, causal=causal)
        x_RTC = x_RTC + dropout(self.merge(seen_RNTD.transpose(1, 2).flatten(2)), self._rate, stream)
        inner = functional.gelu(self.enter(self.feedforward_norm(x_RTC), z_RZ))
        return x_RTC + dropout(self.leave(inner), self._rate, stream), present


def heads_of(x_RTC: Tensor, heads: int) -> Tensor:
    """Return `x_RTC` divided into heads, [R, N, T, D]."""
    return x_RTC.view(*x_RTC.shape[:2], heads, -1).transpose(1, 2)


def attention(queries_RNTD: Tensor, present: KeyValues, read_RT: Tensor | None, *, causal: bool) -> Tensor:
    """Return softmax(q k / sqrt(D)) v, [R, N, T, D]; with `causal`, the last query is at the last key."""
    steps, keys = queries_RNTD.shape[2], present.keys.shape[2]
    mask, from_start = None, False
    if read_RT is not None:
        mask = read_RT[:, None, None]
    elif causal and steps > 1:
        from_start = steps == keys
        mask = None if from_start else queries_RNTD.new_ones(steps, keys, dtype=torch.bool).tril(keys - steps)
    with nullcontext() if fused() else sdpa_kernel(SDPBackend.MATH):
        return functional.scaled_dot_product_attention(
            queries_RNTD, present.keys, present.values, attn_mask=mask, is_causal=from_start
        )


def positions(start: int, steps: int, like_RTC: Tensor) -> Tensor:
    """Return the sinusoidal encodings [T, C] of the positions from `start` on (Vaswani et al. 2017, section 3.5)."""
    width = like_RTC.shape[2]
    place_T = torch.arange(start, start + steps, device=like_RTC.device, dtype=like_RTC.dtype)
    rate_F = torch.exp(torch.arange(0, width, 2, device=like_RTC.device).to(place_T) * (-math.log(10_000.0) / width))
    angle_TF = place_T[:, None] * rate_F
    return torch.stack([angle_TF.sin(), angle_TF.cos()], 2).flatten(1)


def initialise(module: nn.Module) -> None:
    """Initialise embeddings from N(0, 1 / width), matrices by Glorot's uniform distribution, and biases as 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=layer.embedding_dim**-0.5)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class TransformerEncoder(TokenEncoder):
    """Transformer encoder: mean and log-variance from the pooled outputs, without dropout.

    The input is the sentence enclosed in `<s>` and `</s>`.

    Args:
        config: Sizes.
        vocabulary: Number of tokens.
        features: Additional features, concatenated to the pooled outputs.
    """

    def __init__(self, config: TransformerModel, vocabulary: int, features: Features | None = None) -> None:
        super().__init__()
        self._pool = config.pool
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config, 0.0) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        state = config.width + (features.size if features is not None else 0)
        self.to_latent = nn.Linear(state, 2 * config.latent_dim)
        initialise(self)
        self.features = features

    def forward(self, batch: TokenBatch) -> Gaussian:
        """Return the encoder's Gaussian, the input of the posterior slot: both parameters [B, Z]."""
        features_BF = None if self.features is None else self.features(batch)
        return self._read(self.embedding(batch.tokens_BL), features_BF, batch.last_B)

    def read(self, words_LBE: Tensor) -> Gaussian:
        assert self.features is None, "additional features can be computed only from words, not from embeddings"
        return self._read(words_LBE.transpose(0, 1), None, None)

    def _read(self, words_BLC: Tensor, features_BF: Tensor | None, last_B: Tensor | None) -> Gaussian:
        steps, width = words_BLC.shape[1:]
        read_BL = None if last_B is None else torch.arange(steps, device=last_B.device) <= last_B[:, None]
        x_BLC = words_BLC * math.sqrt(width) + positions(0, steps, words_BLC)
        for block in self.blocks:
            x_BLC, _ = block(x_BLC, read_RT=read_BL, causal=False)
        x_BLC = self.norm(x_BLC)
        if self._pool == "first":
            state_BC = x_BLC[:, 0]
        elif read_BL is None:
            state_BC = x_BLC.mean(1)
        else:
            state_BC = (x_BLC * read_BL[:, :, None]).sum(1) / read_BL.sum(1, keepdim=True)
        if features_BF is not None:
            state_BC = torch.cat([state_BC, features_BF], 1)
        mean, logvar = self.to_latent(state_BC).chunk(2, 1)
        return Gaussian(mean, logvar)


@dataclass(frozen=True, eq=False)
class _State(DecoderState):
    """z, the number of tokens read so far, and the cache: the keys and values of each block."""

    z_RZ: Tensor
    read: int
    cache: tuple[KeyValues | None, ...]

    def select(self, index: Tensor) -> _State:
        cache = tuple(None if past is None else past.select(index) for past in self.cache)
        return _State(self.z_RZ[index], self.read, cache)


class TransformerDecoder(TokenDecoder):
    """Transformer decoder of p(x|z) of `TransformerModel`.

    With `options.skip`, z also enters the output layer: logits = W [h; z] for `concat`, and logits = W (h + U z) for
    `add`. With `everywhere`, the attention and feedforward layers of each block read z in the same way. With
    `latent_dim` 0 the decoder is a language model.
    """

    def __init__(
        self, config: TransformerModel, vocabulary: int, stream: torch.Generator, options: DecoderOptions
    ) -> None:
        super().__init__(stream)
        width, latent, skip = config.width, config.latent_dim, options.skip
        self._config, self._skip = config, skip
        self.reader = TokenReader(width, vocabulary, options)
        inner = skip if skip is not None and skip.everywhere else None
        self.blocks = nn.ModuleList(Block(config, config.dropout, inner) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        memory = config.latent == "memory"
        maps = 0 if latent == 0 else config.layers if memory else 1
        self.from_z = nn.ModuleList(nn.Linear(latent, 2 * width if memory else width) for _ in range(maps))
        self.output = nn.Linear(
            width + (latent if skip is not None and skip.kind == "concat" else 0), vocabulary, bias=False
        )
        adds = skip is not None and skip.kind == "add"
        self.skip = nn.Linear(latent, width, bias=False) if adds else None
        initialise(self)

    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        samples, z_RZ = z_BSZ.shape[1], z_BSZ.flatten(0, 1)
        words_TBC = self.reader(history, self.active_stream())
        words_RTC = words_TBC.transpose(0, 1).repeat_interleave(samples, 0)
        x_RTC = self._with_z(self._placed(words_RTC, 0), z_RZ)
        prefix_R1C = self._prefix(z_RZ)
        if prefix_R1C is not None:
            x_RTC = torch.cat([prefix_R1C, x_RTC], 1)
        x_RTC, _ = self._blocks(x_RTC, z_RZ, self._memory(z_RZ))
        if prefix_R1C is not None:
            x_RTC = x_RTC[:, 1:]
        return self._read_out(x_RTC, z_RZ)

    def begin(self, z_RZ: Tensor, context: History | None = None) -> DecoderState:
        cache, prefix_R1C = self._memory(z_RZ), self._prefix(z_RZ)
        if prefix_R1C is not None:
            _, cache = self._blocks(prefix_R1C, z_RZ, cache)
        return _State(z_RZ, 0, cache)

    def step(self, state: DecoderState, tokens_R: Tensor) -> tuple[Tensor, DecoderState]:
        assert isinstance(state, _State), "the state must come from this decoder"
        words_1RC = self.reader(History(tokens_R[:, None]), self.active_stream())
        x_R1C = self._with_z(self._placed(words_1RC.transpose(0, 1), state.read), state.z_RZ)
        x_R1C, cache = self._blocks(x_R1C, state.z_RZ, state.cache)
        logits_RV = self.output(self._read_out(x_R1C, state.z_RZ)[0])
        return logits_RV, _State(state.z_RZ, state.read + 1, cache)

    def _placed(self, words_RTC: Tensor, start: int) -> Tensor:
        """Return scaled embeddings with the encodings of their positions."""
        return words_RTC * math.sqrt(self._config.width) + positions(start, words_RTC.shape[1], words_RTC)

    def _with_z(self, x_RTC: Tensor, z_RZ: Tensor) -> Tensor:
        if self._config.latent == "embedding" and self.from_z:
            added_RC: Tensor = self.from_z[0](z_RZ)
            return x_RTC + added_RC[:, None]
        return x_RTC

    def _prefix(self, z_RZ: Tensor) -> Tensor | None:
        if self._config.latent == "prefix" and self.from_z:
            prefix_R1C: Tensor = self.from_z[0](z_RZ)[:, None]
            return prefix_R1C
        return None

    def _memory(self, z_RZ: Tensor) -> tuple[KeyValues | None, ...]:
        """Return the past of each block before any token is read: the key and value of z, or nothing."""
        if self._config.latent != "memory" or not self.from_z:
            return (None,) * self._config.layers
        pairs = (from_z(z_RZ)[:, None].chunk(2, 2) for from_z in self.from_z)
        heads = self._config.heads
        return tuple(KeyValues(heads_of(keys, heads), heads_of(values, heads)) for keys, values in pairs)

    def _blocks(
        self, x_RTC: Tensor, z_RZ: Tensor, past: tuple[KeyValues | None, ...]
    ) -> tuple[Tensor, tuple[KeyValues, ...]]:
        stream, cache = self.active_stream(), []
        for block, earlier in zip(self.blocks, past, strict=True):
            x_RTC, present = block(x_RTC, z_RZ, earlier, stream=stream, causal=True)
            cache.append(present)
        return x_RTC, tuple(cache)

    def _read_out(self, x_RTC: Tensor, z_RZ: Tensor) -> Tensor:
        """Return the input of the output layer, [T, R, F]."""
        x_TRC = dropout(self.norm(x_RTC), self._config.dropout_out, self.active_stream()).transpose(0, 1)
        return with_skip(x_TRC, z_RZ, self._skip, self.skip)
