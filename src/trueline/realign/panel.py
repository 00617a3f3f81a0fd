"""One picture of a whole refinement, after the paper's Figures 6 and 7: what was drawn, found, and drawn again.

PIL and numpy only; cells, captions and labels are those of ``contact_sheet``.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from trueline.layout import MAX_REGIONS, Layout, Region
from trueline.perception import Detection
from trueline.perception.colours import pixel_mask
from trueline.pictures import COLOURS, INK, contact_sheet
from trueline.realign.observation import GroundedObject, Observation
from trueline.realign.rounds import Realignment, Round

SIDE = 384  #: shorter side of a cell's picture, pixels: labels can be read
Cell = tuple[Image.Image, Layout, str]  # a picture, the boxes drawn on it, its caption
_NAMES = {2.0: "certain", 0.5: "possible", 0.0: "unlikely"}
#: From no attention to the most of a phrase's two maps (dark blue, purple, orange, pale yellow).
_HEAT = ((12, 8, 48), (120, 28, 109), (237, 105, 37), (252, 255, 190))


def panel(done: Realignment) -> Image.Image:
    """For each round a row with the picture before, what was seen in it, and the picture after; then a row for each
    phrase with its mask and its attention before and after."""
    cells: list[Cell] = []
    for number, (earlier, later) in enumerate(zip(done.rounds, done.rounds[1:], strict=False), start=1):
        cells += _round(done, number, earlier, later)
    if not cells:
        first = done.rounds[0]
        cells = [_cell(first.image, f"Stage one, kept: {' '.join(done.notes)}")]
    images, layouts, captions = zip(*cells, strict=True)
    return contact_sheet(images, layouts, captions, columns=3)


def _round(done: Realignment, number: int, earlier: Round, later: Round) -> list[Cell]:
    observation = earlier.observation or Observation()
    before = "Stage one" if number == 1 else f"Round {number - 1}"
    after = "Stage two" if len(done.rounds) == 2 else f"Round {number}"
    kept, kept_before = (" (kept)" if done.kept == place else "" for place in (number, number - 1))
    noise = "other noise: stage one again" if later.restart else "the same noise"
    cells = [
        _cell(earlier.image, f"{before}{kept_before}: {done.layout.prompt}"),
        _detections(earlier.image, earlier),
        _cell(later.image, f"{after}{kept}, from {noise}"),
    ]
    origin = max(place for place in range(number) if place == 0 or done.rounds[place].restart)
    for phrase, shown in later.before.items():
        own = [thing for thing in observation.things if thing.phrase == phrase]
        if own:
            cells += _phrase(done.rounds[origin].image, later.image, own, shown, later.after[phrase])
    return cells


def _cell(image: Image.Image, caption: str) -> Cell:
    return _sized(image), Layout("-"), caption


def _detections(image: Image.Image, round_: Round) -> Cell:
    """The picture in grey, each thing's mask in its colour, with boxes and phrases; what is too much in ink."""
    observation = round_.observation or Observation()
    grey = image.convert("L").filter(ImageFilter.SMOOTH).convert("RGB")
    picture = Image.blend(grey, Image.new("RGB", image.size, (255, 255, 255)), 0.35)
    regions: list[Region] = []
    shown: list[tuple[str, Detection, tuple[int, ...]]] = [
        (thing.phrase, thing.detection, colour)
        for thing, colour in zip(observation.things, cycle(COLOURS), strict=False)
    ]
    shown += [(f"too many: {each.label}", each, INK) for each in observation.surplus]
    for name, detection, colour in shown:
        tint = Image.blend(picture, Image.new("RGB", picture.size, colour), 0.6)
        picture = Image.composite(tint, picture, Image.fromarray(pixel_mask(image, detection)))
        with suppress(ValueError):  # a speck, or a very long phrase: its mask is shown all the same
            regions.append(Region(name, detection.box))
    regions = regions[:MAX_REGIONS]
    caption = f"Tags: {', '.join(observation.tags[:8])}{', ...' if len(observation.tags) > 8 else ''}"
    if round_.check and round_.check.lacking:
        caption += f"; not as the prompt says: {', '.join(round_.check.lacking)}"
    if round_.check and round_.check.surplus:
        caption += f"; too many: {', '.join(dict.fromkeys(round_.check.surplus))}"
    if undrawn := len(shown) - len(regions):
        caption += f"; without a box here: {undrawn} things"
    return _sized(picture), Layout("-", regions), caption


def _phrase(
    first_image: Image.Image,
    later: Image.Image,
    things: Sequence[GroundedObject],
    before: Tensor,
    after: Tensor,
) -> list[Cell]:
    mask = np.max([pixel_mask(first_image, thing.detection) for thing in things], axis=0)
    first, second = before.numpy(), after.numpy()
    most = float(max(first.max(), second.max())) or 1.0
    score = f"{things[0].score:g}, {_NAMES.get(things[0].score, 'as scored')}"
    tags = ", ".join(dict.fromkeys(thing.tag for thing in things))
    return [
        _cell(Image.fromarray(mask), f'Mask of "{things[0].phrase}", seen as {tags}; score {score}'),
        _cell(
            heat(first_image, first, most),
            f"Its attention in stage one: {_inside(first, mask):.0%} within the mask",
        ),
        _cell(heat(later, second, most), f"Its attention after: {_inside(second, mask):.0%} within the mask"),
    ]


def _inside(attention: np.ndarray, mask: np.ndarray) -> float:
    """The share of a map's mass that lies in a mask of another size (each cell by the share that the mask has)."""
    height, width = attention.shape
    shares = Image.fromarray(mask.astype(np.float32) / 255).resize((width, height), Image.Resampling.BOX)
    total = float(attention.sum())
    return float((attention * np.asarray(shares)).sum()) / total if total else 0.0


def heat(image: Image.Image, attention: np.ndarray, most: float) -> Image.Image:
    """A map (height, width) in colours over the faint picture; ``most`` is the brightest."""
    level = Image.fromarray(np.clip(attention / most, 0, 1).astype(np.float32))
    values = np.asarray(level.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    stops = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(values, stops, [colour[c] for colour in _HEAT]) for c in range(3)]
    coloured = Image.fromarray(np.stack(channels, -1).astype(np.uint8))
    return Image.blend(image.convert("L").convert("RGB"), coloured, 0.75)


def _sized(image: Image.Image) -> Image.Image:
    zoom = SIDE / min(image.size)
    size = (max(round(image.width * zoom), 1), max(round(image.height * zoom), 1))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
