"""Where a picture's words looked: its cross-attention, summed up while it is drawn, as a map of each phrase.

As DAAM does (Tang et al., ACL 2023, arXiv 2210.04885; castorini/daam). ``Pipeline(...)(prompt, maps=True).maps`` and
``trueline generate --maps`` give them of finished pictures, whatever the methods and the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from PIL import Image
from pydantic import Field, PrivateAttr
from torch import Tensor

from trueline.english.noun_chunks import chunks
from trueline.layout import Layout
from trueline.models.attention import Site
from trueline.models.backbone import Backbone
from trueline.models.text import locate, locate_phrase
from trueline.pictures import contact_sheet
from trueline.sampling.guidance import cross_sites, latent_grid, map_grid
from trueline.sampling.method import Context, Method

MeanMaps = Float[Tensor, "height width keys"]
#: Colours of a map from least to most: dark to light, whatever the eye or the printer.
RAMP = ((8, 8, 40), (92, 18, 110), (196, 58, 80), (248, 150, 40), (252, 250, 180))
SHOWN = 0.65  #: how much of a map's colour covers the picture under it


class AttentionRecorder(Method):
    """Sums up the cross-attention of the steps, with the edits of the other methods; changes nothing.

    It runs the net once more for each of these steps, since a layer that is opened rounds in another way: with and
    without it a picture is the same bit for bit, and so is its record.

    What differs from DAAM: heads are averaged before maps are enlarged and cut off at 0, not after; the sum is over
    the steps that are asked for.
    """

    watches: ClassVar[bool] = True

    until: float = Field(default=1.0, ge=0, le=1, description="fraction of the steps that are recorded")
    times: int = Field(default=1000, ge=1, le=1000, description="at most so many of these steps")
    cells: int | None = Field(
        default=None,
        ge=1,
        description="layers whose maps have about so many cells on their shorter side; none: all but the coarsest, "
        "enlarged to the latents' size",
    )

    _sums: dict[int, Tensor] = PrivateAttr(
        default_factory=dict
    )  #: by ``Site.scale``, of all its layers and steps
    _grids: dict[int, tuple[int, int]] = PrivateAttr(default_factory=dict)
    _count: int = PrivateAttr(default=0)

    def combine(
        self,
        prediction: Float[Tensor, "batch c h w"],
        cond: Float[Tensor, "batch c h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: Context,
    ) -> Float[Tensor, "batch c h w"]:
        if ctx.index == 0:  # another batch, or the same one again after it was halved
            self._sums.clear()
            self._count = 0
        if ctx.index in self.recorded_steps(ctx.steps):
            latent = latent_grid(ctx)
            for site, probs in ctx.maps(z, self._where(ctx)).items():
                self._grids[site.scale] = map_grid(site, latent)
                self._sums[site.scale] = self._sums.get(site.scale, 0) + probs.float().mean(1)
                self._count += 1
        return prediction

    def recorded_steps(self, steps: int) -> set[int]:
        """At even distances, the first step among them."""
        last = max(int(self.until * steps), 1)
        times = min(self.times, last)
        return {place * last // times for place in range(times)}

    def of(self, row: int) -> MeanMaps:
        """The mean over the layers and the recorded steps, for the picture in that row of the last batch: what share
        (0..1) of a place's attention each token has."""
        grid = max(self._grids[scale] for scale in self._sums)
        total = torch.zeros(())
        for scale, sums in self._sums.items():
            maps = sums[row].cpu().unflatten(0, self._grids[scale]).permute(2, 0, 1)
            if self._grids[scale] != grid:
                maps = F.interpolate(maps[None], grid, mode="bicubic")[0].clamp(min=0)
            total = total + maps
        return total.permute(1, 2, 0) / self._count

    def _where(self, ctx: Context) -> Callable[[Site], bool]:
        scales = {site.scale for site in ctx.sites if site.kind == "cross"}
        if not scales:
            raise ValueError(
                "maps: this backbone has no cross-attention, so there is nothing to look at; leave maps out"
            )
        if self.cells is not None:
            return cross_sites(ctx, self.cells)
        shown = scales - {max(scales)} or scales
        return lambda site: site.kind == "cross" and site.scale in shown


def phrase_maps(
    maps: MeanMaps, layout: Layout, backbone: Backbone
) -> dict[str, Float[Tensor, "height width"]]:
    """For each phrase of the regions, or without regions each noun phrase of the prompt (at most eight), the share
    0..1 of each place's attention that its words have, all of them together. Phrases that the prompt does not hold
    are left out."""
    if layout.regions:
        located = locate(backbone, layout)
    else:
        named = dict.fromkeys(chunks(layout.prompt))
        located = [locate_phrase(backbone, layout.prompt, phrase) for phrase in named]
    tokens: dict[str, set[int]] = {}
    for found in located:
        tokens.setdefault(found.phrase, set()).update(found.tokens)
    return {phrase: maps[..., sorted(places)].sum(-1) for phrase, places in tokens.items() if places}


@dataclass(frozen=True)
class HeatMaps:
    """Where the phrases of one picture looked.

    Attributes:
        phrases: those of ``phrase_maps``.
        shares: of each a map of the latents' size: what share (0..1) of a place's attention the phrase's tokens had
            together, mean over layers and steps. DAAM takes the mean over the tokens.
    """

    phrases: tuple[str, ...]
    shares: Float32[np.ndarray, "phrases height width"]

    @classmethod
    def of(cls, maps: MeanMaps, layout: Layout, backbone: Backbone) -> "HeatMaps":
        found = phrase_maps(maps, layout, backbone)
        shares = [share.numpy().astype(np.float32) for share in found.values()]
        return cls(tuple(found), np.stack(shares) if shares else np.zeros((0, *maps.shape[:2]), np.float32))

    def sheet(self, image: Image.Image, layout: Layout) -> Image.Image:
        """The picture with its boxes, and beside it each phrase's map over the picture with the boxes of the phrase.

        A map's colours go from its least value to its greatest, as in DAAM, which the caption says."""
        images, layouts, captions = [image], [layout], [layout.prompt]
        for phrase, share in zip(self.phrases, self.shares, strict=True):
            own = tuple(region for region in layout.regions if region.phrase == phrase)
            images.append(_over(image, share))
            layouts.append(layout.model_copy(update={"regions": own}))
            captions.append(f"{phrase}: {share.min():.3f} to {share.max():.3f} of the attention")
        return contact_sheet(images, layouts, captions)


def _over(image: Image.Image, share: Float32[np.ndarray, "height width"]) -> Image.Image:
    """The map in colours over the picture in grey."""
    low, high = float(share.min()), float(share.max())
    level = Image.fromarray((share - low) / max(high - low, 1e-12))
    values = np.asarray(level.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(values, stops, channel) for channel in zip(*RAMP, strict=True)], -1)
    heat = Image.fromarray(colours.round().astype(np.uint8))
    return Image.blend(image.convert("L").convert("RGB"), heat, SHOWN)
