"""BoxDiff (Xie et al. 2023, arXiv 2307.10816): each subject's attention fills its box.

Written from the paper, and from numbers that its released code gave.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.models.attention import Maps
from trueline.sampling.guidance import (  # fmt: skip
    Losses,
    Subject,
    cross_sites,
    descend,
    evaluate,
    latent_grid,
    map_grid,
    mean_map,
    move,
    prompt_tokens,
    sharpened,
    smoothed,
    subjects,
    union_mask,
)
from trueline.sampling.masks import Cut
from trueline.sampling.method import Context, Method, Part

_TOO_SMALL = (
    "boxdiff: the box of {!r} covers {} of the map's cells, too few for the inner term, which is left out as in the "
    "released code; official=False has it"
)


def inner_loss(
    maps: Float[Tensor, "n height width"],
    masks: Float[Tensor, "n height width"],
    share: float = 0.2,
    official: bool = True,
) -> Float[Tensor, " n"]:
    """1 less the mean of the greatest values inside, of as many as ``share`` of the box's cells.

    Where that is not one cell (``share`` .2: a box of less than five): 0 if ``official``, for the release takes a
    mean of nothing there and drops it; else one cell counts.
    """
    losses = []
    for m, mask in zip(maps, masks, strict=True):
        count = _count(mask, share, official)
        losses.append(1 - _top(m * mask, count) if count else m.new_zeros(()))
    return torch.stack(losses)


def outer_loss(
    maps: Float[Tensor, "n height width"],
    masks: Float[Tensor, "n height width"],
    share: float = 0.2,
    official: bool = True,
) -> Float[Tensor, " n"]:
    """The mean of the greatest values outside: of ``share`` of the cells outside if ``official``, else of as many as
    ``inner_loss`` takes inside. 0 where there are none."""
    losses = []
    for m, mask in zip(maps, masks, strict=True):
        count = _count(1 - mask if official else mask, share, official)
        losses.append(_top(m * (1 - mask), count) if count else m.new_zeros(()))
    return torch.stack(losses)


def corner_loss(
    maps: Float[Tensor, "n height width"],
    masks: Float[Tensor, "n height width"],
    width: int = 1,
    official: bool = True,
) -> Float[Tensor, " n"]:
    """How far the map's projections (its maximum over rows, over columns) are from the box's at its edges; the sum of
    both axes.

    ``official``: the sum of the absolute differences at the 2 ``width`` + 1 cells around each edge (the first cell
    behind it, and ``width`` to either side), over the number of all cells of the axis. Else the mean over the cells
    within ``width`` of an edge, 2 ``width`` of them.
    """
    total = maps.new_zeros(len(maps))
    for axis in (1, 2):
        shadow, edge = maps.amax(axis), masks.amax(axis)
        near = _near_edges(edge, width, width + official)
        cells = edge.shape[1] if official else near.sum(1).clamp(min=1)
        total = total + ((shadow - edge).abs() * near).sum(1) / cells
    return total


def _count(mask: Tensor, share: float, official: bool) -> int:
    return max(0 if official else 1, int(share * float(mask.sum())))


def _top(values: Tensor, count: int) -> Tensor:
    return values.flatten().topk(min(count, values.numel())).values.mean()


def _near_edges(projection: Float[Tensor, "n cells"], before: int, behind: int) -> Float[Tensor, "n cells"]:
    """1 at so many cells before and behind each place where the projection changes, and its ends at the picture's
    edge."""
    n, cells = projection.shape
    padded = torch.cat([projection.new_zeros(n, 1), projection, projection.new_zeros(n, 1)], 1)
    borders = torch.nonzero(padded.diff(dim=1))  # border b lies between cells b - 1 and b
    near = torch.zeros_like(projection)
    for row, border in borders.tolist():
        near[row, max(border - before, 0) : min(border + behind, cells)] = 1
    return near


class BoxDiff(Method):
    """Attend-and-Excite's machinery with three losses on each subject's box: inner, outer and corner.

    16 x 16 maps (of the net's sizes the nearest), steps of 20 sqrt(1 .. .5) in the first half; refinement at 0, 20%
    and 40% of the steps by the inner loss alone, until 1 less the worst subject's reaches .05, .5, .8. The terms are
    those of ``inner_loss``, ``outer_loss`` and ``corner_loss``, summed over the subjects. A region's mask is used
    where it has one. A picture without regions is plain. A region's negative phrase is not used.

    ``official``, the released code: the outer term counts 20% of the background's cells, the corner term 3 cells at
    an edge over all cells of the axis; a box of less than 5 cells has no inner term; boxes become cells by rounding.
    Refinement moves before it tests, one step more than its threshold asks for; the step that follows a refinement
    has no gradient of the outer and corner terms, which are left from before it. Losses and gradients are the
    release's to 1e-7 (``tests/golden``).

    ``official=False``, ours: the outer term counts as many cells as the inner one, and the corner term is the mean
    over 2 cells at an edge, so that no term's weight depends on how much of the picture is background; the inner term
    has one cell at least; half-covered cells belong to a box; refinement tests before it moves, and all terms are
    fresh. Its gradient is 1.25 (a box of 12 x 12 cells) to 6.4 (2 x 2) times as long as the release's, at a cosine
    of .96 to .44; final latents differ by .83 of their norm, at a ``strength`` of .2 to .6 by .67 to .74.

    What differs from the release in both: a subject is a phrase's last word, of several tokens their mean (there the
    token that the user names); a box of no cell counts as the one that it covers most of; pictures need not be
    square; the latents that were moved are the ones the noise is predicted on (the released GLIGEN branch predicts on
    the former ones); other schedulers than DDIM get the same step in latents of unit variance, and PNDM, which loses
    moved latents in its history, is refused. The paper's own equations were not at hand when this was compared.
    """

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    strength: float = Field(1.0, ge=0, description="times the published step sizes; 0 is plain sampling")
    official: bool = Field(
        True,
        description="as the released code; false: terms that weigh alike in boxes of any size, all of them fresh",
    )
    scale: float = Field(20.0, ge=0, description="size of a step")
    until: float = Field(0.5, ge=0, le=1, description="fraction of the steps that are guided")
    thresholds: tuple[tuple[float, float], ...] = Field(
        ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8)),
        description="(fraction of the steps, inner attention to be reached)",
    )
    refinements: int = Field(20, ge=0, le=100, description="inner steps at most")
    cells: int = Field(16, ge=2, description="side of the maps, in cells; the net's nearest")
    share: float = Field(0.2, gt=0, le=1, description="share of a box's cells that must light up")
    corner: int = Field(1, ge=0, description="cells around a box's edges that the corner loss looks at")

    def guide(self, z: Float[Tensor, "batch c h w"], ctx: Context) -> Float[Tensor, "batch c h w"]:
        targets = {int(at * ctx.steps): 1 - least for at, least in self.thresholds}
        if ctx.progress >= self.until and ctx.index not in targets:
            return z
        found, where = subjects(ctx), cross_sites(ctx, self.cells)
        size = self.strength * self.scale * math.sqrt(1 - 0.5 * ctx.index / max(ctx.steps - 1, 1))
        refined = torch.zeros(len(z), dtype=torch.bool, device=z.device)

        def foreground(maps: Maps) -> Losses:
            return self._each(maps, ctx, found, lambda _row, m, b: self._inner(m, b).amax())

        def loss(maps: Maps) -> Losses:
            return self._each(maps, ctx, found, lambda row, m, b: self._all(m, b, stale=bool(refined[row])))

        if ctx.index in targets and self.refinements:
            if self.official:
                refined = evaluate(z, ctx, where, foreground).loss > targets[ctx.index]
            z = descend(
                z, ctx, where, foreground, size, target_loss=targets[ctx.index], max_steps=self.refinements,
                name="boxdiff", active=refined.clone() if self.official else None, move_first=self.official,
            )  # fmt: skip
        if ctx.progress < self.until:
            z = move(z, evaluate(z, ctx, where, loss), size, "raw", ctx, None, "boxdiff")
        return z

    def _inner(self, maps: Tensor, masks: Tensor) -> Tensor:
        return inner_loss(maps, masks, self.share, self.official)

    def _all(self, maps: Tensor, masks: Tensor, stale: bool) -> Tensor:
        """The loss of a step. ``stale``: the outer and the corner term are those of the latents before refinement, as
        released; they have no gradient at these, and are left out."""
        if stale:
            return self._inner(maps, masks).sum()
        outer = outer_loss(maps, masks, self.share, self.official)
        return (self._inner(maps, masks) + outer + corner_loss(maps, masks, self.corner, self.official)).sum()

    def _each(
        self,
        maps: Maps,
        ctx: Context,
        found: list[list[Subject]],
        loss: Callable[[int, Tensor, Tensor], Tensor],
    ) -> Losses:
        latent = latent_grid(ctx)
        attention, grid = mean_map(maps, latent), map_grid(next(iter(maps)), latent)
        every = ctx.once(("masks of boxdiff", self), lambda: self._masks(ctx, found, grid))
        losses = []
        for row, (some, masks) in enumerate(zip(found, every, strict=True)):
            if not some:
                losses.append(attention.new_zeros(()))
                continue
            words = sharpened(attention[row], prompt_tokens(ctx, row))
            own = torch.stack([words[..., list(subject.head)].mean(-1) for subject in some])
            losses.append(loss(row, smoothed(own), torch.stack(masks).to(own)))
        return torch.stack(losses)

    def _masks(self, ctx: Context, found: list[list[Subject]], grid: tuple[int, int]) -> list[list[Tensor]]:
        """Of each picture the masks of its subjects; the record says whose inner term is left out."""
        cut: Cut = "round" if self.official else "half"
        every = []
        for row, some in enumerate(found):
            every.append([union_mask(subject, grid, cut) for subject in some])
            for subject, mask in zip(some, every[-1], strict=True):
                if not _count(mask, self.share, self.official):
                    ctx.note(row, _TOO_SMALL.format(subject.phrase, int(mask.sum())))
        return every
