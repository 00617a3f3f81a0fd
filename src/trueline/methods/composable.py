"""Composable Diffusion: a picture of several prompts at once, each with a weight, negative for "not".

    eps = eps_u + sum_i w_i (eps_i - eps_u)

Source: Liu et al., "Compositional Visual Generation with Composable Diffusion Models" (ECCV 2022, arXiv 2206.01714),
the conjunction and negation of section 4. What differs: a batch holds pictures with different numbers of parts; parts
may come from the regions; ``strength`` mixes with the plain prediction; other methods' hooks stay in force.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.sampling.method import Context, Method, Part, overrides

SEPARATOR = "|"


def compose(
    uncond: Float[Tensor, "batch c h w"],
    parts: Float[Tensor, "batch parts c h w"],
    weights: Float[Tensor, "batch parts"],
) -> Float[Tensor, "batch c h w"]:
    """uncond + sum_i weights_i (parts_i - uncond), for noise and velocity alike.

    A part of weight 0 takes no part. With the one weight w it is classifier-free guidance of scale w, bit for bit.
    """
    return uncond + (weights[:, :, None, None, None] * (parts - uncond[:, None])).sum(dim=1)


def split_prompt(prompt: str) -> list[str]:
    """The parts between the "|" of a prompt, without blanks around them; empty ones are dropped.

    Raises:
        ValueError: nothing but "|".
    """
    parts = [part.strip() for part in prompt.split(SEPARATOR) if part.strip()]
    if not parts:
        raise ValueError(f'prompt: {prompt!r} has no words around its "{SEPARATOR}"; write at least one part')
    return parts


class Composable(Method):
    """Composable Diffusion, at every guided step; each part costs one more prediction of its picture.

    What is composed is, for each picture, its prompt's parts between "|"; if it has no "|", the phrases of its
    regions (each phrase once); if it has none, its prompt, which is plain sampling. Besides, each region's
    ``negative`` is a part of weight ``-negative_weight``. ``eps_u`` is the prediction for the layout's negative
    prompt.

    All parts see the grounding of their picture. A part that is the whole prompt is not predicted again. Parts are
    encoded and predicted as they are: other methods' ``text``, ``values`` and ``edit`` act on the prompt only (where
    it is no part, and the strength is 1, in vain; the record says so), and what earlier methods' ``combine`` added
    stays added. Needs guidance: without it (``guidance_scale <= 1``) nothing is composed, with a note. Boxes and
    masks are not used.

    Raises, when the run begins:
        ValueError: a prompt of "|" only; more weights than a picture has parts.
    """

    weights: tuple[Annotated[float, Field(ge=-100, le=100)] | None, ...] = Field(
        (),
        description='one per part, in order; null and parts beyond the list: the guidance scale; below 0: "not"',
    )
    negative_weight: float | None = Field(
        None,
        ge=0,
        le=100,
        description="how strongly the regions' negatives are pushed away; null: the guidance scale",
    )
    strength: float = Field(1.0, ge=0, le=1, description="from the plain prediction to the composed one")

    reads: ClassVar[frozenset[Part]] = frozenset({"negative"})

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        parts = self.parts(layout, guidance_scale=1.0)
        return "the prompt has one part" if not self.weights and list(parts) == [layout.prompt] else None

    def parts(self, layout: Layout, guidance_scale: float) -> dict[str, float]:
        """Each distinct text that is composed, and its weight; the weights of equal texts add up.

        Raises:
            ValueError: see the class.
        """
        if SEPARATOR in layout.prompt:
            texts = split_prompt(layout.prompt)
        else:
            texts = _distinct(region.phrase for region in layout.regions) or [layout.prompt]
        if len(self.weights) > len(texts):
            raise ValueError(
                f"weights: has {len(self.weights)} entries but the prompt {layout.prompt!r} has {len(texts)} parts; "
                "give at most one per part"
            )
        found: dict[str, float] = {}
        for i, text in enumerate(texts):
            weight = self.weights[i] if i < len(self.weights) else None
            found[text] = found.get(text, 0.0) + (guidance_scale if weight is None else weight)
        push = guidance_scale if self.negative_weight is None else self.negative_weight
        if push:
            for text in _distinct(region.negative for region in layout.regions):
                found[text] = found.get(text, 0.0) - push
        return found

    def combine(
        self,
        prediction: Float[Tensor, "batch c h w"],
        cond: Float[Tensor, "batch c h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: Context,
    ) -> Float[Tensor, "batch c h w"]:
        if uncond is None:
            if ctx.index == 0 and ctx.guidance_scale <= 1:
                for row in range(len(z)):
                    ctx.note(
                        row, "guidance_scale: Composable does nothing without guidance; use a scale above 1"
                    )
            return prediction
        scale = ctx.guidance_scale
        recipes = [self.parts(layout, scale) for layout in ctx.layouts]
        ctx.once((self, "vain"), lambda: self._note_vain(recipes, ctx))
        # What earlier methods made of the prediction is kept: only the difference to plain guidance is added, which
        # is exactly zero for a picture whose one part is its prompt.
        composed = compose(uncond, *_predict_parts(recipes, cond, uncond, z, ctx))
        plain = uncond + scale * (cond - uncond)
        return prediction + self.strength * (composed - plain)

    def _note_vain(self, recipes: Sequence[dict[str, float]], ctx: Context) -> None:
        """Say which methods act on the prompt, where only its parts count."""
        vain = [
            type(method).__name__
            for method in ctx.methods
            if any(overrides(method, hook) for hook in ("text", "values", "edit"))
        ]
        for row, (layout, recipe) in enumerate(zip(ctx.layouts, recipes, strict=True)):
            sentence = f"Composable predicts the parts and not the prompt, so {' and '.join(vain)} cannot act"
            if vain and self.strength == 1 and layout.prompt not in recipe:
                ctx.note(row, sentence)


def _predict_parts(
    recipes: Sequence[dict[str, float]],
    cond: Float[Tensor, "batch c h w"],
    uncond: Float[Tensor, "batch c h w"],
    z: Float[Tensor, "batch c h w"],
    ctx: Context,
) -> tuple[Float[Tensor, "batch parts c h w"], Float[Tensor, "batch parts"]]:
    """Predictions of all parts and their weights; a picture with fewer parts is padded with weight 0.

    The n-th parts of all pictures that have one are one pass, so no pass has more rows than the batch.
    """
    longest = max(len(recipe) for recipe in recipes)
    parts = uncond[:, None].repeat(1, longest, 1, 1, 1)
    weights = uncond.new_zeros(len(recipes), longest)
    for turn in range(longest):
        rows: list[int] = []
        texts: list[str] = []
        for row, (layout, recipe) in enumerate(zip(ctx.layouts, recipes, strict=True)):
            if turn >= len(recipe):
                continue
            text, weight = list(recipe.items())[turn]
            weights[row, turn] = weight
            if text == layout.prompt:
                parts[row, turn] = cond[row]
            elif weight:
                rows.append(row)
                texts.append(text)
        if rows:
            encoded = ctx.once(("encoded", *texts), partial(ctx.backbone.encode, texts))
            grounding = None if ctx.grounding is None else ctx.grounding[rows]
            some = replace(ctx, grounding_scale=ctx.grounding_scale[rows])
            parts[rows, turn] = some.predict(z[rows], encoded, grounding)
    return parts, weights


def _distinct(texts: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))
