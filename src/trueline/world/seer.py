"""The world's seer: a small net that says of every pixel which thing covers it, in which colour and texture.

The fine stage of RealignDiff detects things with it. It learns from the scenes' truth and from nothing that the
oracle detects, so that the oracle, which judges the tables, stays apart. It knows nothing of silhouettes: what it
finds in a broken picture is what the pixels look like.

Names are learned on *bodies*, silhouettes with their gaps filled, because a boat is three pieces and two things never
share a body; which pixels a thing really covers is a second answer, its *ink*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors import SafetensorError
from scipy import ndimage
from torch import Tensor, nn

from trueline.errors import first_line
from trueline.models.devices import autocast
from trueline.perception import Detection
from trueline.training.objective import Losses
from trueline.world.fitting import Fitting, StageSettings, fit
from trueline.world.judge import Agreement, match
from trueline.world.oracle import mask_of
from trueline.world.scenes import SIZE, Scene, masks
from trueline.world.training_pictures import Trips, disturbed
from trueline.world.vae import to_tensor
from trueline.world.vocabulary import COLOURS, OBJECTS, TEXTURES

CELL = 2  #: side of a cell of names, colours and textures, pixels; ink is per pixel
GRID = SIZE // CELL
NOTHING = len(OBJECTS)  #: class of the background
_CLASSES = (len(OBJECTS) + 1, len(COLOURS), len(TEXTURES))
_UNSAID = -100  #: label of cells that have no colour or texture
RIM = 3.0  #: added weight of background cells next to a body: they keep neighbours apart

LEAST_INK = 120.0  #: fewer pixels are no thing; the smallest of the scenes' has about 400
LEAST_SHARE = 0.15  #: of an island: a piece with less is a mistake about the pieces around it
SURE = 0.5  #: mean probability of the name from which on a thing counts


class SeerNet(ModelMixin, ConfigMixin):
    """A convolutional U-Net from pictures to classes of cells and ink of pixels (about 1.1 M parameters).

    Args:
        widths: channels at a half, a quarter, an eighth and a sixteenth of the resolution.
        classes: how many names (with the background), colours and textures it tells apart.
    """

    @register_to_config
    def __init__(self, widths: Sequence[int] = (24, 48, 96, 160), classes: Sequence[int] = _CLASSES):
        super().__init__()
        first, *_, last = widths
        self.stem = nn.Sequential(nn.PixelUnshuffle(CELL), _conv(3 * CELL**2, first), _conv(first, first))
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in pairs)
        self.deep = nn.ModuleList(
            nn.Sequential(*(_Residual(b) for _ in range(i))) for i, (_, b) in enumerate(pairs)
        )
        self.whole = nn.Linear(last, last)  # what the whole picture holds
        self.lift = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(_conv(a, a) for a, _ in pairs)
        self.cells = nn.Conv2d(first, sum(classes), 1)
        self.ink = nn.Sequential(nn.Conv2d(first, CELL**2, 3, padding=1), nn.PixelShuffle(CELL))

    def forward(self, pictures: Tensor) -> SeerLogits:
        """``pictures`` (batch, 3, SIZE, SIZE) in -1..1."""
        levels = [self.stem(pictures)]
        for down, deep in zip(self.down, self.deep, strict=True):
            levels.append(deep(down(levels[-1])))
        x = levels.pop()
        x = x + self.whole(x.mean((2, 3)))[..., None, None]
        for lift, up in zip(reversed(self.lift), reversed(self.up), strict=True):
            x = up(levels.pop() + F.interpolate(lift(x), scale_factor=2, mode="nearest"))
        name, colour, texture = self.cells(x).split(list(self.config.classes), dim=1)
        return SeerLogits(name, colour, texture, self.ink(x)[:, 0])


class SeerLogits(NamedTuple):
    """What the net says, as logits: classes of each cell (batch, classes, GRID, GRID), ink (batch, SIZE, SIZE)."""

    name: Tensor
    colour: Tensor
    texture: Tensor
    ink: Tensor


def _conv(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


# Training


def body(mask: np.ndarray) -> np.ndarray:
    """A silhouette with its gaps filled: the pixels between two of its pixels in their row or column. Bool (h, w)."""

    def between(axis: int) -> np.ndarray:
        before = np.logical_or.accumulate(mask, axis)
        after = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis)
        return before & after

    return between(0) | between(1)


class Labels(NamedTuple):
    """The truth of pictures: classes of cells int64 (batch, GRID, GRID), ink bool (batch, SIZE, SIZE).

    Colour and texture are ``_UNSAID`` where there is no ink; ``weight`` is that of each cell's name.
    """

    name: Tensor
    colour: Tensor
    texture: Tensor
    ink: Tensor
    weight: Tensor


def labels_of(scenes: Sequence[Scene]) -> Labels:
    """A cell is a body's (is inked) where at least half of its pixels are."""
    rows = [_label(scene) for scene in scenes]
    return Labels(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))


def _label(scene: Scene) -> tuple[Any, ...]:
    name = np.full((GRID, GRID), NOTHING)
    colour, texture = np.full((2, GRID, GRID), _UNSAID)
    inks = masks(scene)
    for thing, mask in zip(scene.things, inks, strict=True):
        inked = _of_cells(mask)
        name[_of_cells(body(mask))] = OBJECTS.index(thing.name)
        colour[inked] = list(COLOURS).index(thing.colour)
        texture[inked] = TEXTURES.index(thing.texture)
    there = name != NOTHING
    rim = ndimage.binary_dilation(there, iterations=2) & ~there
    return name, colour, texture, inks.any(0), (1 + RIM * rim).astype(np.float32)


def _of_cells(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(GRID, CELL, GRID, CELL).mean((1, 3)) >= 0.5


def seer_loss(logits: SeerLogits, labels: Labels) -> Losses:
    """Cross-entropy of names (weighted), of colours and textures where there is ink, and of ink."""
    name = F.cross_entropy(logits.name.float(), labels.name, reduction="none")
    name = (name * labels.weight).sum() / labels.weight.sum()
    colour = F.cross_entropy(logits.colour.float(), labels.colour, ignore_index=_UNSAID)
    texture = F.cross_entropy(logits.texture.float(), labels.texture, ignore_index=_UNSAID)
    ink = F.binary_cross_entropy_with_logits(logits.ink.float(), labels.ink.float())
    total = name + 0.3 * colour + 0.3 * texture + ink
    return {"total": total, "name": name, "colour": colour, "texture": texture, "ink": ink}


def train_seer(
    folder: Path, trips: Trips, settings: StageSettings, device: torch.device, start: SeerNet | None = None
) -> Fitting:
    """Train in ``folder``, from scratch or from ``start``."""
    torch.manual_seed(8)
    net = (start or SeerNet()).to(device=device, memory_format=torch.channels_last).train()

    def loss(step: int, generator: torch.Generator) -> Losses:
        scenes, pictures = trips.batch(step, settings.batch, 31)
        pixels = disturbed(to_tensor(pictures), generator).to(device, memory_format=torch.channels_last)
        labels = Labels(*(column.to(device) for column in labels_of(scenes)))
        with autocast(device):
            logits = net(pixels)
        return seer_loss(logits, labels)

    return fit(folder, net, settings, loss, seed=8)


# Detecting


@torch.no_grad()
def detect(net: SeerNet, pixels: Tensor, least: float = SURE, batch: int = 16) -> list[list[Detection]]:
    """The things of each picture with a score of ``least`` or more, surest first.

    ``pixels`` (pictures, 3, SIZE, SIZE) are in -1..1. ``mask`` is the ink of each thing, float32 (SIZE, SIZE) in
    0..1, ``score`` the mean probability of its name.
    """
    found = []
    for part in pixels.split(batch):
        logits = net(part.to(net.device, net.dtype))
        chances = [x.float().softmax(1).cpu().numpy() for x in logits[:3]]
        ink = logits.ink.float().sigmoid().cpu().numpy()
        for name, *rest in zip(*chances, ink, strict=True):
            things = [_describe(own, piece, name, *rest) for own, piece in pieces(name)]
            things = [t for t in things if mask_of(t).sum() >= LEAST_INK and t.score >= least]
            found.append(sorted(things, key=lambda t: -t.score))
    return found


def pieces(name: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The bodies in chances of names (classes, GRID, GRID): class and cells, bool (GRID, GRID), of each.

    A connected island of foreground falls into pieces of one name each. Those with less than ``LEAST_SHARE`` of it
    are mistakes about it: their cells go to the nearest piece that stays. Cells touch by their sides.
    """
    best = name.argmax(0)
    islands, count = ndimage.label(best != NOTHING)
    found: list[tuple[int, np.ndarray]] = []
    for number in range(1, count + 1):
        island = islands == number
        parts = [
            (int(own), part) for own in np.unique(best[island]) for part in _parts(island & (best == own))
        ]
        least = min(LEAST_SHARE * island.sum(), max(part.sum() for _, part in parts))
        parts = [(own, part) for own, part in parts if part.sum() >= least]
        seeds = np.zeros((GRID, GRID), int)
        for i, (_, part) in enumerate(parts, 1):
            seeds[part] = i
        nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
        owner = seeds[tuple(nearest)] * island
        found += [(own, owner == i) for i, (own, _) in enumerate(parts, 1)]
    return found


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    labelled, count = ndimage.label(mask)
    return [labelled == i for i in range(1, count + 1)]


def _describe(
    own: int, piece: np.ndarray, name: np.ndarray, colour: np.ndarray, texture: np.ndarray, ink: np.ndarray
) -> Detection:
    mask = (ink * piece.repeat(CELL, 0).repeat(CELL, 1)).astype(np.float32)
    inked = mask.reshape(GRID, CELL, GRID, CELL).mean((1, 3))

    def surest(chances: np.ndarray) -> int:
        """The class of greatest mean log-chance over the ink: one wrong cell does not outweigh many right ones."""
        return int((np.log(chances + 1e-4) * inked).sum((1, 2)).argmax())

    read = list(COLOURS)[surest(colour)], TEXTURES[surest(texture)]
    return Detection(OBJECTS[own], _box(mask > 0.5), float(name[own][piece].mean()), *read, mask)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """xyxy in 0..1 of what is True; no area where nothing is."""
    if not mask.any():
        return (0.0, 0.0, 0.0, 0.0)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (columns[0] / SIZE, rows[0] / SIZE, (columns[-1] + 1) / SIZE, (rows[-1] + 1) / SIZE)


def load_seer(folder: str | Path) -> SeerNet:
    """The net in ``folder``, as :mod:`.pack` writes it, float32 on the CPU, not for training.

    Raises:
        ValueError: it is not there, not whole, or knows other words than this world.
    """
    cure = "run `trueline world build` to make it"
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no seer of the world; {cure}")
    try:
        options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        net, report = SeerNet.from_pretrained(folder, torch_dtype=torch.float32, **options)
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise ValueError(f"the seer in {folder} cannot be read ({first_line(error)}); {cure}") from error
    if report["missing_keys"]:
        raise ValueError(f"the seer in {folder} lacks the weights {report['missing_keys'][0]}; {cure}")
    if tuple(net.config.classes) != _CLASSES:
        raise ValueError(f"the seer in {folder} was trained on other words than this world's; {cure}")
    return net.eval().requires_grad_(False)


# Measuring


def measure(found: Sequence[Sequence[Detection]], scenes: Sequence[Scene]) -> dict[str, float]:
    """How truly things were found in pictures of known scenes.

    Precision and recall of names, and of names with colours, each name as often as it is there. ``box_iou`` and
    ``mask_iou`` are means over all things of the scenes, 0 where no box overlaps by half.
    """
    names, coloured, boxes, overlaps = Agreement(), Agreement(), [], []
    for detections, scene in zip(found, scenes, strict=True):
        names.add(Counter(d.label for d in detections), Counter(t.name for t in scene.things))
        coloured.add(
            Counter((d.label, d.colour) for d in detections),
            Counter((t.name, t.colour) for t in scene.things),
        )
        matched = match(detections, scene.things, sure=0.0)
        boxes += [m.iou for m in matched]
        for m, true in zip(matched, masks(scene), strict=True):
            overlaps.append(_mask_iou(mask_of(m.detection) > 0.5, true) if m.detection else 0.0)
    return {
        "name_precision": names.precision,
        "name_recall": names.recall,
        "colour_precision": coloured.precision,
        "colour_recall": coloured.recall,
        "box_iou": float(np.mean(boxes)),
        "mask_iou": float(np.mean(overlaps)),
    }


def _mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
