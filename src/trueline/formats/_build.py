"""Layouts from what files say: boxes cut to the picture, texts cut to length, and all of it counted."""

from collections.abc import Iterable, Sequence
from typing import Any

from trueline.boxes import MIN_AREA, Box
from trueline.errors import FieldError, short
from trueline.formats._conversion import Tally
from trueline.formats._input import field_of
from trueline.layout import MAX_PHRASE, MAX_PROMPT, MAX_REGIONS, Layout, Region

EDGE = 1e-5  #: of a picture: what rounding may add beyond its edge
HAIR = 1e-4  #: of the least area: what rounding may take from it
FRACTIONS = "x0, y0, x1, y1 in 0..1"
PIXELS = "x, y, width, height in pixels"
CUT = "boxes cut at the edge of the picture"
SMALL = f"boxes without area, or of less than {MIN_AREA:g} of the picture, left out"
BEYOND = f"regions beyond {MAX_REGIONS}, the smallest, left out"


def cut_box(corners: Sequence[float], where: str, tally: Tally) -> Box | None:
    """The part of x0, y0, x1, y1 (in fractions of the picture) that lies in it; None where there is none."""
    x0, y0, x1, y1 = (min(max(corner, 0.0), 1.0) for corner in corners)
    width, height = x1 - x0, y1 - y0
    if min(width, height) <= 0 or width * height < MIN_AREA * (1 - HAIR):
        tally.lose(SMALL, where)
        return None
    if max(*corners, 1 - min(corners)) > 1 + EDGE:
        tally.lose(CUT, where)
    if width * height < MIN_AREA:  # by rounding: the shorter side grows by less than a hair
        if width < height:
            x0, x1 = _grown(x0, x1, MIN_AREA / height)
        else:
            y0, y1 = _grown(y0, y1, MIN_AREA / width)
    return Box(x0, y0, x1, y1)


def _grown(low: float, high: float, size: float) -> tuple[float, float]:
    size *= 1 + 1e-9
    return (low, low + size) if low + size <= 1 else (high - size, high)


def fraction_box(corners: Sequence[float], where: str, tally: Tally) -> Box | None:
    """The box of x0, y0, x1, y1, which must lie in 0..1."""
    for name, corner in zip(("x0", "y0", "x1", "y1"), corners, strict=True):
        check_fraction(corner, name, where)
    check_order(corners, where, FRACTIONS)
    return cut_box(corners, where, tally)


def check_fraction(value: float, name: str, where: str) -> None:
    if not 0 <= value <= 1:
        cure = "divide pixels by the picture's width and height"
        raise ValueError(f"{where}: {name} must be between 0 and 1 (got {value:g}); {cure}")


def check_order(corners: Sequence[float], where: str, order: str) -> None:
    x0, y0, x1, y1 = corners
    for low, high, first, second in (("x0", "x1", x0, x1), ("y0", "y1", y0, y1)):
        if first > second:
            problem = f"{low} must be smaller than {high} (got {first:g} and {second:g})"
            raise ValueError(f"{where}: {problem}; give {order}")


def pixel_box(corners: Sequence[float], size: tuple[int, int], where: str, tally: Tally) -> Box | None:
    """The box of x0, y0, x1, y1 in pixels of a picture of that size (width, height)."""
    width, height = size
    x0, y0, x1, y1 = corners
    return cut_box((x0 / width, y0 / height, x1 / width, y1 / height), where, tally)


def refuse_fractions(boxes: Sequence[Sequence[float]], size: tuple[int, int], unit: str, where: str) -> None:
    """Refuse boxes that are said to be in pixels (of pictures of that size), but are fractions: none of them goes
    beyond 1, which is too small for a box in pixels."""
    if size[0] * size[1] * MIN_AREA <= 1:
        return
    if boxes and max(value for box in boxes for value in box) <= 1:
        first = short([round(value, 4) for value in boxes[0]])
        raise ValueError(f"{where}: must be {unit}, these look like fractions (as {first}); multiply them")


def phrases_and_boxes(
    row: dict[str, Any], phrases: str, boxes: str, where: str
) -> tuple[list[Any], list[Any]]:
    """Two lists of a row, equally long; ``phrases`` and ``boxes`` are their keys. A list that is missing is empty."""
    texts = field_of(row, phrases, list, "a list of texts", where, [])
    places = field_of(row, boxes, list, "a list of boxes", where, [])
    if len(texts) != len(places):
        raise ValueError(f"{where}: has {len(texts)} {phrases} and {len(places)} {boxes}; give each box one")
    return texts, places


def make_region(phrase: Any, box: Box | None, where: str, tally: Tally, mask: Any = None) -> Region | None:
    """A region, or None where there is no box; a phrase that is too long is cut after a word.

    Raises:
        ValueError: the phrase is no text, or empty.
    """
    if box is None:
        return None
    try:
        return Region(_cut(phrase, MAX_PHRASE, "phrases", where, tally), box, mask)
    except FieldError as error:
        raise ValueError(f"{where}: {error}") from None


def make_layout(
    prompt: Any, regions: Iterable[Region | None], where: str, tally: Tally, *, id: Any = None, **fields: Any
) -> Layout | None:
    """A layout of those regions that are there; None without any and without a prompt. A prompt that is missing (None
    or blank) is made of their phrases.

    Raises:
        ValueError: a field that a layout cannot have.
    """
    kept = largest([region for region in regions if region is not None], where, tally)
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        if not kept:
            tally.lose("pictures without a caption or a box, left out", where)
            return None
        tally.note("prompts made of the phrases of their regions, as the file has none", where)
        prompt = ", ".join(dict.fromkeys(region.phrase for region in kept))
    try:
        text = _cut(prompt, MAX_PROMPT, "prompts", where, tally)
        return Layout(text, kept, id=safe_id(id, where, tally), **fields)
    except FieldError as error:
        raise ValueError(f"{where}: {error}") from None


def largest(regions: Sequence[Region], where: str, tally: Tally) -> list[Region]:
    """As many as a layout holds, in their order."""
    ranked = sorted(range(len(regions)), key=lambda place: -regions[place].box.area)
    for _ in ranked[MAX_REGIONS:]:
        tally.lose(BEYOND, where)
    return [regions[place] for place in sorted(ranked[:MAX_REGIONS])]


def safe_id(id: Any, where: str, tally: Tally) -> str | None:
    if id is None:
        return None
    try:
        return Layout("x", id=id).id
    except FieldError:
        tally.lose("ids that are not safe as file names", where)
        return None


def _cut(text: Any, most: int, what: str, where: str, tally: Tally) -> Any:
    if not isinstance(text, str) or len(text) <= most:
        return text
    text = text.strip()
    tally.lose(f"{what} cut to {most} characters", where)
    return text[:most].rsplit(maxsplit=1)[0] if text[: most + 1].split()[1:] else text[:most]


def extras(row: dict[str, Any], known: Sequence[str], format: str) -> dict[str, Any]:
    """``meta`` that keeps the keys of a row that no layout has a field for; ``{}`` where there are none."""
    rest = {key: value for key, value in row.items() if key not in known}
    return {format: rest} if rest else {}
