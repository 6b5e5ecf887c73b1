"""A floor for the KL, below which the KL has no cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Objective

__all__ = ["FreeBits"]

Mode = Literal["group_batch", "dim_sample", "total_sample", "total_batch", "habits"]


class FreeBits(Strategy):
    """The KL term is max(floor, KL), so a KL below the floor costs nothing; `mode` selects the KL that is compared.

    Source: Kingma et al. 2016 (`group_batch`); Li et al. 2019 (the next three modes, options 2, 1 and 3 of their code);
    the blog post "Posterior collapse and the strong generator problem" (`habits`). With Z dimensions and a `floor` of f
    nats per dimension, the KL term is

    - `group_batch`: the sum over groups g of max(f * size of g, batch mean of the KL of g), for `groups` groups of
      equal size; by default each dimension is a group;
    - `dim_sample`: the batch mean of the sum over dimensions of max(f, KL of the example's dimension);
    - `total_sample`: the batch mean of max(f * Z, KL of the example);
    - `total_batch`: max(f * Z, batch mean of the KL);
    - `habits`: Z * max(f, mean over batch and dimensions of the KL), which is `total_batch` under another name,

    each times the KL weight. Below the floor the gradient of the KL term is exactly 0, also for a learned prior. In
    modes that compare dimensions, each dimension tends to reach the floor, so all units are active by construction.

    Departures. The papers state the floor in total or per group; in this implementation `floor` is in nats per
    *dimension* in every mode, so that one range of values suits all modes: the totals of Li et al., 2 to 9 nats with 32
    dimensions, correspond to 0.06 to 0.28. For a KL below the floor, the code of Li et al. adds 0 to the loss and this
    implementation adds the floor; the gradient is the same. In the blog post, `habits` averages the reconstruction loss
    over words and the KL over dimensions, which amounts to a KL weight of words / Z; in this implementation both are in
    nats per example, as in all other strategies. The README of Li et al. trains with a learning rate of 0.5 and waits 5
    bad epochs for a decay; here both are those of `training`.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"objective"})
    paper: ClassVar[str] = "Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow"

    kind: Literal["free_bits"] = "free_bits"
    mode: Annotated[Mode, Field(description="KL that is compared with the floor")] = "group_batch"
    floor: Annotated[float, Field(ge=0, description="free KL per latent dimension [nats]"), Tunable(0.05, 0.5)] = 0.1
    groups: Annotated[
        int | None, Field(ge=1, description="number of groups of `group_batch`; null: one per dimension")
    ] = None

    @property
    def free_kl(self) -> float:
        return self.floor

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"objective": _FlooredKl(self, context.latent_dim)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        yield from self._group_issues(context)
        by_dimension = self.mode == "dim_sample" or (self.mode == "group_batch" and self.groups != 1)
        by_example = self.mode in ("dim_sample", "total_sample")
        for other in context.strategies:
            whole = other.has(Trait.KL_NOT_BY_DIMENSION)
            if by_dimension and whole:
                yield Incompatibility(
                    "E07",
                    f"free_bits in mode {self.mode} compares the KL of single dimensions, but with {other.kind} the KL "
                    "is not a sum over dimensions; set free_bits.mode = total_batch",
                )
            elif by_example and other.has(Trait.KL_SAMPLED):
                alternative = "total_batch" if whole else "group_batch"
                yield Incompatibility(
                    "E07",
                    f"free_bits in mode {self.mode} compares the KL of single examples, but with {other.kind} this KL "
                    f"is estimated from one sample and can be negative; set free_bits.mode = {alternative}",
                )

    def _group_issues(self, context: ConfigContext) -> Iterator[Incompatibility]:
        if self.groups is None:
            return
        if self.mode != "group_batch":
            yield Incompatibility("E18", f"free_bits.groups has no effect in mode {self.mode}; leave it out")
        elif context.model.latent_dim % self.groups:
            yield Incompatibility(
                "E-RANGE",
                f"free_bits.groups must divide model.latent_dim = {context.model.latent_dim}, but is {self.groups}; "
                "change free_bits.groups or model.latent_dim",
            )


class _FlooredKl(Objective):
    """max(floor, KL): the KL itself at or above the floor, and the constant floor below it; the gradient is exact."""

    def __init__(self, config: FreeBits, latent_dim: int) -> None:
        by_dimension = {"group_batch": config.groups or latent_dim, "dim_sample": latent_dim}
        self._groups = by_dimension.get(config.mode, 1)
        self._by_example = config.mode in ("dim_sample", "total_sample")
        self._floor = config.floor * latent_dim / self._groups

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        kl_BG = kl_BZ.detach().reshape(len(kl_BZ), self._groups, -1).sum(2)
        compared = kl_BG if self._by_example else kl_BG.mean(0, keepdim=True)
        free = compared < self._floor
        counted_BZ = kl_BZ.masked_fill(free.repeat_interleave(kl_BZ.shape[1] // self._groups, 1), 0.0)
        floors = self._floor * free.sum(1).to(rec_B).mean()
        return (rec_B + weight * counted_BZ.sum(1)).mean() + weight * floors
