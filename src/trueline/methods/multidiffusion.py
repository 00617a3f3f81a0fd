"""MultiDiffusion with regions: each region is denoised for its own phrase, the rest for the prompt.

Source: Bar-Tal et al., "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation" (ICML 2023, arXiv
2302.08113), the region-based form. Every prompt i takes a step from the same latent, and the next latent is the mean
of the results weighted by the masks: z' = sum_i M_i z'_i / sum_i M_i, which solves the paper's least-squares problem.

What differs: predictions are fused, not latents. A step of DDIM (and of every scheduler that is linear in latent and
prediction) acts cell by cell, so inside M_i, where z_i = z,

    sum_i M_i (a z + b eps_i) / sum_i M_i = a z + b (sum_i M_i eps_i / sum_i M_i)

and the two are equal (tested). So multistep solvers keep one history, that of the picture, and noise of stochastic
schedulers is drawn once. A scheduler that clips or thresholds x0 is not linear: there the two differ. Written from
the equations; the authors' code has no licence and was not read.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.layout import MAX_SEED, Layout, Region
from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded
from trueline.sampling.loop import draw
from trueline.sampling.masks import region_masks
from trueline.sampling.method import Context, Method, Part
from trueline.seeds import WIDE, hashed, noise_generators

COLOURS = 20  #: that a run's bootstrapping chooses from, as released
PATCH = 8
"""Side, in latents, of the picture that a colour is encoded in: enough that its centre does not see the edge."""


def fuse(
    background: Float[Tensor, "batch c h w"],
    regions: Float[Tensor, "batch regions c h w"],
    masks: Float[Tensor, "batch regions h w"],
) -> Float[Tensor, "batch c h w"]:
    """The mean weighted by the masks; the background's mask is what the regions leave: 1 - their sum, at least 0.

    With masks of 0 and 1 that is 1 - their union, and where regions overlap they have equal shares. Masks of 0 pad a
    picture that has fewer regions. Outside all masks the result is ``background`` bit for bit.
    """
    total = masks.sum(dim=1)
    rest = (1 - total).clamp(min=0)
    inside = (masks[:, :, None] * regions).sum(dim=1)
    return (rest[:, None] * background + inside) / (rest + total)[:, None]


def bootstrapped(
    latents: Float[Tensor, "rows c h w"],
    masks: Float[Tensor, "rows h w"],
    colours: Float[Tensor, "rows c"],
    noise: Float[Tensor, "rows c h w"],
    alpha: Float[Tensor, ""] | float,
    sigma: Float[Tensor, ""] | float,
) -> Float[Tensor, "rows c h w"]:
    """Latents inside the mask; outside it the latent of one colour, noised: alpha colour + sigma noise.

    All at the scale of the net's input, where alpha^2 + sigma^2 = 1.
    """
    outside = alpha * colours[:, :, None, None] + sigma * noise
    inside = masks[:, None]
    return inside * latents + (1 - inside) * outside


def colour_latents(backbone: Backbone, colours: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows c"]:
    """The latents of pictures of one colour (-1..1), float32: the centre of a small one, away from its edges."""
    side = PATCH * backbone.vae_factor
    latents = backbone.encode_images(colours[:, :, None, None].expand(-1, -1, side, side))
    return latents[:, :, PATCH // 2, PATCH // 2]


class MultiDiffusion(Method):
    """Region-based MultiDiffusion, at every step. A picture without regions is plain.

    The background's prediction is the one that the loop and earlier methods made for the layout's prompt, with its
    grounding. Each region is predicted for its phrase, without grounding and without other methods' edits, against
    its ``negative`` where it has one, else the layout's negative prompt, at the run's guidance scale. That costs one
    row per region and step more, two while bootstrapping, for regions with a negative, and while the picture's
    grounding acts (otherwise the unconditional prediction is the loop's). Without guidance negatives are not used,
    with a note. A region's mask is used where it has one.

    In the first steps (officially 20 of 50), a region's prediction does not see the picture outside its mask, but a
    noised plain colour instead, so that its object lies inside: the bootstrapping.

    ``official``, the released code: in each step another one of 20 colours, always with the picture's first noise.
    ``official=False``, ours: one colour for a region and new noise in each step, so that what is around the object
    does not change its colour under it, and the noise is that of the step.

    What differs from the release in both: predictions are fused (above); a colour's latent is the mean of the VAE's
    distribution, there a sample of it; colours, and the noise of ``official=False``, depend on prompt, phrase, box
    and step only, so that a picture depends neither on its batch nor on what was drawn before; overlapping regions
    have equal shares; a region's negative; grounding of the background; half-covered cells belong to a box. The
    release has no licence and was not read: what it does is known from a comparison of numbers.

    Raises, when the run begins:
        ValueError: no layout has regions.
    """

    bootstrap: float = Field(
        0.4, ge=0, le=1, description="fraction of the steps, the first ones, bootstrapped"
    )
    strength: float = Field(1.0, ge=0, le=1, description="from the plain prediction to the fused one")
    official: bool = Field(
        True,
        description="bootstrap as the released code: another colour in each step, with the first noise; false: one "
        "colour for a region, with new noise in each step",
    )

    needs_regions: ClassVar[bool] = True
    reads: ClassVar[frozenset[Part]] = frozenset({"mask", "negative"})

    def combine(
        self,
        prediction: Float[Tensor, "batch c h w"],
        cond: Float[Tensor, "batch c h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: Context,
    ) -> Float[Tensor, "batch c h w"]:
        if ctx.index == 0 and ctx.guidance_scale <= 1:
            self._say_unguided(ctx)
        ctx.once("first noise", lambda: ctx.stepper.net_input(z).clone())
        most = max(len(layout.regions) for layout in ctx.layouts)
        masks = ctx.once(("region masks", z.shape[-2:]), lambda: _masks(ctx, most, z))
        regions = torch.zeros(len(z), most, *z.shape[1:], device=z.device)
        # The n-th regions of all pictures are one pass: no more rows than plain sampling.
        for turn in range(most):
            rows = [row for row, layout in enumerate(ctx.layouts) if len(layout.regions) > turn]
            regions[rows, turn] = self._predict(rows, turn, masks[rows, turn], uncond, z, ctx)
        return torch.lerp(prediction, fuse(prediction, regions, masks), self.strength)

    @staticmethod
    def _say_unguided(ctx: Context) -> None:
        for row, layout in enumerate(ctx.layouts):
            if any(region.negative for region in layout.regions):
                ctx.note(
                    row, "guidance_scale: MultiDiffusion uses no negatives without it; use a scale above 1"
                )

    def _predict(
        self,
        rows: list[int],
        turn: int,
        masks: Float[Tensor, "rows h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: Context,
    ) -> Float[Tensor, "rows c h w"]:
        """Guided predictions of the ``turn``-th regions of these pictures."""
        regions = [ctx.layouts[row].regions[turn] for row in rows]
        latents = ctx.stepper.net_input(z)[rows]
        bootstrap = ctx.progress < self.bootstrap
        if bootstrap:
            latents = self._bootstrapped(latents, rows, regions, masks, ctx)
        phrases = [region.phrase for region in regions]
        text = ctx.once(("encoded", *phrases), lambda: ctx.backbone.encode(phrases))
        if uncond is None or ctx.negative is None:
            return ctx.backbone.predict(latents, ctx.t, text)
        own = [i for i, region in enumerate(regions) if region.negative]
        usual = ctx.negative[rows]
        negative = ctx.once(("negatives", turn), lambda: _negatives(ctx.backbone, usual, regions))
        # The loop's unconditional prediction serves where it saw this very latent, text and (no) grounding.
        anew = torch.full((len(rows),), bootstrap)
        anew[own] = True
        if ctx.grounding is not None:
            anew |= ctx.grounding_scale[rows].cpu() > 0
        parts = ctx.backbone.predict(
            torch.cat([latents[anew], latents]), ctx.t, Encoded.cat([negative[anew], text])
        )
        against, towards = uncond[rows], parts[int(anew.sum()) :]
        against[anew] = parts[: int(anew.sum())]
        return against + ctx.guidance_scale * (towards - against)

    def _bootstrapped(
        self,
        latents: Float[Tensor, "rows c h w"],
        rows: Sequence[int],
        regions: Sequence[Region],
        masks: Float[Tensor, "rows h w"],
        ctx: Context,
    ) -> Float[Tensor, "rows c h w"]:
        layouts = [ctx.layouts[row] for row in rows]
        keys = [background_seed(layout, region) for layout, region in zip(layouts, regions, strict=True)]
        of_this_step = noise_generators([(key, ctx.index + 1) for key in keys])
        if self.official:
            noise = ctx.made["first noise"][rows]
            palettes = torch.stack([self._palette(ctx, layout) for layout in layouts])
            chosen = [int(torch.randint(COLOURS, (), generator=own)) for own in of_this_step]
            colours = palettes[range(len(rows)), chosen]
        else:
            noise = torch.stack([draw(own, latents.shape[1:]) for own in of_this_step]).to(latents)
            colours = ctx.once(("colours", *keys), lambda: _colours(ctx.backbone, keys))
        return bootstrapped(latents, masks, colours, noise, *ctx.stepper.alpha_sigma())

    @staticmethod
    def _palette(ctx: Context, layout: Layout) -> Float[Tensor, "colours c"]:
        """The colours of one picture's bootstrapping, as latents."""
        first = hashed(layout.prompt) & MAX_SEED

        def made() -> Float[Tensor, "colours c"]:
            return _colours(ctx.backbone, [(first + number) & MAX_SEED for number in range(COLOURS)])

        return ctx.once(("palette", layout.prompt), made)


def _masks(ctx: Context, most: int, z: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch regions h w"]:
    """Each picture's regions, padded with empty ones."""
    masks = torch.zeros(len(z), most, *z.shape[-2:])
    for row, layout in enumerate(ctx.layouts):
        masks[row, : len(layout.regions)] = region_masks(layout.regions, *z.shape[-2:])
    return masks.to(z.device)


def _negatives(backbone: Backbone, usual: Encoded, regions: Sequence[Region]) -> Encoded:
    """What each region is predicted against: its own negative where it has one, else its picture's, ``usual``."""
    own = [i for i, region in enumerate(regions) if region.negative]
    if not own:
        return usual
    states = usual.states.clone()
    states[own] = backbone.encode([regions[i].negative or "" for i in own]).states.to(states)
    return usual.with_states(states)


def _colours(backbone: Backbone, keys: Sequence[int]) -> Float[Tensor, "rows c"]:
    """A random colour for each key, as a latent."""
    colours = torch.stack(
        [torch.rand(3, generator=own) * 2 - 1 for own in noise_generators([key % WIDE for key in keys])]
    )
    return colour_latents(backbone, colours)


def background_seed(layout: Layout, region: Region) -> int:
    """A seed made of prompt, phrase and box, the same on every machine."""
    words = repr((layout.prompt, region.phrase, region.box.xyxy))
    return hashed(words) & MAX_SEED
