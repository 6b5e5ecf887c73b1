"""A decoder that does not read every previous word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from lagvae_core.data import History
from lagvae_core.data.text.corruption import Replacement, conceal
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import ConfigWarning, Trait

__all__ = ["WordDropout"]


class WordDropout(Strategy):
    """In training, each word of the decoder input is dropped with probability `rate`, so that the decoder needs z.

    Source: Bowman et al. 2016, section 3.2; Iyyer et al. 2015 drop words of a text in the same way. `replace` selects
    what the decoder reads instead of a dropped word: the word `<unk>`, as in the paper (`unk`), or a vector of zeros
    (`zero`). Targets and the encoder's input are never changed, and evaluation drops nothing. On text of characters
    this is character dropout (the blog post "Posterior collapse and the strong generator problem").

    - With `scope` `token` each word of each sentence is drawn separately. In the code of the blog post, one draw per
      time step applies to the whole batch, dropped words are replaced by zeros, and words are also dropped in testing;
      `scope` `step` with `replace` `zero` does the same, but only in training.
    - `<s>` is kept unless `drop_bos` is true, because it only marks the start of the sentence.
    - The default rate is that of the blog post's code.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"corrupt"})
    paper: ClassVar[str] = "Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.2"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.TEXT_ONLY, Trait.WORKS_WITHOUT_Z})

    kind: Literal["word_dropout"] = "word_dropout"
    rate: Annotated[float, Field(ge=0, le=1, description="probability that a word is dropped"), Tunable(0.1, 0.8)] = 0.4
    scope: Annotated[
        Literal["token", "step"], Field(description="unit of a draw: each word, or each position for the whole batch")
    ] = "token"
    drop_bos: Annotated[bool, Field(description="whether `<s>` can be dropped too")] = False
    replace: Annotated[Replacement, Field(description="replacement of a dropped word")] = "unk"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"corrupt": self.corrupt}

    def corrupt(self, history: History, generator: torch.Generator) -> History:
        """Return `history` with words dropped. At rate 0 nothing is drawn."""
        if self.rate == 0:
            return history
        tokens_BT = history.tokens_BT
        batch, steps = tokens_BT.shape
        shape = (batch if self.scope == "token" else 1, steps)
        dropped_BT = torch.rand(shape, generator=generator, device=tokens_BT.device) < self.rate
        if not self.drop_bos:
            dropped_BT[:, 0] = False
        return conceal(history, dropped_BT, self.replace)

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        if self.rate == 1:
            yield ConfigWarning(
                None,
                "word_dropout at a rate of 1 hides every word from the decoder in training, but evaluation reads their "
                "embeddings, which were never trained; use historyless to leave the words out of both.",
            )
