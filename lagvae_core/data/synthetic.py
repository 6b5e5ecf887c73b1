"""The synthetic text of He et al. (2019): lines whose latent variable is known.

Shape suffixes: N lines, V words, E embedding, H hidden units, G = 4 H gates (input, forget, cell, output, as
torch orders them), Z = 2 latent dimensions.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.data.base import Partition
from lagvae_core.data.cache import cache_folder
from lagvae_core.data.text.tokens import (
    BOS,
    EOS,
    SPECIALS,
    TokenBatch,
    TokenDataset,
    TokenSplit,
    Vocabulary,
)
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import FrozenConfig

__all__ = ["MEANS", "SyntheticData", "Weights", "weights"]

MEANS = np.array([(-2.0, -2.0), (2.0, 2.0), (-2.0, 2.0), (2.0, -2.0)])
"""The means [4, Z] of the mixture's components, each of unit covariance and weight 1/4."""

_LATENT = MEANS.shape[1]
_BLOCK = 250  # lines drawn from one random generator; part of the data's identity
_FORMAT = 1  # raised whenever the same fields come to mean other lines

_log = logging.getLogger(__name__)


class SyntheticData(FrozenConfig):
    """Lines drawn from an LSTM with random weights and a two-dimensional mixture prior.

    Source: He et al. 2019, "Lagging Inference Networks and Posterior Collapse in Variational Autoencoders",
    Appendix B.1, as the authors' published generator has it. Where the two differ the generator is followed:
    the paper feeds z to the output and the start state only and calls the maps affine; the generator feeds z
    to the LSTM's input too and has no bias but the LSTM's two.

        c ~ U{0..3},  z ~ N(MEANS[c], I),  cell = start z,  hidden = tanh(cell),  x_1 ~ U{0..V-1}
        hidden, cell = LSTM([embed(x_t); z], hidden, cell),  x_t+1 ~ softmax(out_h hidden + out_z z)

    The words are "0" to "V-1", all of them in the vocabulary, and a line's label is its component. Each split
    is the start of an endless stream of its own: a larger `examples` only adds lines at the end.

    `partition` is that of the training lines alone. Lines are drawn independently, so that their stored order is
    already a random one: `fixed_random` cuts it as it is. `fixed_by_group` fills each batch from one component of
    the mixture, and `resplit_random` shuffles all lines before each epoch.
    """

    kind: Literal["synthetic"] = "synthetic"
    examples: int = Field(16_000, ge=1, description="training lines generated")
    heldout: int = Field(2_000, ge=1, description="lines in each of valid and test")
    vocabulary: int = Field(1_000, ge=2, le=50_000, description="words, the specials not counted")
    length: int = Field(10, ge=1, le=1_000, description="words in every line")
    hidden: int = Field(100, ge=1, le=10_000, description="units of the generating LSTM")
    embedding: int = Field(100, ge=1, le=10_000, description="size of a word's embedding")
    weight_scale: float = Field(1.0, gt=0, description="weights are uniform on [-weight_scale, weight_scale)")
    z_scale: float = Field(5.0, ge=0, description="the same for the weights from z to the output")
    seed: int = Field(19950927, ge=0, description="of the weights and of the lines; not the trial's seed")
    limit: int | None = Field(None, ge=1, description="use only the first `limit` training lines")
    partition: Partition = Field("fixed_random", description="how training lines are cut into batches")

    def load(self) -> TokenDataset:
        """Generate the data, or read them from the cache.

        `truth` holds `<split>_z` (float64 [N, 2]) and `<split>_component` (int64 [N]) for each split. The
        cache is a file in the folder of `lagvae_core.data.cache`. A damaged
        one is replaced; without a usable folder the data are generated each time, which takes seconds.
        """
        drawn = _read_cache(self)
        if drawn is None:
            drawn = _generate(self)
            _write_cache(self, drawn)
        if self.limit is not None:
            drawn |= {name: rows[: self.limit] for name, rows in drawn.items() if name.startswith("train_")}
        vocabulary = Vocabulary((*SPECIALS, *map(str, range(self.vocabulary))))
        train, valid, test = (_split(drawn.pop(f"{split}_words"), drawn[f"{split}_component"]) for split in self._sizes)
        return TokenDataset.of(train, valid, test, vocabulary, truth=drawn)  # what is left: z and component

    def train_batches(self, train: TokenSplit, batch_size: int, seed: int, epoch: int) -> list[TokenBatch]:
        """The batches of `epoch` (from 0) in a trial of that `seed`, on the CPU; as many in every epoch."""
        if self.partition == "resplit_random":
            return train.batches(batch_size, seed=derive_seed(seed, "partition", epoch))
        return train.batches(batch_size, by_label=self.partition == "fixed_by_group")

    @property
    def _sizes(self) -> dict[str, int]:
        return {"train": self.examples, "valid": self.heldout, "test": self.heldout}


@dataclass(frozen=True, eq=False)
class Weights:
    """The generator's parameters, float64, drawn in the order of the fields."""

    embedding_VE: NDArray[np.float64]
    input_GI: NDArray[np.float64]
    """From the LSTM's input, I = E + Z: the word's embedding, then z."""
    recurrent_GH: NDArray[np.float64]
    input_bias_G: NDArray[np.float64]
    recurrent_bias_G: NDArray[np.float64]
    start_HZ: NDArray[np.float64]
    out_h_VH: NDArray[np.float64]
    out_z_VZ: NDArray[np.float64]


def weights(setting: SyntheticData) -> Weights:
    """The parameters that `setting` draws its lines with; they depend on its sizes, scales and seed alone."""
    generator = np.random.default_rng(derive_seed(setting.seed, "synthetic", "weights"))

    def uniform(*shape: int, scale: float = setting.weight_scale) -> NDArray[np.float64]:
        return generator.uniform(-scale, scale, shape)

    words, units, gates = setting.vocabulary, setting.hidden, 4 * setting.hidden
    return Weights(
        embedding_VE=uniform(words, setting.embedding),
        input_GI=uniform(gates, setting.embedding + _LATENT),
        recurrent_GH=uniform(gates, units),
        input_bias_G=uniform(gates),
        recurrent_bias_G=uniform(gates),
        start_HZ=uniform(units, _LATENT),
        out_h_VH=uniform(words, units),
        out_z_VZ=uniform(words, _LATENT, scale=setting.z_scale),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Where many trials start at once, threads that wait for each other make this ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def _generate(setting: SyntheticData) -> dict[str, np.ndarray]:
    """Words, z and component of each line of each split, by name; the cache file holds just this."""
    parameters = weights(setting)
    drawn: dict[str, np.ndarray] = {}
    for split, size in setting._sizes.items():
        blocks = [_draw_block(setting, parameters, split, number) for number in range(-(-size // _BLOCK))]
        for name, parts in zip(("words", "z", "component"), zip(*blocks, strict=True), strict=True):
            drawn[f"{split}_{name}"] = np.concatenate(parts)[:size]
    return drawn


def _draw_block(
    setting: SyntheticData, parameters: Weights, split: str, number: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int64]]:
    """One block of lines: words [_BLOCK, length], z [_BLOCK, Z] and component [_BLOCK].

    Blocks are always drawn whole, so that a line depends on its place only and not on how many follow.
    """
    generator = np.random.default_rng(derive_seed(setting.seed, "synthetic", split, number))
    component_N = generator.integers(len(MEANS), size=_BLOCK)
    z_NZ = MEANS[component_N] + generator.standard_normal((_BLOCK, _LATENT))

    # What each word and each z add to the gates and to the logits is the same at every step.
    word_input_GE, z_input_GZ = np.hsplit(parameters.input_GI, [setting.embedding])
    word_gates_VG = _project(parameters.embedding_VE, word_input_GE)
    z_gates_NG = _project(z_NZ, z_input_GZ) + parameters.input_bias_G + parameters.recurrent_bias_G
    z_logits_NV = _project(z_NZ, parameters.out_z_VZ)

    words = np.empty((_BLOCK, setting.length), dtype=np.int32)
    words[:, 0] = generator.integers(setting.vocabulary, size=_BLOCK)
    cell_NH = _project(z_NZ, parameters.start_HZ)
    hidden_NH = np.tanh(cell_NH)
    for step in range(1, setting.length):
        gates_NG = word_gates_VG[words[:, step - 1]] + z_gates_NG + _project(hidden_NH, parameters.recurrent_GH)
        i_NH, f_NH, g_NH, o_NH = np.split(gates_NG, 4, axis=1)
        cell_NH = _sigmoid(f_NH) * cell_NH + _sigmoid(i_NH) * np.tanh(g_NH)
        hidden_NH = _sigmoid(o_NH) * np.tanh(cell_NH)
        words[:, step] = _draw_words(_project(hidden_NH, parameters.out_h_VH) + z_logits_NV, generator)
    return words, z_NZ, component_N


def _project(x_NI: NDArray[np.float64], weight_OI: NDArray[np.float64]) -> NDArray[np.float64]:
    """x W', by torch, because numpy offers no control of its threads (see `_one_thread`)."""
    product: NDArray[np.float64] = (torch.from_numpy(x_NI) @ torch.from_numpy(weight_OI).T).numpy()
    return product


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # unlike 1 / (1 + exp(-x)), never overflows


def _draw_words(logits_NV: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """One word for each row from softmax(logits), by inverting the cumulative distribution."""
    cumulative_NV = np.cumsum(np.exp(logits_NV - logits_NV.max(axis=1, keepdims=True)), axis=1)
    threshold_N1 = generator.random((len(logits_NV), 1)) * cumulative_NV[:, -1:]
    word_N: NDArray[np.int64] = np.count_nonzero(cumulative_NV < threshold_N1, axis=1)
    return word_N


def _split(words: NDArray[np.int32], component: NDArray[np.int64]) -> TokenSplit:
    lines = np.pad(words + len(SPECIALS), ((0, 0), (1, 1)), constant_values=(BOS, EOS))
    offsets = np.arange(len(lines) + 1) * lines.shape[1]
    return TokenSplit(lines.ravel(), offsets, tuple(map(str, component.tolist())))


def _cache_file(setting: SyntheticData) -> Path:
    identity = f"{_FORMAT} {setting.model_dump_json(exclude={'limit', 'partition'})}"
    name = f"synthetic-{hashlib.sha256(identity.encode()).hexdigest()}.npz"
    return cache_folder() / name


def _read_cache(setting: SyntheticData) -> dict[str, np.ndarray] | None:
    """What the cache holds for `setting`, or None if that is nothing or damaged."""
    expected = {"words": (setting.length,), "z": (_LATENT,), "component": ()}
    try:
        with _cache_file(setting).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            drawn = dict(archive)
        for split, size in setting._sizes.items():
            for name, shape in expected.items():
                if drawn[f"{split}_{name}"].shape != (size, *shape):
                    return None
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        _log.warning("the cached synthetic data cannot be used and are drawn again: %s", error)
        return None
    return drawn


def _write_cache(setting: SyntheticData, drawn: dict[str, np.ndarray]) -> None:
    """Put `drawn` in the cache if possible; of many writers at once the last wins, with the same data."""
    try:
        target = _cache_file(setting)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, **drawn)  # type: ignore[arg-type]  # no array is named allow_pickle
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        _log.warning("the synthetic data are not cached: %s", error)
