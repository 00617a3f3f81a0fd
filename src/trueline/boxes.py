"""Boxes: the validated ``Box`` of a layout, plain corners as detectors and scorers use them, and masks as text.

A box is x0, y0, x1, y1, x to the right and y down. A ``Box`` is in 0..1 of the picture; ``Corners`` are four plain
numbers in any unit. No torch.
"""

import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from trueline.errors import FieldError, Frozen, short

if TYPE_CHECKING:
    import numpy as np

MIN_AREA = 1e-4  # of the picture: about five pixels square at 512
MAX_MASK_SIDE = 2048
Corners = tuple[float, float, float, float]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"must be a number (got {short(value)})")
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf if value > 0 else -math.inf  # type: ignore[operator]
    if not 0 <= number <= 1:  # false for NaN too
        raise ValueError(
            f"must be between 0 and 1 (got {number:g}); divide pixels by the picture's width and height"
        )
    return number


Fraction = Annotated[float, BeforeValidator(_number)]


class Box(Frozen):
    """Corners in fractions of the picture, x right and y down: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1."""

    x0: Fraction
    y0: Fraction
    x1: Fraction
    y1: Fraction

    if TYPE_CHECKING:  # pydantic's signature for type checkers has no positional arguments

        def __init__(self, x0: float, y0: float, x1: float, y1: float) -> None: ...

    def model_post_init(self, _context: Any) -> None:
        for low, high in (("x0", "x1"), ("y0", "y1")):
            first, second = getattr(self, low), getattr(self, high)
            if not first < second:
                problem = f"{low} must be smaller than {high} (got {first:g} and {second:g})"
                raise FieldError("", f"{problem}; give the box as x0,y0,x1,y1", owner="box")
        if self.area < MIN_AREA:
            problem = f"its area {self.area:.2g} is below {MIN_AREA:g} of the picture; make it larger"
            raise FieldError("", problem, owner="box")

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x0, self.y0, self.x1, self.y1

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return self.width * self.height

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Corners in whole pixels of a picture of that size; at least one pixel wide and high."""
        return pixels(self.xyxy, (width, height))


def area(box: Corners, edge: float = 0.0) -> float:
    """Width times height, 0 for an inverted box. ``edge`` = 1 counts pixels: x0..x1 are x1 - x0 + 1 of them."""
    return max(0.0, box[2] - box[0] + edge) * max(0.0, box[3] - box[1] + edge)


def intersection(a: Corners, b: Corners, edge: float = 0.0) -> float:
    """The area that both boxes cover."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])), edge)


def iou(a: Corners, b: Corners, edge: float = 0.0) -> float:
    """Intersection over union, 0..1; 0 for two empty boxes."""
    shared = intersection(a, b, edge)
    union = area(a, edge) + area(b, edge) - shared
    return shared / union if union > 0 else 0.0


def centre(box: Corners) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def scaled(box: Corners, size: tuple[float, float]) -> Corners:
    """A box in 0..1 in the pixels of a picture of (width, height)."""
    width, height = size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def pixels(box: Corners, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box in 0..1 in whole pixels of a picture of (width, height); at least one pixel wide and high."""
    (width, height), (x0, y0, x1, y1) = size, box
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    return left, top, max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)


def clipped(box: Sequence[float]) -> Corners | None:
    """The part of a box that lies in 0..1; None where nothing of it has an area.

    Raises:
        ValueError: not four finite numbers.
    """
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"a box must be four finite numbers x0, y0, x1, y1 in 0..1 (got {tuple(box)})")
    x0, y0, x1, y1 = (min(max(float(value), 0.0), 1.0) for value in box)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def encode_mask(mask: "np.ndarray") -> str:
    """A boolean H x W array as ``"HxW:runs"``: lengths of alternating runs in row order, the first of them
    False.

    (COCO's run lengths go down the columns; these do not.)
    """
    import numpy as np

    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise ValueError(f"must be a boolean H x W array (got {array.dtype} of shape {array.shape})")
    flat = array.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    text = f"{array.shape[0]}x{array.shape[1]}:" + ",".join(map(str, [0, *runs] if flat[:1].any() else runs))
    mask_runs(text)
    return text


def decode_mask(text: str) -> "np.ndarray":
    """The boolean H x W array of ``encode_mask``'s text."""
    import numpy as np

    height, width, runs = mask_runs(text)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def mask_runs(text: str) -> tuple[int, int, list[int]]:
    """Height, width and run lengths; a ValueError when they do not make a mask."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4}):([0-9]{1,7}(?:,[0-9]{1,7})*)", text, re.ASCII)
    if match is None:
        raise ValueError(f'must be "HxW:runs" such as "2x2:1,3" (got {short(text)})')
    height, width = int(match[1]), int(match[2])
    runs = [int(run) for run in match[3].split(",")]
    if not (0 < height <= MAX_MASK_SIDE and 0 < width <= MAX_MASK_SIDE):
        raise ValueError(f"its sides must be 1 to {MAX_MASK_SIDE} pixels (got {height}x{width})")
    if sum(runs) != height * width:
        raise ValueError(f"its runs must add up to {height * width} pixels (got {sum(runs)})")
    if not sum(runs[1::2]):
        raise ValueError("is empty; set at least one pixel or leave the mask out")
    return height, width, runs
