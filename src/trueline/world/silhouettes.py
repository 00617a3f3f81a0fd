"""Makes ``silhouettes.png`` from the font that the pip package ``fontawesomefree`` carries.

Only the world's maker needs that package; the picture it draws is part of Trueline.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trueline.world.scenes import CELL, COLUMNS
from trueline.world.vocabulary import GLYPHS

PICTURE = Path(__file__).with_name("silhouettes.png")


def _font_folder() -> Path:
    spec = find_spec("fontawesomefree")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the silhouettes stage needs the font: pip install 'trueline[world]'")
    return Path(spec.origin).parent / "static" / "fontawesomefree"


def draw_silhouettes(path: Path = PICTURE) -> Path:
    """Rasterise every glyph of the vocabulary into one grey picture of CELL-sized cells; returns its path."""
    folder = _font_folder()
    icons = json.loads((folder / "metadata" / "icons.json").read_text(encoding="utf-8"))
    font = ImageFont.truetype(str(folder / "webfonts" / "fa-solid-900.ttf"), CELL * 3 // 4)
    rows = -(-len(GLYPHS) // COLUMNS)
    picture = Image.new("L", (COLUMNS * CELL, rows * CELL))
    draw = ImageDraw.Draw(picture)
    for i, glyph in enumerate(GLYPHS.values()):
        middle = (i % COLUMNS * CELL + CELL // 2, i // COLUMNS * CELL + CELL // 2)
        draw.text(middle, chr(int(icons[glyph]["unicode"], 16)), font=font, fill=255, anchor="mm")
    picture.save(path, optimize=True)
    return path
