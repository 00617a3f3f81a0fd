"""Opening the picture of a file, and drawing boxes and phrases on one, or many on one contact sheet. PIL only.

A small picture is enlarged before anything is drawn on it, so that labels on 128 pixels can be read.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import cycle, product
from math import ceil
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont

from trueline.layout import Layout, Region

LEGIBLE = 384  #: shorter side below which a picture is enlarged before labels are drawn, pixels
MAX_ZOOM = 3
FONT_SIZE = 13
PAD = 3  #: between a label's text and its edge, pixels
GAP = 12  #: between the cells of a contact sheet, pixels
MAX_CAPTION_LINES = 4
PAPER, INK, FRAME = (255, 255, 255), (32, 32, 36), (16, 16, 18)

#: One colour per region, in order, then from the start again (after Okabe and Ito, for colour-blind eyes).
COLOURS = (
    (230, 159, 0),
    (0, 158, 225),
    (0, 170, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (30, 90, 200),
)

Span = tuple[int, int, int, int]

WEB_FORMATS = ("PNG", "JPEG", "WEBP")


class BrokenPicture(ValueError):
    """A picture that is missing, broken, or not what it is said to be."""


def open_picture(
    source: str | Path | BinaryIO,
    *,
    formats: tuple[str, ...] | list[str] | None = None,
    max_pixels: int | None = None,
    name: str | None = None,
) -> Image.Image:
    """The picture of a file in RGB, read whole.

    Args:
        formats: PIL's names of the file formats that are read; None: all that PIL knows.
        max_pixels: refuse a picture that has more, before it is unpacked.
        name: what an error calls the file; None: its path.

    Raises:
        BrokenPicture: in one sentence: it is missing, broken, too large or of another format.
    """
    called = source if name is None else name
    try:
        with Image.open(source, formats=formats) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise BrokenPicture(f"{called}: has more than {max_pixels / 1e6:g} million pixels")
            return image.convert("RGB")
    except BrokenPicture:
        raise
    except FileNotFoundError:
        raise BrokenPicture(f"{called}: no such file") from None
    # Pillow raises SyntaxError for some broken PNG files, and ValueError for a path that holds NUL.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenPicture(f"{called}: cannot be read ({' '.join(str(error).split())})") from None


def overlay(image: Image.Image, layout: Layout) -> Image.Image:
    """A copy of ``image``, enlarged when it is small, and the boxes and phrases of ``layout`` drawn on it."""
    picture = _enlarged(image.convert("RGB"))
    draw = ImageDraw.Draw(picture)
    boxes = [region.box.pixels(*picture.size) for region in layout.regions]
    for box, colour in zip(boxes, cycle(COLOURS), strict=False):
        _outline(draw, box, colour)
    taken: list[Span] = []  # labels go last and side by side: a box must not hide another's phrase
    for region, box, colour in zip(layout.regions, boxes, cycle(COLOURS), strict=False):
        taken.append(_label(draw, region, box, colour, taken, picture.size))
    return picture


def contact_sheet(
    images: Sequence[Image.Image],
    layouts: Sequence[Layout],
    captions: Sequence[str] | None = None,
    columns: int = 4,
) -> Image.Image:
    """All pictures with their boxes, in rows of ``columns``, each above its caption (at most four lines).

    ``captions`` None: the prompts.
    """
    captions = [layout.prompt for layout in layouts] if captions is None else captions
    if not len(images) == len(layouts) == len(captions) > 0:
        raise ValueError(
            f"images, layouts, captions: give as many of each, at least one "
            f"(got {len(images)}, {len(layouts)}, {len(captions)})"
        )
    pictures = [overlay(image, layout) for image, layout in zip(images, layouts, strict=True)]
    width = max(picture.width for picture in pictures)
    cells = [_cell(picture, caption, width) for picture, caption in zip(pictures, captions, strict=True)]
    return _grid(cells, min(columns, len(cells)))


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """PIL's own font, kept: it is unpacked anew at each call."""
    return ImageFont.load_default(FONT_SIZE)


def _enlarged(picture: Image.Image) -> Image.Image:
    zoom = min(MAX_ZOOM, ceil(LEGIBLE / min(picture.size)))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.LANCZOS)


def _outline(draw: ImageDraw.ImageDraw, box: Span, colour: tuple[int, int, int]) -> None:
    """A coloured line between two dark ones: seen on any background."""
    x0, y0, x1, y1 = box
    x1, y1 = max(x1, x0 + 4), max(y1, y0 + 4)  # a box may be one pixel thin
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=FRAME, width=4)
    draw.rectangle((x0 + 1, y0 + 1, x1 - 2, y1 - 2), outline=colour, width=2)


def _label(
    draw: ImageDraw.ImageDraw,
    region: Region,
    box: Span,
    colour: tuple[int, int, int],
    taken: Sequence[Span],
    size: tuple[int, int],
) -> Span:
    """Draw the phrase as a tag where it hides least of the other tags; returns where it stands."""
    text = _cut(region.phrase, size[0] - 2 * PAD)
    width, height = ceil(_font().getlength(text)) + 2 * PAD, FONT_SIZE + 2 * PAD
    places = _places(box, width, height, size)
    x0, y0, x1, y1 = min(places, key=lambda place: sum(_shared(place, other) for other in taken))
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour, outline=FRAME)
    draw.text((x0 + PAD, y0 + height // 2), text, font=_font(), fill=_readable_on(colour), anchor="lm")
    return x0, y0, x1, y1


def _places(box: Span, width: int, height: int, size: tuple[int, int]) -> list[Span]:
    """Where a tag may stand, best first: above the box, inside its top, its bottom, below; on the picture."""
    tops = (box[1] - height + 1, box[1], box[3] - height, box[3] - 1)
    lefts = (box[0], box[2] - width)
    xs = [max(0, min(left, size[0] - width)) for left in lefts]
    ys = [max(0, min(top, size[1] - height)) for top in tops]
    return [(x, y, x + width, y + height) for y, x in product(ys, xs)]


def _shared(one: Span, other: Span) -> int:
    """Pixels that two rectangles have in common."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, across) * max(0, down)


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return FRAME if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else PAPER


def _cut(text: str, width: int) -> str:
    """One line that is at most ``width`` pixels wide, with an ellipsis where something was cut off."""
    text = " ".join(text.split())
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrap(text: str, width: int) -> list[str]:
    """Lines at most ``width`` pixels wide, broken between words (within one that is too long for a line)."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if _font().getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [line for line in lines if line]
    kept = [_cut(line, width) for line in lines[:MAX_CAPTION_LINES]]
    if len(lines) > MAX_CAPTION_LINES:
        kept[-1] = _cut(f"{lines[MAX_CAPTION_LINES - 1]} {lines[MAX_CAPTION_LINES]}", width)
    return kept


def _cell(picture: Image.Image, caption: str, width: int) -> Image.Image:
    lines = _wrap(caption, width)
    step = FONT_SIZE + PAD
    cell = Image.new("RGB", (width, picture.height + PAD + step * len(lines)), PAPER)
    cell.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(cell)
    for row, line in enumerate(lines):
        draw.text((0, picture.height + PAD + row * step), line, font=_font(), fill=INK)
    return cell


def _grid(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    """Cells of one width in rows; a row is as high as its highest cell."""
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = cells[0].width
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (GAP + column * (width + GAP), top))
        top += height + GAP
    return sheet
