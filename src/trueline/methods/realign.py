"""RealignDiff's re-weighting attention modulation: what a phrase is worth in its mask, and what it costs elsewhere.

Fang et al. 2023, "RealignDiff" (arXiv 2305.19599), equations 8 and 9, without training and without gradients. The
paper's second stage draws a picture again with it: ``trueline.realign`` finds masks, phrases and scores.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, ValidationError
from torch import Tensor
from torch.nn.functional import pad

from trueline.layout import MAX_REGIONS, Layout, Region
from trueline.methods.dense_diffusion import named_regions
from trueline.models.attention import Kind, Site
from trueline.models.backbone import Backbone
from trueline.sampling.guidance import latent_grid, map_grid
from trueline.sampling.masks import region_shares
from trueline.sampling.method import Context, Method, Part

__all__ = [
    "LIKELIHOODS",
    "SURPLUS",
    "Reweighting",
    "check_meta",
    "effective_strength",
    "overlap",
    "reweighted",
    "union_area",
]

LIKELIHOODS = "likelihoods"  #: key of ``Layout.meta``: the score of each phrase, a dictionary
SURPLUS = "surplus"  #: key of ``Layout.meta``: a list of regions, as JSON, where no phrase's thing is to be
CERTAIN, MOST = 2.0, 10.0  #: eq. 6's score of an object that is certain; the largest that is taken


def reweighted(
    logits: Float[Tensor, "batch heads queries keys"],
    inside: Float[Tensor, "batch queries keys"],
    outside: Float[Tensor, "batch queries keys"],
    strength: Float[Tensor, "batch queries keys"],
) -> Float[Tensor, "batch heads queries keys"]:
    """Equations 8 and 9 before the softmax: sim + g R (max - sim) - g R' (sim - min), with g = ``strength``.

    R = ``inside`` is the share of the query's cell that belongs to the key, R' = ``outside`` the share that belongs
    to others (the paper's 1 - R, where masks tile the picture); both in 0..1, their sum at most 1. Maximum and
    minimum are taken over all keys of a row, each head by itself. For g in 0..1 no logit leaves its row's range, and
    keys that are treated alike keep their order. Where nothing is said no bit changes; a logit that another method
    has forbidden (-inf) stays so.
    """
    finite = logits.isfinite()
    high = logits.amax(dim=-1, keepdim=True)
    low = logits.masked_fill(~finite, torch.inf).amin(dim=-1, keepdim=True)
    known = logits.masked_fill(~finite, 0)  # inf times 0 has no gradient
    raised, lowered = ((strength * share)[:, None].to(logits.dtype) for share in (inside, outside))
    return torch.where(finite, known + raised * (high - known) - lowered * (known - low), logits)


def effective_strength(
    scores: Float[Tensor, "batch keys"], noise: Float[Tensor, " batch"], area: Float[Tensor, "batch queries"]
) -> Float[Tensor, "batch queries keys"]:
    """s x lambda_t x (1 - B), between 0 and 1.

    The paper has no limit: above 1 (s = 2, small objects, the first steps) the largest score of a row would become
    smaller than the others.
    """
    return (scores[:, None, :] * noise[:, None, None] * (1 - area)[:, :, None]).clamp(0, 1)


def overlap(
    masks: Float[Tensor, "batch regions queries"], keys: Float[Tensor, "batch regions keys"]
) -> tuple[Float[Tensor, "batch queries keys"], Float[Tensor, "batch queries keys"]]:
    """For each query and key the share of the query's cell in a region of the key, and in other regions only.

    All values are 0..1. Overlapping regions count once (by their sum, at most 1: exact for disjoint masks and whole
    cells). Both shares are 0 for cells in no region, for keys of no region, and for regions empty on this map.
    """
    keys = keys * (masks.sum(dim=-1, keepdim=True) > 0)
    inside = (masks.mT @ keys).clamp(max=1)
    covered, named = masks.sum(dim=1).clamp(max=1), keys.sum(dim=1).clamp(max=1)
    return inside, (covered[:, :, None] * named[:, None, :] - inside).clamp(min=0)


def union_area(masks: Float[Tensor, "batch regions places"]) -> Float[Tensor, "batch places"]:
    """B: for each place the share of the picture that the regions touching it cover together, 0..1; 0 in no region.

    For one region it is the mask's area on every grid, however coarse. For disjoint 0/1 masks it is DenseDiffusion's
    term, whose form the paper's undefined B has.
    """
    return torch.stack([_union_area(own) for own in masks])


def _union_area(masks: Float[Tensor, "regions places"]) -> Float[Tensor, " places"]:
    if not len(masks):
        return torch.zeros_like(masks.sum(dim=0))
    touching, kind = (masks > 0).unique(dim=1, return_inverse=True)  # far fewer kinds of places than places
    together = (touching.mT.to(masks.dtype) @ masks).clamp(max=1)
    return together.mean(dim=-1)[kind]


class _Placed(NamedTuple):
    """Regions on a map, then those of surplus, without a score; both are padded with empty ones. Those that score 0
    have no place."""

    masks: Float[Tensor, "batch regions places"]  # share of each cell, 0..1
    area: Float[Tensor, "batch places"]
    scores: Float[Tensor, "batch regions"]
    muted: Float[Tensor, "batch regions"]  # 1: scored 0


class Reweighting(Method):
    """RealignDiff's re-weighting attention modulation.

    In the first ``duration`` of the steps, the words of each phrase are pulled towards the largest logit of their row
    at the places of its mask, towards the smallest at the places of other masks. The pull is s x lambda_t x (1 - B),
    at most 1: s is the phrase's likelihood score (equation 6: 2 certain, 0.5 possible, 0 unlikely), lambda_t =
    ``strength`` x (``creg`` or ``sreg``) x (t / training steps) ^ ``power``, B the area of the place's masks. Scores
    are a picture's own: ``Layout.meta["likelihoods"]``, a dictionary of phrases; regions without one have
    ``likelihood``. A score of 0 is no modulation, as in the equation: the phrase's words and mask are left out;
    ``suppress`` pushes its words down everywhere.

    A thing too many has no phrase of its own: the words of all phrases are pushed out of the regions listed in
    ``Layout.meta["surplus"]`` as out of each other's masks. The paper has no such places.

    The paper states neither lambda_t, B nor the layers; these are DenseDiffusion's, on which it builds, with its
    defaults: DDIM with 50 steps, the first 15 modulated. Differs from the paper: the limit of 1 keeps the order of
    scores; places in no mask, tokens of no phrase, start, end and padding are left alone; a cell keeps the share of
    a mask that it has, so small masks are not lost. In self-attention, places are keys with the scores of their
    regions. A region without a mask has its box. A region's negative phrase is not used. A region whose phrase is
    not in the prompt acts on self-attention only, and the record says so. A picture without regions is plain.

    Raises, when sampling begins:
        ValueError: no layout has regions; likelihoods that are not a number of 0..10 for a phrase of the regions;
            surplus that is no list of regions.
    """

    strength: float = Field(1.0, ge=0, le=2, description="times creg and sreg; 0 is plain sampling")
    duration: float = Field(
        0.3, ge=0, le=1, description="fraction of the steps, the first ones, that are modulated"
    )
    creg: float = Field(1.0, ge=0, le=2, description="pull in cross-attention")
    sreg: float = Field(0.3, ge=0, le=2, description="pull in self-attention; 0 leaves it alone")
    power: float = Field(5.0, ge=0, le=20, description="how fast the pull fades with the noise level")
    size: float = Field(1.0, ge=0, le=1, description="how much weaker large masks are pulled")
    likelihood: float = Field(
        CERTAIN, ge=0, le=MOST, description="score of regions for which the layout has none"
    )
    surplus: bool = Field(True, description="push phrases out of what is too much; false: as in the paper")
    suppress: float = Field(
        0.0, ge=0, le=MOST, description="score with which phrases scored 0 are pushed down; 0: not at all"
    )

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        check_meta(layout)
        scores = [self._score(layout, region) for region in layout.regions]
        if scores and not any(scores) and not self.suppress:
            return "the likelihood of every region is 0"
        return super().idle(layout, backbone)

    def taps(self, site: Site) -> bool:
        return site.kind in ("self", "cross")

    def acts(self, ctx: Context) -> bool:
        idle = ctx.once(
            (self, "idle"), lambda: all(self.idle(layout, ctx.backbone) for layout in ctx.layouts)
        )
        return ctx.progress < self.duration and bool(self.creg or self.sreg) and not idle

    def edit(
        self, site: Site, logits: Float[Tensor, "batch heads queries keys"], ctx: Context
    ) -> Float[Tensor, "batch heads queries keys"]:
        gain = self.strength * (self.creg if site.kind == "cross" else self.sreg)
        if gain == 0:
            return logits
        height, width = map_grid(site, latent_grid(ctx))
        placed, tokens = ctx.once(
            (self, site.kind, height, width),
            lambda: self._placed(ctx, site.kind, height, width, logits.shape[-1]),
        )
        if not len(placed.scores[0]):
            return logits
        keys = (placed.masks if tokens is None else tokens) * (placed.scores > 0)[:, :, None]
        inside, outside = overlap(placed.masks, keys)
        of_keys = (placed.scores[:, :, None] * (keys > 0)).amax(dim=1)
        noise = gain * (ctx.t.float() / ctx.backbone.timesteps) ** self.power
        noise = noise.to(logits.device).expand(len(logits))
        strength = effective_strength(of_keys, noise, self.size * placed.area)
        if tokens is not None and self.suppress:
            muted = (tokens * placed.muted[:, :, None]).amax(dim=1) * (of_keys == 0)
            strength = strength + ((self.suppress * noise).clamp(max=1)[:, None] * muted)[:, None]
            outside = torch.maximum(outside, muted[:, None].expand_as(outside))
        return reweighted(logits, inside, outside, strength)

    def _placed(
        self, ctx: Context, kind: Kind, height: int, width: int, keys: int
    ) -> tuple[_Placed, Float[Tensor, "batch regions keys"] | None]:
        """The regions on a map, on the backbone's device; for cross-attention also the tokens of their phrases."""
        regions, tokens = tuple(layout.regions for layout in ctx.layouts), None
        if kind == "cross":
            named = named_regions(ctx, keys)
            regions, tokens = named.regions, named.tokens
        scores = [
            [self._score(layout, region) for region in own]
            for layout, own in zip(ctx.layouts, regions, strict=True)
        ]
        surplus = [surplus_of(layout) if self.surplus and any(regions) else () for layout in ctx.layouts]
        placed = _placed(regions, scores, surplus, height, width)
        if tokens is not None:
            tokens = pad(tokens, (0, 0, 0, placed.scores.shape[1] - tokens.shape[1])).to(ctx.backbone.device)
        return _Placed(*(part.to(ctx.backbone.device) for part in placed)), tokens

    def _score(self, layout: Layout, region: Region) -> float:
        return layout.meta.get(LIKELIHOODS, {}).get(region.phrase, self.likelihood)


def check_meta(layout: Layout) -> None:
    """
    Raises:
        ValueError: its ``meta["likelihoods"]`` are not a number of 0..10 for a phrase of its regions, or its
            ``meta["surplus"]`` is no list of regions.
    """
    surplus_of(layout)
    given = layout.meta.get(LIKELIHOODS, {})
    cure = f"give a number of 0 to {MOST:g} for phrases of its regions"
    if not isinstance(given, dict):
        raise ValueError(f"meta.{LIKELIHOODS}: must be a dictionary; {cure}")
    phrases = {region.phrase for region in layout.regions}
    for phrase, score in given.items():
        if phrase not in phrases:
            raise ValueError(f"meta.{LIKELIHOODS}: no region has the phrase {ascii(phrase)[:60]}; {cure}")
        number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        if not number or not 0 <= score <= MOST:
            raise ValueError(
                f"meta.{LIKELIHOODS}: {ascii(phrase)[:60]} has {ascii(score)[:60]}, no score; {cure}"
            )


def surplus_of(layout: Layout) -> tuple[Region, ...]:
    """The regions of its ``meta["surplus"]``.

    Raises:
        ValueError: it is no list of at most 30 regions.
    """
    given = layout.meta.get(SURPLUS, [])
    if not isinstance(given, list) or len(given) > MAX_REGIONS:
        raise ValueError(f"meta.{SURPLUS}: must be a list of at most {MAX_REGIONS} regions")
    return _regions(given)


def _regions(given: list[Any]) -> tuple[Region, ...]:
    try:
        return tuple(Region.model_validate(each) for each in given)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"meta.{SURPLUS}: {problem}; give regions as a layout has them") from error


def _placed(
    regions: Sequence[tuple[Region, ...]],
    scores: Sequence[Sequence[float]],
    surplus: Sequence[tuple[Region, ...]],
    height: int,
    width: int,
) -> _Placed:
    most = max(map(len, regions))
    rows = most + max(map(len, surplus))
    masks = torch.zeros(len(regions), rows, height * width)
    scored, muted = torch.zeros(len(regions), rows), torch.zeros(len(regions), rows)
    for row, (own, points, free) in enumerate(zip(regions, scores, surplus, strict=True)):
        scored[row, : len(own)] = torch.tensor(points)
        muted[row, : len(own)] = (torch.tensor(points) == 0).float()
        masks[row, : len(own)] = region_shares(own, height, width).flatten(1)
        masks[row, most : most + len(free)] = region_shares(free, height, width).flatten(1)
    masks[:, :most] *= (scored[:, :most] > 0)[:, :, None]
    return _Placed(masks, union_area(masks), scored, muted)
