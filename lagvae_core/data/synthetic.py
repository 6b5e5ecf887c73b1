"""The synthetic text of He et al. (2019): generated lines with known latent variables.

Shape suffixes: N lines, V words, E embedding, H hidden units, G = 4 H gates (input, forget, cell, output, in torch's
order), Z = 2 latent dimensions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.data.base import Batching, Partition, SplitLimits, Unit
from lagvae_core.data.cache import Entry, discard_entry, read_entry, write_entry
from lagvae_core.data.text.tokens import (
    BOS,
    EOS,
    SPECIALS,
    TokenBatch,
    TokenDataset,
    TokenSplit,
    Vocabulary,
)
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.machine import memory_bytes
from lagvae_core.randomness import derive_seed
from lagvae_core.runtime import torch_threads

__all__ = ["MEANS", "SyntheticData", "Weights", "weights"]

MEANS = np.array([(-2.0, -2.0), (2.0, 2.0), (-2.0, 2.0), (2.0, -2.0)])
"""Means [4, Z] of the mixture components; each component has unit covariance and weight 1/4."""

_LATENT = MEANS.shape[1]
_BLOCK = 250  # number of lines drawn from one random generator; another number would change the data
_FORMAT = 1  # increased whenever a code change makes the same fields produce different lines


class SyntheticData(SplitLimits):
    """Lines drawn from an LSTM with random weights and a two-dimensional mixture prior.

    Source: He et al. 2019, "Lagging Inference Networks and Posterior Collapse in Variational Autoencoders",
    Appendix B.1, as implemented in the authors' published generator. Where the two differ, this class follows the
    generator. In the paper, z enters only the output and the initial state, through affine maps. In the generator, z is
    also an input of the LSTM, and the only biases are the two of the LSTM.

        c ~ U{0..3},  z ~ N(MEANS[c], I),  cell = start z,  hidden = tanh(cell),  x_1 ~ U{0..V-1}
        hidden, cell = LSTM([embed(x_t); z], hidden, cell),  x_t+1 ~ softmax(out_h hidden + out_z z)

    The words are "0" to "V-1", and the vocabulary contains all of them. The label of a line is its mixture component.
    Each split takes the first lines of its own endless stream, so a larger `examples` only adds lines at the end.

    `partition` applies to the training lines only. Lines are drawn independently, so their stored order is already
    random, and `fixed_random` divides them into batches in that order. `fixed_by_group` fills each batch from one
    component of the mixture, and `resplit_random` shuffles all lines before each epoch.
    """

    batching: ClassVar[Batching | None] = None
    unit: ClassVar[Unit] = "word"

    kind: Literal["synthetic"] = "synthetic"
    examples: int = Field(16_000, ge=1, description="number of generated training lines")
    heldout: int = Field(2_000, ge=1, description="number of lines in each of the validation and test splits")
    vocabulary: int = Field(1_000, ge=2, le=50_000, description="number of words, special words not included")
    length: int = Field(10, ge=1, le=1_000, description="number of words in every line")
    hidden: int = Field(100, ge=1, le=10_000, description="hidden units of the generating LSTM")
    embedding: int = Field(100, ge=1, le=10_000, description="size of the generator's word embeddings")
    weight_scale: float = Field(1.0, gt=0, description="bound s of the generator's weights, uniform on [-s, s)")
    z_scale: float = Field(5.0, ge=0, description="bound s of the weights from z to the output, uniform on [-s, s)")
    seed: int = Field(
        19950927, ge=0, description="seed of the generator's weights and lines; independent of the trial's seed"
    )
    partition: Partition = Field("fixed_random", description="division of the training lines into batches")

    def load(self) -> TokenDataset:
        """Generate the data or read them from the cache.

        Without a usable cache folder the data are generated each time, which takes seconds.

        Raises:
            DataError: The data do not fit in the memory of this machine.

        Returns:
            The data set. Its `truth` holds `<split>_z` (float64 [N, Z]) and `<split>_component` (int64 [N]) for each
            split.
        """
        _check_memory(self)
        drawn = _read_cache(self)
        if drawn is None:
            drawn = _generate(self)
            write_entry(_entry_name(self), Entry(drawn, {}))
        drawn = {name: rows[: self.limits[name.partition("_")[0]]] for name, rows in drawn.items()}
        vocabulary = Vocabulary((*SPECIALS, *map(str, range(self.vocabulary))))
        train, valid, test = (_split(drawn.pop(f"{split}_words"), drawn[f"{split}_component"]) for split in self._sizes)
        remarks = self.limit_remarks()  # z and component are left in `drawn`
        fingerprint = self.fingerprint()
        return TokenDataset.of(train, valid, test, vocabulary, truth=drawn, remarks=remarks, fingerprint=fingerprint)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that the lines depend on, and the version of the generator; nothing is generated.

        Fields that give the same lines give the same fingerprint: `examples: 30, limit: 20` equals `examples: 20`, and
        `partition` does not count.

        Raises:
            DataError: The data do not fit in the memory of this machine.
        """
        _check_memory(self)
        sizes = {
            split: size if (limit := self.limits[split]) is None else min(size, limit)
            for split, size in self._sizes.items()
        }
        fields = self.model_dump(mode="json", exclude={*SplitLimits.model_fields, "partition", "examples", "heldout"})
        identity = json.dumps([_FORMAT, fields, sizes], sort_keys=True)
        return f"{hashlib.sha256(identity.encode()).hexdigest()}-v{_FORMAT}"

    @staticmethod
    def is_former_fingerprint(fingerprint: str | None) -> bool:
        """Return whether a stored fingerprint is the hash of the content of generated data, as version 0.1.0 stored it.

        Only the first version of the generator was identified that way. So a stored run with such a fingerprint and
        the same fields used the same lines.
        """
        return _FORMAT == 1 and fingerprint is not None and re.fullmatch("[0-9a-f]{64}", fingerprint) is not None

    def train_batches(self, train: TokenSplit, batch_size: int, seed: int, epoch: int) -> list[TokenBatch]:
        """Return the training batches of one epoch; see `DataSource.train_batches`."""
        if self.partition == "resplit_random":
            return train.batches(batch_size, seed=derive_seed(seed, "partition", epoch))
        return train.batches(batch_size, by_label=self.partition == "fixed_by_group")

    @property
    def _sizes(self) -> dict[str, int]:
        return {"train": self.examples, "valid": self.heldout, "test": self.heldout}


@dataclass(frozen=True, eq=False)
class Weights:
    """Parameters of the generator, float64, drawn in the order of the fields."""

    embedding_VE: NDArray[np.float64]
    input_GI: NDArray[np.float64]
    """Weights of the LSTM's input, the concatenation of word embedding and z, of size I = E + Z."""
    recurrent_GH: NDArray[np.float64]
    input_bias_G: NDArray[np.float64]
    recurrent_bias_G: NDArray[np.float64]
    start_HZ: NDArray[np.float64]
    out_h_VH: NDArray[np.float64]
    out_z_VZ: NDArray[np.float64]


def weights(config: SyntheticData) -> Weights:
    """Return the parameters of the generator; they depend only on the sizes, scales and seed in `config`."""
    generator = np.random.default_rng(derive_seed(config.seed, "synthetic", "weights"))

    def uniform(*shape: int, scale: float = config.weight_scale) -> NDArray[np.float64]:
        return generator.uniform(-scale, scale, shape)

    words, units, gates = config.vocabulary, config.hidden, 4 * config.hidden
    return Weights(
        embedding_VE=uniform(words, config.embedding),
        input_GI=uniform(gates, config.embedding + _LATENT),
        recurrent_GH=uniform(gates, units),
        input_bias_G=uniform(gates),
        recurrent_bias_G=uniform(gates),
        start_HZ=uniform(units, _LATENT),
        out_h_VH=uniform(words, units),
        out_z_VZ=uniform(words, _LATENT, scale=config.z_scale),
    )


@torch_threads(1)  # if many trials start at once, contention between threads makes generation ten times slower
def _generate(config: SyntheticData) -> dict[str, np.ndarray]:
    """Draw `<split>_words`, `<split>_z` and `<split>_component` of every split."""
    parameters = weights(config)
    drawn: dict[str, np.ndarray] = {}
    for split, size in config._sizes.items():
        blocks = [_draw_block(config, parameters, split, number) for number in range(-(-size // _BLOCK))]
        for name, parts in zip(("words", "z", "component"), zip(*blocks, strict=True), strict=True):
            drawn[f"{split}_{name}"] = np.concatenate(parts)[:size]
    return drawn


def _draw_block(
    config: SyntheticData, parameters: Weights, split: str, number: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int64]]:
    """Draw one block of lines: words [_BLOCK, length], z [_BLOCK, Z] and component [_BLOCK].

    Blocks are always drawn whole, so a line depends only on its position and not on the number of lines after it.
    """
    generator = np.random.default_rng(derive_seed(config.seed, "synthetic", split, number))
    component_N = generator.integers(len(MEANS), size=_BLOCK)
    z_NZ = MEANS[component_N] + generator.standard_normal((_BLOCK, _LATENT))

    # The contributions of each word and each z to gates and logits are the same at every step.
    word_input_GE, z_input_GZ = np.hsplit(parameters.input_GI, [config.embedding])
    word_gates_VG = _project(parameters.embedding_VE, word_input_GE)
    z_gates_NG = _project(z_NZ, z_input_GZ) + parameters.input_bias_G + parameters.recurrent_bias_G
    z_logits_NV = _project(z_NZ, parameters.out_z_VZ)

    words = np.empty((_BLOCK, config.length), dtype=np.int32)
    words[:, 0] = generator.integers(config.vocabulary, size=_BLOCK)
    cell_NH = _project(z_NZ, parameters.start_HZ)
    hidden_NH = np.tanh(cell_NH)
    for step in range(1, config.length):
        gates_NG = word_gates_VG[words[:, step - 1]] + z_gates_NG + _project(hidden_NH, parameters.recurrent_GH)
        i_NH, f_NH, g_NH, o_NH = np.split(gates_NG, 4, axis=1)
        cell_NH = _sigmoid(f_NH) * cell_NH + _sigmoid(i_NH) * np.tanh(g_NH)
        hidden_NH = _sigmoid(o_NH) * np.tanh(cell_NH)
        words[:, step] = _draw_words(_project(hidden_NH, parameters.out_h_VH) + z_logits_NV, generator)
    return words, z_NZ, component_N


def _project(x_NI: NDArray[np.float64], weight_OI: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x W', computed by torch, because numpy offers no control over its threads (see `_generate`)."""
    product: NDArray[np.float64] = (torch.from_numpy(x_NI) @ torch.from_numpy(weight_OI).T).numpy()
    return product


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # unlike 1 / (1 + exp(-x)), never overflows


def _draw_words(logits_NV: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw one word per row from softmax(logits) by inverting the cumulative distribution."""
    cumulative_NV = np.cumsum(np.exp(logits_NV - logits_NV.max(axis=1, keepdims=True)), axis=1)
    threshold_N1 = generator.random((len(logits_NV), 1)) * cumulative_NV[:, -1:]
    word_N: NDArray[np.int64] = np.count_nonzero(cumulative_NV < threshold_N1, axis=1)
    return word_N


def _split(words: NDArray[np.int32], component: NDArray[np.int64]) -> TokenSplit:
    lines = np.pad(words + len(SPECIALS), ((0, 0), (1, 1)), constant_values=(BOS, EOS))
    offsets = np.arange(len(lines) + 1) * lines.shape[1]
    return TokenSplit(lines.ravel(), offsets, tuple(map(str, component.tolist())))


def _check_memory(config: SyntheticData) -> None:
    """Raise a DataError if generating the data takes more memory than this machine has."""
    needed, memory = _peak_bytes(config), memory_bytes()
    if memory is not None and needed > memory:
        lines = sum(config._sizes.values())
        message = f"must be data that fit in the memory of this machine, {memory / 2**30:.1f} GiB"
        hint = (
            f"Generating {lines:,} lines of {config.length:,} words takes {needed / 2**30:,.1f} GiB. "
            "Lower data.examples, data.heldout, data.length or the size of the generator."
        )
        raise DataError([ValidationIssue("data", message, hint, f"{needed / 2**30:,.1f} GiB")])


def _peak_bytes(config: SyntheticData) -> int:
    """Return the approximate memory that generating the data takes: the generator, and the lines with two copies."""
    gates, words, inputs = 4 * config.hidden, config.vocabulary, config.embedding + _LATENT
    generator = words * (inputs + config.hidden + gates) + gates * (inputs + config.hidden)
    per_line = 3 * 4 * (config.length + 2) + 8 * (2 * _LATENT + 4)
    return int(8 * generator + sum(config._sizes.values()) * per_line)


def _entry_name(config: SyntheticData) -> str:
    """Return the name of the cache entry. The limits and `partition` do not change the generated lines."""
    identity = f"{_FORMAT} {config.model_dump_json(exclude={*SplitLimits.model_fields, 'partition'})}"
    return f"synthetic-{hashlib.sha256(identity.encode()).hexdigest()}"


def _read_cache(config: SyntheticData) -> dict[str, NDArray[Any]] | None:
    """Return the cached arrays, or None if there is no entry with the expected shapes."""
    name = _entry_name(config)
    entry = read_entry(name)
    if entry is None:
        return None
    if _shapes(entry.arrays) != _expected_shapes(config):
        discard_entry(name, "the arrays have unexpected names or shapes")
        return None
    return dict(entry.arrays)


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _expected_shapes(config: SyntheticData) -> dict[str, tuple[int, ...]]:
    rows = {"words": (config.length,), "z": (_LATENT,), "component": ()}
    return {f"{split}_{name}": (size, *row) for split, size in config._sizes.items() for name, row in rows.items()}
