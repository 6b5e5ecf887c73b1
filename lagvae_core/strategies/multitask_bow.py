"""An auxiliary task for z: predict which words are in the sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.columns import Column
from lagvae_core.data import Batch
from lagvae_core.models.bag import BagFeatures, BagHead
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, without_effect
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import ExtraMetrics, Forward, Measurement, Penalty

__all__ = ["BagTask", "MultitaskBow"]


class MultitaskBow(Strategy):
    """An additional head predicts from z which words are in the sentence.

    Source: Kamoi & Fukutomi 2018, as the blog post "Posterior collapse and the strong generator problem" describes it.
    The paper's exact loss is not known to us; this implementation follows the description in the post.

    A head with one hidden layer maps the decoded sample of z to a logit for each word, and the loss increases by
    `weight` times the batch mean of

    - `multinomial`: -sum_t log softmax(logits)[x_t], as if the words were drawn independently from one distribution;
    - `bernoulli`: the binary cross-entropy of the presence of each word, summed over the vocabulary.

    The sentence is the input of the encoder; in reinflection, where words are characters, it is the source form. Words
    are all tokens except `<pad>`, `<s>` and `</s>`; `<unk>` counts, because it stands for a word of the sentence. With
    `bow_input`, the output of a linear layer on the bag of words is appended to the last state of the encoder, before
    the projection to mean and log-variance. The head is trained with the decoder and is not part of the measured model;
    only `bow_nll` uses it.

    - The `multinomial` loss is about as large as the reconstruction loss, so a `weight` of 1 roughly doubles the
      incentive to encode the sentence in z. KL and `mi` rise by the information that the head uses, whether or not the
      decoder uses it.
    - The bag that the encoder reads contains the relative frequency of each word in the sentence. Counts, unlike the
      last state of the encoder, are unbounded; with counts, training at the base recipe's learning rate of 1 diverges.
    - By default the output of the layer on the bag is as large as a word embedding, because it is the mean of one
      vector per word. The hidden layer of the head is by default as large as z.
    - `bow_input` changes the encoder, so `weight` 0 is the plain VAE only if `bow_input` is false.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"features", "penalties", "extra_metrics"})
    paper: ClassVar[str] = (
        "Kamoi & Fukutomi 2018, Variational autoencoders for text modeling without weakening the decoder"
    )
    columns: ClassVar[tuple[Column, ...]] = (
        Column("bow_nll", "float", "loss of the bag-of-words head at one sample per example [nats]", "min"),
    )
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.TEXT_ONLY, Trait.ENCODER_READS_BAG})

    kind: Literal["multitask_bow"] = "multitask_bow"
    weight: Annotated[float, Field(ge=0, description="weight of the head's loss"), Tunable(0.1, 2)] = 1.0
    loss: Annotated[Literal["multinomial", "bernoulli"], Field(description="loss of the head")] = "multinomial"
    hidden: Annotated[
        int | None, Field(ge=1, description="hidden units of the head; null: as many as z has dimensions")
    ] = None
    bow_input: Annotated[bool, Field(description="whether the encoder also reads the bag of words")] = True
    bow_size: Annotated[
        int | None,
        Field(ge=1, description="number of bag-of-words features in the encoder; null: size of a word embedding"),
    ] = None

    def has(self, trait: Trait) -> bool:
        return super().has(trait) and (trait is not Trait.ENCODER_READS_BAG or self.bow_input)

    def build(self, context: BuildContext) -> dict[str, Any]:
        model, vocabulary = context.token_model, context.vocabulary
        features = BagFeatures(self.bow_size or model.embedding_size, vocabulary) if self.bow_input else None
        task = None
        if self.weight > 0:
            hidden = self.hidden or context.latent_dim
            task = BagTask(self, BagHead(context.latent_dim, hidden, vocabulary))
        penalties = () if task is None else (task,)
        return {"features": features, "penalties": penalties, "extra_metrics": (_BagMetrics(task),)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if not self.bow_input:
            yield from without_effect(self, "with bow_input = false", "bow_size")


class BagTask(Penalty):
    """The penalty weight * (mean loss of the head)."""

    def __init__(self, config: MultitaskBow, head: BagHead) -> None:
        super().__init__()
        self._config = config
        self.head = head

    def forward(self, forward: Forward) -> Tensor:
        return self._config.weight * self.nll(forward.batch, forward.draw.z_BSZ).mean()

    def nll(self, batch: Batch, z_BSZ: Tensor) -> Tensor:
        """Return the unweighted loss [B, S] in nats per example and sample."""
        score = self.head.multinomial if self._config.loss == "multinomial" else self.head.bernoulli
        return score(batch, z_BSZ)


class _BagMetrics(ExtraMetrics):
    """`bow_nll` at the single encoded sample of each example; null if no head is trained."""

    def __init__(self, task: BagTask | None) -> None:
        self._task = task

    @torch.no_grad()
    def measure(self, measurement: Measurement) -> dict[str, Any]:
        if self._task is None:
            return {"bow_nll": None}
        encoded = measurement.encoded
        nll = [
            self._task.nll(batch, encoded.z_NZ[batch.index_B, None].to(batch.device, encoded.precision)).double()
            for batch in measurement.batches
        ]
        return {"bow_nll": float(torch.cat(nll).mean())}
