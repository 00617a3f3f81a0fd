"""BoxDiff (Xie et al. 2023, arXiv 2307.10816): each subject's attention fills its box. Written from the paper."""

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
from trueline.sampling.method import Context, Method, Part


def inner_loss(
    maps: Float[Tensor, "n height width"], masks: Float[Tensor, "n height width"], share: float = 0.2
) -> Float[Tensor, " n"]:
    """1 less the mean of the greatest values inside; as many as ``share`` of the box's cells, at least one."""
    return torch.stack([1 - _top(m * mask, _count(mask, share)) for m, mask in zip(maps, masks, strict=True)])


def outer_loss(
    maps: Float[Tensor, "n height width"], masks: Float[Tensor, "n height width"], share: float = 0.2
) -> Float[Tensor, " n"]:
    """The mean of the greatest values outside, of as many cells as ``inner_loss`` takes."""
    return torch.stack(
        [_top(m * (1 - mask), _count(mask, share)) for m, mask in zip(maps, masks, strict=True)]
    )


def corner_loss(
    maps: Float[Tensor, "n height width"], masks: Float[Tensor, "n height width"], width: int = 1
) -> Float[Tensor, " n"]:
    """How far the map's projections (its maximum over rows, over columns) are from the box's, mean absolute
    difference over the cells within ``width`` of the box's edges; the sum of both axes."""
    total = maps.new_zeros(len(maps))
    for axis in (1, 2):
        shadow, edge = maps.amax(axis), masks.amax(axis)
        near = _near_edges(edge, width)
        total = total + ((shadow - edge).abs() * near).sum(1) / near.sum(1).clamp(min=1)
    return total


def _count(mask: Tensor, share: float) -> int:
    return max(1, int(share * float(mask.sum())))


def _top(values: Tensor, count: int) -> Tensor:
    return values.flatten().topk(min(count, values.numel())).values.mean()


def _near_edges(projection: Float[Tensor, "n cells"], width: int) -> Float[Tensor, "n cells"]:
    """1 at cells within ``width`` of a place where the projection changes, and of its ends at the picture's edge."""
    n, cells = projection.shape
    padded = torch.cat([projection.new_zeros(n, 1), projection, projection.new_zeros(n, 1)], 1)
    borders = torch.nonzero(padded.diff(dim=1))  # border b lies between cells b - 1 and b
    near = torch.zeros_like(projection)
    for row, border in borders.tolist():
        near[row, max(border - width, 0) : min(border + width, cells)] = 1
    return near


class BoxDiff(Method):
    """Attend-and-Excite's machinery with three losses on each subject's box: inner, outer and corner.

    Settings as published: 16 x 16 maps (of the net's sizes the nearest), the greatest 20%, steps of 20 sqrt(1 .. .5)
    in the first half; refinement at 0, 20% and 40% by the inner loss alone, until 1 less the worst subject's reaches
    .05, .5, .8. A region's mask is used where it has one. A box below one cell counts as one cell. The latents that
    were moved are the ones the noise is predicted on (the released GLIGEN branch predicts on the former ones). A
    picture without regions is plain. A region's negative phrase is not used.
    """

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    strength: float = Field(1.0, ge=0, description="times the published step sizes; 0 is plain sampling")
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

        def foreground(maps: Maps) -> Losses:
            return self._each(maps, ctx, found, lambda m, b: inner_loss(m, b, self.share).amax())

        def loss(maps: Maps) -> Losses:
            return self._each(maps, ctx, found, self._all)

        if ctx.index in targets:
            active = torch.ones(len(z), dtype=torch.bool, device=z.device)
            for _ in range(self.refinements):
                result = evaluate(z, ctx, where, foreground)
                active = active & (result.loss > targets[ctx.index])
                if not active.any():
                    break
                z = move(z, result, size, "raw", ctx, active, "boxdiff")
        if ctx.progress < self.until:
            z = move(z, evaluate(z, ctx, where, loss), size, "raw", ctx, None, "boxdiff")
        return z

    def _all(self, maps: Tensor, masks: Tensor) -> Tensor:
        parts = inner_loss(maps, masks, self.share) + outer_loss(maps, masks, self.share)
        return (parts + corner_loss(maps, masks, self.corner)).sum()

    @staticmethod
    def _each(
        maps: Maps, ctx: Context, found: list[list[Subject]], loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Losses:
        latent = latent_grid(ctx)
        attention, grid = mean_map(maps, latent), map_grid(next(iter(maps)), latent)
        losses = []
        for row, some in enumerate(found):
            if not some:
                losses.append(attention.new_zeros(()))
                continue
            words = sharpened(attention[row], prompt_tokens(ctx, row))
            own = torch.stack([words[..., list(subject.head)].mean(-1) for subject in some])
            masks = torch.stack([union_mask(subject, grid) for subject in some]).to(attention)
            losses.append(loss(smoothed(own), masks))
        return torch.stack(losses)
