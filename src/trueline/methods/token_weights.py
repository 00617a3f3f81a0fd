"""Token weights: words of the prompt that count for more, or for less.

The re-weighting of Prompt-to-Prompt (Hertz et al. 2022, arXiv 2208.01626, section 3 "attention re-weighting"): the
cross-attention of a word is multiplied by a number.
"""

import math
from collections.abc import Mapping
from itertools import count
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor

from trueline.errors import short
from trueline.layout import Layout
from trueline.models.attention import Site
from trueline.models.backbone import Backbone
from trueline.models.text import locate_phrase
from trueline.sampling.method import Context, Method

MOST = 10.0


def _pairs(value: Any) -> Any:
    """ "red:1.5,blue car:.5" and {"red": 1.5} as pairs."""
    if isinstance(value, Mapping):
        return tuple(value.items())
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition(":") for part in value.split(",") if part.strip()]
    if not all(words.strip() for words, _, _ in pairs):
        raise ValueError(f'write it as "WORDS:NUMBER,WORDS:NUMBER" (got {short(value)})')
    return tuple((words.strip(), number) for words, _, number in pairs)


class TokenWeights(Method):
    """Multiply the attention that words of the prompt get, at every place, by their weights.

    A weight of 2 doubles it, 0 hides the word. Words are given as they stand in the prompt, one or several; all
    places where they stand count. What a prompt does not hold is in its picture's record.

    What differs from the paper: the attention of all tokens is made up to 1 again (it is a factor before the softmax;
    there the sum grows); no second prompt; weights are not negative. It does not look at regions, their masks or
    their negative phrases.
    """

    strength: float = Field(1.0, ge=0, le=2, description="exponent of the weights; 0 is plain sampling")
    weights: Annotated[tuple[tuple[str, float], ...], BeforeValidator(_pairs)] = Field(
        (), description=f"words and their weights, 0 to {MOST:g}: red:1.5,blue car:.5"
    )
    until: float = Field(
        1.0, ge=0, le=1, description="fraction of the steps, the first ones, that are weighted"
    )

    @field_validator("weights")
    @classmethod
    def _in_range(cls, pairs: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        for words, weight in pairs:
            if not 0 <= weight <= MOST:
                raise ValueError(f"{words}: must be from 0 to {MOST:g} (got {weight:g})")
        return pairs

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        if not self.weights:
            return "no words have a weight"
        held = any(_tokens(backbone, layout.prompt, words) for words, _ in self.weights)
        return None if held else "the prompt holds none of the words that have a weight"

    def taps(self, site: Site) -> bool:
        return site.kind == "cross"

    def acts(self, ctx: Context) -> bool:
        return bool(self.weights) and ctx.progress < self.until

    def edit(
        self, site: Site, logits: Float[Tensor, "batch heads queries keys"], ctx: Context
    ) -> Float[Tensor, "batch heads queries keys"]:
        factors = ctx.once((self, logits.shape[-1]), lambda: self._factors(ctx, logits.shape[-1]))
        return logits + (self.strength * factors)[:, None, None].to(logits)

    def _factors(self, ctx: Context, keys: int) -> Float[Tensor, "batch keys"]:
        """The logarithm of each token's weight: its own, or of several their product."""
        factors = torch.zeros(len(ctx.layouts), keys)
        for row, layout in enumerate(ctx.layouts):
            for words, weight in self.weights:
                tokens = _tokens(ctx.backbone, layout.prompt, words)
                factors[row, tokens] += math.log(weight) if weight else -math.inf
                if not tokens and self.idle(layout, ctx.backbone) is None:
                    ctx.note(row, f"the prompt does not hold {words!r}, which has a weight")
        return factors.to(ctx.backbone.device)


def _tokens(backbone: Backbone, prompt: str, words: str) -> list[int]:
    """Those of all places where the words stand, as they are written."""
    found: dict[int, None] = {}
    for occurrence in count():
        place = locate_phrase(backbone, prompt, words, occurrence)
        if place.form != "whole" or not place.tokens or place.tokens[0] in found:
            break
        found |= dict.fromkeys(place.tokens)
    return list(found)
