"""Two passes of the decoder under different dropout, held together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.models.decoder import TokenDecoder, predicting
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy, text_only
from lagvae_core.strategies.slots import ReconstructionLoss, Trainer

__all__ = ["FraternalDropout", "FraternalReconstruction"]


class FraternalDropout(Strategy):
    """Each z is decoded twice under independent dropout, and the two passes are penalised for differing.

    Source: Zolna et al. 2018, section 2, and their published code; proposed against posterior collapse by Petit & Corro
    2021, whose details we have not read. With d the difference of the two passes, the loss is

        mean(0.5 * (rec_1 + rec_2) + w * KL) + weight * T * mean(d^2),

    mean(d^2) over all elements of a batch of sentences of T predicted words. `target`: d is that of the logits, as in
    the paper, or of the features that the output layer reads (`hidden`). `double_target` false leaves rec_1 alone.
    `same_word_mask`: both passes read the same dropped words where another strategy drops words. Evaluation makes one
    pass without dropout. Costs a second pass of the decoder; weight 0 without `double_target` is the plain VAE.

    - In the paper rec is a mean over words, here a sum; the factor T keeps its ratio of the two terms. Without
      `scale_by_length` the factor is left out, and the penalty counts T times less.
    - The output layer is linear and without bias, so that the mean square of the difference of logits is a quadratic
      form in the difference of features. It is computed as such: no logits of either pass are made for it.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"decode"})
    paper: ClassVar[str] = "Zolna et al. 2018, Fraternal Dropout, section 2"
    latent: ClassVar[bool] = False

    kind: Literal["fraternal_dropout"] = "fraternal_dropout"
    weight: Annotated[
        float, Field(ge=0, description="weight of the difference of the two passes"), Tunable(0.05, 1.0, log=True)
    ] = 0.15
    target: Annotated[Literal["logits", "hidden"], Field(description="what must not differ")] = "logits"
    double_target: Annotated[bool, Field(description="reconstruct in both passes, not in the first alone")] = True
    same_word_mask: Annotated[bool, Field(description="drop the same words in both passes")] = False
    scale_by_length: Annotated[bool, Field(description="multiply the penalty by the predicted words")] = True

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"decode": FraternalReconstruction(self)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if elsewhere := [*text_only("fraternal_dropout", context)]:
            yield from elsewhere
            return
        words_are_dropped = any("corrupt" in s.slots for s in context.strategies)
        if self.same_word_mask and not words_are_dropped:
            yield Incompatibility(
                "E18",
                "fraternal_dropout.same_word_mask is an unused option where no strategy drops words; leave it out",
            )
        drawn_anew = words_are_dropped and not self.same_word_mask
        if not drawn_anew and not any(_dropout_rates(context)):
            yield Incompatibility(
                "E11",
                "the two passes of fraternal_dropout are identical and its penalty is 0, because the decoder has no "
                "dropout and no words are dropped anew; set model.dropout_in or model.dropout_out, or remove it",
            )


def _dropout_rates(context: ConfigContext) -> Iterator[float]:
    """The rates of all dropout in the decoder, in place of the model's own where a strategy brings another."""
    inputs = [s.model_dump()["rate"] for s in context.strategies if "input_dropout" in s.slots]
    decoders = [s.model_dump().items() for s in context.strategies if "decoder" in s.slots]
    own = [value for fields in decoders for name, value in fields if "dropout" in name]
    yield from inputs or [context.token_model.dropout_in]
    yield from own or [context.token_model.dropout_out]


class FraternalReconstruction(ReconstructionLoss):
    """The mean reconstruction of two passes, and their weighted mean square difference."""

    def __init__(self, setting: FraternalDropout) -> None:
        self._setting = setting

    def __call__(self, trainer: Trainer, batch: Batch, z_BSZ: Tensor) -> tuple[Tensor, Tensor | None]:
        setting, decoder, targets = self._setting, trainer.model.decoder, batch.targets
        assert isinstance(decoder, TokenDecoder), "a decoder of words"
        assert z_BSZ.shape[1] == 1, "training decodes one sample an example"
        history = trainer.history(batch)
        one_TBF = decoder.features(history, z_BSZ)
        rec_B = decoder.nll(one_TBF, targets).mean(1)
        if setting.weight == 0 and not setting.double_target:
            return rec_B, None
        if not setting.same_word_mask:
            history = trainer.history(batch)
        other_TBF = decoder.features(history, z_BSZ)
        if setting.double_target:
            rec_B = 0.5 * (rec_B + decoder.nll(other_TBF, targets).mean(1))
        if setting.weight == 0:
            return rec_B, None
        length = batch.units / batch.size if setting.scale_by_length else 1.0
        return rec_B, setting.weight * length * self._mean_square(predicting(one_TBF - other_TBF, targets), decoder)

    def _mean_square(self, d_NF: Tensor, decoder: TokenDecoder) -> Tensor:
        """Of d itself, or of the logits W d: the mean of (W d)' (W d) = d' (W' W) d over the vocabulary."""
        if self._setting.target == "hidden":
            return d_NF.square().mean()
        weight_VF = decoder.output.weight
        squares_N = (d_NF @ (weight_VF.T @ weight_VF) * d_NF).sum(1)
        return squares_N.mean() / len(weight_VF)
