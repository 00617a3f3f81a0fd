"""DenseDiffusion: in the first steps, each region's places attend to its phrase and to themselves.

Kim et al. 2023, "Dense Text-to-Image Generation with Attention Modulation" (arXiv 2308.12964). No training and no
gradients: the logits of self- and cross-attention are pulled towards the largest logit of their row where query and
key belong together, towards the smallest where they do not; and the words of a phrase are encoded without the rest
of the prompt.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.layout import Layout, Region
from trueline.models.attention import Kind, Site
from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded, Spans
from trueline.models.text import locate
from trueline.sampling.guidance import latent_grid, map_grid, prompt_tokens
from trueline.sampling.masks import Cut, region_masks
from trueline.sampling.method import Context, Method, Part

__all__ = ["DenseDiffusion", "covered_area", "matched_pairs", "named_regions", "regularised"]


def regularised(
    logits: Float[Tensor, "batch heads queries keys"],
    match: Float[Tensor, "batch queries keys"],
    size_weight: Float[Tensor, "batch queries"],
    strength: Float[Tensor, " batch"],
) -> Float[Tensor, "batch heads queries keys"]:
    """Logits pulled towards the extremes of their own row.

    With g = strength x size_weight: sim + g (max - sim) where ``match`` is 1, sim - g (sim - min) where it is -1,
    unchanged where it is 0. Maximum and minimum are taken over all keys of a row, each head by itself. For g <= 1 no
    logit leaves its row's range; a logit that another method has forbidden (-inf) stays so.
    """
    finite = logits.isfinite()
    high = logits.amax(dim=-1, keepdim=True)
    low = logits.masked_fill(~finite, torch.inf).amin(dim=-1, keepdim=True)
    gain = (strength[:, None] * size_weight)[..., None] * match.abs()
    pulled = torch.lerp(logits, torch.where(match[:, None] > 0, high, low), gain[:, None].to(logits.dtype))
    return torch.where(finite, pulled, logits)


def matched_pairs(
    masks: Float[Tensor, "batch regions queries"],
    keys: Float[Tensor, "batch regions keys"],
    counted: Float[Tensor, "batch keys"],
) -> Float[Tensor, "batch queries keys"]:
    """1 where query and key share a region, -1 where they do not, 0 where nothing is said.

    Nothing is said of queries in no region and of keys that are not ``counted``. All inputs are 0 or 1. The ``keys``
    of self-attention are the masks again, those of cross-attention the tokens of each region's phrase.
    """
    shared = (masks.mT @ keys > 0).to(masks.dtype)
    covered = (masks.sum(dim=1) > 0).to(masks.dtype)
    return (2 * shared - 1) * covered.unsqueeze(-1) * counted.unsqueeze(-2)


def covered_area(masks: Float[Tensor, "batch regions places"]) -> Float[Tensor, "batch places"]:
    """For each place the share of the picture that its regions cover together, 0..1; 0 in no region.

    For disjoint masks this is the paper's row sum. Where masks overlap, a place counts once: the sum could pass 1 and
    turn the sign of the pull.
    """
    return (masks.mT @ masks > 0).float().mean(dim=-1)


class DenseDiffusion(Method):
    """Attention modulation by regions.

    Defaults are the authors': DDIM with 50 steps, of which the first 15 are modulated. The pull is ``strength`` x
    ``creg`` (cross-attention) or ``sreg`` (self-attention) x (t / training steps) ^ ``power`` x (1 - ``size`` x area
    of the place's regions). In all steps, the words of each phrase are encoded without the rest of the prompt; words
    that the prompt has in another form ("cats" for "cat") are not.

    ``official``, the released code (naver-ai/DenseDiffusion, commit 54a2ea6): every token that is not of a region's
    phrase is pushed away from its places, the start, end and padding tokens, too; boxes become cells by their corner.
    ``official=False``, ours: start, end and padding keep their attention, for much of it belongs to them in any
    picture; half-covered cells belong to a box. That is much weaker: with a start token 4 above the rest, the share
    of a region's own phrase at t = 981 is .02 without the method, .07 with ours, .31 as released.

    What differs from the release in both: there the masks tile the picture, as the paper asks; here places in no
    region keep their attention (the release's rule would flatten it), where regions overlap their common area counts
    once, and a token that several phrases share belongs to each (there to the last). A small region keeps at least
    one cell of each map. Equal phrases take their places in turn (there all take the first). Phrases are found by the
    tokenizer's offsets, so that one need not be spelt as in the prompt; one that is not there is noted (there it is
    passed over). Any scheduler, any size. A region's mask is used where it has one.

    A region whose phrase is not in the prompt acts on self-attention only, and the record says so. A picture without
    regions is plain. A region's negative phrase is not used.

    Raises, when sampling begins:
        ValueError: no layout has regions.
    """

    strength: float = Field(1.0, ge=0, le=2, description="times creg and sreg; 0 is plain sampling")
    official: bool = Field(
        True,
        description="as the released code; false: start, end and padding tokens keep their attention, half-covered "
        "cells belong to a box",
    )
    duration: float = Field(
        0.3, ge=0, le=1, description="fraction of the steps, the first ones, that are modulated"
    )
    creg: float = Field(
        1.0, ge=0, le=2, description="pull in cross-attention; above 1 logits may leave their range"
    )
    sreg: float = Field(0.3, ge=0, le=2, description="pull in self-attention")
    power: float = Field(5.0, ge=0, le=20, description="how fast the pull fades with the noise level")
    size: float = Field(1.0, ge=0, le=1, description="how much weaker large regions are pulled")
    phrases_alone: bool = Field(
        True, description="encode the words of each phrase without the rest of the prompt"
    )

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    def text(self, text: Encoded, layouts: Sequence[Layout], backbone: Backbone) -> Encoded:
        return _phrases_alone(text, layouts, backbone) if self.phrases_alone else text

    def taps(self, site: Site) -> bool:
        return site.kind in ("self", "cross")

    def acts(self, ctx: Context) -> bool:
        return ctx.progress < self.duration and bool(self.creg or self.sreg)

    def edit(
        self, site: Site, logits: Float[Tensor, "batch heads queries keys"], ctx: Context
    ) -> Float[Tensor, "batch heads queries keys"]:
        gain = self.strength * (self.creg if site.kind == "cross" else self.sreg)
        if gain == 0:
            return logits
        height, width = map_grid(site, latent_grid(ctx))
        masks, area, keys, counted = ctx.once(
            ("dense-diffusion", self.official, site.kind, height, width),
            lambda: _pairing(ctx, site.kind, height, width, logits.shape[-1], self.official),
        )
        noise = ctx.t.float() / ctx.backbone.timesteps
        strength = (gain * noise**self.power).to(logits.device).expand(len(logits))
        return regularised(logits, matched_pairs(masks, keys, counted), 1 - self.size * area, strength)


class Named(NamedTuple):
    """The regions whose phrases the prompts hold, and their tokens; the batch is padded with empty regions."""

    regions: tuple[tuple[Region, ...], ...]
    tokens: Float[Tensor, "batch regions keys"]  # 1: a token of the region's phrase
    words: Float[Tensor, "batch keys"]  # 1: a token of the prompt, not start, end or padding


def named_regions(ctx: Context, keys: int) -> Named:
    """The regions of each picture whose phrases stand in its prompt, on maps of ``keys`` tokens; what is wrong with
    the others is noted, once a run."""
    return ctx.once(("named regions", keys), lambda: _named_regions(ctx, keys))


def _named_regions(ctx: Context, keys: int) -> Named:
    found = [locate(ctx.backbone, layout) for layout in ctx.layouts]
    kept = [[place for place in places if place.tokens] for places in found]
    tokens = torch.zeros(len(found), max(map(len, kept)), keys)
    words = torch.zeros(len(found), keys)
    for row, places in enumerate(kept):
        words[row, list(prompt_tokens(ctx, row))] = 1
        for index, place in enumerate(places):
            tokens[row, index, list(place.tokens)] = 1
    left = {True: "its words before the cut are pulled", False: "its region acts on self-attention only"}
    for row, places in enumerate(found):
        for place in places:
            if place.problem:
                ctx.note(row, f"{place.problem}; {left[bool(place.tokens)]}")
    regions = tuple(
        tuple(region for region, place in zip(layout.regions, places, strict=True) if place.tokens)
        for layout, places in zip(ctx.layouts, found, strict=True)
    )
    return Named(regions, tokens, words)


def _pairing(
    ctx: Context, kind: Kind, height: int, width: int, keys: int, official: bool
) -> tuple[Tensor, ...]:
    """What ``matched_pairs`` takes for a map, and the area covered at each place, on the backbone's device."""
    cut: Cut = "corner" if official else "half"
    if kind == "cross":
        named = named_regions(ctx, keys)
        masks, area = _covering(named.regions, height, width, cut)
        counted = torch.ones_like(named.words) if official else named.words
        paired = masks, area, named.tokens, counted
    else:
        masks, area = _covering([layout.regions for layout in ctx.layouts], height, width, cut)
        paired = masks, area, masks, torch.ones_like(area)
    return tuple(part.to(ctx.backbone.device) for part in paired)


def _covering(
    regions: Sequence[tuple[Region, ...]], height: int, width: int, cut: Cut
) -> tuple[Float[Tensor, "batch regions places"], Float[Tensor, "batch places"]]:
    """Each picture's masks on a map, padded with empty ones, and the area covered at each place."""
    masks = torch.zeros(len(regions), max(map(len, regions)), height * width)
    for row, own in enumerate(regions):
        masks[row, : len(own)] = region_masks(own, height, width, cut).flatten(1)
    # One picture at a time: places x places numbers are much, and kept for a moment only.
    return masks, torch.cat([covered_area(one) for one in masks.split(1)])


def _phrases_alone(text: Encoded, layouts: Sequence[Layout], backbone: Backbone) -> Encoded:
    """The encoded prompts, with the words of each phrase as in the phrase alone; of phrases that share words the last
    one counts."""
    phrases = list(dict.fromkeys(region.phrase for layout in layouts for region in layout.regions))
    if not phrases:
        return text
    alone = backbone.encode(phrases)
    places = {phrase: row for row, phrase in enumerate(phrases)}
    states = text.states.clone()
    for row, layout in enumerate(layouts):
        prompt = _pieces(layout.prompt, text.spans[row][0])
        for place in locate(backbone, layout):
            own = places[place.phrase]
            pieces = _pieces(place.phrase, alone.spans[own][0])
            start = _first([prompt[token] for token in place.tokens], pieces)
            if start is not None:
                states[row, list(place.tokens)] = alone.states[own, start : start + len(place.tokens)].to(
                    states
                )
    return text.with_states(states)


def _pieces(prompt: str, spans: Spans) -> list[tuple[str, bool]]:
    """What each token says, and whether a letter follows it: tokens alike in both are the same token."""
    return [(prompt[start:end].lower(), prompt[end : end + 1].isalpha()) for start, end in spans]


def _first(part: Sequence[object], whole: Sequence[object]) -> int | None:
    """Where ``part`` stands in ``whole``; None if nowhere or empty."""
    places = range(len(whole) - len(part) + 1) if part else ()
    return next((i for i in places if list(whole[i : i + len(part)]) == list(part)), None)
