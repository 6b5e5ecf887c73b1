"""Linear KL annealing over epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import KlWeight

__all__ = ["KlLinearEpoch"]


class KlLinearEpoch(Strategy):
    """The weight of the KL term grows linearly from `w_start` to `w_end` over `warm_up` epochs and then stays there.

    Source: Bowman et al. 2016. Kim et al. 2018 and He et al. 2019 use it with 0.1 to 1 in 10 epochs.

    Update t (counted from 0) has weight min(w_end, w_start + (t + 1) * rate), with N batches per epoch. `rate_mode`
    selects the rate: `exact`, the default, is (w_end - w_start) / (warm_up * N). `kim` is w_end / (warm_up * N), as in
    the code of Kim et al.; the rise from 0.1 to 1 then takes 0.9 * warm_up epochs. With `warm_up` 0 the weight is
    `w_end` from the first update.

    Departure. Instead of N, the public code of He et al. uses the number of examples divided by the batch size. For
    length-bucketed batches this is a little less than N, so their weight reaches `w_end` a little earlier.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"kl_weight"})
    paper: ClassVar[str] = "Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.FIXED_KL_WEIGHT})

    kind: Literal["kl_linear_epoch"] = "kl_linear_epoch"
    warm_up: Annotated[float, Field(ge=0, description="number of epochs until the final weight"), Tunable(1, 20)] = 10.0
    w_start: Annotated[float, Field(ge=0, le=1, description="weight before the first update")] = 0.1
    w_end: Annotated[float, Field(ge=0, description="final weight")] = 1.0
    rate_mode: Annotated[Literal["exact", "kim"], Field(description="formula of the slope")] = "exact"

    @property
    def final_kl_weight(self) -> float:
        return self.w_end

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"kl_weight": _LinearWeight(self, context.batches_per_epoch)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.w_start > self.w_end:
            yield Incompatibility(
                "E-RANGE",
                f"{self.kind}.w_start must not exceed {self.kind}.w_end, but {self.w_start} > {self.w_end}; lower "
                "w_start or raise w_end",
            )


class _LinearWeight(KlWeight):
    def __init__(self, config: KlLinearEpoch, batches_per_epoch: int) -> None:
        self._config = config
        self._updates = config.warm_up * batches_per_epoch

    def __call__(self, step: int) -> float:
        start, end = self._config.w_start, self._config.w_end
        if step + 1 >= self._updates:
            return end
        rise = end - start if self._config.rate_mode == "exact" else end
        return min(end, start + (step + 1) * rise / self._updates)
