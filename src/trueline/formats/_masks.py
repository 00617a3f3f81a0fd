"""Masks of other formats: polygons and COCO's run lengths, as boolean H x W arrays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trueline.boxes import MAX_MASK_SIDE
from trueline.errors import short
from trueline.formats._conversion import Tally
from trueline.formats._input import numbers
from trueline.layout import Region

MAX_PIXELS = 100_000_000  #: of a picture with masks
EMPTY = "masks that cover no pixel"


def of_segmentation(value: Any, size: tuple[int, int], where: str, tally: Tally) -> np.ndarray | None:
    """The mask of COCO's ``segmentation``, in a picture of that size (width, height); None where there is none, or it
    covers no pixel, which is counted."""
    if not value:
        return None
    if isinstance(value, dict):
        mask = from_runs(value, where)
    elif isinstance(value, list):
        mask = from_polygons(value, size, where)
    else:
        raise ValueError(f"{where}: must be polygons or run lengths (got {short(value)})")
    if mask is None:
        tally.lose(EMPTY, where)
    return mask


def fitted(region: Region, size: tuple[int, int], where: str, tally: Tally) -> np.ndarray | None:
    """The region's mask in the size of its picture (width, height), as the nearest pixels; a change is noted."""
    mask = region.mask_array()
    if mask is not None and mask.shape != (size[1], size[0]):
        tally.note("masks resampled to the size of their picture", where)
        check_pixels(size, "masks")
        mask = resampled(mask, size)
    return mask


def mask_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a mask for a picture of that size: the same, unless a layout's masks are smaller."""
    scale = min(1.0, MAX_MASK_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def from_polygons(polygons: Sequence[Any], size: tuple[int, int], where: str) -> np.ndarray | None:
    """The union of polygons (x0, y0, x1, y1, ... in pixels of a picture of that size): the pixels whose centres lie
    in one of them, by the even-odd rule. None where there is none.

    (pycocotools rounds the outline to pixels instead: the two may differ along it.)
    """
    across, down = mask_size(*size)
    scale = np.array([across / size[0], down / size[1]])
    mask = np.zeros((down, across), dtype=bool)
    for place, polygon in enumerate(polygons):
        count = len(polygon) if isinstance(polygon, list) else 0
        if count < 6 or count % 2:
            raise ValueError(f"{where}[{place}]: must be x and y of 3 or more points (got {short(polygon)})")
        points = np.array(numbers(polygon, count, "numbers", f"{where}[{place}]")).reshape(-1, 2)
        _fill(mask, points * scale)
    return mask if mask.any() else None


def _fill(mask: np.ndarray, points: np.ndarray) -> None:
    """Set what lies in the polygon: each edge turns over all pixels to the right of where it crosses their row."""
    low, high = np.floor(points.min(axis=0)).clip(0), np.ceil(points.max(axis=0))
    (left, top), (right, bottom) = low.astype(int), high.clip(low, mask.shape[::-1]).astype(int)
    part = mask[top:bottom, left:right]
    spots = points - (left, top)
    turns = np.zeros((part.shape[0], part.shape[1] + 1), dtype=np.uint8)  # wraps at 256, which is even too
    for (x0, y0), (x1, y1) in zip(spots, np.roll(spots, -1, axis=0), strict=True):
        begin, end = sorted((y0, y1))
        rows = np.arange(max(0, math.ceil(begin - 0.5)), min(part.shape[0], math.ceil(end - 0.5)))
        if rows.size:
            crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            turns[rows, np.ceil(crossed - 0.5).clip(0, part.shape[1]).astype(int)] += 1
    part |= np.cumsum(turns, axis=1, dtype=np.uint8)[:, :-1] % 2 == 1


def from_runs(value: dict[str, Any], where: str) -> np.ndarray | None:
    """The mask of COCO's ``{"size": [height, width], "counts": ...}``: runs down the columns, the first of them
    False, as a list or as pycocotools' text. None where it is empty.

    Raises:
        ValueError: it is none, or too large.
    """
    height, width = (int(side) for side in numbers(value.get("size"), 2, "height, width", f"{where}.size"))
    check_pixels((width, height), f"{where}.size")
    counts = value.get("counts")
    runs: Any = _unpacked(counts, where) if isinstance(counts, str) else counts
    right = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not right or sum(runs) != height * width:
        raise ValueError(
            f"{where}.counts: must be run lengths that add up to {height}x{width} (got {short(counts)})"
        )
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    return resampled(mask, mask_size(width, height)) if mask.any() else None


def check_pixels(size: tuple[int, int], where: str) -> None:
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{where}: a mask has 1 to {MAX_PIXELS:,} pixels (got {size[0]}x{size[1]}); scale it down"
        )


def to_runs(mask: np.ndarray) -> dict[str, Any]:
    """pycocotools' form of a mask."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": _packed([0, *runs] if flat[0] else runs)}


def resampled(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixel of the mask for each of a picture of that size (width, height)."""
    height, width = mask.shape
    if (width, height) == size:
        return mask
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.int64)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.int64)
    return mask[rows[:, None], columns[None, :]]


def extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of what is set, in fractions of the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def _packed(runs: Sequence[int]) -> str:
    """Run lengths as pycocotools writes them: five bits a letter from "0" on, the sixth says that more follow; from
    the fourth run on, the difference to the run before the last."""
    letters = []
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + 32 * more))
    return "".join(letters)


def _unpacked(text: str, where: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 40:
            raise ValueError(f"{where}.counts: is no text of pycocotools (got {short(text)})")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError(f"{where}.counts: ends in the middle of a run (got {short(text)})")
    return runs
