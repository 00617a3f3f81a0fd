"""MAAlign: a phrase's cross-attention must peak inside its box and not outside.

Source: GOAL, eq. 11-14. With A_j the map of the phrase's token j, M_i the mask of its box:

    L_in  = 1/B sum_i (1 - max(A_j * M_i))          (12)
    L_out = 1/B sum_i max(A_j * (1 - M_i))          (13)

What the paper leaves open (which layers, heads, tokens, how boxes fall on cells, phrases that occur twice) is in the
settings of ``MAAlign``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from trueline.layout import Layout, Region
from trueline.models.attention import Maps, Place, Site
from trueline.models.backbone import Backbone
from trueline.models.devices import at_least_float32
from trueline.models.text import Located, locate, own_tokens
from trueline.sampling.guidance import map_grid
from trueline.sampling.masks import region_mask

Heads = Literal["mean", "each"]
Tokens = Literal["mean", "sum", "each", "head"]
Softmax = Literal["plain", "content"]
Rounding = Literal["outer", "half"]
PerPicture = Float[Tensor, " batch"]
CELLS = 16  #: on the shorter side of the paper's maps


# Pure functions


def peak(
    maps: Float[Tensor, "*maps cells"], where: Float[Tensor, " cells"], top: float = 0.0
) -> Float[Tensor, "*maps"]:
    """max(A * M): the greatest attention in the cells where ``where`` is 1; 0 where there is no such cell.

    ``top``: the mean of this share of those cells (of at least one), the greatest first (BoxDiff: 0.2). Cells that
    are equally great share the gradient.
    """
    if top == 0:
        return (maps * where).amax(-1)
    inside = maps[..., where > 0]
    if not inside.shape[-1]:
        return torch.zeros_like(maps[..., 0])
    return inside.topk(max(1, int(top * inside.shape[-1])), dim=-1).values.mean(-1)


def attention_in(
    maps: Float[Tensor, "*maps cells"], inside: Float[Tensor, " cells"], top: float = 0.0
) -> Float[Tensor, "*maps"]:
    """(12) for one region: 1 - max(A * M), 0..1."""
    return 1 - peak(maps, inside, top)


def attention_out(
    maps: Float[Tensor, "*maps cells"], inside: Float[Tensor, " cells"], top: float = 0.0
) -> Float[Tensor, "*maps"]:
    """(13) for one region: max(A * (1 - M)), 0..1."""
    return peak(maps, 1 - inside, top)


def content_only(maps: Float[Tensor, "*maps keys"], content: range) -> Float[Tensor, "*maps keys"]:
    """The softmax over the prompt's own tokens: start, end and padding get 0.

    Under a plain softmax the start token takes most of the attention, so that (12) begins near 1.
    """
    own = torch.zeros(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    own[list(content)] = 1
    kept = maps * own
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-12)


def box_cells(region: Region, height: int, width: int, rounding: Rounding) -> Float[Tensor, "height width"]:
    """M_i on the grid of a map, 0 or 1, at least one cell.

    "outer": every cell that the region touches (floor and ceil, as GLIGEN and Layout-Guidance). "half": those of
    which it covers half or more (``masks.region_mask``).
    """
    if rounding == "half":
        return region_mask(region, height, width)
    if region.mask:
        mask = torch.from_numpy(region.mask_array()).float()
        return F.adaptive_max_pool2d(mask[None, None], (height, width))[0, 0]
    box, cells = region.box, torch.zeros(height, width)
    # A billionth, so that 0.3 of 10 cells, 3.0000000000000004 in floating point, ends before the fourth.
    x0, x1 = floor(box.x0 * width + 1e-9), ceil(box.x1 * width - 1e-9)
    y0, y1 = floor(box.y0 * height + 1e-9), ceil(box.y1 * height - 1e-9)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    cells[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = 1
    return cells


def counted(found: Located) -> bool:
    """Whether the tokens are the phrase's own. A last word in other company may be another region's ("a blue car" for
    "a red car"), and a phrase that is cut may lack its noun."""
    return not found.problem and found.form in ("whole", "noun")


def why_not(found: Located) -> str:
    """The sentence about a phrase that is not ``counted``."""
    return (
        found.problem
        or f"the prompt holds only the last word of the phrase {found.phrase!r}, of another thing"
    )


# The loss


class Attention(NamedTuple):
    """L_in and L_out of each picture, 0 where no phrase was found; and what was not counted."""

    inside: PerPicture
    outside: PerPicture
    has: Bool[Tensor, " batch"]
    regions: int  #: of the pictures that may count
    missing: tuple[Located, ...]  #: regions whose phrase the caption lacks, or holds in part


@dataclass(frozen=True)
class MAAlign:
    """(12) and (13) for a batch, on the cross-attention maps of one level of the U-Net.

    Settings:
        inside, outside: whether (12) and (13) count.
        place: "up" (the paper's decoder), "mid" or "down". ``cells``: on the shorter side of the maps; None = the
            place's only level, else the paper's 16. ``fraction``: instead, of the latents' side; Stable Diffusion's
            16 x 16 are 0.25.
        heads: "mean", the map averaged over heads and layers, then its peak (the paper's figures show such maps);
            "each", the loss of each head and layer.
        tokens: of a phrase that has several (the paper has one token j): "mean", the mean of their maps, at most 1/n
            for n tokens, so that (12) does not reach 0; "sum" (Attention-Refocusing), which can; "each", the loss of
            each; "head", the mean of those of its last word.
        softmax: "plain" (11), or "content" (``content_only``).
        rounding: how a box falls on cells (``box_cells``).
        union: (13) spares all boxes that have the same tokens, so that two boxes "dog" of "two dogs" do not fight;
            False = the letter of (13).
        top: see ``peak``.
    """

    inside: bool = True
    outside: bool = True
    place: Place = "up"
    cells: int | None = None
    fraction: float | None = None
    heads: Heads = "mean"
    tokens: Tokens = "mean"
    softmax: Softmax = "plain"
    rounding: Rounding = "outer"
    union: bool = True
    top: float = 0.0

    def sites(self, backbone: Backbone, latent: tuple[int, int]) -> list[Site]:
        """The layers whose maps count, for latents of that (height, width).

        Raises:
            ValueError: the U-Net has no such level; the message says which it has.
        """
        found = [site for site in backbone.sites() if site.kind == "cross" and site.place == self.place]
        if not found:
            places = ", ".join(sorted({site.place for site in backbone.sites() if site.kind == "cross"}))
            raise ValueError(
                f"place: this U-Net has cross-attention in {places or 'no place'}, not in {self.place}"
            )
        levels = {site.scale: min(map_grid(site, latent)) for site in found}
        if self.fraction is not None:
            chosen = {scale for scale in levels if abs(1 / scale - self.fraction) < 1e-6}
            given, there = f"fraction: {self.fraction:g}", [f"{1 / scale:g}" for scale in sorted(levels)]
        else:
            wanted = CELLS if self.cells is None else self.cells
            chosen = {scale for scale, cells in levels.items() if cells == wanted}
            given, there = f"cells: {wanted}", [str(cells) for cells in sorted(levels.values())]
            if self.cells is None and len(levels) == 1:
                chosen = set(levels)
        if not chosen:
            name, value = given.split(": ")
            raise ValueError(
                f"{name}: the maps of this U-Net's {self.place} blocks have {' or '.join(there)}, not {value}"
            )
        return [site for site in found if site.scale in chosen]

    def __call__(
        self,
        maps: Maps,
        latent: tuple[int, int],
        layouts: Sequence[Layout],
        backbone: Backbone,
        counts: Bool[Tensor, " batch"],
    ) -> Attention:
        """``maps``: of the ``sites``, all of one size. ``counts``: which pictures do, for their caption and boxes
        were shown. A region whose phrase the caption lacks is left out, and so is one of which it holds but the last
        word, in other company, or the beginning; one without any is 0."""
        grid = map_grid(next(iter(maps)), latent)
        together = torch.cat([at_least_float32(probs) for probs in maps.values()], 1)
        if self.heads == "mean":
            together = together.mean(1, keepdim=True)
        zero = together.new_zeros(())
        inside, outside = [zero] * len(layouts), [zero] * len(layouts)
        has = [False] * len(layouts)
        missing: list[Located] = []
        regions = 0
        for row, (layout, shown) in enumerate(zip(layouts, counts.tolist(), strict=True)):
            if not (shown and layout.regions):
                continue
            regions += len(layout.regions)
            places = locate(backbone, layout)
            missing += [found for found in places if not counted(found)]
            if not any(map(counted, places)):
                continue
            has[row] = True
            seen = together[row]
            if self.softmax == "content":
                seen = content_only(seen, own_tokens(backbone, layout.prompt))
            inside[row], outside[row] = self._picture(seen, layout, places, grid)
        rows = torch.tensor(has, device=counts.device)
        return Attention(torch.stack(inside), torch.stack(outside), rows, regions, tuple(missing))

    def _picture(
        self,
        maps: Float[Tensor, "maps cells keys"],
        layout: Layout,
        places: Sequence[Located],
        grid: tuple[int, int],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Means over the regions whose phrases were found."""
        masks = torch.stack([box_cells(region, *grid, self.rounding).flatten() for region in layout.regions])
        masks = masks.to(maps)
        within, beyond = [], []
        for own, found in zip(masks, places, strict=True):
            if not counted(found):
                continue
            wide = own
            if self.union:
                same = [counted(other) and other.tokens == found.tokens for other in places]
                wide = masks[same].amax(0)
            of_phrase = self._phrase(maps, found)
            within.append(attention_in(of_phrase, own, self.top).mean())
            beyond.append(attention_out(of_phrase, wide, self.top).mean())
        zero = maps.new_zeros(())
        return (
            torch.stack(within).mean() if self.inside else zero,
            torch.stack(beyond).mean() if self.outside else zero,
        )

    def _phrase(
        self, maps: Float[Tensor, "maps cells keys"], found: Located
    ) -> Float[Tensor, "maps_of_tokens cells"]:
        tokens = found.head if self.tokens == "head" else found.tokens
        chosen = maps[..., list(tokens)]
        if self.tokens == "each":
            return chosen.movedim(-1, 0).flatten(0, 1)
        return chosen.sum(-1) if self.tokens == "sum" else chosen.mean(-1)
