"""Two passes of the decoder with different dropout masks, and a penalty on their difference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.models.decoder import TokenDecoder, predicting
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import ReconstructionLoss, Trainer

__all__ = ["FraternalDropout", "FraternalReconstruction"]


class FraternalDropout(Strategy):
    """Each z is decoded twice with independent dropout, and a penalty reduces the difference between the two passes.

    Source: Zolna et al. 2018, section 2, and their published code. Petit & Corro 2021 propose the method against
    posterior collapse; the details of their version were not consulted. With d the difference between the two passes,
    the loss is

        mean(0.5 * (rec_1 + rec_2) + w * KL) + weight * T * mean(d^2),

    where T is the mean number of predicted words per sentence and mean(d^2) is the mean over all predicted words and
    elements of d. `target` selects the outputs that d compares: the logits, as in the paper, or the features that the
    output layer reads (`hidden`). With `double_target` false the reconstruction loss is rec_1 alone. With
    `same_word_mask`, if another strategy drops words, both passes drop the same words. Evaluation makes one pass
    without dropout. With `weight` 0 and `double_target` false this is the plain VAE; otherwise each training step needs
    a second pass of the decoder.

    - In the paper rec is a mean over words; in this implementation it is a sum, and the factor T preserves the paper's
      ratio of the two terms. With `scale_by_length` false this factor is left out.
    - The output layer is linear and has no bias, so the mean square of the difference between logits is a quadratic
      form in the difference between features. The penalty is computed from this quadratic form, which does not require
      the logits.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"decode"})
    paper: ClassVar[str] = "Zolna et al. 2018, Fraternal Dropout, section 2"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.TEXT_ONLY, Trait.WORKS_WITHOUT_Z})

    kind: Literal["fraternal_dropout"] = "fraternal_dropout"
    weight: Annotated[
        float,
        Field(ge=0, description="weight of the penalty on the difference between the two passes"),
        Tunable(0.05, 1.0, log=True),
    ] = 0.15
    target: Annotated[Literal["logits", "hidden"], Field(description="outputs whose difference is penalised")] = (
        "logits"
    )
    double_target: Annotated[
        bool, Field(description="whether the reconstruction loss uses both passes or only the first")
    ] = True
    same_word_mask: Annotated[bool, Field(description="whether both passes drop the same words")] = False
    scale_by_length: Annotated[
        bool, Field(description="whether the penalty is multiplied by the number of predicted words")
    ] = True

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"decode": FraternalReconstruction(self)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if elsewhere := [*super().incompatibilities(context)]:
            yield from elsewhere
            return
        words_are_dropped = any(context.filling("corrupt"))
        if self.same_word_mask and not words_are_dropped:
            yield Incompatibility(
                "E18",
                "fraternal_dropout.same_word_mask has no effect, because no strategy drops words; leave it out",
            )
        word_masks_differ = words_are_dropped and not self.same_word_mask
        if not word_masks_differ and not any(_dropout_rates(context)):
            yield Incompatibility(
                "E11",
                "fraternal_dropout would have no effect: its two passes would be identical, because the decoder has no "
                "dropout and both passes read the same words; set model.dropout_in or model.dropout_out, or remove "
                "fraternal_dropout",
            )


def _dropout_rates(context: ConfigContext) -> Iterator[float]:
    """Yield all dropout rates of the decoder: those of strategies, and those of the model that none replaces."""
    rates = dict(context.token_model.dropout_rates)
    for strategy in context.strategies:
        rates |= strategy.dropout_rates
    yield from rates.values()


class FraternalReconstruction(ReconstructionLoss):
    """The mean reconstruction loss of the two passes, and the weighted mean square of their difference."""

    def __init__(self, config: FraternalDropout) -> None:
        self._config = config

    def __call__(self, trainer: Trainer, batch: Batch, z_BSZ: Tensor) -> tuple[Tensor, Tensor | None]:
        config, decoder, targets = self._config, trainer.model.decoder, batch.targets
        assert isinstance(decoder, TokenDecoder), "a decoder of words"
        assert z_BSZ.shape[1] == 1, "training decodes one sample per example"
        history = trainer.history(batch)
        one_TBF = decoder.features(history, z_BSZ)
        rec_B = decoder.nll(one_TBF, targets).mean(1)
        if config.weight == 0 and not config.double_target:
            return rec_B, None
        if not config.same_word_mask:
            history = trainer.history(batch)
        other_TBF = decoder.features(history, z_BSZ)
        if config.double_target:
            rec_B = 0.5 * (rec_B + decoder.nll(other_TBF, targets).mean(1))
        if config.weight == 0:
            return rec_B, None
        length = batch.units / batch.size if config.scale_by_length else 1.0
        return rec_B, config.weight * length * self._mean_square(predicting(one_TBF - other_TBF, targets), decoder)

    def _mean_square(self, d_NF: Tensor, decoder: TokenDecoder) -> Tensor:
        """Return mean(d^2); for the logits W d, (W d)' (W d) = d' (W' W) d divided by the size of the vocabulary."""
        if self._config.target == "hidden":
            return d_NF.square().mean()
        weight_VF = decoder.output.weight
        squares_N = (d_NF @ (weight_VF.T @ weight_VF) * d_NF).sum(1)
        return squares_N.mean() / len(weight_VF)
