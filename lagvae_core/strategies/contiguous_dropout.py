"""A decoder that is not shown every phrase of the past."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.data import UNK, History
from lagvae_core.data.text.corruption import Replacement, conceal
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy, text_only

__all__ = ["ContiguousDropout"]


class ContiguousDropout(Strategy):
    """In training runs of words that the decoder reads are dropped, so that z must tell what no neighbour can.

    Source: the blog post "Posterior collapse and the strong generator problem", section 4.2. At each word of each
    sentence a run starts with probability `rate`; its length is Poisson with mean `mean_length` and may be 0, its end
    is cut at the end of the sentence, and runs may overlap. A word is dropped if it lies in any run: far from the start
    that is about 1 - exp(-rate * mean_length) of them. With `starts`, exactly so many runs a sentence start, each at a
    word drawn uniformly, and `rate` has no meaning. `replace` is that of word_dropout; `<s>`, targets and the encoder's
    input are never touched, and evaluation drops nothing.

    - The post names no rate; the default is ours. Its mean length of 3.5 is that of the post's code.
    - That code has `starts` 2 and draws them and the lengths once for the whole batch; here each sentence has its own.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"corrupt"})
    paper: ClassVar[str] = (
        'Blog post of 2019 or later, "Posterior collapse and the strong generator problem", section 4.2'
    )
    latent: ClassVar[bool] = False

    kind: Literal["contiguous_dropout"] = "contiguous_dropout"
    rate: Annotated[
        float, Field(ge=0, le=1, description="share of words at which a run starts"), Tunable(0.02, 0.3)
    ] = 0.1
    mean_length: Annotated[float, Field(ge=0, description="mean length of a run [words]"), Tunable(1.0, 8.0)] = 3.5
    starts: Annotated[int | None, Field(ge=1, description="runs in each sentence; null: as many as `rate` gives")] = (
        None
    )
    replace: Annotated[Replacement, Field(description="what is read in the place of a dropped word")] = "unk"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"corrupt": self.corrupt}

    def corrupt(self, history: History, generator: torch.Generator) -> History:
        """`history` with runs of words dropped; where there can be none, nothing is drawn."""
        if self.mean_length == 0 or (self.rate == 0 and self.starts is None):
            return history
        tokens_BT = history.tokens_BT
        place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        furthest_BT = self._ends(tokens_BT, place_T, generator).cummax(1).values
        return conceal(history, place_T < furthest_BT, self.replace)

    def _ends(self, tokens_BT: Tensor, place_T: Tensor, generator: torch.Generator) -> Tensor:
        """The place after the last word of the furthest run that starts at each place, [B, T]; none starts at 0."""
        (batch, steps), device = tokens_BT.shape, place_T.device
        if self.starts is not None:
            words_B1 = (tokens_BT >= UNK).sum(1, keepdim=True)
            share_BK = torch.rand(batch, self.starts, generator=generator, device=device)
            start_BK = 1 + (share_BK * words_B1).long().clamp(max=words_B1 - 1)
            end_BK = start_BK + self._lengths(start_BK.shape, generator)
            return end_BK.new_zeros(batch, steps).scatter_reduce(1, start_BK, end_BK, "amax")
        begins_BT = torch.rand(batch, steps, generator=generator, device=device) < self.rate
        end_BT = (place_T + self._lengths(begins_BT.shape, generator)) * begins_BT
        end_BT[:, 0] = 0.0
        return end_BT

    def _lengths(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        mean = torch.full(shape, self.mean_length, device=generator.device)
        return torch.poisson(mean, generator=generator)

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from text_only("contiguous_dropout", context)
        default = type(self).model_fields["rate"].default
        if self.starts is not None and self.rate != default:
            yield Incompatibility(
                "E18",
                f"contiguous_dropout.rate = {self.rate} is an unused option where starts = {self.starts} is given; "
                f"leave rate at its default {default}, or starts out",
            )
