"""DSAlign: CLIP must recognise each region's phrase in its box, and the caption in the picture.

Source: GOAL, eq. 5-10. With unit vectors of CLIP and xhat_0 the one-step picture (``Backbone.x0``):

    D_sp(p, x) = arcsin(||p - x|| / 2)^2                                        (7)   = (angle / 2)^2
    D_local    = 1/B sum_i D_sp(CLIP_text(p_i), CLIP_img(xhat_0 * M_i))         (5), (6), (8)
    D_global   = D_sp(CLIP_text(y), CLIP_img(xhat_0))                           (9)

The usual code of a spherical distance has a factor 2 (``arcsin().pow(2).mul(2)``), the paper has none. What the paper
leaves open is in the settings of ``DSAlign``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from trueline.layout import Layout, Region
from trueline.models.pixels import Images
from trueline.sampling.masks import region_masks
from trueline.training.clip import FrozenCLIP

Background = Literal["black", "grey", "mean", "crop"]
PerPicture = Float[Tensor, " batch"]
Rows = Bool[Tensor, " batch"]

CEILING = 1 - 1e-6
"""Greatest sine of the half angle: the slope of arcsin is infinite at 1. The angle is then 0.16 degrees short."""
FLOOR = 1e-12
"""Added to the squared length of the difference, whose root has no slope at 0."""


def spherical_distance(
    one: Float[Tensor, "*batch d"], other: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch"]:
    """(7): the square of half the angle between unit vectors, 0..(pi/2)^2.

    Value and gradient are finite everywhere; the gradient is 0 at equal and at opposite vectors.
    """
    sine = ((one - other).square().sum(-1) + FLOOR).sqrt() / 2
    return sine.clamp(max=CEILING).arcsin().square()


# Regions


def region_pictures(
    clip: FrozenCLIP,
    picture: Float[Tensor, "3 height width"],
    regions: Sequence[Region],
    background: Background,
) -> Float[Tensor, "regions 3 side side"]:
    """What CLIP is shown of each region, ``fitted``.

    "black": xhat_0 * M_i on pictures in 0..1, the letter of (5). "grey": 0.5 outside. "mean": the picture's own mean
    colour outside, to which no gradient goes. "crop": the box alone, stretched to CLIP's size.
    """
    height, width = picture.shape[-2:]
    if background == "crop":
        spans = [region.box.pixels(width, height) for region in regions]
        return torch.cat([clip.fitted(picture[None, :, y0:y1, x0:x1]) for x0, y0, x1, y1 in spans])
    masks = region_masks(regions, height, width)[:, None].to(picture)
    if background == "mean":
        outside: Tensor | float = picture.detach().mean((1, 2)).view(3, 1, 1)
    else:
        outside = {"black": 0.0, "grey": 0.5}[background]
    return clip.fitted(picture * masks + outside * (1 - masks))


# The loss


class Distances(NamedTuple):
    """D_local and D_global of each picture, 0 where it has none; and which have one."""

    local: PerPicture
    globe: PerPicture
    has_local: Rows
    has_globe: Rows


@dataclass(frozen=True)
class DSAlign:
    """(5)-(9) for a batch: one decoding, one pass of CLIP over all pictures and regions.

    Settings:
        local, globe: whether D_local and D_global count (Table 6).
        background: what surrounds a region (``region_pictures``); the paper does not say.
        t_max: only pictures at timesteps below it; None = all (the paper). The one-step picture is noise at high t.
        snr_gamma: weight of each picture by min(SNR, gamma) / gamma; None = 1 (the paper).
        floor: a distance counts only as far as it is above that of the training picture itself, which is decoded and
            measured too: max(0, D_sp(p, xhat_0) - D_sp(p, x_0)). Not in the paper. A text is nearest to a picture
            that exaggerates it, so (7) alone pulls a right picture away from what is true.
    """

    local: bool = True
    globe: bool = True
    background: Background = "black"
    t_max: int | None = None
    snr_gamma: float | None = None
    floor: bool = False

    def __call__(
        self,
        clip: FrozenCLIP,
        decode: Callable[[Float[Tensor, "batch c h w"]], Images],
        clean: Float[Tensor, "batch c h w"],
        layouts: Sequence[Layout],
        captioned: Rows,
        boxed: Rows,
        checkpointing: bool = False,
        truth: Float[Tensor, "batch c h w"] | None = None,
    ) -> Distances:
        """``captioned``, ``boxed``: of which pictures the caption (the boxes) may count. Others are not decoded.
        ``checkpointing``: as of ``FrozenCLIP.images``. ``truth``: the training pictures' latents, for ``floor``.

        A picture without regions has no D_local: the paper's 1/B has no value.

        Raises:
            ValueError: a floor without truth.
        """
        with_regions = torch.tensor([bool(layout.regions) for layout in layouts], device=clean.device)
        has_local = boxed & with_regions if self.local else torch.zeros_like(boxed)
        has_globe = captioned if self.globe else torch.zeros_like(captioned)
        seen = (has_local | has_globe).nonzero().flatten().tolist()
        zeros = torch.zeros(
            len(layouts), dtype=torch.promote_types(clean.dtype, torch.float32), device=clean.device
        )
        if not seen:
            return Distances(zeros, zeros, has_local, has_globe)
        wholes, parts = ([row for row in seen if has[row]] for has in (has_globe, has_local))
        said = [layouts[row].prompt for row in wholes]
        owners = list(wholes)
        for row in parts:
            said += [region.phrase for region in layouts[row].regions]
            owners += [row] * len(layouts[row].regions)

        def seen_as(latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "shown d"]:
            pictures = dict(zip(seen, decode(latents[seen]), strict=True))
            shown = [clip.fitted(torch.stack([pictures[row] for row in wholes]))] if wholes else []
            shown += [
                region_pictures(clip, pictures[row], layouts[row].regions, self.background) for row in parts
            ]
            return clip.images(torch.cat(shown), checkpointing)

        texts = clip.texts(said).to(zeros.device)
        distances = spherical_distance(texts, seen_as(clean)).to(zeros)
        if self.floor:
            if truth is None:
                raise ValueError("DSAlign: with a floor it needs the training pictures' latents (truth)")
            with torch.no_grad():
                least = spherical_distance(texts, seen_as(truth)).to(zeros)
            distances = F.relu(distances - least)  # clamp has a slope at 0
        rows, first = torch.tensor(owners, device=zeros.device), len(wholes)
        count = torch.bincount(rows[first:], minlength=len(layouts)).clamp(min=1)
        return Distances(
            zeros.index_add(0, rows[first:], distances[first:]) / count,
            zeros.index_add(0, rows[:first], distances[:first]),
            has_local,
            has_globe,
        )

    def weight(self, snr: PerPicture) -> PerPicture:
        """Of each picture, by its ``Backbone.snr``: 1, or min(SNR, gamma) / gamma."""
        if self.snr_gamma is None:
            return torch.ones_like(snr)
        return snr.clamp(max=self.snr_gamma) / self.snr_gamma
