"""Attention-Refocusing: each word is attended to in its boxes, and a box's places attend to that box.

Phung, Ge, Huang 2024, "Grounded Text-to-Image Synthesis with Attention Refocusing" (CVPR; arXiv 2306.05427), and the
code (Attention-Refocusing/attention-refocusing@2c265cbcac2e, MIT), whose formulas these are, for a batch:

- CAR, cross-attention: a word's greatest attention inside each of its boxes up, that inside boxes of other words and
  on the background down;
- SAR, self-attention: a box's places attend to places outside that box as little as possible;
- gated self-attention: a box's places attend to grounding tokens other than the box's own as little as possible.
  (The code computes the SAR of the gated layers, too, but only prints it.)

As in the code, each word of a phrase is an object of its own, with the boxes of all the phrases that hold it; so a
box counts once for each of its words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor

from trueline.layout import Layout, Region
from trueline.models.attention import Kind, Maps, Site
from trueline.models.backbone import Backbone
from trueline.models.text import Located, locate
from trueline.sampling.guidance import (  # fmt: skip
    Losses,
    evaluate,
    latent_grid,
    map_grid,
    mean_map,
    move,
    near_sites,
    note_missing,
    prompt_tokens,
    sharpened,
    smoothed,
)
from trueline.sampling.masks import Cut, region_masks
from trueline.sampling.method import Context, Method, Part

__all__ = ["AttentionRefocusing", "Stage", "car_loss", "gated_loss", "least_inside", "sar_loss", "words_of"]

#: (threshold, weight) pairs, the first that holds counts.
Weights = tuple[tuple[NonNegativeFloat, NonNegativeFloat], ...]

_NAME = "attention-refocusing"
_ARTICLES = frozenset({"a", "an", "the", "one"})
_INSIDE: Weights = ((0.1, 6.0), (0.2, 1.0))
_ELSEWHERE: Weights = ((0.15, 4.0), (0.1, 1.0))


def car_loss(
    maps: Float[Tensor, "words height width"],
    masks: Float[Tensor, "regions height width"],
    owns: Bool[Tensor, "words regions"],
    early: bool = True,
    inside: Weights = _INSIDE,
    elsewhere: Weights = _ELSEWHERE,
) -> Float[Tensor, ""]:
    """Cross-attention refocusing; the mean over the words of

        sum over the word's regions of  w (1 - greatest value inside)
        + sum over the others' regions of  v x greatest value inside, where the word's own regions count as 0
        + number of its regions / 2 x greatest value in no region.

    w is the weight of the first pair of ``inside`` whose threshold is above the greatest value, v that of the first
    pair of ``elsewhere`` whose threshold is below it; where there is none it is 1 while it is ``early``, then 0. A
    region of several other words counts for each of them. ``maps`` are not below 0, ``masks`` 0 or 1, each with a
    cell.
    """
    own = owns.to(maps)
    least = _greatest(maps, masks)
    rest = maps * (1 - _union(own, masks))
    other = _greatest(rest, masks)
    background = (maps * (1 - masks.amax(0))).flatten(1).amax(1)
    pull = own * _weight(least, inside, early, below=True) * (1 - least)
    push = (own.sum(0) - own) * _weight(other, elsewhere, early, below=False) * other
    return (pull.sum() + push.sum() + (own.sum(1) * background).sum() / 2) / len(maps)


def least_inside(
    maps: Float[Tensor, "words height width"],
    masks: Float[Tensor, "regions height width"],
    owns: Bool[Tensor, "words regions"],
) -> Float[Tensor, ""]:
    """The greatest value of a word inside its region, of that word and region where it is least."""
    return _greatest(maps, masks)[owns].amin()


def sar_loss(
    attention: Float[Tensor, "queries keys"],
    masks: Float[Tensor, "regions places"],
    owns: Bool[Tensor, "words regions"],
) -> Float[Tensor, ""]:
    """Self-attention refocusing: the attention from a region's places to places outside it; 0..1 for one region.

    Mean over the region's places, sum over each word's regions, mean over the words. ``attention`` is the mean over
    heads and layers: the loss is linear in it.
    """
    outside = (_from_inside(attention, masks) * (1 - masks)).sum(1)
    return (owns.to(outside) @ outside).mean()


def gated_loss(
    attention: Float[Tensor, "heads queries slots"],
    masks: Float[Tensor, "regions places"],
    owns: Bool[Tensor, "words regions"],
    slots: Float[Tensor, "*words regions slots"],
) -> Float[Tensor, ""]:
    """Refocusing of the gated layers: the attention from a region's places to the grounding token, other than its
    own, that they attend to most.

    Mean over the region's places, greatest over the tokens (null tokens are among them), mean over heads, sum over
    each word's regions, mean over the words. ``slots`` is 1 where a region's own token is; of shape (words, 1, slots)
    where that of a word is, whatever its region.
    """
    attended = torch.stack([_from_inside(head, masks) for head in attention])
    wrong = (attended[:, None] * (1 - slots)).amax(-1).mean(0)
    return (owns.to(wrong) * wrong).sum(1).mean()


def _from_inside(
    attention: Float[Tensor, "queries keys"], masks: Float[Tensor, "regions places"]
) -> Float[Tensor, "regions keys"]:
    """What a region's places attend to, their mean."""
    return (masks / masks.sum(1, keepdim=True)) @ attention


def _greatest(
    maps: Float[Tensor, "words height width"], masks: Float[Tensor, "regions height width"]
) -> Float[Tensor, "words regions"]:
    return (maps[:, None] * masks).flatten(2).amax(2)


def _union(
    own: Float[Tensor, "words regions"], masks: Float[Tensor, "regions height width"]
) -> Float[Tensor, "words height width"]:
    return (own[..., None, None] * masks).amax(1)


def _weight(values: Tensor, weights: Weights, early: bool, *, below: bool) -> Tensor:
    """Constants: a step function of the values, through which no gradient goes."""
    chosen = torch.full_like(values, float(early))
    for threshold, weight in reversed(weights):
        chosen[(values < threshold) if below else (values > threshold)] = weight
    return chosen


def words_of(backbone: Backbone, prompt: str, found: Located) -> list[tuple[int, ...]]:
    """The tokens of each word of a phrase, without the article that it begins with."""
    offsets = backbone.token_spans(prompt)
    words: list[tuple[int, ...]] = []
    for token in found.tokens:
        if words and offsets[token][0] == offsets[words[-1][-1]][1]:  # no space between them
            words[-1] += (token,)
        else:
            words.append((token,))
    first = "".join(prompt[slice(*offsets[token])] for token in words[0]) if words else ""
    return words[1:] if len(words) > 1 and first.lower() in _ARTICLES else words


@dataclass(frozen=True)
class _Picture:
    """What is guided of one picture: words of its prompt, and the regions whose phrases they are."""

    own: range  # all tokens of the prompt
    words: tuple[tuple[int, ...], ...]
    regions: tuple[Region, ...]
    slots: tuple[int, ...]  # the regions' places in the layout, which are those of their grounding tokens
    owns: Bool[Tensor, "words regions"]


def _picture(ctx: Context, row: int, layout: Layout) -> _Picture:
    owners: dict[tuple[int, ...], list[int]] = {}
    for place, found in enumerate(locate(ctx.backbone, layout)):
        note_missing(ctx, row, found)
        for word in words_of(ctx.backbone, layout.prompt, found):
            owners.setdefault(word, []).append(place)
    slots = sorted({place for places in owners.values() for place in places})
    owns = torch.tensor([[slot in places for slot in slots] for places in owners.values()], dtype=torch.bool)
    own = prompt_tokens(ctx, row)
    return _Picture(own, tuple(owners), tuple(layout.regions[slot] for slot in slots), tuple(slots), owns)


class Stage(NamedTuple):
    """How a step is guided: factor of the loss, inner steps at most, whether a low loss ends them."""

    factor: float
    iterations: int
    by_loss: bool


class AttentionRefocusing(Method):
    """Each word's attention goes into its boxes, each box's self-attention stays in it, and its places look at their
    own grounding token only.

    As released: maps of 16 x 16 (of the net's sizes the nearest), steps of the gradient of factor x (CAR + SAR +
    3 x gated) as it is, 2 to 6 of them in each of the first 10 of 50 sampling steps and in every fifth from the 10th
    to the 35th (numbers of steps are fractions of the run here). A picture's inner loop ends after a step that began
    where each word's greatest attention in each of its boxes was .2 or, in the first 10, the loss was .1. In a word's
    box, a greatest attention below .1 counts x 6, below .2 x 1; in another word's box, above .15 x 4, above .1 x 1;
    what is better than that counts x 1 in the first 15 steps only, and so does the gated term. Without grounding
    layers, or while the grounding is off, there are CAR and SAR. A region's mask is used where it has one, a negative
    phrase is not. A picture without regions is plain.

    ``official``, the released code: boxes become cells by cutting off both edges, ``int()``; the grounding token that
    a box's places may look at is the one with the word's number, which is not the box's own as soon as a phrase has
    two words or a word two boxes; the gated layers of the up blocks count twice. Losses and gradients are the
    release's to 1e-6 (``tests/golden``).

    ``official=False``, ours: half-covered cells belong to a box, for ``int()`` moves boxes up and left by half a cell
    (masks of random boxes differ in 96%, CAR by up to 4.8); a box's own token is the one its places may look at; each
    gated layer counts once.

    What differs from the release in both: a box of no cell counts as the one that it covers most of (there CAR takes
    it for attended, and SAR divides by 0, so that the picture is lost). CAR or SAR alone are weights of 0, with the
    one schedule; without CAR the loss alone ends the inner loop (there the options do not run). Words are found by
    the tokenizer's offsets, each phrase at its own place and without its article (there the first place of each word
    between spaces, or of its plural; a word that several phrases have is one word with all their boxes); a word of
    several tokens is their mean. The release adds "a" to each grounding phrase, and a negative prompt of its own.
    PNDM, which it uses, is refused: moved latents would be lost in its history.

    Raises, when sampling begins:
        ValueError: no layout has regions; or the gated term is the only one, and the backbone is not grounded.
    """

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask"})

    strength: float = Field(1.0, ge=0, description="times the released step size of 1; 0 is plain sampling")
    official: bool = Field(
        True, description="as the released code; false: half-covered cells, each box's own grounding token"
    )
    car: float = Field(1.0, ge=0, description="weight of the cross-attention term; 0 leaves it out")
    sar: float = Field(1.0, ge=0, description="weight of the self-attention term; 0 leaves it out")
    gated: float = Field(
        3.0, ge=0, description="weight of the term of GLIGEN's gated layers; 0 leaves it out"
    )
    stages: tuple[tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeInt], ...] = Field(
        ((0.0, 4.0, 2), (0.04, 4.0, 6), (0.1, 3.0, 3), (0.2, 3.0, 2), (0.4, 1.0, 2)),
        description="(from this fraction of the steps on, factor of the loss, inner steps at most)",
    )
    dense: float = Field(0.2, ge=0, le=1, description="fraction of the steps, the first ones, all guided")
    every: float = Field(
        0.1, gt=0, le=1, description="after them, one step in each such fraction of the run is"
    )
    until: float = Field(
        0.7, ge=0, le=1, description="fraction of the steps after which none is guided any more"
    )
    early: float = Field(
        0.3, ge=0, le=1,
        description="fraction of the steps in which good attention counts, too, and the gated term at all",
    )  # fmt: skip
    inside: Weights = Field(
        _INSIDE, description="(greatest attention of a word in its box, weight below that); the first that holds"
    )  # fmt: skip
    elsewhere: Weights = Field(
        _ELSEWHERE, description="(its greatest in another's box, weight above that); the first that holds"
    )
    enough: float = Field(
        0.1, ge=0, description="loss at which a picture's inner loop ends, in the dense part"
    )
    reached: float = Field(
        0.2, ge=0, le=1, description="attention of each word in each of its boxes that ends it, anywhere"
    )
    cells: int = Field(16, ge=2, description="side of the maps, in cells; the net's nearest")

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        if self.gated and not (self.car or self.sar or backbone.grounded):
            raise ValueError(
                f"gated: is {_NAME}'s only term, and this backbone has no grounding layers; raise car or sar"
            )
        return super().idle(layout, backbone)

    def stage(self, index: int, steps: int) -> Stage | None:
        """How step ``index`` of ``steps`` is guided; None where it is not.

        Of the later steps it is the first one in each ``every`` of the run: with 50 steps the 10th, 15th, 20th, ...
        """
        progress = index / steps
        chosen = max((stage for stage in self.stages if stage[0] <= progress), default=None)
        # Rounding must not put a step before the border that it stands on: .3 / .1 < 3.
        period, before = (int(at / steps / self.every + 1e-9) for at in (index, index - 1))
        dense = progress < self.dense
        if chosen is None or progress > self.until or not (dense or index == 0 or period > before):
            return None
        return Stage(chosen[1], chosen[2], dense)

    def guide(self, z: Float[Tensor, "batch c h w"], ctx: Context) -> Float[Tensor, "batch c h w"]:
        stage, early, where = self.stage(ctx.index, ctx.steps), ctx.progress < self.early, self._where(ctx)
        found = ctx.once(
            f"words of {_NAME}",
            lambda: [_picture(ctx, row, layout) for row, layout in enumerate(ctx.layouts)],
        )
        if stage is None or where is None:
            return z
        active = torch.tensor([bool(picture.words) for picture in found], device=z.device)
        least = torch.zeros(len(z), device=z.device)

        def loss(maps: Maps) -> Losses:
            losses, inside = self._losses(maps, found, ctx, early)
            least.copy_(inside)
            return stage.factor * losses

        for _ in range(stage.iterations):
            if not active.any():
                break
            result = evaluate(z, ctx, where, loss)
            z = move(z, result, self.strength, "raw", ctx, active, _NAME)
            # One that is not finite stays active, and is counted. The move is made before the test, as released.
            done = (least >= self.reached) | ((result.loss <= self.enough) & stage.by_loss)
            active = active & ~done
        return z

    def _where(self, ctx: Context) -> Callable[[Site], bool] | None:
        """The layers that the terms in use look at; None where no term is in use."""
        grounded = ctx.grounding is not None and bool(ctx.grounding_scale.any())
        used: dict[Kind, bool] = {
            "cross": self.car > 0,
            "self": self.sar > 0,
            "gated": self.gated > 0 and grounded and ctx.progress < self.early,
        }
        chosen = [near_sites(ctx, kind, self.cells) for kind, wanted in used.items() if wanted]
        return (lambda site: any(one(site) for one in chosen)) if chosen else None

    def _losses(
        self, maps: Maps, found: list[_Picture], ctx: Context, early: bool
    ) -> tuple[Losses, Float[Tensor, " batch"]]:
        """The loss of each picture, and its ``least_inside`` (0 without CAR)."""
        latent = latent_grid(ctx)
        cross, own, gated = (
            {site: probs for site, probs in maps.items() if site.kind == kind}
            for kind in ("cross", "self", "gated")
        )
        zero = next(iter(maps.values())).new_zeros((), dtype=torch.float32)
        losses, least = [zero for _ in found], torch.zeros(len(found), device=zero.device)
        if cross:
            words = mean_map(cross, latent)
        if own:
            places = mean_map(own, latent).flatten(1, 2)
        if gated:
            height, width = map_grid(next(iter(gated)), latent)
            # Layers first, heads later: the greatest is each head's own. Queries and keys: places, then tokens.
            twice = [site for site in gated if self.official and site.place == "up"]
            tokens = torch.stack([gated[site].float() for site in (*gated, *twice)]).mean(0)
            tokens = tokens[:, :, : height * width, height * width :]
        for row, picture in enumerate(found):
            if not picture.words:
                continue
            owns = picture.owns.to(zero.device)
            if cross:
                sharp = sharpened(words[row], picture.own)
                each = [sharp[..., list(word)].mean(-1) for word in picture.words]
                attention, masks = smoothed(torch.stack(each)), self._masks(picture, cross, latent)
                term = car_loss(attention, masks, owns, early, self.inside, self.elsewhere)
                losses[row] = losses[row] + self.car * term
                least[row] = least_inside(attention.detach(), masks, owns)
            if own:
                term = sar_loss(places[row], self._masks(picture, own, latent).flatten(1), owns)
                losses[row] = losses[row] + self.sar * term
            if gated and ctx.grounding_scale[row]:
                slots = self._slots(picture, tokens.shape[-1]).to(zero.device)
                term = gated_loss(tokens[row], self._masks(picture, gated, latent).flatten(1), owns, slots)
                losses[row] = losses[row] + self.gated * term
        return torch.stack(losses), least

    def _slots(self, picture: _Picture, count: int) -> Float[Tensor, "*words regions slots"]:
        """The token that the places of each region may look at, as ``gated_loss`` takes it."""
        if self.official:
            return torch.eye(len(picture.words), count)[:, None]
        return torch.eye(count)[list(picture.slots)]

    def _masks(
        self, picture: _Picture, maps: Maps, latent: tuple[int, int]
    ) -> Float[Tensor, "regions height width"]:
        site, probs = next(iter(maps.items()))
        cut: Cut = "floor" if self.official else "half"
        return region_masks(picture.regions, *map_grid(site, latent), cut).to(probs.device)
