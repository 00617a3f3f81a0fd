"""Latent guidance: move each picture's latents down the gradient of a loss on its attention maps.

One engine for the methods of this family: (maps -> one loss per picture) x step size x schedule x inner loop.
Pictures of a batch do not touch each other: losses are per picture, and so are gradients, step sizes, the inner
loop's end, and what happens to a loss that is not finite. The forward pass runs the conditional rows only and stops
after the last map that the loss needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from trueline.layout import Layout, Region
from trueline.models.attention import Kind, Maps, Site
from trueline.models.encoded import content
from trueline.models.text import Located, locate
from trueline.sampling.masks import Cut, region_masks
from trueline.sampling.method import Context

Losses = Float[Tensor, " batch"]
#: Maps of one pass to one loss per picture.
Loss = Callable[[Maps], Losses]
Rule = Literal["raw", "variance", "deviation", "norm"]


@dataclass(frozen=True)
class LossAndGradient:
    """The loss of each picture, and its gradient with respect to latents of unit variance."""

    loss: Losses
    gradient: Float[Tensor, "batch c h w"]

    @property
    def finite(self) -> Bool[Tensor, " batch"]:
        return self.loss.isfinite() & self.gradient.flatten(1).isfinite().all(1)


def evaluate(
    z: Float[Tensor, "batch c h w"], ctx: Context, where: Callable[[Site], bool], loss: Loss
) -> LossAndGradient:
    """Loss and gradient at ``z``. A row whose loss does not depend on the latents has gradient 0.

    After ``Backbone.enable_gradient_checkpointing``, or the net's own, in less memory and more time.
    """
    with torch.enable_grad(), ctx.backbone.recomputed():
        moved = z.detach().requires_grad_(True)
        values = loss(ctx.maps(moved, where))
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), moved)
        else:
            gradient = torch.zeros_like(z)
    # Losses are defined for latents of unit variance; Euler and LMS scale theirs: dL/du = dL/dz dz/du.
    return LossAndGradient(values.detach(), gradient / _unit(ctx, z))


def step_size(rule: Rule, ctx: Context) -> float:
    """The factor of the gradient, besides the method's own strength.

    ``raw``: 1 (Attend-and-Excite). ``variance``: 1 - abar; Layout-Guidance's sigma^2, which is written for latents
    that LMS scales, in latents of unit variance. ``deviation``: sqrt(1 - abar) (LMD+). ``norm``: 1, the gradient
    being scaled to the latents' own norm per picture (see ``move``).
    """
    _alpha, sigma = ctx.stepper.alpha_sigma()
    return {"raw": 1.0, "norm": 1.0, "variance": float(sigma) ** 2, "deviation": float(sigma)}[rule]


def move(
    z: Float[Tensor, "batch c h w"],
    result: LossAndGradient,
    strength: float,
    rule: Rule,
    ctx: Context,
    active: Bool[Tensor, " batch"] | None = None,
    name: str = "guidance",
) -> Float[Tensor, "batch c h w"]:
    """``z`` less strength x step size x gradient, in the ``active`` rows whose loss and gradient are finite.

    Another row is left as it is, and the picture's record counts that. With the rule ``norm`` a step is
    strength x ||z|| long, whatever the loss's scale (per picture, norms over all of its latents; the form of
    sketch-guided diffusion, with the latents' norm for that of the last step).
    """
    active = torch.ones_like(result.loss, dtype=torch.bool) if active is None else active
    for row in torch.nonzero(active & ~result.finite).flatten().tolist():
        ctx.note(row, f"{name}: a step was left out, for its loss or its gradient was not finite")
    gradient, unit = result.gradient, _unit(ctx, z)
    if rule == "norm":
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        gradient = gradient / length * (z * unit).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    step = strength * step_size(rule, ctx) * gradient / unit
    rows = (active & result.finite).view(-1, 1, 1, 1)
    return torch.where(rows, z - step.to(z.dtype), z)


def descend(
    z: Float[Tensor, "batch c h w"],
    ctx: Context,
    where: Callable[[Site], bool],
    loss: Loss,
    strength: float,
    *,
    rule: Rule = "raw",
    target_loss: float = 0.0,
    max_steps: int = 1,
    name: str = "guidance",
    active: Bool[Tensor, " batch"] | None = None,
    move_first: bool = False,
) -> Float[Tensor, "batch c h w"]:
    """At most ``max_steps`` steps for each picture, until its loss is at or below ``target_loss``.

    ``active``: the rows to move, by default all. It is changed: False where the loss was reached, so that who keeps
    it ends those pictures' guidance for the run. ``move_first``: a picture is moved by the gradient that was taken
    with its loss, and only then is that loss tested, as in released code; it is one step more.
    """
    active = torch.ones(len(z), dtype=torch.bool, device=z.device) if active is None else active
    for _ in range(max_steps):
        if not active.any():
            break
        result = evaluate(z, ctx, where, loss)
        moved = active.clone()
        active &= ~(result.loss <= target_loss)  # one that is not finite stays active, and is counted
        z = move(z, result, strength, rule, ctx, moved if move_first else active, name)
    return z


def _unit(ctx: Context, z: Tensor) -> float:
    """What the scheduler multiplies its latents by to give them unit variance."""
    return float(ctx.stepper.net_input(torch.ones((1, 1, 1, 1), dtype=torch.float32, device=z.device)))


# Maps


def nearest_scale(found: list[Site], latent: tuple[int, int], cells: int) -> int:
    """The ``Site.scale`` at which the map's shorter side is nearest to ``cells``; the finer of two that are."""
    side = min(latent)
    return min(sorted({site.scale for site in found}), key=lambda scale: abs(side / scale - cells))


def near_sites(ctx: Context, kind: Kind, cells: int) -> Callable[[Site], bool]:
    """The layers of that kind whose maps are nearest to ``cells`` cells on their shorter side."""
    found = [site for site in ctx.sites if site.kind == kind]
    scale = nearest_scale(found, latent_grid(ctx), cells)
    return lambda site: site.kind == kind and site.scale == scale


def cross_sites(ctx: Context, cells: int) -> Callable[[Site], bool]:
    """``near_sites`` of cross-attention."""
    return near_sites(ctx, "cross", cells)


def latent_grid(ctx: Context) -> tuple[int, int]:
    """(height, width) of the latents."""
    _channels, height, width = ctx.backbone.latent_size(ctx.layouts[0].width, ctx.layouts[0].height)
    return height, width


def map_grid(site: Site, latent: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a layer's maps."""
    return -(-latent[0] // site.scale), -(-latent[1] // site.scale)


def mean_map(maps: Maps, latent: tuple[int, int]) -> Float[Tensor, "batch height width keys"]:
    """The mean over all layers and heads, on the grid. All maps must be of one size."""
    stacked = torch.stack([probs.float().mean(1) for probs in maps.values()]).mean(0)
    return stacked.unflatten(1, map_grid(next(iter(maps)), latent))


def sharpened(
    attention: Float[Tensor, "height width keys"], own: range, to_end: bool = True, factor: float = 100.0
) -> Float[Tensor, "height width keys"]:
    """Softmax of ``factor`` times the attention over the tokens from the prompt's first on; 0 for those before.

    ``own``: the prompt's own tokens (``prompt_tokens``). ``to_end``: over those after them too, without the very
    last, as Attend-and-Excite does for Stable Diffusion 1; False is its ``normalize_eot``. Tokens left out are 0.
    """
    end = attention.shape[-1] - 1 if to_end else own.stop
    sharp = (attention[..., own.start : end] * factor).softmax(-1)
    return F.pad(sharp, (own.start, attention.shape[-1] - end))


def smoothed(maps: Float[Tensor, "n height width"]) -> Float[Tensor, "n height width"]:
    """3 x 3 Gaussian, mirrored at the edges.

    Attend-and-Excite's own kernel: exp(-(d / (2 sigma))^2) with sigma .5, which is a Gaussian of .71.
    """
    line = torch.tensor([math.exp(-1.0), 1.0, math.exp(-1.0)], dtype=maps.dtype, device=maps.device)
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, kernel[None, None])[:, 0]


# What is guided


@dataclass(frozen=True)
class Subject:
    """One thing of a picture: its phrase's tokens, those of its last word, and the regions that carry the phrase."""

    phrase: str
    tokens: tuple[int, ...]
    head: tuple[int, ...]
    regions: tuple[Region, ...]


def subjects(ctx: Context, *, joined: bool = False) -> list[list[Subject]]:
    """The things of each picture whose phrase its prompt holds; of others the record says that they are not guided.

    ``joined``: regions of one phrase are one subject (Layout-Guidance).
    """
    return ctx.once(
        ("subjects", joined),
        lambda: [_subjects(ctx, row, layout, joined) for row, layout in enumerate(ctx.layouts)],
    )


def _subjects(ctx: Context, row: int, layout: Layout, joined: bool) -> list[Subject]:
    groups: dict[object, Subject] = {}
    places = locate(ctx.backbone, layout)
    for place, (region, found) in enumerate(zip(layout.regions, places, strict=True)):
        note_missing(ctx, row, found)
        if not found.tokens:
            continue
        key = region.phrase.lower() if joined else place
        before = groups[key].regions if key in groups else ()
        groups[key] = Subject(region.phrase, found.tokens, found.head, (*before, region))
    return list(groups.values())


def note_missing(ctx: Context, row: int, found: Located) -> None:
    """Say which phrase the prompt does not hold, or not all of it."""
    if found.problem:
        ctx.note(row, f"{found.problem}; it is {'partly' if found.tokens else 'not'} guided")


def prompt_tokens(ctx: Context, row: int) -> range:
    """The picture's own tokens of its prompt, without special ones."""
    return content(ctx.text.spans[row][0])


def union_mask(subject: Subject, grid: tuple[int, int], cut: Cut = "half") -> Float[Tensor, "height width"]:
    """1 where any of the subject's regions is; ``cut`` makes cells of their boxes."""
    return region_masks(subject.regions, *grid, cut).amax(0)
