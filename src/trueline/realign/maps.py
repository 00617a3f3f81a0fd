"""Where each phrase was looked for: cross-attention of some steps, recorded without touching the picture.

RealignDiff's Figure 7 shows such maps by DAAM (Tang et al. 2023); these are the plain mean over heads, layers of one
map size and steps.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, PrivateAttr
from torch import Tensor

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.text import locate
from trueline.sampling.guidance import cross_sites, latent_grid, mean_map
from trueline.sampling.method import Context, Method, Part

MeanMaps = Float[Tensor, "height width keys"]


class AttentionRecorder(Method):
    """Keeps the attention maps of a few of the first steps, with the edits of the other methods; changes nothing.

    It runs the net once more for each of these steps, since a layer that is opened rounds in another way: with and
    without it a picture is the same bit for bit. It is no part of a picture's record. Masks and negative phrases are
    not used.
    """

    until: float = Field(default=0.3, ge=0, le=1, description="fraction of the steps that are recorded")
    times: int = Field(default=5, ge=1, le=1000, description="at most so many of these steps")
    cells: int = Field(
        default=16, ge=1, description="layers whose maps have about so many cells on their shorter side"
    )

    reads: ClassVar[frozenset[Part]] = frozenset({"mask", "negative"})  # nothing to say about either
    _maps: list[Tensor] = PrivateAttr(default_factory=list)

    def combine(
        self,
        prediction: Float[Tensor, "batch c h w"],
        cond: Float[Tensor, "batch c h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: Context,
    ) -> Float[Tensor, "batch c h w"]:
        if ctx.index == 0:  # another batch, or the same one again after it was halved
            self._maps.clear()
        if ctx.index in self.recorded_steps(ctx.steps):
            maps = ctx.maps(z, cross_sites(ctx, self.cells))
            self._maps.append(mean_map(maps, latent_grid(ctx)).cpu())
        return prediction

    def recorded_steps(self, steps: int) -> set[int]:
        """At even distances, the first step among them."""
        last = max(int(self.until * steps), 1)
        times = min(self.times, last)
        return {place * last // times for place in range(times)}

    def of(self, row: int) -> MeanMaps:
        """The mean over the recorded steps, for the picture in that row of the last batch."""
        return torch.stack([maps[row] for maps in self._maps]).mean(0)


def phrase_maps(
    maps: MeanMaps, layout: Layout, backbone: Backbone
) -> dict[str, Float[Tensor, "height width"]]:
    """For each phrase of the regions the share 0..1 of each place's attention that its words have, all of them
    together. Phrases that the prompt does not hold are left out."""
    tokens: dict[str, set[int]] = {}
    for found in locate(backbone, layout):
        tokens.setdefault(found.phrase, set()).update(found.tokens)
    return {phrase: maps[..., sorted(places)].sum(-1) for phrase, places in tokens.items() if places}
