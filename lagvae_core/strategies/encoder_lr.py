"""A larger learning rate for the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import ConfigWarning, Trait

__all__ = ["EncoderLr"]


class EncoderLr(Strategy):
    """The encoder has `multiplier` times the decoder's learning rate, which reduces the lag of inference.

    Source: He et al. 2019, Appendix F, with multipliers of 1 to 50; in the paper, training diverged at 8 and above. A
    decay of the learning rate applies to both rates. A run in which non-finite values occur ends with the status
    `diverged` and does not count as a failure.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"encoder_rate"})
    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Appendix F"

    kind: Literal["encoder_lr"] = "encoder_lr"
    multiplier: Annotated[
        float,
        Field(gt=0, description="learning rate of the encoder divided by the learning rate of the decoder"),
        Tunable(choices=(1, 2, 4, 6, 8, 10, 30, 50)),
    ] = 1.0

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"encoder_rate": self.multiplier}

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        if self.multiplier == 1.0:
            return
        for other in context.with_trait(Trait.INNER_LOOP):
            yield ConfigWarning(
                "W1",
                f"encoder_lr and {other.kind} both change how fast the encoder learns, so their effects cannot be "
                "separated; compare them in separate arms.",
            )
