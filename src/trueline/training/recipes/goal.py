"""The recipe of GOAL: a layout model fine-tuned with DSAlign and MAAlign besides its own loss.

The defaults are the paper's: alpha 1e-2, beta 1e-3, AdamW 5e-5 constant, 14,000 steps of one picture; the gated
layers, self- and cross-attention learn. The controls of its tables are settings: ``objective.dsa=0`` with
``objective.maa=0`` is L_LDM alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from trueline.errors import FieldError, Frozen
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.shipped import WORLD, shipped_folder
from trueline.models.text import locate
from trueline.sampling.guidance import mean_map
from trueline.seeds import generator_of
from trueline.training.clip import FrozenCLIP, load_clip
from trueline.training.data.latents import encode_pictures
from trueline.training.losses.denoising import ground, noised
from trueline.training.losses.dsalign import DSAlign
from trueline.training.losses.goal import GoalObjective
from trueline.training.losses.maalign import MAAlign, counted
from trueline.training.objective import Batch
from trueline.training.recipes.recipe import Recipe, Task
from trueline.training.settings import Count, Fraction, Part, Training

Weight = Annotated[float, Field(ge=0)]
SHOWN_AT = 0.5  #: at which share of the timesteps the maps of the validation sheet are taken


#: Settings of ``MAAlign`` under their own names.
MAALIGN = {"place", "cells", "fraction", "heads", "tokens", "softmax", "rounding", "union", "top"}


class GoalObjectiveSettings(Frozen):
    """What GOAL has to set besides the loop; ``GoalObjective``, ``DSAlign`` and ``MAAlign`` say more of each.

    Args:
        dsa, maa: alpha and beta, weights of the two losses; 0 = without it.
        clip: a folder or Hub id of the CLIP of DSAlign (the paper: ViT-L/14), or "world"; None = the world's for the
            model "world". Needed unless ``dsa`` is 0.
        dsa_local, dsa_global: whether regions and whole pictures count (Table 6).
        background: around a region, what CLIP sees: black, grey, the picture's mean, or the box alone (crop).
        dsa_t_max: DSAlign only below this timestep; None = at all (the paper).
        dsa_snr_gamma: its weight by min(SNR, gamma) / gamma; None = 1 (the paper).
        dsa_floor: only what a distance is above the training picture's own counts; False = all of it (the paper).
        maa_in, maa_out: whether attention in the box, and outside of it, counts.
        place, cells, fraction: which maps MAAlign reads (Table 7).
        heads, tokens, softmax, rounding, union, top: how it reads them.
        bins: spans of the timesteps for which the losses are logged too; 0 = none.
    """

    dsa: Weight = 1e-2
    maa: Weight = 1e-3
    clip: str | None = None
    dsa_local: bool = True
    dsa_global: bool = True
    background: Literal["black", "grey", "mean", "crop"] = "black"
    dsa_t_max: Count | None = None
    dsa_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    dsa_floor: bool = False
    maa_in: bool = True
    maa_out: bool = True
    place: Literal["up", "mid", "down"] = "up"
    cells: Count | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    heads: Literal["mean", "each"] = "mean"
    tokens: Literal["mean", "sum", "each", "head"] = "mean"
    softmax: Literal["plain", "content"] = "plain"
    rounding: Literal["outer", "half"] = "outer"
    union: bool = True
    top: Fraction = 0.0
    bins: Annotated[int, Field(ge=0, le=100)] = 4

    @model_validator(mode="after")
    def _each_has_an_effect(self) -> GoalObjectiveSettings:
        if self.dsa and not (self.dsa_local or self.dsa_global):
            raise FieldError("dsa", "with dsa_local and dsa_global off nothing is left of it; set it to 0")
        if self.maa and not (self.maa_in or self.maa_out):
            raise FieldError("maa", "with maa_in and maa_out off nothing is left of it; set it to 0")
        if self.cells is not None and self.fraction is not None:
            raise FieldError("fraction", "give it or cells, not both")
        return self


class GoalSettings(Training):
    """Of ``trueline train goal``."""

    steps: Count = 14_000
    batch: Count = 1
    warmup: Annotated[int, Field(ge=0)] = 0
    part: Part = "fusers+attention"
    position_net: bool = False
    objective: GoalObjectiveSettings = GoalObjectiveSettings()


@dataclass
class GoalTask(Task):
    """Its further sheet shows the attention of the regions' phrases."""

    objective: GoalObjective

    def check(self, layout: Layout) -> None:
        """The sheet's maps are those of the loss, which not every size has."""
        if self.objective.maa:
            self.maps(layout.width, layout.height)

    def maps(self, width: int | None = None, height: int | None = None) -> list[str]:
        """Names of the layers whose maps count, for pictures of that size."""
        _channels, *latent = self.backbone.latent_size(width, height)
        return [site.name for site in self.objective.maalign.sites(self.backbone, (latent[0], latent[1]))]

    def sheets(
        self, images: Sequence[Image.Image], layouts: Sequence[Layout]
    ) -> dict[str, list[Image.Image]]:
        if not self.objective.maa:
            return {}
        pairs, maalign = zip(images, layouts, strict=True), self.objective.maalign
        return {"attention": [attention_view(self.backbone, maalign, *pair) for pair in pairs]}


def prepare(settings: GoalSettings, backbone: Backbone, folder: Path) -> GoalTask:
    """The task; ``folder`` is not used.

    Raises:
        ValueError: no CLIP or one that cannot be used, or maps that the U-Net does not have.
    """
    given = settings.objective
    dsalign = DSAlign(
        local=given.dsa_local,
        globe=given.dsa_global,
        background=given.background,
        t_max=given.dsa_t_max,
        snr_gamma=given.dsa_snr_gamma,
        floor=given.dsa_floor,
    )
    maalign = MAAlign(
        inside=given.maa_in,
        outside=given.maa_out,
        **given.model_dump(include=MAALIGN),
    )
    objective = GoalObjective(given.dsa, given.maa, dsalign, maalign, given.bins)
    further = {"clip": goal_clip(settings)} if given.dsa else {}
    task = GoalTask(settings, backbone, objective, further)
    if given.maa:
        try:
            task.facts = {"maps": task.maps()}
        except ValueError as error:
            raise ValueError(f"objective.{error}") from None
    return task


RECIPE = Recipe(GoalSettings, prepare)


def goal_clip(settings: GoalSettings) -> FrozenCLIP:
    """The CLIP of ``objective.clip``, float32, on the CPU.

    Raises:
        ValueError: none is given, or it cannot be read, or its parts do not fit each other.
    """
    name: str | Path | None = settings.objective.clip
    if name is None and settings.model != WORLD:
        raise ValueError(
            "objective.clip: give the CLIP of DSAlign, such as openai/clip-vit-large-patch14 (the paper's), or set "
            "objective.dsa=0"
        )
    if name in (None, WORLD):
        name = shipped_folder("clip")
    try:
        return load_clip(str(name))
    except ValueError as error:
        raise ValueError(f"objective.clip: {error}") from None


# Pictures on the way


@torch.no_grad()
def attention_view(backbone: Backbone, maalign: MAAlign, image: Image.Image, layout: Layout) -> Image.Image:
    """The picture, dimmed, bright where its regions' phrases attend; as it is where none of them counts.

    The maps are those of MAAlign's layers (the mean over them, their heads, and a phrase's tokens; each phrase's
    greatest value is full light) at half of the timesteps, on the picture's own latents and the same noise each time.
    """
    phrases = [found.tokens for found in locate(backbone, layout) if counted(found)]
    if not phrases:
        return image
    pixels = np.array(image.convert("RGB"))
    latents = encode_pictures(backbone, pixels[None])
    noise = torch.randn(latents.shape, generator=generator_of(0, "attention view")).to(latents)
    t = torch.tensor([int(SHOWN_AT * backbone.timesteps)])
    z = noised(latents, noise, backbone.noise_level(t))
    latent = (latents.shape[-2], latents.shape[-1])
    wanted = set(maalign.sites(backbone, latent))
    grounding = ground(backbone, Batch(latents, (layout,), noise, t))
    with backbone.tapped(wanted.__contains__) as maps:
        backbone.predict(z, t.to(z.device), backbone.encode([layout.prompt]), grounding)
    seen = mean_map(maps, latent)[0].cpu()
    heats = [seen[..., list(tokens)].mean(-1) for tokens in phrases]
    return _lit(pixels, torch.stack([heat / heat.max().clamp(min=1e-12) for heat in heats]).amax(0))


def _lit(pixels: np.ndarray, heat: Float[Tensor, "height width"]) -> Image.Image:
    """A grey, dimmed picture with the heat as light."""
    height, width = pixels.shape[:2]
    light: Any = F.interpolate(heat[None, None], size=(height, width), mode="bilinear")[0, 0].numpy()
    grey = pixels.mean(-1)
    shown = np.stack([grey * 0.5 + 127 * light, grey * 0.5 + 90 * light, grey * 0.5], -1)
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))
