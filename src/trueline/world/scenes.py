"""Scenes with known truth: what is drawn, where, in which colour and texture, and the picture of it.

A scene is a pure function of (split, index): the same pair gives the same scene on every machine, and two
splits share none. Pictures are 128 x 128 sRGB. Silhouettes are glyphs of Font Awesome Free 6 (CC BY 4.0),
rasterised once into ``silhouettes.png`` (see ``silhouettes.py``).
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from trueline.english.plurals import article
from trueline.pictures import open_picture
from trueline.world.vocabulary import BACKGROUNDS, COLOURS, OBJECTS, TEXTURES

SIZE = 128  #: side of a picture, pixels
CELL = 160  #: side of one silhouette's cell in silhouettes.png, pixels
COLUMNS = 6  #: silhouettes in a row of silhouettes.png
STRIPE = 4  #: width of a stripe and side of a check, pixels: half a cell of the latent

Rng = np.random.Generator


@dataclass(frozen=True)
class Thing:
    """One object of a scene; ``x, y, w, h`` is its tight box in pixels."""

    name: str
    colour: str
    texture: str
    x: int
    y: int
    w: int
    h: int

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.name, self.colour, self.texture

    @property
    def box(self) -> tuple[float, float, float, float]:
        """xyxy in 0..1."""
        return (self.x / SIZE, self.y / SIZE, (self.x + self.w) / SIZE, (self.y + self.h) / SIZE)

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2

    @property
    def noun(self) -> str:
        """What the thing is called without an article: "red striped apple"."""
        texture = "" if self.texture == "plain" else f"{self.texture} "
        return f"{self.colour} {texture}{self.name}"

    @property
    def phrase(self) -> str:
        """The region phrase: "a red striped apple"."""
        return article(self.noun)

    @property
    def label(self) -> str:
        """The phrase as a class list has it, without colour and texture: "an apple"."""
        return article(self.name)


@dataclass(frozen=True)
class Background:
    """Tint (index into ``BACKGROUNDS``), its brightness factor, and the strength of the light from the left."""

    tint: int
    brightness: float
    light: float


@dataclass(frozen=True)
class Scene:
    """What is on a picture. ``split`` and ``index`` say which scene of the endless series this is."""

    split: str
    index: int
    things: tuple[Thing, ...]
    background: Background

    @property
    def id(self) -> str:
        return f"{self.split}-{self.index:06d}"


@lru_cache(maxsize=1)
def _silhouettes() -> dict[str, Image.Image]:
    """Name -> tight 8-bit coverage mask, large; read once."""
    glyphs = open_picture(files(__package__).joinpath("silhouettes.png").read_bytes()).convert("L")
    cells = {}
    for i, name in enumerate(OBJECTS):
        x, y = i % COLUMNS * CELL, i // COLUMNS * CELL
        cell = glyphs.crop((x, y, x + CELL, y + CELL))
        cells[name] = cell.crop(cell.point(lambda v: 255 * (v > 16)).getbbox())
    return cells


def extent(name: str, longest: int) -> tuple[int, int]:
    """(width, height) in pixels of a silhouette whose longer side is ``longest``."""
    w, h = _silhouettes()[name].size
    scale = longest / max(w, h)
    return max(1, round(w * scale)), max(1, round(h * scale))


@lru_cache(maxsize=4096)
def coverage(name: str, w: int, h: int) -> np.ndarray:
    """The silhouette at ``w`` x ``h`` pixels as float32 coverage in 0..1, shape (h, w)."""
    mask = _silhouettes()[name].resize((w, h), Image.Resampling.BOX)
    return np.asarray(mask, dtype=np.float32) / 255


def _pattern(texture: str, x: int, y: int, w: int, h: int) -> np.ndarray:
    """1 where the second ink shows, (h, w). Anchored to the picture, so that it looks alike in every latent cell."""
    rows, columns = np.arange(y, y + h)[:, None] // STRIPE, np.arange(x, x + w)[None, :] // STRIPE
    if texture == "striped":
        return np.broadcast_to(rows % 2, (h, w)).astype(np.float32)
    if texture == "checkered":
        return ((rows + columns) % 2).astype(np.float32)
    return np.zeros((h, w), np.float32)


def ink(thing: Thing) -> np.ndarray:
    """The surface of a thing over its whole box, float32 sRGB 0..255, shape (h, w, 3)."""
    first, second = (np.array(c, np.float32) for c in COLOURS[thing.colour])
    pattern = _pattern(thing.texture, thing.x, thing.y, thing.w, thing.h)[..., None]
    return first * (1 - pattern) + second * pattern


def render_background(background: Background) -> np.ndarray:
    """Float32 sRGB (SIZE, SIZE, 3): a tint that changes from top to bottom, lit from the left.

    Light has a direction, as in photographs, so that a denoiser has a reason to know where it is.
    """
    top, bottom = (np.array(c, np.float32) for c in BACKGROUNDS[background.tint])
    down = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    across = np.linspace(0.5, -0.5, SIZE, dtype=np.float32)[None, :, None]
    return (top * (1 - down) + bottom * down) * (background.brightness + background.light * across)


def render(scene: Scene) -> np.ndarray:
    """The picture: uint8 sRGB, shape (SIZE, SIZE, 3)."""
    picture = render_background(scene.background)
    for thing in scene.things:
        mask = coverage(thing.name, thing.w, thing.h)[..., None]
        at = np.s_[thing.y : thing.y + thing.h, thing.x : thing.x + thing.w]
        picture[at] = picture[at] * (1 - mask) + ink(thing) * mask
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def masks(scene: Scene) -> np.ndarray:
    """Which pixels each thing covers: bool, shape (things, SIZE, SIZE)."""
    result = np.zeros((len(scene.things), SIZE, SIZE), bool)
    for mask, thing in zip(result, scene.things, strict=True):
        inside = np.s_[thing.y : thing.y + thing.h, thing.x : thing.x + thing.w]
        mask[inside] = coverage(thing.name, thing.w, thing.h) > 0.5
    return result


def _kinds(rng: Rng, count: int) -> list[tuple[str, str, str]]:
    """(name, colour, texture) of ``count`` things; sometimes several are of one kind, so that counts occur."""

    def draw() -> tuple[str, str, str]:
        texture = "plain" if rng.random() < 0.4 else str(rng.choice(TEXTURES[1:]))
        return str(rng.choice(OBJECTS)), str(rng.choice(list(COLOURS))), texture

    if count > 1 and rng.random() < 0.3:
        same = int(rng.integers(2, count + 1))
        return [draw()] * same + [draw() for _ in range(count - same)]
    return [draw() for _ in range(count)]


#: Range of the longer side by number of things.
_LONGEST = {1: (56, 88), 2: (50, 66), 3: (46, 58), 4: (44, 54)}
_GAP = 3  #: least free pixels between two boxes
_MARGIN = 2  #: least free pixels to the edge of the picture


def _place(rng: Rng, kinds: list[tuple[str, str, str]]) -> tuple[Thing, ...] | None:
    """Things of these kinds at places that do not touch, or None when no room was found."""
    low, high = _LONGEST[len(kinds)]
    placed: list[Thing] = []
    for name, colour, texture in kinds:
        w, h = extent(name, int(rng.integers(low, high + 1)))
        for _ in range(40):
            x = int(rng.integers(_MARGIN, SIZE - _MARGIN - w + 1))
            y = int(rng.integers(_MARGIN, SIZE - _MARGIN - h + 1))
            if all(_apart(x, y, w, h, other) for other in placed):
                placed.append(Thing(name, colour, texture, x, y, w, h))
                break
        else:
            return None
    return tuple(placed)


def _apart(x: int, y: int, w: int, h: int, other: Thing) -> bool:
    return (
        x + w + _GAP <= other.x
        or other.x + other.w + _GAP <= x
        or y + h + _GAP <= other.y
        or other.y + other.h + _GAP <= y
    )


def _background(rng: Rng) -> Background:
    return Background(
        int(rng.integers(len(BACKGROUNDS))), float(rng.uniform(0.84, 0.94)), float(rng.uniform(0.1, 0.24))
    )


def make_scene(split: str, index: int, count: int | None = None) -> Scene:
    """Scene ``index`` of ``split``, with ``count`` things (1..4) or, by default, a random number of them."""
    rng = np.random.default_rng([zlib.crc32(split.encode()), index, count or 0])
    count = count or int(rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.2, 0.15]))
    kinds = _kinds(rng, count)
    things = None
    while things is None:
        things = _place(rng, kinds)
    return Scene(split, index, things, _background(rng))


def make_scenes(split: str, count: int, things: int | None = None) -> Iterator[Scene]:
    """The first ``count`` scenes of ``split``, each with ``things`` things if given."""
    return (make_scene(split, i, things) for i in range(count))
