"""Paint-with-words: a phrase's words gain attention where its region is, most at high noise.

Balaji et al. 2022, "eDiff-I" (arXiv 2211.01324), section on paint-with-words: softmax((Q K^T + w A) / sqrt(d)), where
A is 1 for a word in the places of its region, and w = w' log(1 + sigma) max(Q K^T). Written from the equations.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.models.attention import Site
from trueline.sampling.guidance import latent_grid, map_grid, subjects
from trueline.sampling.masks import region_shares
from trueline.sampling.method import Context, Method, Part


def painted(
    logits: Float[Tensor, "batch heads queries keys"],
    area: Float[Tensor, "batch queries keys"],
    weight: float,
    measure: Literal["max", "std"] = "max",
) -> Float[Tensor, "batch heads queries keys"]:
    """``logits`` + ``weight`` x their measure x ``area``.

    ``measure``: of all finite logits of a picture, heads and places and tokens: their greatest, at least 0, or their
    standard deviation. ``area``: how much of a place belongs to a token's region, 0..1, summed over its regions.
    """
    sizes = []
    for own in logits.detach().float():
        finite = own[own.isfinite()]
        if len(finite) < 2:  # a picture that is lost
            sizes.append(own.new_zeros(()))
        else:
            sizes.append(finite.max().clamp(min=0) if measure == "max" else finite.std())
    size = torch.stack(sizes)[:, None, None, None]
    return logits + (weight * size * area[:, None].to(size)).to(logits.dtype)


class PaintWithWords(Method):
    """The words of each phrase gain attention in its region, in all cross-attention.

    The gain is ``strength`` x log(1 + sigma) x the greatest logit, sigma being the ratio of noise to picture, so that
    it fades as the noise does. .1 is the usual weight (cloneofsimo/paint-with-words-sd); the paper chose it by hand.

    What differs: the greatest logit is one picture's own, over heads, places and tokens (there of the whole batch); a
    box covers cells in part at its edges, as area pooling gives it (there masks are resized bilinearly). The logits
    here are divided by sqrt(d) already, so that the sum is the same. A word in several regions gains in each, where
    they overlap the sum, as there. A region's mask is used where it has one, its negative phrase is not. A picture
    without regions is plain.
    """

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    strength: float = Field(0.1, ge=0, le=10, description="weight of the gain; 0 is plain sampling")
    until: float = Field(
        1.0, ge=0, le=1, description="fraction of the steps, the first ones, that are painted"
    )
    measure: Literal["max", "std"] = Field(
        "max",
        description="what of the logits the gain is measured in: the greatest, or their standard deviation",
    )

    def taps(self, site: Site) -> bool:
        return site.kind == "cross"

    def acts(self, ctx: Context) -> bool:
        return ctx.progress < self.until

    def edit(
        self, site: Site, logits: Float[Tensor, "batch heads queries keys"], ctx: Context
    ) -> Float[Tensor, "batch heads queries keys"]:
        grid, keys = map_grid(site, latent_grid(ctx)), logits.shape[-1]
        area = ctx.once(("painted area", grid, keys), lambda: _area(ctx, grid, keys))
        alpha, sigma = ctx.stepper.alpha_sigma()
        noise = float(torch.log1p(torch.as_tensor(sigma / alpha)))
        return painted(logits, area, self.strength * noise, self.measure)


def _area(ctx: Context, grid: tuple[int, int], keys: int) -> Float[Tensor, "batch queries keys"]:
    """How much of each place belongs to each token's regions."""
    found = subjects(ctx)
    area = torch.zeros(len(found), grid[0] * grid[1], keys)
    for row, some in enumerate(found):
        for subject in some:
            covered = region_shares(subject.regions, *grid).sum(0).flatten()
            area[row][:, list(subject.tokens)] += covered[:, None]
    return area.to(ctx.backbone.device)
