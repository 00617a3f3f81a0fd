"""Layout-Guidance, backward (Chen et al. 2023, arXiv 2304.03373).

Written from the paper, and from numbers that its released code gave.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.models.attention import Maps, Site
from trueline.sampling.guidance import (  # fmt: skip
    Losses,
    Subject,
    descend,
    latent_grid,
    map_grid,
    nearest_scale,
    subjects,
    union_mask,
)
from trueline.sampling.masks import Cut
from trueline.sampling.method import Context, Method, Part


def inside_loss(
    attention: Float[Tensor, "heads height width tokens"], mask: Float[Tensor, "height width"]
) -> Float[Tensor, ""]:
    """(1 - share of the attention that is inside)^2, for each head and token on its own, then their mean."""
    inside = (attention * mask[..., None]).sum((1, 2))
    return ((1 - inside / attention.sum((1, 2)).clamp(min=1e-12)) ** 2).mean()


class LayoutGuidance(Method):
    """Push each phrase's attention into its boxes, layer by layer and head by head.

    The middle block and the up block of 16 x 16 maps (Stable Diffusion's first with cross-attention, at 512 pixels;
    of another net's the nearest), loss x 30, steps of sigma^2, at most five in each of the first 10 of 51 sampling
    steps. Boxes of one phrase form one mask; a region's mask is used where it has one. A picture without regions is
    plain. A region's negative phrase is not used.

    ``official``, the released code: a picture whose loss is .2 or less once is guided no more in this run, for the
    release never resets its loss; each inner step moves before it tests, so that a picture is moved once at least;
    boxes become cells by cutting off both edges, ``int()``. Losses and gradients are the release's to 1e-7
    (``tests/golden``).

    ``official=False``, ours: each sampling step looks at the loss anew and moves only where it is above .2, which
    holds the layout where a later step would lose it (15 looks where the release makes 5 moves; final latents differ
    by .26 of their norm); half-covered cells belong to a box, for ``int()`` moves boxes up and left by half a cell
    (masks of random boxes differ in 96%, the loss by up to .08).

    What differs from the release in both: phrases are found by the tokenizer's offsets (there words are counted); the
    loss is in each layer's own grid whatever the picture's size; a box of no cell counts as the one that it covers
    most of (there its loss is 1, without a gradient); other schedulers than LMS get the same step in latents of unit
    variance.
    """

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    strength: float = Field(1.0, ge=0, description="times the published step size; 0 is plain sampling")
    official: bool = Field(
        True,
        description="as the released code: a picture's guidance ends for the run; false: each step looks anew",
    )
    scale: float = Field(30.0, ge=0, description="factor of the loss")
    until: float = Field(
        0.196, ge=0, le=1, description="fraction of the steps that are guided; 10 of the released 51"
    )
    enough: float = Field(
        0.2, ge=0, description="loss at which a picture's guidance ends (official=False: its inner loop)"
    )
    iterations: int = Field(5, ge=1, le=100, description="inner steps at most")
    cells: int = Field(16, ge=2, description="side of the up block's maps, in cells; the net's nearest")

    def guide(self, z: Float[Tensor, "batch c h w"], ctx: Context) -> Float[Tensor, "batch c h w"]:
        if ctx.progress >= self.until:
            return z
        found, latent = subjects(ctx, joined=True), latent_grid(ctx)
        up = [s for s in ctx.sites if s.kind == "cross" and s.place == "up"]
        scale = nearest_scale(up, latent, self.cells) if up else 0

        def where(site: Site) -> bool:
            return site.kind == "cross" and (
                site.place == "mid" or (site.place == "up" and site.scale == scale)
            )

        def loss(maps: Maps) -> Losses:
            return layout_losses(maps, found, latent, "floor" if self.official else "half")

        def guided() -> Tensor:
            return torch.tensor([bool(some) for some in found], device=z.device)

        return descend(
            z, ctx, where, loss, self.strength * self.scale, rule="variance",
            target_loss=self.enough, max_steps=self.iterations, name="layout-guidance", move_first=self.official,
            active=ctx.once(("guided by layout-guidance", self), guided) if self.official else guided(),
        )  # fmt: skip


def layout_losses(
    maps: Maps, found: list[list[Subject]], latent: tuple[int, int], cut: Cut = "half"
) -> Losses:
    """``inside_loss`` of each picture: mean over layers and over its subjects; 0 for a picture without any."""
    rows = len(next(iter(maps.values())))
    losses = [next(iter(maps.values())).new_zeros((), dtype=torch.float32) for _ in range(rows)]
    for site, probs in maps.items():
        grid = map_grid(site, latent)
        for row, some in enumerate(found):
            for subject in some:
                own = probs[row][..., list(subject.tokens)].float().unflatten(1, grid)
                mask = union_mask(subject, grid, cut).to(own)
                losses[row] = losses[row] + inside_loss(own, mask) / (len(maps) * len(some))
    return torch.stack(losses)
