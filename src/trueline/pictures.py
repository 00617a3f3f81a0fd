"""Opening the picture of a file, and drawing boxes and phrases on one, or many on one contact sheet.

A small picture is enlarged before anything is drawn on it, so that labels on 128 pixels can be read.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from itertools import cycle, product
from math import ceil
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFile, ImageFont
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

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
Source = str | Path | bytes | BinaryIO  #: of a picture: a path, the bytes of a file, or a file that is open

READ = "PNG, JPEG or WebP"  #: what is read
MAX_PIXELS, MAX_BYTES = 25_000_000, 10_000_000  #: of a picture that is read
MAX_SCANS = 100  #: of a JPEG: an ordinary progressive one has about ten, and each goes over the whole picture
#: What EXIF's orientation says must be done to see a picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LONG = 4  #: EXIF's number for a whole number of four bytes
SIDEWAYS = [TURNS[orientation] for orientation in (5, 6, 7, 8)]  #: these exchange width and height


class BrokenPicture(ValueError):
    """A picture that is missing, broken, or not what it is said to be. ``problem``: its sentence without the cure."""

    def __init__(self, problem: str, cure: str = ""):
        super().__init__(f"{problem}; {cure}" if cure else problem)
        self.problem = problem


def open_picture(source: Source, *, name: str | None = None, ground: int = 255) -> Image.Image:
    """The picture of a file in 8-bit RGB, upright, and nothing else that the file says. All pictures are read here.

    Only PNG, JPEG and WebP are read, told by the file's first bytes, never by its name: other readers of PIL start
    programs (Ghostscript for EPS). Its length and its pixels are checked before anything is unpacked.

    - 8-bit RGB stays as it is, bit for bit. Of 16 bits the upper eight are kept (30000 becomes 117).
    - EXIF's orientation is applied; a broken EXIF block is passed over.
    - Transparent parts show ``ground``, white.
    - CMYK is converted by PIL's formula; colour profiles are not applied.
    - Of an animated picture, and of several pictures in one file, the first is taken.

    Args:
        source: a path, the bytes of a file, or a file that is open.
        name: what an error calls it; None: its path.
        ground: grey level in 0..255 behind transparent parts.

    Raises:
        BrokenPicture: in one sentence: it is missing, broken, of another format, or has more than 25 million pixels
            or 10 MB.
    """
    called = _called(source, name)
    with _opened(source, called) as (image, file):
        if isinstance(image, JpegImageFile):
            file.seek(0)
            if file.read().count(b"\xff\xda") > MAX_SCANS:
                raise BrokenPicture(f"{called}: is a JPEG of more than {MAX_SCANS} scans", "save it again")
        turn = _turn(image, file)
        picture = _in_rgb(image, file, ground)
    return picture if turn is None else picture.transpose(turn)


def picture_size(source: Source, *, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels of what ``open_picture`` gives, from the beginning of the file.

    Raises:
        BrokenPicture: it cannot be opened; what is broken in its pixels is not seen.
    """
    with _opened(source, _called(source, name)) as (image, file):
        width, height = image.size
        return (height, width) if _turn(image, file) in SIDEWAYS else (width, height)


def _called(source: Source, name: str | None) -> str:
    return name or (str(source) if isinstance(source, str | Path) else "the picture")


@contextmanager
def _opened(source: Source, called: str) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """The picture, not unpacked yet, and its file; what goes wrong within is one sentence."""
    with _file(source, called) as file:
        reader = _reader(file.read(12))
        if reader is None:
            problem = f"{called}: cannot be read (it is no {READ}, whatever its name)"
            raise BrokenPicture(problem, "save it as one of these")
        file.seek(0)
        try:
            with reader(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image, file
        except BrokenPicture:
            raise
        except Image.DecompressionBombError:
            problem = f"{called}: has more than {MAX_PIXELS // 10**6} million pixels"
            raise BrokenPicture(problem, "scale it down") from None
        except Exception as error:  # whatever a reader stumbles over in bytes that anybody may have written
            why = " ".join(str(error).split()) or type(error).__name__
            raise BrokenPicture(
                f"{called}: cannot be read ({why})", "save it again, or get it anew"
            ) from None


def _file(source: Source, called: str) -> BinaryIO:
    """Its bytes, at most 10 MB, of which none are unpacked yet."""
    try:
        if isinstance(source, str | Path):
            if not Path(source).exists():
                raise BrokenPicture(f"{called}: no such file", "put it there, or correct the path")
            if not Path(source).is_file():  # a folder; or a pipe, which would be waited for
                raise BrokenPicture(f"{called}: is no file", f"give a file, {READ}")
            file: BinaryIO = Path(source).open("rb")  # noqa: SIM115 - the caller closes it
            length = os.fstat(file.fileno()).st_size
        else:
            content = source if isinstance(source, bytes) else source.read(MAX_BYTES + 1)
            file, length = BytesIO(content), len(content)
    except BrokenPicture:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that holds NUL
        why = getattr(error, "strerror", None) or str(error)
        raise BrokenPicture(f"{called}: cannot be read ({why})", "make it readable") from None
    if not 0 < length <= MAX_BYTES:
        file.close()
        if not length:
            raise BrokenPicture(f"{called}: cannot be read (it is empty)", "get it anew")
        raise BrokenPicture(f"{called}: has more than {MAX_BYTES // 10**6} MB", "save it smaller")
    return file


def _reader(head: bytes) -> type[ImageFile.ImageFile] | None:
    """What reads a file that begins like this."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    return WebPImageFile if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else None


def _in_rgb(image: ImageFile.ImageFile, file: BinaryIO, ground: int) -> Image.Image:
    image.load()
    clear: Image.Image | None = None  # the alpha channel, 255 where nothing shines through
    if image.mode.startswith("I"):  # 16 bits of grey: PIL would make white of all above 255
        deep = np.asarray(image).astype(np.uint16)
        picture = Image.fromarray((deep >> 8).astype(np.uint8))
        if "transparency" in image.info:
            clear = Image.fromarray(np.where(deep == image.info["transparency"], 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        _scale_transparency(image, file)
        picture = image.convert("RGBA")
        clear = picture.getchannel("A")
    else:
        picture = image
    picture = picture.convert("RGB")
    if clear is not None and clear.getextrema() != (255, 255):
        shown = Image.new("RGB", picture.size, (ground,) * 3)
        shown.paste(picture, mask=clear)
        picture = shown
    picture.info = {}  # else some of it would go into files that are made of it
    return picture


def _scale_transparency(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """PNG names the transparent colour in the file's own depth; PIL compares it with 8 bits."""
    value = image.info.get("transparency")
    if not isinstance(image, PngImageFile) or not isinstance(value, int | tuple) or image.mode == "P":
        return
    file.seek(24)
    depth = file.read(1)[0]
    if isinstance(value, tuple) and depth == 16:
        image.info["transparency"] = tuple(level >> 8 for level in value)
    elif isinstance(value, int) and 1 < depth < 8:
        image.info["transparency"] = value * 255 // (2**depth - 1)


def _turn(image: ImageFile.ImageFile, file: BinaryIO) -> Image.Transpose | None:
    """What makes the picture upright."""
    found = image.info.get("exif", b"")
    if not found and isinstance(image, PngImageFile):
        found = _late_exif(file)
    return TURNS.get(_orientation(found.removeprefix(b"Exif\0\0")))


def _orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 where a block says none or is broken. (PIL reads all of a block, and copies whatever its
    entries point to.)"""
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(at: int, length: int) -> int:
        return int.from_bytes(exif[at : at + length], order)

    first = number(4, 4)
    for at in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(at, 2) == ExifTags.Base.Orientation:
            return number(at + 8, 4 if number(at + 2, 2) == LONG else 2)
    return 1


def _late_exif(file: BinaryIO) -> bytes:
    """The EXIF block of a PNG that has it behind its pixels, where PIL sees it only after unpacking them."""
    here = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"eXIf":
        file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)
    found = file.read(int.from_bytes(head[:4])) if head[4:] == b"eXIf" else b""
    file.seek(here)
    return found


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
