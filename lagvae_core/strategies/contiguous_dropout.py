"""Dropout of contiguous words in the input of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.data import UNK, History
from lagvae_core.data.text.corruption import Replacement, conceal
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["ContiguousDropout"]


class ContiguousDropout(Strategy):
    """In training, runs of words in the decoder's input are dropped, so that neighbouring words cannot replace z.

    Source: the blog post "Posterior collapse and the strong generator problem", section 4.2. At each word of each
    sentence a run starts with probability `rate`. Its length has a Poisson distribution with mean `mean_length` and can
    be 0. No run extends beyond the end of its sentence, and runs can overlap. A word is dropped if it is in any run;
    far from the start of a sentence, the fraction of dropped words is about 1 - exp(-rate * mean_length). If `starts`
    is set, exactly that number of runs start in each sentence, each at a word drawn uniformly, and `rate` has no
    effect. `replace` has the same meaning as in word_dropout; `<s>`, the targets and the encoder's input never change,
    and evaluation drops nothing.

    - The post gives no rate; the default is a choice of this implementation. The mean length of 3.5 comes from the
      post's code.
    - The post's code uses `starts` 2 and draws starts and lengths once for the whole batch, with starts anywhere in the
      padded length, and may drop `<s>` too; in this implementation they are drawn for each sentence, within it, and
      `<s>` never changes.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"corrupt"})
    paper: ClassVar[str] = (
        'Blog post of 2019 or later, "Posterior collapse and the strong generator problem", section 4.2'
    )
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.TEXT_ONLY, Trait.WORKS_WITHOUT_Z})

    kind: Literal["contiguous_dropout"] = "contiguous_dropout"
    rate: Annotated[
        float, Field(ge=0, le=1, description="probability that a run starts at a word"), Tunable(0.02, 0.3)
    ] = 0.1
    mean_length: Annotated[float, Field(ge=0, description="mean length of a run [words]"), Tunable(1.0, 8.0)] = 3.5
    starts: Annotated[
        int | None, Field(ge=1, description="number of runs in each sentence; null: random, determined by `rate`")
    ] = None
    replace: Annotated[Replacement, Field(description="replacement of a dropped word")] = "unk"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"corrupt": self.corrupt}

    def corrupt(self, history: History, generator: torch.Generator) -> History:
        """Return `history` with runs of words dropped. If no run is possible, no random numbers are drawn."""
        if self.mean_length == 0 or (self.rate == 0 and self.starts is None):
            return history
        tokens_BT = history.tokens_BT
        position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        end_of_run_BT = self._ends(tokens_BT, position_T, generator).cummax(1).values
        return conceal(history, position_T < end_of_run_BT, self.replace)

    def _ends(self, tokens_BT: Tensor, position_T: Tensor, generator: torch.Generator) -> Tensor:
        """Return the exclusive end of the longest run that starts at each position [B, T]; no run starts at 0."""
        (batch, steps), device = tokens_BT.shape, position_T.device
        if self.starts is not None:
            words_B1 = (tokens_BT >= UNK).sum(1, keepdim=True)
            share_BK = torch.rand(batch, self.starts, generator=generator, device=device)
            start_BK = 1 + (share_BK * words_B1).long().clamp(max=words_B1 - 1)
            end_BK = start_BK + self._lengths(start_BK.shape, generator)
            return end_BK.new_zeros(batch, steps).scatter_reduce(1, start_BK, end_BK, "amax")
        begins_BT = torch.rand(batch, steps, generator=generator, device=device) < self.rate
        end_BT = (position_T + self._lengths(begins_BT.shape, generator)) * begins_BT
        end_BT[:, 0] = 0.0
        return end_BT

    def _lengths(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        mean = torch.full(shape, self.mean_length, device=generator.device)
        return torch.poisson(mean, generator=generator)

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        default = type(self).model_fields["rate"].default
        if self.starts is not None and self.rate != default:
            yield Incompatibility(
                "E18",
                f"contiguous_dropout.rate = {self.rate} has no effect with contiguous_dropout.starts = {self.starts}; "
                "leave out either rate or starts",
            )
