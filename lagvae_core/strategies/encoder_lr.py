"""A larger learning rate for the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy

__all__ = ["EncoderLr"]


class EncoderLr(Strategy):
    """The encoder learns with `multiplier` times the decoder's learning rate, so that inference lags less.

    Source: He et al. 2019, Appendix F (multipliers 1 to 50; 8 and above diverged there). Decays of the learning rate
    halve both. A run that leaves the finite numbers ends as `diverged`, not as a failure.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"encoder_rate"})
    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Appendix F"

    kind: Literal["encoder_lr"] = "encoder_lr"
    multiplier: Annotated[
        float,
        Field(gt=0, description="encoder learning rate over decoder learning rate"),
        Tunable(choices=(1, 2, 4, 6, 8, 10, 30, 50)),
    ] = 1.0

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"encoder_rate": self.multiplier}

    def warnings(self, context: ConfigContext) -> Iterator[str]:
        if self.multiplier != 1.0 and any(s.kind == "aggressive" for s in context.strategies):
            yield "W1: encoder_lr and aggressive both change the encoder's speed; their effects cannot be told apart."
