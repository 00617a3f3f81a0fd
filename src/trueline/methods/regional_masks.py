"""Regional masks: the words of a phrase are seen from inside its region only.

The edit of regional prompting as EliGen (Zhang et al. 2025, arXiv 2501.01097; modelscope/DiffSynth-Studio) and
Regional-Prompting-FLUX (Chen et al. 2024, arXiv 2411.02395) do it: places outside a region do not attend to its
words. It is a mask of logits and nothing else, so that it carries to any text-conditioned attention.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.models.attention import Site
from trueline.sampling.guidance import latent_grid, map_grid, subjects, union_mask
from trueline.sampling.method import Context, Method, Part


class RegionalMasks(Method):
    """Places outside a region lose the words of its phrase, in all cross-attention.

    Their probability there is divided by 1 / (1 - ``strength``) before the others are made up to 1 again; with
    ``strength`` 1 it is 0. The prompt's other words, the start, the end and the padding are seen from everywhere.

    What differs from both: each region's words are those of the prompt, which were encoded together with the rest
    (there each region brings a prompt of its own, encoded apart, beside the whole one); words of several regions are
    seen from all of them. In a U-Net the words do not attend to places, so that only this direction is masked; the
    end and the padding, which know of the whole prompt, keep telling every place of all things. A region's mask is
    used where it has one, its negative phrase is not. A picture without regions is plain.
    """

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    strength: float = Field(
        1.0, ge=0, le=1, description="how much of a phrase is hidden outside its region, 0..1"
    )
    until: float = Field(
        1.0, ge=0, le=1, description="fraction of the steps, the first ones, that are masked"
    )

    def taps(self, site: Site) -> bool:
        return site.kind == "cross"

    def acts(self, ctx: Context) -> bool:
        return ctx.progress < self.until

    def edit(
        self, site: Site, logits: Float[Tensor, "batch heads queries keys"], ctx: Context
    ) -> Float[Tensor, "batch heads queries keys"]:
        grid, keys = map_grid(site, latent_grid(ctx)), logits.shape[-1]
        hidden = ctx.once(("hidden words", grid, keys), lambda: _hidden(ctx, grid, keys))
        loss = -math.inf if self.strength == 1 else math.log(1 - self.strength)
        return torch.where(hidden[:, None], logits + loss, logits)


def _hidden(ctx: Context, grid: tuple[int, int], keys: int) -> Float[Tensor, "batch queries keys"]:
    """Whether a place does not see a token: it belongs to regions, and the place to none of them."""
    found = subjects(ctx)
    named = torch.zeros(len(found), keys, dtype=torch.bool)
    seen = torch.zeros(len(found), grid[0] * grid[1], keys, dtype=torch.bool)
    for row, some in enumerate(found):
        for subject in some:
            tokens = list(subject.tokens)
            named[row, tokens] = True
            seen[row][:, tokens] |= union_mask(subject, grid).flatten().bool()[:, None]
    return (named[:, None] & ~seen).to(ctx.backbone.device)
