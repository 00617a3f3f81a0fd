"""Where each phrase was looked for: cross-attention of some steps, seen without touching the picture.

RealignDiff's Figure 7 shows such maps by DAAM (Tang et al. 2023); these are the plain mean over heads, layers of one
map size and steps.
"""

from __future__ import annotations

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

Seen = Float[Tensor, "height width keys"]


class Watch(Method):
    """Keeps the attention maps of a few of the first steps, with the edits of the other methods; changes nothing.

    It looks in a pass of its own, since a layer that is opened for a look rounds in another way: with and without it
    a picture is the same bit for bit. It is no part of a picture's record. Masks and negative phrases are not used.
    """

    until: float = Field(default=0.3, ge=0, le=1, description="fraction of the steps that are looked at")
    times: int = Field(default=5, ge=1, le=1000, description="at most so many of these steps")
    cells: int = Field(
        default=16, ge=1, description="layers whose maps have about so many cells on their shorter side"
    )

    reads: ClassVar[frozenset[Part]] = frozenset({"mask", "negative"})  # nothing to say about either
    _seen: list[Tensor] = PrivateAttr(default_factory=list)

    def combine(
        self,
        prediction: Float[Tensor, "batch c h w"],
        cond: Float[Tensor, "batch c h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: Context,
    ) -> Float[Tensor, "batch c h w"]:
        if ctx.index == 0:  # another batch, or the same one again after it was halved
            self._seen.clear()
        if ctx.index in self.steps_seen(ctx.steps):
            maps = ctx.maps(z, cross_sites(ctx, self.cells))
            self._seen.append(mean_map(maps, latent_grid(ctx)).cpu())
        return prediction

    def steps_seen(self, steps: int) -> set[int]:
        """At even distances, the first step among them."""
        last = max(int(self.until * steps), 1)
        times = min(self.times, last)
        return {place * last // times for place in range(times)}

    def of(self, row: int) -> Seen:
        """The mean of what was seen of the last batch's picture in that row."""
        return torch.stack([maps[row] for maps in self._seen]).mean(0)


def phrase_maps(seen: Seen, layout: Layout, backbone: Backbone) -> dict[str, Float[Tensor, "height width"]]:
    """For each phrase of the regions the share 0..1 of each place's attention that its words have, all of them
    together. Phrases that the prompt does not hold are left out."""
    tokens: dict[str, set[int]] = {}
    for found in locate(backbone, layout):
        tokens.setdefault(found.phrase, set()).update(found.tokens)
    return {phrase: seen[..., sorted(places)].sum(-1) for phrase, places in tokens.items() if places}
