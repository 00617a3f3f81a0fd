"""Attend-and-Excite (Chefer et al. 2023, arXiv 2301.13826): no subject of the prompt is neglected."""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.english.noun_chunks import chunks
from trueline.layout import Layout
from trueline.models.attention import Maps
from trueline.models.backbone import Backbone
from trueline.models.text import locate_phrase
from trueline.sampling.guidance import (  # fmt: skip
    Losses,
    Subject,
    cross_sites,
    evaluate,
    latent_grid,
    mean_map,
    move,
    note_missing,
    prompt_tokens,
    sharpened,
    smoothed,
    subjects,
)
from trueline.sampling.method import Context, Method


def subject_maps(
    attention: Float[Tensor, "height width keys"], found: list[Subject], own: range, to_end: bool = True
) -> Float[Tensor, "subjects height width"]:
    """The sharpened, smoothed map of each subject's last word; of several tokens, their mean."""
    words = sharpened(attention, own, to_end)
    picked = [words[..., list(subject.head)].mean(-1) for subject in found]
    return smoothed(torch.stack(picked))


def excite_loss(maps: Float[Tensor, "subjects height width"]) -> Float[Tensor, ""]:
    """1 less the greatest value of the most neglected subject, not below 0."""
    return (1 - maps.flatten(1).amax(1)).clamp(min=0).amax()


def named_subjects(ctx: Context) -> list[list[Subject]]:
    """Of each picture the phrases of its regions, or the noun phrases of its prompt where it has none."""
    return ctx.once("named subjects", lambda: _named_subjects(ctx))


def _named_subjects(ctx: Context) -> list[list[Subject]]:
    found = list(subjects(ctx))
    for row, layout in enumerate(ctx.layouts):
        if layout.regions:
            continue
        places = [locate_phrase(ctx.backbone, layout.prompt, phrase) for phrase in chunks(layout.prompt)]
        for place in places:
            note_missing(ctx, row, place)
        found[row] = [Subject(p.phrase, p.tokens, p.head, ()) for p in places if p.tokens]
    return found


class AttendAndExcite(Method):
    """Move the latents until every subject is attended to somewhere. Subjects are the phrases of the layout's
    regions, or, without regions, the noun phrases of the prompt; boxes are not used.

    As released (yuval-alaluf/Attend-and-Excite@163efdfd341b): cross-attention maps of 16 x 16 (of the net's sizes the
    nearest) over all layers, steps of 20 sqrt(1 .. .5) in the first half, refinement at 0, 20% and 40% of the steps
    until the least subject reaches .05, .5, .8; a refinement moves once more after its threshold is reached. Run
    beside the release with DDIM, the latents of 50 steps differ by 7e-6.

    What differs: a subject is a phrase's last word, of several tokens their mean (there the tokens whose numbers the
    user gives, each on its own); ``normalize_eot`` is a setting, whatever the net (there it goes with Stable
    Diffusion 2.1); pictures need not be square; other schedulers than DDIM get the same step in latents of unit
    variance, and PNDM, which the release takes over from the checkpoint with 51 steps, is refused, for it loses moved
    latents in its history.

    A picture without regions and noun phrases is plain. Masks and negative phrases of regions are not used.
    """

    strength: float = Field(1.0, ge=0, description="times the released step sizes; 0 is plain sampling")
    scale: float = Field(20.0, ge=0, description="size of a step")
    until: float = Field(0.5, ge=0, le=1, description="fraction of the steps that are guided")
    thresholds: tuple[tuple[float, float], ...] = Field(
        ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8)),
        description="(fraction of the steps, attention to be reached there)",
    )
    refinements: int = Field(20, ge=0, le=100, description="inner steps at most")
    cells: int = Field(16, ge=2, description="side of the maps, in cells; the net's nearest")
    normalize_eot: bool = Field(False, description="compare words up to the prompt's end only (SD 2.1)")

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        named = layout.regions or chunks(layout.prompt)
        return None if named else f"no noun phrase in {layout.prompt!r}"

    def guide(self, z: Float[Tensor, "batch c h w"], ctx: Context) -> Float[Tensor, "batch c h w"]:
        targets = {int(at * ctx.steps): 1 - least for at, least in self.thresholds}
        if ctx.progress >= self.until and ctx.index not in targets:
            return z
        found, latent, where = named_subjects(ctx), latent_grid(ctx), cross_sites(ctx, self.cells)
        prompts = [prompt_tokens(ctx, row) for row in range(len(z))]
        size = self.strength * self.scale * math.sqrt(1 - 0.5 * ctx.index / max(ctx.steps - 1, 1))

        def loss(maps: Maps) -> Losses:
            attention = mean_map(maps, latent)
            zero = attention.new_zeros(())
            return torch.stack(
                [
                    excite_loss(subject_maps(row, some, own, not self.normalize_eot)) if some else zero
                    for row, some, own in zip(attention, found, prompts, strict=True)
                ]
            )

        result = evaluate(z, ctx, where, loss)
        if ctx.index in targets:
            active = result.loss > targets[ctx.index]
            for _ in range(self.refinements):
                if not active.any():
                    break
                z = move(z, result, size, "raw", ctx, active, "attend-and-excite")
                active = active & (result.loss > targets[ctx.index])
                result = evaluate(z, ctx, where, loss)
        if ctx.progress < self.until:
            z = move(z, result, size, "raw", ctx, None, "attend-and-excite")
        return z
