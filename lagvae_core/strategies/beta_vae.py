"""A constant weight on the KL term."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Objective

__all__ = ["BetaVae"]


class BetaVae(Strategy):
    """The KL term is multiplied by `beta`.

    Source: Higgins et al. 2017. With `beta` below 1, z carries more information and matches the prior less closely. He
    et al. 2019 use 0.2, 0.4, 0.6 and 0.8 to prevent collapse. Evaluation always uses weight 1, so the measured bounds
    are comparable. At low `beta` the batch-wise MI estimate saturates at the logarithm of the batch size, and the
    aggregate posterior departs from the prior (`kl_agg`).

    The best epoch is selected by the validation loss at weight 1, as in the code of He et al.; the codes of Li et al.
    2019 and of BN-VAE select it by the loss at weight `beta`.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"objective"})
    paper: ClassVar[str] = "Higgins et al. 2017, beta-VAE, equation 4"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.FIXED_KL_WEIGHT})

    kind: Literal["beta_vae"] = "beta_vae"
    beta: Annotated[float, Field(ge=0, description="factor that multiplies the KL term"), Tunable(0.1, 1.0)] = 0.4

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"objective": _WeightedKl(self.beta)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.filling("kl_weight"):
            hint = f"remove beta_vae and set {other.kind}.w_end = {self.beta}"
            yield Incompatibility("E02", f"beta_vae and {other.kind} would both multiply the KL; {hint}")


class _WeightedKl(Objective):
    def __init__(self, beta: float) -> None:
        self._beta = beta

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        return (rec_B + weight * (self._beta * kl_BZ.sum(1))).mean()
