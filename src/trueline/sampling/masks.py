"""Regions on the grid of an attention map or a latent."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trueline.layout import Region

#: How a box becomes cells of a grid. "half": those of which it covers at least half. "round": between its edges, each
#: at the nearest line of the grid (the even one of two), as in BoxDiff's released code. "floor": between its edges,
#: both cut off by ``int()``, as in those of Layout-Guidance and Attention-Refocusing; it moves boxes up and left by
#: half a cell on average. "corner": those whose upper left corner lies in the box, which nearest sampling of a fine
#: mask keeps, as in DenseDiffusion's.
Cut = Literal["half", "round", "floor", "corner"]


def region_mask(region: Region, height: int, width: int, cut: Cut = "half") -> Float[Tensor, "height width"]:
    """0 or 1: the cells that belong to the region, by its mask if it has one, else its box cut by the rule ``cut``.

    A mask is cut as by "half", whatever the rule. A region that has no cell by its rule has the one that it covers
    most of.
    """
    shares = region_share(region, height, width)
    if region.mask or cut == "half":
        inside = (shares >= 0.5).float()
    else:
        inside = torch.zeros(height, width)
        inside[
            _cells(region.box.y0, region.box.y1, height, cut),
            _cells(region.box.x0, region.box.x1, width, cut),
        ] = 1
    if not inside.any():
        inside.view(-1)[int(shares.argmax())] = 1.0
    return inside


def region_masks(
    regions: Sequence[Region], height: int, width: int, cut: Cut = "half"
) -> Float[Tensor, "regions height width"]:
    """``region_mask`` of each; (0, height, width) for no regions."""
    if not regions:
        return torch.zeros(0, height, width)
    return torch.stack([region_mask(region, height, width, cut) for region in regions])


def region_share(region: Region, height: int, width: int) -> Float[Tensor, "height width"]:
    """How much of each cell the region covers, 0..1: by its mask if it has one, else its box (area pooling)."""
    if region.mask:
        mask = torch.from_numpy(region.mask_array()).float()
        return F.interpolate(mask[None, None], size=(height, width), mode="area")[0, 0]
    box = region.box
    across = _overlap(box.x0 * width, box.x1 * width, width)
    down = _overlap(box.y0 * height, box.y1 * height, height)
    return down[:, None] * across[None, :]


def region_shares(
    regions: Sequence[Region], height: int, width: int
) -> Float[Tensor, "regions height width"]:
    """``region_share`` of each; (0, height, width) for no regions."""
    if not regions:
        return torch.zeros(0, height, width)
    return torch.stack([region_share(region, height, width) for region in regions])


def _overlap(low: float, high: float, cells: int) -> Float[Tensor, " cells"]:
    start = torch.arange(cells, dtype=torch.float64)
    return ((start + 1).clamp(max=high) - start.clamp(min=low)).clamp(0, 1).float()


def _cells(low: float, high: float, cells: int, cut: Cut) -> slice:
    rules: dict[str, Callable[[float], int]] = {"round": round, "floor": int, "corner": _first_at_least}
    return slice(rules[cut](low * cells), rules[cut](high * cells))


def _first_at_least(line: float) -> int:
    return ceil(line - 1e-9)  # .55 of 20 cells is line 11, not a little more
