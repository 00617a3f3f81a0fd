"""Crops for region FID and region CLIP score. Papers leave the rule open, so the rule's name enters the metric's.

- ``plain``: the box, rounded outwards to whole pixels; no padding, aspect ratio kept.
- ``square``: the plain crop, then its largest centred square, as ReCo's SceneFID takes it (``eval.sh``: clean-fid
  with ``--transform center``). Where ReCo first cuts the whole picture to a square and moves its boxes, the caller
  does that to picture and boxes alike.
- ``padded``: the box with ``PADDING`` of its width and height added on each side, cut at the picture's edge.

ReCo crops every box, however small; InstanceDiffusion too. ``min_side`` is for those who do not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from PIL.Image import Image

Rule = Literal["plain", "square", "padded"]
RULES: tuple[Rule, ...] = get_args(Rule)
PADDING = 0.1
_DIGITS = 6  # of a pixel: 0.7 * 10 must not round outwards to 8


def window(
    box: tuple[float, float, float, float], size: tuple[int, int], rule: Rule
) -> tuple[int, int, int, int]:
    """The crop of ``box`` (xyxy in 0..1) in whole pixels, left, top, right, bottom, of a picture of ``size`` (w, h).

    At least one pixel wide and high. A part of the box outside the picture is cut off.

    Raises:
        ValueError: unknown rule, or a box that is empty, not finite or wholly outside the picture.
    """
    if rule not in RULES:
        raise ValueError(f"rule: must be one of {', '.join(RULES)} (got {rule!r})")
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1 and min(x1, y1) > 0 and max(x0, y0) < 1):  # NaN fails too
        raise ValueError(f"box: must be x0,y0,x1,y1 with x0 < x1, y0 < y1, in the picture (got {box})")
    if rule == "padded":
        across, down = PADDING * (x1 - x0), PADDING * (y1 - y0)
        x0, y0, x1, y1 = x0 - across, y0 - down, x1 + across, y1 + down
    left, right = _outwards(x0, x1, size[0])
    top, bottom = _outwards(y0, y1, size[1])
    if rule == "square":
        side = min(right - left, bottom - top)
        left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
        right, bottom = left + side, top + side
    return left, top, right, bottom


def crop(image: Image, box: tuple[float, float, float, float], rule: Rule, min_side: int = 1) -> Image | None:
    """The region of a picture, or None where its shorter side has fewer than ``min_side`` pixels: count those."""
    left, top, right, bottom = window(box, image.size, rule)
    if min(right - left, bottom - top) < min_side:
        return None
    return image.crop((left, top, right, bottom))


def _outwards(low: float, high: float, length: int) -> tuple[int, int]:
    """An interval of 0..1 as whole pixels that cover it, at least one."""
    first = min(max(math.floor(round(low * length, _DIGITS)), 0), length - 1)
    return first, min(max(math.ceil(round(high * length, _DIGITS)), first + 1), length)
